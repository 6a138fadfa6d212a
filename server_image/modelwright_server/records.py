"""Inferences for people and for programs that know columns: named values in, class names and probabilities out.

A record is a JSON object of one row: each column of an input by the name that it had in the training data, or a whole
input by the input's own name, a list. Pure, and called on the executor's threads. Whatever a client may send wrong is
a `BadRequest` that names the record and the column.

The V1 protocol's instances are read by the same: https://www.tensorflow.org/tfx/serving/api_rest (row format).
"""

from __future__ import annotations

import difflib
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from modelwright.artifact import Manifest, Tensor

from modelwright_server import tensors
from modelwright_server.http11 import JSON, Response
from modelwright_server.inference import BadRequest, Inference, Wanted
from modelwright_server.tensors import Array, BadTensor, Spec

LABEL, PROBABILITIES = "label", "probabilities"
_NULL = type(None)
_KINDS: Mapping[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"), "O": (frozenset({str}), "a text"),
    "i": (frozenset({int}), "an integer"), "u": (frozenset({int}), "an integer"),
    "f": (frozenset({int, float, _NULL}), "a number, or null where it is missing"),
}  # fmt: skip
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


class Records:
    """Reads and writes the records of one version. `columns` are the names by input, of those inputs that have any."""

    def __init__(self, manifest: Manifest, inputs: Sequence[Spec], outputs: Sequence[Spec]) -> None:
        self._inputs, self._outputs = inputs, outputs
        stated = {one.name: one for one in manifest.inputs}
        self.columns = {one.name: columns_of(stated[one.name]) for one in inputs if columns_of(stated[one.name])}
        self._names = {one.name: one.names for one in manifest.outputs}
        self.classes = manifest.classes
        of_columns = (name for names in self.columns.values() for name in names)
        self._known = frozenset((*(one.name for one in inputs), *of_columns))
        self._picks = {name: _picked(names) for name, names in self.columns.items()}

    # From records to arrays.

    def parse(self, body: bytes, field: str = "records") -> Inference:
        """The inference of all records of the JSON object's `field`, of all outputs. Raises BadRequest."""
        try:
            stated = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"the body is no JSON: {error}") from error
        rows = stated.get(field) if isinstance(stated, dict) else None
        if not isinstance(rows, list) or not rows:
            raise BadRequest(f"the request is a JSON object with the field {field}, a list of at least one row")
        if all(isinstance(row, dict) for row in rows):
            arrays = {one.name: self._column_wise(one, field, rows) for one in self._inputs}
            self._check_names(field, rows)
        elif field == "records" or len(self._inputs) > 1:
            odd = next(index for index, row in enumerate(rows) if not isinstance(row, dict))
            raise BadRequest(f"{field}[{odd}]: it is an object with {self._told()}")
        else:
            arrays = {self._inputs[0].name: self._whole(self._inputs[0], field, rows)}
        return Inference(None, arrays, [Wanted(one, binary=False) for one in self._outputs])

    def _column_wise(self, spec: Spec, field: str, rows: Sequence[Mapping[str, Any]]) -> Array:
        names = self.columns.get(spec.name)
        if names is None or spec.name in rows[0]:
            values = [row.get(spec.name, _MISSING) for row in rows]
            if _MISSING in values:
                raise BadRequest(f"{field}[{values.index(_MISSING)}]: {spec.name!r} is missing")
            return self._whole(spec, field, values)
        try:
            picked = [*map(self._picks[spec.name], rows)]
        except KeyError as error:
            index = next(number for number, row in enumerate(rows) if error.args[0] not in row)
            raise BadRequest(f"{field}[{index}]: the column {error.args[0]!r} is missing") from error
        wanted, told = _KINDS[spec.numpy.kind]
        if not {type(value) for row in picked for value in row} <= wanted:
            index, column = next(
                (index, column)
                for index, row in enumerate(picked)
                for column, value in zip(names, row, strict=True)
                if type(value) not in wanted
            )
            raise BadRequest(f"{field}[{index}].{column}: it is {told}, not {tensors.json_type(rows[index][column])}")
        return _fitted(f"{field}: the columns of {spec.name!r}", spec, picked, (len(rows), len(names)))

    def _whole(self, spec: Spec, field: str, rows: Sequence[Any]) -> Array:
        """Rows as they are in the tensor: numbers, or lists nested as its shape says."""
        rest = spec.shape[1:]
        found = np.array(rows[0], dtype=object).shape if isinstance(rows[0], list) else ()
        # A row of a tensor [rows, 1] may come without its brackets.
        shape = (len(rows), *(found or ((1,) if rest == (1,) else ())))
        if len(shape) != len(spec.shape) or any(
            isinstance(wanted, int) and wanted != given for wanted, given in zip(rest, shape[1:], strict=True)
        ):
            raise BadRequest(f"{field}[0]: a row of {spec.name!r} has the shape {_told_shape(rest)}")
        flat = [row if isinstance(row, list) else [row] for row in rows] if len(shape) > 1 else list(rows)
        try:
            return tensors.from_json(spec.name, spec.datatype, shape, flat)
        except BadTensor as error:
            raise BadRequest(f"{field}: {error}") from error

    def _check_names(self, field: str, rows: Sequence[Mapping[str, Any]]) -> None:
        for index, row in enumerate(rows):
            if row.keys() <= self._known:
                continue
            odd = next(name for name in row if name not in self._known)
            near = difflib.get_close_matches(odd, sorted(self._known), 1)
            raise BadRequest(
                f"{field}[{index}]: the model has no column {odd[:200]!r};"
                + (f" did you mean {near[0]!r}?" if near else f" it has {self._told()}")
            )

    def _told(self) -> str:
        names = [name for one in self._inputs for name in self.columns.get(one.name, (one.name,))]
        return f"the columns {', '.join(names[:10])}{f' and {len(names) - 10} more' if len(names) > 10 else ''}"

    # From arrays to predictions.

    def answer(self, model: str, version: str, inference: Inference, arrays: Sequence[Array]) -> Response:
        """For each record its class and all probabilities; where there are none, its outputs by their names."""
        by_name = _by_name(inference, arrays)
        probabilities = by_name.get(PROBABILITIES)
        if self.classes and probabilities is not None:
            rows = [
                {LABEL: label, PROBABILITIES: dict(zip(self.classes, row, strict=True))}
                for label, row in zip(self._labels(probabilities), probabilities, strict=True)
            ]
        else:
            rows = _row_wise({name: self._named(name, array) for name, array in by_name.items()})
        content = {"model_name": model, "model_version": version, "predictions": rows}
        return Response(200, (orjson.dumps(content, option=_OPTIONS),), (JSON,))

    def answer_v1(self, inference: Inference, arrays: Sequence[Array]) -> Response:
        """For each instance, its outputs by their names, and its class; of a single output the values alone."""
        by_name = _by_name(inference, arrays)
        listed: dict[str, Sequence[Any]] = {name: list(array) for name, array in by_name.items()}
        if self.classes and PROBABILITIES in by_name:
            listed[LABEL] = self._labels(by_name[PROBABILITIES])
        rows = _row_wise(listed) if len(listed) > 1 else next(iter(listed.values()))
        return Response(200, (orjson.dumps({"predictions": rows}, option=_OPTIONS),), (JSON,))

    def _labels(self, probabilities: Array) -> list[str | None]:
        """None of a row that has a NaN: it is of no class."""
        rows = zip(probabilities.argmax(axis=1), np.isnan(probabilities).max(axis=1), strict=True)
        return [None if unknown else self.classes[best] for best, unknown in rows]

    def _named(self, name: str, array: Array) -> Sequence[Any]:
        names = self._names.get(name, ())
        if array.ndim == 2 and array.shape[1] == 1:
            return list(array[:, 0])
        if array.ndim == 2 and len(names) == array.shape[1]:
            return [dict(zip(names, row, strict=True)) for row in array]
        return list(array)


