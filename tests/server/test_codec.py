"""Tensors as bytes and as JSON: what goes in comes out, and whatever a client may send is understood or refused."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from modelwright import hardware
from modelwright.serving import LATENCY_BOUNDS
from modelwright_server import inference, processor, tensors
from modelwright_server.inference import BadRequest
from modelwright_server.tensors import BadTensor, Spec
from onnx import TensorProto, helper

NUMBERS = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")
INPUTS = {"x": Spec("x", "FP32", ("rows", 2)), "n": Spec("n", "INT64", ("rows",)), "t": Spec("t", "BYTES", (None,))}
OUTPUTS = {"y": Spec("y", "FP32", ("rows", 2))}


@st.composite
def tensor(draw: st.DrawFn) -> tuple[str, npt.NDArray[Any]]:
    datatype = draw(st.sampled_from((*NUMBERS, "BYTES")))
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    if datatype == "BYTES":
        texts = draw(st.lists(st.text(), min_size=math.prod(shape), max_size=math.prod(shape)))
        flat = np.empty(len(texts), dtype=object)
        flat[:] = texts
        return datatype, flat.reshape(shape)
    return datatype, draw(arrays.arrays(Spec("x", datatype, ()).numpy, shape))


@given(tensor(), st.integers(0, 8))
def test_bytes_are_read_as_they_were_written_wherever_they_begin(
    made: tuple[str, npt.NDArray[Any]], padding: int
) -> None:
    datatype, array = made
    data = bytes(tensors.to_binary(datatype, array))
    found = tensors.from_binary("x", datatype, array.shape, memoryview(b"x" * padding + data)[padding:])
    assert found.shape == array.shape
    assert found.dtype == array.dtype
    assert found.flags.aligned
    assert bytes(tensors.to_binary(datatype, found)) == data


@given(tensor())
def test_json_is_read_as_it_was_written(made: tuple[str, npt.NDArray[Any]]) -> None:
    datatype, array = made
    if datatype.startswith("FP"):
        array = np.nan_to_num(array, posinf=1, neginf=-1)
    written = orjson.dumps(tensors.to_json(datatype, array), option=orjson.OPT_SERIALIZE_NUMPY)
    found = tensors.from_json("x", datatype, array.shape, orjson.loads(written))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@given(st.sampled_from((*NUMBERS, "BYTES")), arrays.array_shapes(min_side=0, max_side=5), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(datatype: str, shape: tuple[int, ...], data: bytes) -> None:
    try:
        found = tensors.from_binary("x", datatype, shape, memoryview(data))
    except BadTensor as error:
        assert str(error).startswith("input 'x': ")  # noqa: PT017 - either end is right
    else:
        assert found.shape == shape
        assert bytes(tensors.to_binary(datatype, found)) == data


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.sampled_from((*NUMBERS, "BYTES")), arrays.array_shapes(min_side=0, max_side=4), VALUES)
def test_any_json_is_read_or_refused(datatype: str, shape: tuple[int, ...], data: Any) -> None:
    try:
        found = tensors.from_json("x", datatype, shape, data)
    except BadTensor as error:
        assert str(error).startswith("input 'x': ")  # noqa: PT017
    else:
        assert found.shape == shape
        assert found.dtype == Spec("x", datatype, ()).numpy


REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "id": VALUES,
        "parameters": VALUES | st.fixed_dictionaries({"binary_data_output": VALUES}),
        "outputs": VALUES | st.lists(st.fixed_dictionaries({"name": st.sampled_from(["y", "z"])}), max_size=2),
        "inputs": VALUES
        | st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["x", "n", "t"])},
                optional={
                    "shape": VALUES | st.lists(st.integers(-1, 3), max_size=3),
                    "datatype": VALUES | st.sampled_from(["FP32", "INT64", "BYTES"]),
                    "data": VALUES | st.lists(st.integers(), max_size=4),
                    "parameters": VALUES | st.fixed_dictionaries({"binary_data_size": st.integers(-5, 40) | VALUES}),
                },
            ),
            max_size=4,
        ),
    },
)


@given(REQUESTS, st.binary(max_size=40), st.none() | st.integers(-2, 300), st.booleans())
def test_any_request_is_parsed_or_refused(stated: Any, data: bytes, length: int | None, true_length: bool) -> None:
    head = json.dumps(stated).encode()
    header = len(head) if true_length else length
    try:
        found = inference.parse(
            head + data, None if header is None else str(header).encode(), INPUTS, OUTPUTS
        )  # fmt: skip
    except BadRequest as error:
        assert str(error)  # noqa: PT017
    else:
        assert set(found.inputs) == set(INPUTS)


def request(**shapes: int) -> bytes:
    rows, numbers = shapes["x"], shapes["n"]
    return json.dumps({
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": [0.5] * 2 * rows},
            {"name": "n", "datatype": "INT64", "shape": [numbers], "data": [7] * numbers},
            {"name": "t", "datatype": "BYTES", "shape": [1], "data": ["ünï"]},
        ]
    }).encode()  # fmt: skip


def test_an_axis_of_one_name_has_one_length() -> None:
    found = inference.parse(request(x=3, n=3), None, INPUTS, OUTPUTS)
    assert found.inputs["n"].tolist() == [7, 7, 7]
    assert found.inputs["t"].tolist() == ["ünï"]
    with pytest.raises(BadRequest, match="inputs 'x' and 'n' have different lengths, 3 and 2, of rows"):
        inference.parse(request(x=3, n=2), None, INPUTS, OUTPUTS)


@pytest.mark.parametrize(
    ("datatype", "data", "words"),
    [
        ("INT64", [1.5], "the data of INT64 are integers, and here is the number 1.5"),
        ("INT8", [200], "a value is outside of INT8"),
        ("UINT8", [-1], "a value is outside of UINT8"),
        ("BOOL", [1], "the data of BOOL are true or false, and here is the number 1"),
        ("BYTES", [1], "the data of BYTES are texts, and here is the number 1"),
        ("FP16", [1e6], "a value is too large for FP16"),
    ],
)
def test_values_that_do_not_fit_are_named(datatype: str, data: list[Any], words: str) -> None:
    with pytest.raises(BadTensor, match=words):
        tensors.from_json("x", datatype, [1], data)


def test_texts_go_through_the_runtime_both_ways() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["t"], ["y"])], "texts",
        [helper.make_tensor_value_info("t", TensorProto.STRING, [None])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [None])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given_bytes = b"\x04\x00\x00\x00\xc3\xa4ab\x00\x00\x00\x00"
    array = tensors.from_binary("t", "BYTES", [2], memoryview(given_bytes))
    (found,) = session.run(["y"], {"t": array})
    assert tensors.to_binary("BYTES", found) == given_bytes
    assert tensors.to_json("BYTES", found) == ["äab", ""]


def test_the_cpu_limit_is_the_cgroups(tmp_path: Any) -> None:
    assert processor.cpu_limit(tmp_path) is None
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert processor.cpu_limit(tmp_path) is None
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert (processor.cpu_limit(tmp_path), processor.threads(tmp_path)) == (0.5, 1)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("flags\t: sse avx2 avx512f avx512_vnni", "avx512_vnni"), ("flags : avx2", "avx2"), ("", "base")],
)
def test_the_instruction_set_is_the_most_telling(flags: str, expected: str) -> None:
    """What the trainer wrote beside the golden samples is compared with what the server finds."""
    assert hardware.instruction_set(flags).endswith(f"/{expected}")


def test_the_latency_bounds_are_near_enough_for_a_quantile() -> None:
    inner = [bound for bound in LATENCY_BOUNDS if 0.001 <= bound <= 10]
    assert (inner[0], inner[-1]) == (0.001, 10.0)
    assert max(after / before for before, after in itertools.pairwise(inner)) < 1.27
