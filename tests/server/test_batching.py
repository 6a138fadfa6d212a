"""Requests that are computed as one: everybody gets his own rows, whoever else asks."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from modelwright_server.batching import batches
from modelwright_server.inference import Inference, Wanted
from modelwright_server.tensors import Spec
from onnx import TensorProto, helper

from tests.server import artifacts
from tests.server.artifacts import FEATURES, Published
from tests.server.conftest import Serve
from tests.server.processes import Server
from tests.server.test_inference import asked, output

X, Y = Spec("x", "FP32", ("rows", None)), Spec("y", "FP32", ("rows", None))


def inference(number: int, rows: int, width: int, names: Sequence[str]) -> Inference:
    values = np.full((rows, width), number, np.float32)
    return Inference(str(number), {"x": values}, [Wanted(Spec(name, "FP32", ("rows", None)), True) for name in names])


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 2), st.permutations(["y", "z"])), max_size=12),
    st.integers(1, 8),
)
def test_each_inference_gets_its_own_rows_back(shapes: list[tuple[int, int, list[str]]], most_rows: int) -> None:
    inferences = [inference(number, *shape) for number, shape in enumerate(shapes)]
    found: dict[str, list[npt.NDArray[np.float32]]] = {}
    for batch in batches(inferences, most_rows):
        assert sum(batch.rows) <= most_rows or len(batch.inferences) == 1
        x = batch.inputs()["x"]
        computed = {"y": x + 1, "z": x * 2}
        divided = batch.divided([computed[name] for name in batch.outputs()])
        for one, arrays in zip(batch.inferences, divided, strict=True):
            assert one.id is not None
            assert one.id not in found
            found[one.id] = arrays
    assert len(found) == len(inferences)
    for one in inferences:
        expected = {"y": one.inputs["x"] + 1, "z": one.inputs["x"] * 2}
        for wanted, array in zip(one.outputs, found[str(one.id)], strict=True):
            np.testing.assert_array_equal(array, expected[wanted.spec.name])


def ask_at_once(server: Server, rows: Sequence[npt.NDArray[np.float32]]) -> list[httpx.Response]:
    with (
        httpx.Client(limits=httpx.Limits(max_connections=16)) as client,
        concurrent.futures.ThreadPoolExecutor(16) as pool,
    ):
        return list(pool.map(lambda one: client.post(f"{server.model_url}/infer", json=asked(one)), rows))


def figure(server: Server, name: str) -> float:
    return server.metrics()[f'{name}{{model="iris",version="1.0.0"}}']


def test_many_at_once_are_fewer_runs_and_each_answer_is_its_askers(serve: Serve, published: Published) -> None:
    server = serve(published).wait_ready()
    rows = [
        np.random.default_rng(index).normal(size=(1 + index % 3, FEATURES)).astype(np.float32) for index in range(400)
    ]
    for one, answer in zip(rows, ask_at_once(server, rows), strict=True):
        assert answer.status_code == 200
        np.testing.assert_allclose(output(answer.json(), "logits"), published.expected(one)[0], rtol=1e-5, atol=1e-6)
    assert figure(server, "modelwright_serving_batch_requests_sum") == len(rows)
    assert figure(server, "modelwright_serving_batch_requests_count") < len(rows)


def test_a_request_on_which_the_runtime_fails_is_not_the_undoing_of_those_beside_it(failing: Server) -> None:
    good = np.ones((1, FEATURES), np.float32)
    rows = [good + 1000 if index % 5 == 0 else good for index in range(200)]
    answers = ask_at_once(failing, rows)
    assert {answer.status_code for index, answer in enumerate(answers) if index % 5} == {200}
    # This graph looks at its first row only, so that some go unpunished.
    assert 500 in {answer.status_code for answer in answers}


def test_a_graph_whose_rows_depend_on_each_other_is_run_for_each_request_alone(serve: Serve, tmp_path: Path) -> None:
    """As with int8 scales that are taken of the whole tensor: here, features are relative to the batch's mean."""
    nodes = [
        helper.make_node("Constant", [], ["axes"], value=helper.make_tensor("a", TensorProto.INT64, [1], [0])),
        helper.make_node("ReduceMean", ["features", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["features", "mean"], ["prepared"]),
    ]
    mixing = artifacts.publish(tmp_path, nodes=nodes)
    server = serve(mixing).wait_ready()
    assert "each request is computed by itself: a row's outputs depend on its neighbours" in server.log
    rows = [np.full((2, FEATURES), index, np.float32) * np.array([[1], [2]], np.float32) for index in range(100)]
    for one, answer in zip(rows, ask_at_once(server, rows), strict=True):
        np.testing.assert_allclose(output(answer.json(), "logits"), mixing.expected(one)[0], rtol=1e-5, atol=1e-5)
    assert figure(server, "modelwright_serving_batch_requests_count") == len(rows)


def test_batches_of_one_row_compute_each_request_by_itself(serve: Serve, published: Published) -> None:
    server = serve(published, max_batch_rows=1).wait_ready()
    rows = [np.ones((1, FEATURES), np.float32)] * 100
    assert {answer.status_code for answer in ask_at_once(server, rows)} == {200}
    assert figure(server, "modelwright_serving_batch_requests_count") == len(rows)
