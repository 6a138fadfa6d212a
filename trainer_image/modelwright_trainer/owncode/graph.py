"""The user's ONNX graph: what it is, and what it gives for golden inputs in the runtime that will serve it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from modelwright import artifact
from modelwright.hardware import instruction_set
from onnx import external_data_helper
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from modelwright_trainer.failures import UserFailed
from modelwright_trainer.goldenrows import expected

GOLDEN_ROWS = 32
PROVIDER = "CPUExecutionProvider"
# A length that the graph leaves open, other than the batch's, such as a sequence's.
_OPEN_LENGTH = 16
_DTYPES: Mapping[str, artifact.Dtype] = {
    "tensor(float16)": "float16", "tensor(float)": "float32", "tensor(double)": "float64", "tensor(bool)": "bool",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
}  # fmt: skip
Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Axes:
    """An input or output: None or a name in `shape` is any length, the same wherever the name stands."""

    name: str
    dtype: artifact.Dtype
    shape: tuple[int | str | None, ...]

    def stated(self, names: tuple[str, ...] = ()) -> artifact.Tensor:
        """As the manifest has it; `names` are the classes, where its last axis is as long."""
        lengths = tuple(length if isinstance(length, int) else None for length in self.shape)
        named = names if names and lengths and lengths[-1] == len(names) else ()
        return artifact.Tensor(name=self.name, dtype=self.dtype, shape=lengths, names=named)


class Graph:
    """The graph in `path`. Raises UserFailed where the runtime, the protocol or golden samples cannot have it, in which
    it is `called` so."""

    def __init__(self, path: Path, called: str | None = None) -> None:
        self._path, self._called = path, called or f"output/{path.name}"
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:
            raise UserFailed(f"{self._called} is no ONNX graph: {_first(error)}") from error
        self.format = artifact.Onnx(
            path=path.name,
            weights="",
            ir_version=model.ir_version,
            opset=next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1),
        )
        for tensor in external_data_helper._get_all_tensors(model):
            if external_data_helper.uses_external_data(tensor):
                self._beside(external_data_helper.ExternalDataInfo(tensor).location)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=[PROVIDER])
        except Exception as error:
            raise UserFailed(
                f"{self._called}: onnxruntime {onnxruntime.__version__}, which serves it, does not take it:"
                f" {_first(error)}"
            ) from error
        self.inputs = tuple(self._axes("input", one) for one in self._session.get_inputs())
        self.outputs = tuple(self._axes("output", one) for one in self._session.get_outputs())

    def _beside(self, location: str) -> None:
        named = self._path.parent / location
        if not named.resolve().is_relative_to(self._path.parent.resolve()) or not named.is_file():
            raise UserFailed(
                f"{self._called} has weights in {location!r}, and there is no such file beside it: save the external"
                " data in the same folder"
            )

    def _axes(self, what: str, one: Any) -> Axes:
        if one.type not in _DTYPES:
            raise UserFailed(
                f"{self._called}: {what} {one.name} is {one.type}, and only tensors of numbers and truth values are"
                " served: export it so (of scikit-learn's converters: zipmap=False), or publish it as native"
            )
        return Axes(one.name, _DTYPES[one.type], tuple(one.shape))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        names = [one.name for one in self.outputs]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def golden(self, samples: Mapping[str, Array] | None, path: Path) -> artifact.Golden:
        """Writes the golden samples to `path`: the first rows of `samples`, or where there are none made-up inputs,
        with what the graph gives for them. Raises UserFailed where it fails on them, or gives now this and now that."""
        inputs = self._fitting(samples) if samples is not None else self._made_up()
        whence = "the samples" if samples is not None else "made-up inputs"
        try:
            given, again = self.run(inputs), self.run(inputs)
        except Exception as error:
            advice = "" if samples is not None else ": give inputs that it takes as output/samples.npz"
            raise UserFailed(f"{self._called} fails on {whence} ({_first(error)}){advice}") from error
        golden = artifact.Golden(
            rows=len(next(iter(inputs.values()))) if inputs and next(iter(inputs.values())).ndim else 1,
            provider=PROVIDER,
            instruction_set=instruction_set(),
            runtime=f"onnxruntime {importlib.metadata.version('onnxruntime')}",
        )
        for name, value in given.items():
            near = np.isclose(
                again[name].astype(np.float64), value.astype(np.float64), equal_nan=True,
                atol=golden.absolute_tolerance, rtol=golden.relative_tolerance,
            )  # fmt: skip
            if near.shape != value.shape or not near.all():
                raise UserFailed(
                    f"{self._called}: output {name} differs between two runs on the same inputs: export it for"
                    " inference, without dropout or other randomness"
                )
        clash = sorted(set(inputs) & set(given))
        if clash:
            raise UserFailed(f"{self._called}: {', '.join(clash)} names an input and an output: rename one")
        wanted, golden = expected(self.run, inputs, given, golden)
        save_file({name: np.ascontiguousarray(value) for name, value in {**inputs, **wanted}.items()}, path)
        return golden

    def _fitting(self, samples: Mapping[str, Array]) -> dict[str, Array]:
        missing = [one.name for one in self.inputs if one.name not in samples]
        if missing:
            raise UserFailed(
                f"output/samples: there is no array {', '.join(missing)}: give one for each input of the graph"
                f" ({', '.join(one.name for one in self.inputs)}), by its name"
            )
        taken = {}
        for one in self.inputs:
            array = samples[one.name]
            if array.dtype != np.dtype(one.dtype) or array.ndim != len(one.shape):
                raise UserFailed(
                    f"output/samples: {one.name} is {array.dtype} {list(array.shape)}, and the graph takes {one.dtype}"
                    f" {[length if length is not None else '?' for length in one.shape]}"
                )
            open_batch = bool(one.shape) and not isinstance(one.shape[0], int)
            taken[one.name] = array[:GOLDEN_ROWS] if open_batch else array
            if not taken[one.name].size:
                raise UserFailed(f"output/samples: {one.name} has no rows: give a few that the model will see")
        return taken

    def _made_up(self) -> dict[str, Array]:
        """Numbers that any model should take: standard normal ones, 0 and 1 where they are whole."""
        random = np.random.default_rng(0)
        lengths: dict[str, int] = {}
        made = {}
        for one in self.inputs:
            shape = [self._length(axis, length, lengths) for axis, length in enumerate(one.shape)]
            dtype = np.dtype(one.dtype)
            numbers = random.normal(size=shape) if dtype.kind == "f" else random.integers(0, 2, size=shape)
            made[one.name] = np.asarray(numbers).astype(dtype)
        return made

    @staticmethod
    def _length(axis: int, length: int | str | None, lengths: dict[str, int]) -> int:
        if isinstance(length, int):
            return length
        found = GOLDEN_ROWS if axis == 0 else _OPEN_LENGTH
        return lengths.setdefault(length, found) if length else found


def read_samples(paths: Sequence[Path]) -> dict[str, Array] | None:
    """The arrays of the first of these files that is there, by name; None where there is none. Raises UserFailed."""
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        loaded: dict[str, Array] = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserFailed(f"output/{path.name} cannot be read: {_first(error)}") from error
    return loaded


def _first(error: BaseException) -> str:
    lines = " ".join(str(error).split())
    return lines[:500] or type(error).__name__
