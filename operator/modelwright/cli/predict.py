"""`modelwright predict`: records from the terminal or a file to a service, its classes or values back.

Through the API server's proxy of Services, with the rights of kubectl's user, so that nothing needs to be exposed or
forwarded; or straight to a URL.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from modelwright.api.inference_service import InferenceService
from modelwright.cli.cluster import Refused, Where, connected
from modelwright.kube import errors
from modelwright.kube.resources import INFERENCESERVICES

Record = Mapping[str, Any]
Ask = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
AT_ONCE = 1000
"""Records of one request."""
_PORT = "http"


def record_of(columns: Sequence[str]) -> Record:
    """The record that `NAME=VALUE` words say: a value is JSON where it reads as such, else a text. Raises Refused."""
    record: dict[str, Any] = {}
    for word in columns:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise Refused(f"{word!r} is no COLUMN=VALUE")
        record[name] = _value(value)
    return record


def records_of(text: str, kind: str) -> list[Record]:
    """The records of a file's content. `kind` is its ending: .csv has a header and numbers where they read as such, an
    empty cell is a missing value; anything else is JSON: a list, an object with the field records, or one object a
    line. Raises Refused."""
    if kind == ".csv":
        return [{name: _value(cell) for name, cell in row.items()} for row in csv.DictReader(io.StringIO(text))]
    try:
        found = json.loads(text)
    except ValueError:
        return [_line(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if isinstance(found, dict):
        found = found.get("records", [found])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Refused("the file holds no records: a list of objects, or an object a line")
    return found


def _line(number: int, line: str) -> Record:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise Refused(f"line {number} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Refused(f"line {number} is no object")
    return found


def _value(text: str | None) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def told(prediction: Mapping[str, Any]) -> str:
    """A prediction on a line: the class and the most probable ones, or the values by name."""
    probabilities = prediction.get("probabilities")
    if not isinstance(probabilities, dict):
        return "  ".join(f"{name} {json.dumps(value)}" for name, value in prediction.items())
    known = {name: share for name, share in probabilities.items() if share is not None}
    best = sorted(known, key=lambda name: known[name], reverse=True)[:3]
    return f"{prediction.get('label')}  ({', '.join(f'{name} {known[name]:.3f}' for name in best)})"


def _words(error: errors.ApiError) -> str:
    """The server's own, where the answer came from it and not from the API server."""
    text = str(error)
    try:
        return str(json.loads(text[text.index("{") :])["error"])
    except (ValueError, KeyError, TypeError):
        return text


def _pieces(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    yield from (records[begin : begin + AT_ONCE] for begin in range(0, len(records), AT_ONCE))


async def _predicted(ask: Ask, model: str, records: Sequence[Record]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for piece in _pieces(records):
        found += (await ask(f"/v2/models/{model}/predict", {"records": piece}))["predictions"]
    return found


async def _through_the_api_server(name: str, records: Sequence[Record], where: Where) -> list[Mapping[str, Any]]:
    async with connected(where) as (client, namespace):
        try:
            service = InferenceService.model_validate(await client.get(INFERENCESERVICES, name, namespace))
        except errors.NotFound as missing:
            raise Refused(f"InferenceService {name} does not exist in namespace {namespace}") from missing

        async def ask(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
            try:
                return await client.ask_service(name, namespace, _PORT, path, dict(body))
            except errors.ApiError as error:
                raise Refused(f"{name}: {_words(error)}") from error

        return await _predicted(ask, service.spec.model.name, records)


async def _straight(url: str, records: Sequence[Record]) -> list[Mapping[str, Any]]:
    async with aiohttp.ClientSession() as session:

        async def ask(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
            async with session.post(url.rstrip("/") + path, json=body) as response:
                answer = await response.json(content_type=None)
                if response.status != 200:
                    raise Refused(f"{url}: {answer.get('error', response.status) if answer else response.status}")
                return dict(answer)

        try:
            async with session.get(f"{url.rstrip('/')}/v1/models") as response:
                (model,) = (await response.json(content_type=None))["models"]
            return await _predicted(ask, model, records)
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
            raise Refused(f"{url} does not answer as a model server: {error}") from error


async def run(
    name: str, columns: Sequence[str], file: str | None, where: Where, *, url: str | None, as_json: bool
) -> str:
    """The predictions of the records that are given, a line each. Raises Refused."""
    if bool(columns) == bool(file):
        raise Refused("say the records: COLUMN=VALUE words of one, or --file of many")
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text() if file else ""
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from error
    records = records_of(text, Path(file).suffix) if file else [record_of(columns)]
    if not records:
        raise Refused(f"{file} holds no records")
    found = await (_straight(url, records) if url else _through_the_api_server(name, records, where))
    return "\n".join(json.dumps(one) if as_json else told(one) for one in found)
