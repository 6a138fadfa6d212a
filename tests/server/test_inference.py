"""What a client of the Open Inference Protocol V2 sees: the runtime's own results, by JSON, bytes and tritonclient."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
from modelwright import __version__
from tritonclient.utils import InferenceServerException

from tests.server.artifacts import FEATURES, Published
from tests.server.processes import Server

Floats = npt.NDArray[np.float32]


@pytest.fixture
def rows() -> Floats:
    return np.random.default_rng(5).normal(size=(4, FEATURES)).astype(np.float32)


def asked(rows: Floats, **more: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": "features", "shape": list(rows.shape), "datatype": "FP32", "data": rows.tolist()}],
        **more,
    }


def output(answer: Any, name: str) -> Floats:
    found = next(one for one in answer["outputs"] if one["name"] == name)
    return np.array(found["data"], dtype=np.float32).reshape(found["shape"])


def test_the_server_tells_of_itself_and_of_its_model(server: Server) -> None:
    assert httpx.get(f"{server.url}/v2").json() == {
        "name": "modelwright-server", "version": __version__, "extensions": ["binary_tensor_data"],
    }  # fmt: skip
    assert httpx.get(f"{server.url}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{server.url}/v2/health/ready").json() == {"ready": True}
    metadata = httpx.get(server.model_url).json()
    assert metadata["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, FEATURES]}]
    assert [one["name"] for one in metadata["outputs"]] == ["logits", "probabilities"]
    assert (metadata["name"], metadata["versions"]) == ("iris", ["1.0.0"])
    assert metadata["parameters"] == {"golden_samples": "Agreed"}
    assert httpx.get(f"{server.model_url}/versions/1.0.0").json() == metadata
    assert httpx.get(f"{server.model_url}/versions/1.0.0/ready").json() == {"name": "iris", "ready": True}


@pytest.mark.parametrize("path", ["infer", "versions/1.0.0/infer"])
def test_predictions_by_json_are_the_runtimes(server: Server, published: Published, rows: Floats, path: str) -> None:
    answer = httpx.post(f"{server.model_url}/{path}", json=asked(rows, id="one"))
    assert answer.status_code == 200
    told = answer.json()
    assert (told["model_name"], told["model_version"], told["id"]) == ("iris", "1.0.0", "one")
    for name, expected in zip(("logits", "probabilities"), published.expected(rows), strict=True):
        np.testing.assert_array_equal(output(told, name), expected)


def test_flat_data_is_the_same_as_nested(server: Server, rows: Floats) -> None:
    flat = asked(rows)
    flat["inputs"][0]["data"] = rows.ravel().tolist()
    nested = httpx.post(f"{server.model_url}/infer", json=asked(rows))
    assert httpx.post(f"{server.model_url}/infer", json=flat).content == nested.content


def test_whole_numbers_are_numbers(server: Server, published: Published) -> None:
    request = asked(np.ones((1, FEATURES), np.float32))
    request["inputs"][0]["data"] = [1] * FEATURES
    told = httpx.post(f"{server.model_url}/infer", json=request).json()
    expected, _ = published.expected(np.ones((1, FEATURES), np.float32))
    np.testing.assert_array_equal(output(told, "logits"), expected)


def test_the_outputs_that_are_asked_for_come_in_that_order(server: Server, rows: Floats) -> None:
    chosen = [{"name": "probabilities"}, {"name": "logits"}]
    told = httpx.post(f"{server.model_url}/infer", json=asked(rows, outputs=chosen)).json()
    assert [one["name"] for one in told["outputs"]] == ["probabilities", "logits"]
    told = httpx.post(f"{server.model_url}/infer", json=asked(rows, outputs=chosen[1:])).json()
    assert [one["name"] for one in told["outputs"]] == ["logits"]


def test_no_rows_are_no_predictions(server: Server) -> None:
    answer = httpx.post(f"{server.model_url}/infer", json=asked(np.empty((0, FEATURES), np.float32)))
    assert (answer.status_code, answer.json()["outputs"][0]["shape"]) == (200, [0, 3])


def test_binary_data_both_ways_is_bit_for_bit_the_runtimes(server: Server, published: Published, rows: Floats) -> None:
    head = json.dumps({
        "inputs": [{"name": "features", "shape": [4, FEATURES], "datatype": "FP32",
                    "parameters": {"binary_data_size": rows.nbytes}}],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "logits"}, {"name": "probabilities", "parameters": {"binary_data": False}}],
    }).encode()  # fmt: skip
    for padding in range(4):  # so that the data begins at each alignment
        padded = head + b" " * padding
        answer = httpx.post(
            f"{server.model_url}/infer", content=padded + rows.tobytes(),
            headers={"Inference-Header-Content-Length": str(len(padded))},
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        length = int(answer.headers["Inference-Header-Content-Length"])
        told = json.loads(answer.content[:length])
        logits, probabilities = published.expected(rows)
        assert told["outputs"][0]["parameters"] == {"binary_data_size": logits.nbytes}
        assert answer.content[length:] == logits.tobytes()
        np.testing.assert_array_equal(output(told, "probabilities"), probabilities)


def test_a_nan_goes_through_as_bytes_and_is_null_in_json(server: Server) -> None:
    rows = np.full((1, FEATURES), np.nan, np.float32)
    head = json.dumps({
        "inputs": [{"name": "features", "shape": [1, FEATURES], "datatype": "FP32",
                    "parameters": {"binary_data_size": rows.nbytes}}],
    }).encode()  # fmt: skip
    headers = {"Inference-Header-Content-Length": str(len(head))}
    told = httpx.post(f"{server.model_url}/infer", content=head + rows.tobytes(), headers=headers).json()
    assert told["outputs"][0]["data"] == [None] * 3


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tritonclient_works_unchanged(
    server: Server, published: Published, rows: Floats, *, binary_in: bool, binary_out: bool
) -> None:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("iris")
    assert client.is_model_ready("iris", "1.0.0")
    assert client.get_server_metadata()["name"] == "modelwright-server"
    assert client.get_model_metadata("iris")["inputs"][0]["name"] == "features"
    tensor = triton.InferInput("features", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary_in)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("logits", "probabilities")]
    for chosen in (outputs, None):
        result = client.infer("iris", [tensor], model_version="1.0.0", outputs=chosen, request_id="7")
        assert result.get_response()["id"] == "7"
        for name, expected in zip(("logits", "probabilities"), published.expected(rows), strict=True):
            np.testing.assert_array_equal(result.as_numpy(name), expected)


def test_tritonclient_reads_our_errors(server: Server, rows: Floats) -> None:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    tensor = triton.InferInput("petals", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    with pytest.raises(InferenceServerException, match="the model has no input 'petals'; its inputs are features"):
        client.infer("iris", [tensor])
    assert not client.is_model_ready("tulips")


def test_every_answer_says_its_version(server: Server, failing: Server, rows: Floats) -> None:
    for one, version in ((server, "1.0.0"), (failing, "1.1.0--int8")):
        answers = [
            httpx.get(f"{one.url}/v2"), httpx.get(f"{one.url}/nowhere"), httpx.get(f"{one.url}/v2/health/ready"),
            httpx.post(f"{one.model_url}/infer", json=asked(rows)), httpx.post(f"{one.model_url}/infer", content=b"{"),
            httpx.post(f"{one.model_url}/infer", json=asked(rows + 1000)),
        ]  # fmt: skip
        assert {answer.headers["Modelwright-Version"] for answer in answers} == {version}
        assert answers[3].json()["model_version"] == version


def test_a_runtime_that_fails_on_good_input_is_the_servers_error(failing: Server, rows: Floats) -> None:
    before = failing.metrics()
    answer = httpx.post(f"{failing.model_url}/infer", json=asked(rows + 1000))
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("the inference failed: ")
    assert "Reshape" in answer.json()["error"]
    assert httpx.post(f"{failing.model_url}/infer", json=asked(rows)).status_code == 200
    key = 'modelwright_serving_requests_total{code="500",model="iris",version="1.1.0--int8"}'
    assert failing.metrics()[key] - before[key] == 1


def test_the_figures_count_inferences_by_code_and_time_them(server: Server, rows: Floats) -> None:
    before = server.metrics()
    for _ in range(5):
        httpx.post(f"{server.model_url}/infer", json=asked(rows))
    httpx.post(f"{server.model_url}/infer", content=b"{}")
    httpx.get(f"{server.url}/v2/health/ready")
    after = server.metrics()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    labels = 'model="iris",version="1.0.0"'
    assert grown(f'modelwright_serving_requests_total{{code="200",{labels}}}') == 5
    assert grown(f'modelwright_serving_requests_total{{code="400",{labels}}}') == 1
    assert grown(f"modelwright_serving_request_seconds_count{{{labels}}}") == 6
    assert grown(f'modelwright_serving_request_seconds_bucket{{le="10.0",{labels}}}') == 6
    assert 0 < grown(f"modelwright_serving_request_seconds_sum{{{labels}}}") < 6
    assert after[f"modelwright_serving_ready{{{labels}}}"] == 1
    assert after[f"modelwright_serving_draining{{{labels}}}"] == 0
    assert after[f"modelwright_serving_in_flight{{{labels}}}"] == 0
    for part in ("fetch", "session", "golden", "warmup", "total"):
        assert after[f'modelwright_serving_load_seconds{{model="iris",part="{part}",version="1.0.0"}}'] > 0
