"""Named columns in, class names and probabilities out; the V1 protocol; and the document that tells of it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from modelwright import cli
from modelwright.artifact import Tensor
from modelwright_server.inference import BadRequest, Wanted
from modelwright_server.records import Records
from modelwright_server.tensors import Spec

from tests.server.artifacts import CLASSES, FEATURES, Published
from tests.server.processes import Server

COLUMNS = [f"f{index}" for index in range(FEATURES)]
ROWS = np.random.default_rng(9).normal(size=(5, FEATURES)).astype(np.float32)
RECORDS = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS.astype(float).tolist()]


def predict(server: Server, records: object, path: str = "predict") -> httpx.Response:
    return httpx.post(f"{server.model_url}/{path}", json={"records": records})


@pytest.mark.parametrize("path", ["predict", "versions/1.0.0/predict"])
def test_records_are_answered_with_classes_and_probabilities(server: Server, published: Published, path: str) -> None:
    told = predict(server, RECORDS, path).json()
    assert (told["model_name"], told["model_version"]) == ("iris", "1.0.0")
    _, expected = published.expected(ROWS)
    for prediction, row in zip(told["predictions"], expected, strict=True):
        assert prediction["label"] == f"c{row.argmax()}"
        found = np.array([prediction["probabilities"][f"c{index}"] for index in range(CLASSES)], np.float32)
        np.testing.assert_array_equal(found, row)


def test_the_order_of_columns_does_not_matter(server: Server) -> None:
    turned = [dict(reversed(record.items())) for record in RECORDS]
    assert predict(server, turned).content == predict(server, RECORDS).content


def test_a_missing_value_is_a_nan_and_a_row_without_a_class(server: Server) -> None:
    told = predict(server, [{**RECORDS[0], "f3": None}, RECORDS[1]]).json()["predictions"]
    assert told[0] == {"label": None, "probabilities": {"c0": None, "c1": None, "c2": None}}
    assert told[1]["label"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"f3": "high"}, "records[1].f3: it is a number, or null where it is missing, not the text 'high'"),
        ({"f3": True}, "records[1].f3: it is a number, or null where it is missing, not true"),
        ({"f3": [1]}, "records[1].f3: it is a number, or null where it is missing, not a list"),
        ({"f3": 1e39}, "records: the columns of 'features': a value is too large for FP32"),
        ({"f33": 1}, "records[1]: the model has no column 'f33'; did you mean 'f3'?"),
        ({"sepal": 1}, "records[1]: the model has no column 'sepal'; it has the columns f0, f1, f2"),
    ],
)
def test_what_is_wrong_is_named(server: Server, change: dict[str, Any], words: str) -> None:
    answer = predict(server, [RECORDS[0], {**RECORDS[1], **change}])
    assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text


def test_a_missing_column_is_named(server: Server) -> None:
    answer = predict(server, [RECORDS[0], {name: 1 for name in COLUMNS if name != "f5"}])
    assert (answer.status_code, answer.json()["error"]) == (400, "records[1]: the column 'f5' is missing")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"records":{}}', b'{"records":[]}', b'{"records":[1]}'])
def test_what_are_no_records_is_the_clients_error(server: Server, body: bytes) -> None:
    for url in (f"{server.model_url}/predict", f"{server.url}/v1/models/iris:predict"):
        answer = httpx.post(url, content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]


@pytest.mark.parametrize("instances", [ROWS.tolist(), RECORDS, [{"features": row} for row in ROWS.tolist()]])
def test_v1_answers_rows_with_all_outputs(server: Server, published: Published, instances: Any) -> None:
    answer = httpx.post(f"{server.url}/v1/models/iris:predict", json={"instances": instances})
    assert (answer.status_code, answer.headers["Modelwright-Version"]) == (200, "1.0.0")
    logits, probabilities = published.expected(ROWS)
    for index, prediction in enumerate(answer.json()["predictions"]):
        np.testing.assert_allclose(prediction["logits"], logits[index], rtol=1e-6)
        np.testing.assert_allclose(prediction["probabilities"], probabilities[index], rtol=1e-6)
        assert prediction["label"] == f"c{probabilities[index].argmax()}"


def test_v1_tells_of_the_model(server: Server) -> None:
    assert httpx.get(f"{server.url}/v1/models").json() == {"models": ["iris"]}
    assert httpx.get(f"{server.url}/v1/models/iris").json() == {"name": "iris", "ready": True}
    assert httpx.get(f"{server.url}/v1/models/tulips").status_code == 404
    assert httpx.get(f"{server.url}/v1/models/iris:predict").status_code == 405


@pytest.mark.parametrize(
    ("instances", "words"),
    [
        ([[1, 2]], "a row of 'features' has the shape [8]"),
        ([1.0], "a row of 'features' has the shape [8]"),
        ([[1] * 8, [1] * 7], "not nested evenly"),
        ([["a"] * 8], "the data of FP32 are numbers"),
        ([[1] * 8, {"f1": 1}], "its data is not nested evenly"),
    ],
)
def test_v1_says_what_is_wrong_with_a_row(server: Server, instances: Any, words: str) -> None:
    answer = httpx.post(f"{server.url}/v1/models/iris:predict", json={"instances": instances})
    assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text


def test_the_openapi_document_has_the_models_own_columns_and_classes(server: Server) -> None:
    told = httpx.get(f"{server.url}/openapi.json").json()
    assert told["openapi"].startswith("3.1")
    asked = told["paths"]["/v2/models/iris/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    record = asked["properties"]["records"]["items"]
    assert record["required"] == COLUMNS
    assert record["properties"]["f0"]["type"] == ["number", "null"]
    assert np.float32(record["properties"]["f0"]["maximum"]) == np.finfo(np.float32).max
    assert "c2" in json.dumps(told["paths"]["/v2/models/iris/predict"]["post"]["responses"]["200"])
    for path, methods in told["paths"].items():
        for method in methods:
            assert httpx.request(method, f"{server.url}{path}").status_code in (200, 400), path


class Stated:
    """A manifest as far as records are concerned."""

    def __init__(self, inputs: list[Tensor], outputs: list[Tensor], classes: tuple[str, ...] = ()) -> None:
        self.inputs, self.outputs, self.classes = inputs, outputs, classes


def records(inputs: list[Spec], outputs: list[Spec], names: dict[str, tuple[str, ...]]) -> Records:
    def told(specs: list[Spec]) -> list[Tensor]:
        return [Tensor(name=one.name, dtype="float32", shape=(None,) * len(one.shape), names=names.get(one.name, ()))
                for one in specs]  # fmt: skip

    return Records(Stated(told(inputs), told(outputs)), inputs, outputs)  # type: ignore[arg-type]


def test_a_number_is_answered_by_its_outputs_name() -> None:
    price = Spec("prediction", "FP32", ("rows", 1))
    one = records([Spec("x", "FP32", ("rows", 2))], [price], {"x": ("area", "rooms"), "prediction": ("price",)})
    asked = one.parse(b'{"records":[{"area":50,"rooms":2},{"area":60.5,"rooms":3}]}')
    np.testing.assert_array_equal(asked.inputs["x"], [[50, 2], [60.5, 3]])
    answer = one.answer("flats", "1.0.0", asked, [np.array([[100.5], [120]], np.float32)])
    assert json.loads(answer.body[0])["predictions"] == [{"prediction": 100.5}, {"prediction": 120}]


def test_several_inputs_of_any_kind_are_columns_by_their_names() -> None:
    specs = [Spec("text", "BYTES", ("rows",)), Spec("age", "INT64", ("rows", 1)), Spec("image", "FP32", ("rows", 2, 2))]
    one = records(specs, [Spec("score", "FP32", ("rows",))], {})
    asked = one.parse(json.dumps({"records": [{"text": "ä", "age": 3, "image": [[1, 2], [3, 4]]}] * 2}).encode())
    assert asked.inputs["text"].tolist() == ["ä", "ä"]
    assert asked.inputs["age"].tolist() == [[3], [3]]
    assert asked.inputs["image"].shape == (2, 2, 2)
    assert asked.outputs == [Wanted(Spec("score", "FP32", ("rows",)), binary=False)]
    answer = one.answer("m", "1", asked, [np.array([0.5, np.nan], np.float32)])
    assert json.loads(answer.body[0])["predictions"] == [{"score": 0.5}, {"score": None}]
    with pytest.raises(BadRequest, match=r"records\[1\]: 'age' is missing"):
        one.parse(b'{"records":[{"text":"a","age":1,"image":[[1,2],[3,4]]},{"text":"b","image":[[1,2],[3,4]]}]}')


def test_predict_asks_a_server_from_the_terminal(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.csv"
    rows = [",".join(map(str, record.values())) for record in RECORDS]
    file.write_text("\n".join([",".join(COLUMNS), *rows]))
    assert cli.main(["predict", "iris", "--file", str(file), "--json", "--url", server.url]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == predict(server, RECORDS).json()["predictions"]
    words = [f"{name}={value}" for name, value in RECORDS[0].items()]
    assert cli.main(["predict", "iris", *words, "--url", server.url]) == 0
    assert capsys.readouterr().out.startswith(lines[0]["label"])
    assert cli.main(["predict", "iris", *words[1:], "--url", server.url]) == 1
    assert "the column 'f0' is missing" in capsys.readouterr().err
    assert cli.main(["predict", "iris", *words, "--url", server.admin]) == 1
    assert "does not answer as a model server" in capsys.readouterr().err
