"""The container of sparse and clustered tensors, `model.packed`: lossless, and as small as what is in it.

A tensor with many zeros is its entries' gaps and the entries; one of few different values is a codebook and codes.
Gaps, codes and, where it pays, the planes of bytes of other numbers are range coded (`constriction`) under the
frequencies that stand before them. Of all ways the encoder takes the shortest. docs/packing.md has the layout, byte by
byte. Decoded, a tensor is dense: the container saves room in the store and on the wire, and no time of computing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import constriction
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
MAGIC = b"MWP1"
MOST_BYTES = 64 << 30
"""The most that all tensors of a container may take when decoded, whatever it or its manifest says."""
DTYPES = (
    "float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
)  # fmt: skip
_MOST_TENSORS, _MOST_NAME, _MOST_AXES = 100_000, 512, 8
# A codebook of more values would cost more than it saves.
_MOST_VALUES = 4096
# A gap of so many zeros that is followed by no entry.
_LONG_GAP = 255
_SPARSE, _CODED, _TURNED = 1, 2, 4
_MOST_VARINT = 2**63 - 1


class _Entry(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    way: int

    @property
    def entries(self) -> int:
        return _product(self.shape)

    @property
    def size(self) -> int:
        return self.entries * self.dtype.itemsize


def encode(tensors: Mapping[str, Array]) -> bytes:
    """The container of `tensors`; equal tensors are equal bytes. Raises ValueError naming a tensor that it cannot
    hold."""
    directory, payloads = bytearray(MAGIC), bytearray()
    _put(directory, len(tensors))
    for name in sorted(tensors):
        tensor = np.asarray(tensors[name])
        if tensor.dtype.name not in DTYPES or tensor.ndim > _MOST_AXES:
            raise ValueError(f"{name}: {tensor.dtype} with {tensor.ndim} axes cannot be packed")
        encoded = name.encode()
        if not 0 < len(encoded) <= _MOST_NAME:
            raise ValueError(f"{name[:64]}: a tensor's name has 1 to {_MOST_NAME} bytes")
        way, payload = _shortest(tensor)
        _put(directory, len(encoded))
        directory += encoded
        directory += bytes([DTYPES.index(tensor.dtype.name), tensor.ndim])
        for length in tensor.shape:
            _put(directory, length)
        directory.append(way)
        payloads += payload
    content = bytes(directory + payloads)
    return content + zlib.crc32(content).to_bytes(4, "little")


def decode(content: bytes, *, unpacked: int | None = None, most: int = MOST_BYTES) -> dict[str, Array]:
    """The tensors of a container, bit by bit as they were encoded.

    `unpacked` is what a manifest says that they take, in bytes, `most` what they may take at all: both are checked
    against the directory before anything is allocated. Raises ValueError naming the tensor and what is wrong.
    """
    reader = _Reader(content)
    entries = _directory(reader)
    total = sum(entry.size for entry in entries)
    if unpacked is not None and total != unpacked:
        raise ValueError(f"the container's tensors take {total} bytes, and the manifest says {unpacked}")
    if total > most:
        largest = max(entries, key=lambda entry: entry.size)
        raise ValueError(
            f"the container's tensors take {total} bytes, and {most} is the most; {largest.name} alone is"
            f" {largest.dtype.name} {list(largest.shape)}"
        )
    found = {}
    for entry in entries:
        try:
            found[entry.name] = _tensor(reader, entry)
        except ValueError as error:
            raise ValueError(f"{entry.name}: {error}") from error
    if reader.left:
        raise ValueError(f"{reader.left} bytes follow the last tensor")
    return found


def size(tensors: Iterable[Array]) -> int:
    """What they take when decoded, in bytes."""
    return sum(tensor.nbytes for tensor in tensors)


def _shortest(tensor: Array) -> tuple[int, bytes]:
    """The way of the shortest encoding, and its bytes."""
    found = []
    for turned in (0, _TURNED) if tensor.ndim > 1 and tensor.size else (0,):
        bits = _bits(tensor, turned)
        entries = np.flatnonzero(bits)
        values = np.unique(bits)
        coded = len(values) <= _MOST_VALUES
        if not turned:
            found.append((0, _planes(bits)))
            if coded:
                found.append((_CODED, _codes(bits, values)))
        if len(entries) < len(bits):
            gaps = _gaps(entries)
            found.append((turned | _SPARSE, gaps + _planes(bits[entries])))
            if coded:
                found.append((turned | _SPARSE | _CODED, gaps + _codes(bits[entries], values[values != 0])))
    return min(found, key=lambda one: (len(one[1]), one[0]))


def _bits(tensor: Array, turned: int) -> Array:
    """Entries in the order of rows, or, `turned`, of the other axes first; as whole numbers, so that −0 is not 0 and
    NaN is itself."""
    flat = np.ascontiguousarray(tensor.reshape(len(tensor), -1).T if turned else tensor).reshape(-1)
    return flat.view(f"<u{tensor.dtype.itemsize}")


def _codes(bits: Array, values: Array) -> bytes:
    content = bytearray()
    _put(content, len(values))
    return bytes(content) + values.tobytes() + _symbols(np.searchsorted(values, bits), len(values))


def _gaps(entries: npt.NDArray[np.int64]) -> bytes:
    """How many entries there are, and before each the number of zeros."""
    content = bytearray()
    _put(content, len(entries))
    gaps = np.diff(entries, prepend=-1) - 1
    long, rest = np.divmod(gaps, _LONG_GAP)
    symbols = np.full(len(gaps) + int(long.sum()), _LONG_GAP, np.int64)
    symbols[np.arange(len(gaps)) + np.cumsum(long)] = rest
    return bytes(content) + _symbols(symbols, int(symbols.max(initial=0)) + 1)


def _planes(bits: Array) -> bytes:
    """The numbers' bytes, the first of all, then the second of all …: each plane as it is, or coded where that is
    shorter (the exponents of trained weights are)."""
    content = bytearray()
    for plane in bits.view(np.uint8).reshape(-1, bits.dtype.itemsize).T:
        coded = _symbols(plane.astype(np.int64), int(plane.max(initial=0)) + 1)
        shorter = len(coded) < len(plane)
        content.append(shorter)
        content += coded if shorter else plane.tobytes()
    return bytes(content)


def _symbols(symbols: npt.NDArray[np.int64], alphabet: int) -> bytes:
    """Whole numbers below `alphabet`: how often each occurs, then the words of the range coder. Where only one occurs
    there are none."""
    content = bytearray()
    counts = np.bincount(symbols, minlength=alphabet)
    _put(content, alphabet)
    for count in counts:
        _put(content, int(count))
    if np.count_nonzero(counts) > 1:
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(symbols.astype(np.int32), _model(counts))
        words = encoder.get_compressed().astype("<u4")
        _put(content, len(words))
        content += words.tobytes()
    return bytes(content)


def _model(counts: npt.NDArray[np.int64]) -> Any:
    # Quotients of whole numbers are the same on every machine; a sum of fractions might not be.
    shares = counts.astype(np.float64) / int(counts.sum())
    return constriction.stream.model.Categorical(shares, perfect=False)


def _put(content: bytearray, number: int) -> None:
    """LEB128: seven bits a byte, the least first; the eighth says that more follow."""
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    content.append(number)


def _product(shape: Iterable[int]) -> int:
    found = 1
    for length in shape:
        found *= length
    return found


class _Reader:
    def __init__(self, content: bytes) -> None:
        if content[:4] != MAGIC:
            raise ValueError("this is no container: its first bytes are not MWP1")
        if zlib.crc32(content[:-4]).to_bytes(4, "little") != content[-4:]:
            raise ValueError("the container's checksum is wrong: it was cut off or altered")
        self._content, self._at, self._end = content, 4, len(content) - 4

    @property
    def left(self) -> int:
        return self._end - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise ValueError(f"{count} bytes are announced, and {self.left} are left")
        self._at += count
        return self._content[self._at - count : self._at]

    def number(self, most: int = _MOST_VARINT) -> int:
        found = shift = 0
        while True:
            byte = self.take(1)[0]
            found |= (byte & 0x7F) << shift
            shift += 7
            if found > most or shift > 63:
                raise ValueError(f"a number is above {most}")
            if byte < 0x80:
                return found


def _directory(reader: _Reader) -> list[_Entry]:
    entries: list[_Entry] = []
    names: set[str] = set()
    for index in range(reader.number(_MOST_TENSORS)):
        try:
            name = reader.take(reader.number(_MOST_NAME)).decode()
        except ValueError as error:
            raise ValueError(f"tensor {index}: its name is none: {error}") from error
        if name in names:
            raise ValueError(f"{name}: it is in the container twice")
        names.add(name)
        try:
            code, axes = reader.take(2)
            if code >= len(DTYPES) or axes > _MOST_AXES:
                raise ValueError(f"type {code} with {axes} axes is unknown")  # noqa: TRY301 - one place adds the name
            shape = tuple(reader.number() for _ in range(axes))
            (way,) = reader.take(1)
            if way & ~(_SPARSE | _CODED | _TURNED) or (way & _TURNED and (axes < 2 or not way & _SPARSE)):
                raise ValueError(f"its encoding {way} is unknown")  # noqa: TRY301
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        entries.append(_Entry(name, np.dtype(DTYPES[code]), shape, way))
    return entries


def _tensor(reader: _Reader, entry: _Entry) -> Array:
    if entry.way & _SPARSE:
        places = _read_places(reader, entry.entries)
        bits = np.zeros(entry.entries, f"<u{entry.dtype.itemsize}")
        bits[places] = _read_values(reader, entry, len(places))
    else:
        bits = _read_values(reader, entry, entry.entries)
    if entry.dtype == np.bool_ and bits.size and bits.max() > 1:
        raise ValueError("a truth value is neither 0 nor 1")
    flat = bits.view(entry.dtype)
    if not entry.way & _TURNED:
        return flat.reshape(entry.shape)
    first, rest = entry.shape[0], _product(entry.shape[1:])
    return np.ascontiguousarray(flat.reshape(rest, first).T).reshape(entry.shape)


def _read_places(reader: _Reader, entries: int) -> npt.NDArray[np.int64]:
    count = reader.number(entries)
    symbols = _read_symbols(reader, _LONG_GAP + 1, None, most=count + entries // _LONG_GAP)
    follows = symbols < _LONG_GAP
    if np.count_nonzero(follows) != count:
        raise ValueError(f"there are {np.count_nonzero(follows)} gaps for {count} entries")
    places = np.cumsum(symbols + follows)[follows] - 1
    if count and places[-1] >= entries:
        raise ValueError(f"an entry is at {places[-1]} of {entries}")
    return places


def _read_values(reader: _Reader, entry: _Entry, count: int) -> Array:
    width = entry.dtype.itemsize
    if entry.way & _CODED:
        values = np.frombuffer(reader.take(reader.number(_MOST_VALUES) * width), f"<u{width}")
        codes = _read_symbols(reader, len(values), count)
        return values[codes] if count else np.zeros(0, values.dtype)
    planes = np.empty((count, width), np.uint8)
    for plane in planes.T:
        (coded,) = reader.take(1)
        if coded > 1:
            raise ValueError(f"a plane's encoding {coded} is unknown")
        plane[:] = (
            _read_symbols(reader, 256, count) if coded else np.frombuffer(reader.take(count), np.uint8)
        )  # fmt: skip
    return planes.reshape(-1).view(f"<u{width}")


def _read_symbols(
    reader: _Reader, alphabet: int, count: int | None, *, most: int | None = None
) -> npt.NDArray[np.int64]:
    """As many as are `count`ed, or at most `most`."""
    counts = np.array([reader.number(2**40) for _ in range(reader.number(alphabet))], np.int64)
    total = int(counts.sum())
    if (count is not None and total != count) or (most is not None and total > most):
        raise ValueError(f"{total} symbols are announced, and there are {count if most is None else f'at most {most}'}")
    if np.count_nonzero(counts) <= 1:
        return np.full(total, counts.argmax() if len(counts) else 0, np.int64)
    words = np.frombuffer(reader.take(4 * reader.number(reader.left)), "<u4").astype(np.uint32)
    decoder = constriction.stream.queue.RangeDecoder(words)
    try:
        found: npt.NDArray[np.int64] = decoder.decode(_model(counts), total).astype(np.int64)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise ValueError(f"its symbols cannot be decoded: {error}") from error
    if not np.array_equal(np.bincount(found, minlength=len(counts)), counts):
        raise ValueError("its symbols are not as frequent as it says")
    return found