def _by_name(inference: Inference, arrays: Sequence[Array]) -> dict[str, Array]:
    """As orjson writes them: each float32 by its shortest digits, a NaN as null."""
    return {
        wanted.spec.name: np.ascontiguousarray(tensors.to_plain(wanted.spec.datatype, array))
        for wanted, array in zip(inference.outputs, arrays, strict=True)
    }


_MISSING: Any = object()


def columns_of(tensor: Tensor) -> tuple[str, ...]:
    """The names of the columns that a record may give one by one; () where the tensor has none."""
    plain = len(tensor.shape) == 2 and tensor.names and len(set(tensor.names)) == len(tensor.names)
    return tensor.names if plain else ()


def _picked(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    get = operator.itemgetter(*names)
    return get if len(names) > 1 else functools.partial(_alone, get)


def _alone(get: Callable[[Mapping[str, Any]], Any], row: Mapping[str, Any]) -> tuple[Any]:
    return (get(row),)


def _fitted(what: str, spec: Spec, rows: Sequence[Sequence[Any]], shape: tuple[int, ...]) -> Array:
    if spec.datatype == tensors.BYTES:
        return np.array(rows, dtype=object).reshape(shape)
    try:
        with np.errstate(over="ignore"):
            array = np.array(rows, dtype=spec.numpy).reshape(shape)
    except OverflowError as error:
        raise BadRequest(f"{what}: a value is outside of {spec.datatype}: {error}") from error
    if spec.numpy.kind == "f" and np.isinf(array).any():  # JSON has none, so one was made here
        raise BadRequest(f"{what}: a value is too large for {spec.datatype}")
    return array


def _row_wise(by_name: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(by_name, values, strict=True)) for values in zip(*by_name.values(), strict=False)]


def _told_shape(lengths: Sequence[int | str | None]) -> str:
    return f"[{', '.join(str(one) if isinstance(one, int) else 'any' for one in lengths)}]"
