"""Models that other software has made, on a cluster: published, measured and served, or refused with nothing loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from dev.demo import BUCKET, s3
from dev.target import Store, Target
from devcluster.progress import Steps, wait_for
from tests.e2e.test_compression import AGAIN, API_VERSION, ready, until
from tests.e2e.training.jobs import Space, condition, failed, fresh

NAMESPACE = "modelwright-e2e-import"
FOLDER = "e2e-import"
STORAGE = {"uri": f"s3://{BUCKET}/{FOLDER}", "secretRef": {"name": "store"}}
RESOURCES = {"requests": {"cpu": "100m", "memory": "384Mi"}}


@pytest.fixture(scope="module")
def space(target: Target, server: Store, refs: Mapping[str, str], steps: Steps) -> Iterator[Space]:
    """A namespace with a Dataset of the digits, and foreign files in the store."""
    with fresh(target, server, refs, steps, NAMESPACE, FOLDER) as made:
        client = s3(server)
        content = fitted()
        put(client, "good.onnx", content)
        put(client, "cut.onnx", content[: len(content) // 2])
        put(client, "outside.onnx", outside())
        put(client, "model/config.json", json.dumps({"model_type": "llama"}).encode())
        put(client, "model/tokenizer.json", b"{}")
        put(client, "model/model.safetensors", save({"layer": np.ones((8, 8), np.float16)}))
        made.apply({
            "apiVersion": API_VERSION, "kind": "Dataset", "metadata": {"name": "digits"},
            "spec": {
                "source": {"uri": f"s3://{BUCKET}/raw/digits.parquet"}, "storage": STORAGE,
                "schema": {"target": "label", "task": "Classification"}, "split": {"seed": 7},
            },
        })  # fmt: skip
        yield made


def put(client: Any, name: str, content: bytes) -> None:
    client.put_object(Bucket=BUCKET, Key=f"{FOLDER}/foreign/{name}", Body=content)


def fitted() -> bytes:
    """scikit-learn's logistic regression on the digits, as its converters write it: names of their own."""
    rows, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=200).fit(rows / 16, labels)
    weights = [
        numpy_helper.from_array((model.coef_.T / 16).astype(np.float32), "coefficients"),
        numpy_helper.from_array(model.intercept_.astype(np.float32), "intercepts"),
    ]
    nodes = [
        helper.make_node("Gemm", ["X", "coefficients", "intercepts"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["output_probability"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes, "lr", [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("output_probability", TensorProto.FLOAT, ["N", 10])], weights,
    )  # fmt: skip
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    return content


def outside() -> bytes:
    """The same, with a tensor that is to be read from a file of the pod's."""
    model = onnx.load_from_string(fitted())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    content: bytes = model.SerializeToString()
    return content


def version(number: str, name: str, stated: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    asked = {"uri": f"s3://{BUCKET}/{FOLDER}/foreign/{name}", "format": "Onnx", "resources": RESOURCES, **stated}
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {"name": f"foreign-v{number.replace('.', '-')}"},
        "spec": {"model": "foreign", "version": number, "storage": STORAGE, "source": {"import": asked}, **spec},
    }


def service(name: str, number: str) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION, "kind": "InferenceService", "metadata": {"name": name},
        "spec": {
            "model": {"name": "foreign", "version": number}, "replicas": 1,
            "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}},
        },
    }  # fmt: skip


def test_a_graph_of_other_software_is_measured_published_and_served(space: Space) -> None:
    stated = {
        "task": "Classification", "classes": list("0123456789"),
        "columns": [f"pixel_{index}" for index in range(64)],
        "names": {"X": "features", "output_probability": "probabilities"},
    }  # fmt: skip
    gates = [{"metric": "accuracy", "min": "0.9"}]
    evaluation = {"datasetRef": {"name": "digits"}, "gates": gates}
    space.apply(version("1.0.0", "good.onnx", stated, evaluation=evaluation))
    status = until(space, "foreign-v1-0-0", "imported", ready)
    assert float(status["metrics"]["accuracy"]) > 0.9
    assert condition(status, "Ready")["message"] == f"imported from s3://{BUCKET}/{FOLDER}/foreign/good.onnx"
    assert status["steps"][0]["notes"][0].startswith(f"s3://{BUCKET}/{FOLDER}/foreign/good.onnx is sha256:")
    space.apply(service("foreign", "1.0.0"))
    wait_for(
        "it is served",
        lambda: space.status("foreign", "inferenceservice").get("phase") == "Ready",
        seconds=180,
        every=1,
    )
    assert space.status("foreign", "inferenceservice")["active"]["digest"] == status["artifact"]["digest"]
    space.kubectl("delete", "inferenceservice", "foreign", "--wait")


@pytest.mark.parametrize(
    ("number", "name", "stated", "words"),
    [
        ("2.0.0", "cut.onnx", {}, "cut.onnx is no "),
        ("2.0.1", "outside.onnx", {}, "in '../../../../etc/passwd', which is outside of the file's folder"),
        ("2.0.2", "good.onnx", {"digest": "sha256:" + "0" * 64}, "and spec.source.import.digest says sha256:0000"),
        ("2.0.3", "gone.onnx", {}, "gone.onnx: mend the URI, or upload it"),
    ],
)
def test_what_is_not_what_it_says_is_refused_in_the_same_words(
    space: Space, number: str, name: str, stated: dict[str, Any], words: str
) -> None:
    space.apply(version(number, name, stated))
    status = until(space, f"foreign-v{number.replace('.', '-')}", "refused", failed)
    said = condition(status, "Ready")
    print(said["message"])
    assert said["reason"] == "ArtifactRefused"
    assert words in said["message"]
    assert said["message"].endswith(AGAIN)
    assert "artifact" not in status


def test_a_hugging_face_directory_is_published_and_not_served_by_the_built_in_server(space: Space) -> None:
    space.apply(version("3.0.0", "model/", {"format": "HuggingFace", "task": "LanguageModelling"}))
    until(space, "foreign-v3-0-0", "imported", ready)
    space.apply(service("languages", "3.0.0"))

    def told() -> bool:
        return "FormatUnavailable" in json.dumps(space.status("languages", "inferenceservice"))

    wait_for("its format is not served", told, seconds=180, every=1)
    said = json.dumps(space.status("languages", "inferenceservice"))
    assert "its formats are hf, and this server runs onnx" in said
    space.kubectl("delete", "inferenceservice", "languages", "--wait")
