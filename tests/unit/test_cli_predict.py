"""`modelwright predict`: what counts as records, and what is told of predictions; tests/server asks a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from modelwright.cli import predict
from modelwright.cli.cluster import Refused, Where
from modelwright.kube import errors

NOWHERE = Where(None, None, None)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("a,b\n1,x\n2.5,\n", ".csv", [{"a": 1, "b": "x"}, {"a": 2.5, "b": None}]),
        ('[{"a": 1}]', ".json", [{"a": 1}]),
        ('{"records": [{"a": 1}, {"a": 2}]}', ".json", [{"a": 1}, {"a": 2}]),
        ('{"a": 1}', "", [{"a": 1}]),
        ('{"a": 1}\n\n{"a": 2}\n', ".jsonl", [{"a": 1}, {"a": 2}]),
    ],
)
def test_records_are_read_from_what_people_have(text: str, kind: str, expected: list[dict[str, Any]]) -> None:
    assert predict.records_of(text, kind) == expected


@pytest.mark.parametrize(
    ("text", "words"), [("[1]", "holds no records"), ("{}\n{", "line 2 is no JSON"), ("1\n2", "line 1 is no object")]
)
def test_what_are_no_records_is_told(text: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        predict.records_of(text, ".json")


def test_words_are_a_record() -> None:
    assert predict.record_of(["a=1", "b=x=y", "c=", "d=true"]) == {"a": 1, "b": "x=y", "c": None, "d": True}
    with pytest.raises(Refused, match="'a' is no COLUMN=VALUE"):
        predict.record_of(["a"])


def test_a_prediction_is_a_line() -> None:
    shares = {"a": 0.1, "b": 0.6, "c": 0.25, "d": 0.05}
    assert predict.told({"label": "b", "probabilities": shares}) == "b  (b 0.600, c 0.250, a 0.100)"
    assert predict.told({"label": None, "probabilities": {"a": None}}) == "None  ()"
    assert predict.told({"prediction": 3.5}) == "prediction 3.5"


def test_the_servers_own_words_are_told() -> None:
    answered = errors.from_body(400, b'{"error":"records[0]: the column \'f5\' is missing"}', {})
    assert predict._words(answered) == "records[0]: the column 'f5' is missing"
    assert predict._words(errors.from_body(403, b'{"kind":"Status","message":"forbidden"}', {})) == "forbidden"


@pytest.mark.parametrize(("columns", "file"), [([], None), (["a=1"], "x.csv")])
def test_records_come_from_one_place(columns: list[str], file: str | None) -> None:
    with pytest.raises(Refused, match="say the records"):
        asyncio.run(predict.run("digits", columns, file, NOWHERE, url=None, as_json=False))
