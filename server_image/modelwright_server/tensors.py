"""Tensors of the Open Inference Protocol V2: as JSON values, and as bytes of its binary tensor data extension.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BYTES = "BYTES"
# Binary data is little-endian whatever this machine is.
_NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
}  # fmt: skip
OF_MANIFEST = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
"""The protocol's data types by the manifest's."""
_OF_ONNX = {
    "tensor(bool)": "BOOL", "tensor(string)": BYTES,
    "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32", "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32", "tensor(int64)": "INT64",
    "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
}  # fmt: skip


class BadTensor(ValueError):  # noqa: N818 - as BadRequest
    """What is wrong with the client's tensor; the text names it."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """An input or output of a graph. In `shape`, a number is that length, a name any length, the same wherever in a
    request it stands, and None any length at all."""

    name: str
    datatype: str
    shape: tuple[int | str | None, ...]

    @property
    def numpy(self) -> np.dtype[Any]:
        """The type of its arrays; text is an array of str objects."""
        return np.dtype(object) if self.datatype == BYTES else _NUMPY[self.datatype]

    @property
    def lengths(self) -> list[int]:
        """As the protocol has it: -1 is any length."""
        return [length if isinstance(length, int) else -1 for length in self.shape]

    @property
    def told(self) -> str:
        return f"[{', '.join(map(str, self.lengths))}]"


def datatype_of(onnx_type: str) -> str:
    """The protocol's name for ONNX Runtime's. Raises KeyError for one that the protocol does not have."""
    return _OF_ONNX[onnx_type]


def is_datatype(name: object) -> bool:
    return isinstance(name, str) and (name == BYTES or name in _NUMPY)


def from_binary(name: str, datatype: str, shape: Sequence[int], data: memoryview) -> Array:
    """The array of `shape` whose elements are exactly `data`; not copied where its place in memory allows. Raises
    BadTensor."""
    count = math.prod(shape)
    if datatype == BYTES:
        return _texts(name, count, data).reshape(shape)
    dtype = _NUMPY[datatype]
    if len(data) != count * dtype.itemsize:
        raise BadTensor(
            f"input {name!r}: {list(shape)} of {datatype} are {count * dtype.itemsize} bytes, not the {len(data)} of"
            " binary_data_size"
        )
    if datatype == "BOOL":
        raw = np.frombuffer(data, np.uint8)
        if count and raw.max() > 1:
            raise BadTensor(f"input {name!r}: a BOOL is a byte of 0 or 1, and there is one of {int(raw.max())}")
        return raw.view(np.bool_).reshape(shape)
    array = np.frombuffer(data, dtype).reshape(shape)
    # A tensor may begin at any byte behind the JSON; the runtime wants its elements where the processor does.
    return array if array.flags.aligned else array.copy()


def _texts(name: str, count: int, data: memoryview) -> Array:
    """Elements of BYTES, each with its length before it (4 bytes), as UTF-8 text: ONNX strings are text."""
    texts: list[str] = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if at + 4 > len(data) or end > len(data):
            raise BadTensor(f"input {name!r}: element {len(texts)} of BYTES goes beyond the {len(data)} bytes of data")
        if len(texts) == count:
            raise BadTensor(f"input {name!r}: its data has more than the {count} elements of its shape")
        texts.append(to_text(name, len(texts), bytes(data[at + 4 : end])))
        at = end
    if len(texts) != count:
        raise BadTensor(f"input {name!r}: its data has {len(texts)} elements, its shape {count}")
    return np.array(texts, dtype=object)


def to_text(name: str, index: int, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadTensor(f"input {name!r}: element {index} of BYTES is no UTF-8 text") from error


def to_binary(datatype: str, array: Array) -> bytes | memoryview:
    """The bytes of an array in row-major order."""
    if datatype == BYTES:
        encoded = (text.encode() if isinstance(text, str) else bytes(text) for text in array.ravel())
        return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
    straight = np.ascontiguousarray(array, _NUMPY[datatype])
    return straight.reshape(-1).view(np.uint8).data if straight.size else b""


def from_json(name: str, datatype: str, shape: Sequence[int], data: object) -> Array:
    """The array of `shape` from JSON values, nested as the shape says or flat in row-major order. Raises BadTensor."""
    if not isinstance(data, list):
        raise BadTensor(f"input {name!r}: its data is a list, nested or flat, not {json_type(data)}")
    # As objects first: left to find a type by itself, numpy makes of one long text among numbers an array in which each
    # element has that length.
    objects = np.array(data, dtype=object)
    _check_types(name, datatype, objects)
    count = math.prod(shape)
    if objects.size != count:
        raise BadTensor(f"input {name!r}: its data has {objects.size} elements, its shape {list(shape)} has {count}")
    if objects.ndim > 1 and objects.shape != tuple(shape):
        raise BadTensor(f"input {name!r}: its data is nested as {list(objects.shape)}, its shape is {list(shape)}")
    if datatype == BYTES:
        return objects.reshape(shape)
    dtype = _NUMPY[datatype]
    try:
        with np.errstate(over="ignore"):
            array = np.array(data, dtype=dtype).reshape(shape)
    except OverflowError as error:
        raise BadTensor(f"input {name!r}: a value is outside of {datatype}: {error}") from error
    # JSON has no infinities, so one was made here.
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise BadTensor(f"input {name!r}: a value is too large for {datatype}")
    return array


_WANTED = {"b": ((bool,), "true or false"), "i": ((int,), "integers"), "u": ((int,), "integers"),
           "f": ((int, float), "numbers"), "O": ((str,), "texts")}  # fmt: skip


def _check_types(name: str, datatype: str, objects: Array) -> None:
    types, told = _WANTED["O" if datatype == BYTES else _NUMPY[datatype].kind]
    values = objects.ravel().tolist()
    if set(map(type, values)) <= set(types):
        return
    odd = next(value for value in values if type(value) not in types)
    if isinstance(odd, list):
        raise BadTensor(f"input {name!r}: its data is not nested evenly")
    raise BadTensor(f"input {name!r}: the data of {datatype} are {told}, and here is {json_type(odd)}")


def to_json(datatype: str, array: Array) -> Any:
    """What orjson writes as the flat list of the array's elements; a NaN or an infinity becomes null."""
    plain = to_plain(datatype, array)
    return plain.ravel().tolist() if datatype == BYTES else np.ascontiguousarray(plain).reshape(-1)


def to_plain(datatype: str, array: Array) -> Array:
    """The array of a type that JSON can tell."""
    if datatype == BYTES:
        texts = [text if isinstance(text, str) else bytes(text).decode(errors="replace") for text in array.ravel()]
        return np.array(texts, dtype=object).reshape(array.shape)
    return array.astype(np.float32) if datatype == "FP16" else array  # float32 holds each of them exactly


def json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else f"the number {value}"
