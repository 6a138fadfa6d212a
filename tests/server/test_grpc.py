"""What a gRPC client of the Open Inference Protocol V2 sees: the runtime's results, raw and typed; clear errors."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from modelwright import __version__
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import InferenceServerException

from tests.server.artifacts import FEATURES, Published
from tests.server.processes import Server

Floats = npt.NDArray[np.float32]
Change = Callable[[Any], None]


@pytest.fixture
def rows() -> Floats:
    return np.random.default_rng(5).normal(size=(4, FEATURES)).astype(np.float32)


@pytest.fixture
def stub(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


def raw(rows: Floats) -> Any:
    request = pb.ModelInferRequest(model_name="iris", raw_input_contents=[rows.tobytes()])
    request.inputs.add(name="features", datatype="FP32", shape=rows.shape)
    return request


def typed(rows: Floats) -> Any:
    request = pb.ModelInferRequest(model_name="iris", model_version="1.0.0", id="one")
    tensor = request.inputs.add(name="features", datatype="FP32", shape=rows.shape)
    tensor.contents.fp32_contents.extend(rows.ravel().tolist())
    return request


def given(rows: Floats) -> Any:
    tensor = triton.InferInput("features", list(rows.shape), "FP32")
    return tensor.set_data_from_numpy(rows)


def test_the_server_tells_of_itself_and_of_its_model(server: Server, stub: Any) -> None:
    client = triton.InferenceServerClient(server.grpc)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("iris")
    assert client.is_model_ready("iris", "1.0.0")
    told = client.get_server_metadata()
    assert (told.name, told.version) == ("modelwright-server", __version__)
    model = client.get_model_metadata("iris", as_json=True)
    assert (model["name"], model["versions"], model["platform"]) == ("iris", ["1.0.0"], "onnxruntime_onnx")
    assert model["inputs"] == [{"name": "features", "datatype": "FP32", "shape": ["-1", str(FEATURES)]}]
    assert [one["name"] for one in model["outputs"]] == ["logits", "probabilities"]


def test_tritonclient_works_unchanged(server: Server, published: Published, rows: Floats) -> None:
    client = triton.InferenceServerClient(server.grpc)
    outputs = [triton.InferRequestedOutput(name) for name in ("probabilities", "logits")]
    for chosen in (outputs, None):
        result = client.infer("iris", [given(rows)], model_version="1.0.0", outputs=chosen, request_id="7")
        assert result.get_response().id == "7"
        for name, expected in zip(("logits", "probabilities"), published.expected(rows), strict=True):
            np.testing.assert_array_equal(result.as_numpy(name), expected)
    answers: queue.Queue[Any] = queue.Queue()
    client.async_infer("iris", [given(rows)], lambda result, error: answers.put(error or result))
    np.testing.assert_array_equal(answers.get(timeout=30).as_numpy("logits"), published.expected(rows)[0])


def test_tritonclients_asyncio_side_works_unchanged(server: Server, published: Published, rows: Floats) -> None:
    async def asked() -> list[Any]:
        async with triton_aio.InferenceServerClient(server.grpc) as client:
            assert await client.is_model_ready("iris")
            return await asyncio.gather(*(client.infer("iris", [given(rows)]) for _ in range(20)))

    for result in asyncio.run(asked()):
        np.testing.assert_array_equal(result.as_numpy("logits"), published.expected(rows)[0])


def test_typed_contents_are_answered_typed(stub: Any, published: Published, rows: Floats) -> None:
    answer = stub.ModelInfer(typed(rows))
    assert (answer.model_name, answer.model_version, answer.id) == ("iris", "1.0.0", "one")
    assert len(answer.raw_output_contents) == 0
    for output, expected in zip(answer.outputs, published.expected(rows), strict=True):
        assert list(output.shape) == list(expected.shape)
        found = np.array(output.contents.fp32_contents, np.float32).reshape(expected.shape)
        np.testing.assert_array_equal(found, expected)


def test_no_rows_are_no_predictions(stub: Any) -> None:
    answer = stub.ModelInfer(typed(np.empty((0, FEATURES), np.float32)))
    assert [list(one.shape) for one in answer.outputs] == [[0, 3], [0, 3]]


def test_every_answer_says_its_version(server: Server, failing: Server, rows: Floats) -> None:
    for one, version in ((server, "1.0.0"), (failing, "1.1.0--int8")):
        with grpc.insecure_channel(one.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            calls = [
                (stub.ServerReady, pb.ServerReadyRequest()), (stub.ModelInfer, raw(rows)),
                (stub.ModelInfer, raw(rows[:, :3])), (stub.ModelInfer, raw(rows + 1000)),
                (stub.ModelMetadata, pb.ModelMetadataRequest(name="tulips")),
            ]  # fmt: skip
            for method, request in calls:
                call = method.future(request)
                assert dict(call.trailing_metadata()) == {"modelwright-version": version}


def replace_raw(content: bytes) -> Change:
    def change(request: Any) -> None:
        request.raw_input_contents[0] = content

    return change


def twice(request: Any) -> None:
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(b"")


def also_typed(request: Any) -> None:
    request.inputs[0].contents.fp32_contents.append(1.0)


def wrong_field(request: Any) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp64_contents.append(1.0)


def too_few(request: Any) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.append(1.0)


def shared_memory(request: Any) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "x"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda one: setattr(one, "model_name", "tulips"), "NOT_FOUND", "there is no model 'tulips' here"),
        (lambda one: setattr(one, "model_version", "9"), "NOT_FOUND", "this server has '1.0.0'"),
        (lambda one: setattr(one.inputs[0], "name", "petals"), "INVALID_ARGUMENT", "has no input 'petals'"),
        (lambda one: setattr(one.inputs[0], "datatype", "FP64"), "INVALID_ARGUMENT", "the datatype is FP32, not FP64"),
        (lambda one: setattr(one.inputs[0], "datatype", "?"), "INVALID_ARGUMENT", "datatype '?' is none of"),
        (lambda one: one.inputs[0].shape.append(2), "INVALID_ARGUMENT", "the shape is [-1, 8] where -1 is any"),
        (lambda one: one.inputs[0].shape.__setitem__(0, -1), "INVALID_ARGUMENT", "shape is a list of lengths"),
        (lambda one: one.inputs[0].shape.__setitem__(0, 2**39), "INVALID_ARGUMENT", "not the 128 of"),
        (replace_raw(b"1234"), "INVALID_ARGUMENT", "[4, 8] of FP32 are 128 bytes, not the 4 of"),
        (lambda one: one.raw_input_contents.append(b""), "INVALID_ARGUMENT", "raw_input_contents has 2 elements"),
        (lambda one: one.ClearField("inputs"), "INVALID_ARGUMENT", "raw_input_contents has 1 elements, inputs 0"),
        (twice, "INVALID_ARGUMENT", "inputs[1]: 'features' is given twice"),
        (also_typed, "INVALID_ARGUMENT", "it has both fp32_contents and raw_input_contents"),
        (wrong_field, "INVALID_ARGUMENT", "the data of FP32 are in fp32_contents, not in fp64_contents"),
        (too_few, "INVALID_ARGUMENT", "fp32_contents has 1 elements, its shape [4, 8] has 32"),
        (shared_memory, "INVALID_ARGUMENT", "this server does not have shared_memory_region"),
        (lambda one: one.outputs.add(name="odds"), "INVALID_ARGUMENT", "outputs[0]: the model has no output 'odds'"),
        (lambda one: one.raw_input_contents.append(b"x" * 1024 * 1024), "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)  # fmt: skip
def test_a_bad_request_is_the_clients_error_and_named(
    stub: Any, rows: Floats, change: Change, code: str, words: str
) -> None:
    request = raw(rows)
    change(request)
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(request)
    assert (raised.value.code().name, words in raised.value.details()) == (code, True), raised.value.details()
    stub.ModelInfer(raw(rows))


def test_bytes_that_are_no_message_are_the_clients_error(server: Server) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as raised:
            method(b"\xff\xff\xff")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no message inference.ModelInferRequest" in raised.value.details()


def test_a_method_that_is_not_there_is_unimplemented(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.RepositoryIndex(pb.RepositoryIndexRequest())
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_runtime_that_fails_on_good_input_is_the_servers_error(failing: Server, rows: Floats) -> None:
    before = failing.metrics()
    client = triton.InferenceServerClient(failing.grpc)
    with pytest.raises(InferenceServerException, match=r"the inference failed: .*Reshape"):
        client.infer("iris", [given(rows + 1000)])
    client.infer("iris", [given(rows)])
    after = failing.metrics()
    for code in ("200", "500"):
        key = f'modelwright_serving_requests_total{{code="{code}",model="iris",version="1.1.0--int8"}}'
        assert after[key] - before[key] == 1
