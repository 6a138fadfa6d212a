"""The container: what goes in comes out, bit by bit, and what is wrong with one is told before memory is taken."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelwright import packing

DTYPES = st.sampled_from(packing.DTYPES)
SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    """Of any bits (NaN and −0 among them), dense or sparse, of many values or of few."""
    dtype, shape = np.dtype(draw(DTYPES)), draw(SHAPES)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = int(np.prod(shape)) * dtype.itemsize
    bits = random.integers(0, 256, size, dtype=np.uint8)
    flat = (bits & 1).view(np.bool_) if dtype == np.bool_ else bits.view(dtype)
    if draw(st.booleans()) and flat.size:
        flat = flat[random.integers(0, min(flat.size, draw(st.integers(1, 5))), flat.size)]
    if draw(st.booleans()):
        flat = np.where(random.random(flat.size) < draw(st.floats(0, 1)), flat, np.zeros((), dtype))
    return np.ascontiguousarray(flat, dtype).reshape(shape)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.text(min_size=1, max_size=20), tensors(), max_size=4))
def test_what_goes_in_comes_out_bit_by_bit(given_: dict[str, np.ndarray]) -> None:
    found = packing.decode(packing.encode(given_), unpacked=packing.size(given_.values()))
    assert list(found) == sorted(given_)
    for name, tensor in given_.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].tobytes() == tensor.tobytes()


@settings(deadline=None, max_examples=300)
@given(tensors(), st.data())
def test_whatever_is_altered_is_an_error_and_nothing_else(tensor: np.ndarray, data: st.DataObject) -> None:
    """The checksum is set right again: what is behind it has to hold by itself."""
    whole = packing.encode({"w": tensor})[:-4]
    at = data.draw(st.integers(0, len(whole) - 1))
    altered = bytearray(whole)
    altered[at] = data.draw(st.integers(0, 255))
    altered = altered[: data.draw(st.integers(0, len(altered)))] if data.draw(st.booleans()) else altered
    try:
        packing.decode(bytes(altered) + zlib.crc32(bytes(altered)).to_bytes(4, "little"), most=10**6)
    except ValueError:
        return  # or it is another tensor that is well-formed


def sparse(rows: int = 300, columns: int = 784, share: float = 0.05) -> np.ndarray:
    random = np.random.default_rng(0)
    values = np.linspace(-1, 1, 16, dtype=np.float32)[random.integers(0, 16, (rows, columns))]
    return np.where(random.random((rows, columns)) < share, values, np.float32(0))


def test_a_sparse_tensor_of_few_values_takes_little_more_than_its_entropy() -> None:
    tensor = sparse()
    share = float((tensor != 0).mean())
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share) + share * 4
    assert len(packing.encode({"w": tensor})) < 1.04 * entropy * tensor.size / 8


def test_equal_tensors_are_equal_bytes_in_whatever_order_they_come() -> None:
    one, other = sparse(), np.arange(6, dtype=np.int64)
    assert packing.encode({"a": one, "b": other}) == packing.encode({"b": other, "a": one.copy()})


def test_a_container_that_was_cut_off_is_told() -> None:
    whole = packing.encode({"w": sparse()})
    with pytest.raises(ValueError, match="checksum is wrong: it was cut off or altered"):
        packing.decode(whole[:-10])
    with pytest.raises(ValueError, match="no container: its first bytes are not MWP1"):
        packing.decode(b"PK\x03\x04")


def with_checksum(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(4, "little")


def test_a_bomb_is_told_by_its_directory_before_memory_is_taken() -> None:
    """A tensor of 2^40 zeros in thirty bytes."""
    lengths = bytes([0x80, 0x80, 0x40]) * 2  # 2^20, twice
    bomb = with_checksum(packing.MAGIC + bytes([1, 4]) + b"bomb" + bytes([0, 2]) + lengths + bytes([1, 0, 0]))
    with pytest.raises(ValueError, match=r"tensors take 4398046511104 bytes, and 68719476736 is the most; bomb alone"):
        packing.decode(bomb)
    with pytest.raises(ValueError, match="take 4398046511104 bytes, and the manifest says 1024"):
        packing.decode(bomb, unpacked=1024)


def test_more_gaps_than_there_are_places_are_told_with_the_tensor_s_name() -> None:
    whole = packing.MAGIC + bytes([1, 1]) + b"w" + bytes([0, 1, 3, 1])
    entry = bytes([1]) + bytes([6, 0, 0, 0, 0, 0, 1]) + bytes([0]) * 8  # one entry, behind five zeros, of three places
    with pytest.raises(ValueError, match=r"^w: an entry is at 5 of 3"):
        packing.decode(with_checksum(whole + entry))


def test_a_name_that_is_twice_in_the_container_is_told() -> None:
    entry = bytes([1]) + b"w" + bytes([0, 1, 0, 0])
    with pytest.raises(ValueError, match=r"^w: it is in the container twice"):
        packing.decode(with_checksum(packing.MAGIC + bytes([2]) + entry * 2))
