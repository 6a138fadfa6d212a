"""`analyse`: asks a service for its golden samples, and measures what its clients would see.

From outside, through the Service, over connections that are kept open as clients keep them; what the pods say of
themselves is not asked, but for whether golden outputs can be expected of their kind of hardware.
"""

from __future__ import annotations

import http.client
import logging
import math
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from modelwright.artifact import Manifest
from modelwright.serving import VERSION_HEADER, AnalysisRun, AnalysisSummary, Reason

from modelwright_server import failures, golden, tensors
from modelwright_server.failures import ServingFailed
from modelwright_server.golden import Samples
from modelwright_server.loading import fetch_golden
from modelwright_server.tensors import Array

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 30.0
_PAUSE_SECONDS = 0.25
_HEADER_LENGTH = "Inference-Header-Content-Length"


def main(run: AnalysisRun) -> AnalysisSummary:
    """Never raises: why it could not measure is in the summary."""
    tally = _Tally()
    try:
        _analyse(run, tally)
        failed = None
    except Exception as error:
        if not isinstance(error, ServingFailed):
            log.exception("the analysis failed")
        failed = failures.of(error).failure
    return tally.summary().model_copy(update={"failure": failed})


class _Tally:
    """What was seen, from all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("requests", "errors", "wrong_versions", "mismatches", "not_comparable"), 0)
        self._seconds: list[float] = []
        self._first_error: str | None = None

    def count(self, what: str, words: str | None = None) -> None:
        with self._lock:
            self._counts[what] += 1
            self._first_error = self._first_error or words

    def took(self, seconds: float) -> None:
        with self._lock:
            self._seconds.append(seconds)

    def summary(self) -> AnalysisSummary:
        found = sorted(self._seconds)
        return AnalysisSummary(
            requests=self._counts["requests"],
            errors=self._counts["errors"],
            wrong_versions=self._counts["wrong_versions"],
            mismatches=self._counts["mismatches"],
            not_comparable=self._counts["not_comparable"],
            p50_ms=_quantile_ms(found, 0.5),
            p99_ms=_quantile_ms(found, 0.99),
            max_ms=_quantile_ms(found, 1.0),
            first_error=self._first_error,
        )


def _quantile_ms(ordered: Sequence[float], share: float) -> float | None:
    """The nearest rank: of few requests the 99th percentile is the slowest."""
    return round(ordered[math.ceil(share * len(ordered)) - 1] * 1000, 3) if ordered else None


def _analyse(run: AnalysisRun, tally: _Tally) -> None:
    ends = time.monotonic() + run.timeout_seconds
    with tempfile.TemporaryDirectory(prefix="analyse-") as folder:
        manifest = fetch_golden(run, Path(folder), run.timeout_seconds / 2)
        samples = golden.read(Path(folder), manifest)
    asking = _Asking(run, manifest, samples)
    _await_service(run, ends)
    numbers = iter(range(run.requests))
    lock = threading.Lock()

    def ask() -> None:
        client = _Client(run, asking)
        try:
            while time.monotonic() < ends:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                client.ask(number, ends, tally)
        finally:
            client.close()

    threads = [threading.Thread(target=ask) for _ in range(min(run.concurrency, run.requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = sum(1 for _ in numbers)
    if left:
        raise ServingFailed(
            Reason.TIMED_OUT,
            f"{left} of {run.requests} requests were not sent within {run.timeout_seconds:g} s: the service is slow, or"
            " the time is short for so many",
        )


def _await_service(run: AnalysisRun, ends: float) -> None:
    """Until anybody answers: a Service's endpoints reach the node's proxy some time after the pods are ready."""
    told = False
    while True:
        connection = _connection(run, ends)
        try:
            connection.request("GET", "/v2/health/live")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() + _PAUSE_SECONDS > ends:
                raise ServingFailed(
                    Reason.SERVICE_UNREACHABLE,
                    f"{run.url} did not answer within {run.timeout_seconds:g} s ({_words(error)}): does the Service"
                    " have ready endpoints, and does a NetworkPolicy let this Job reach it?",
                ) from error
            if not told:
                log.info("%s does not answer yet: %s", run.url, _words(error))
                told = True
            time.sleep(_PAUSE_SECONDS)
        else:
            return
        finally:
            connection.close()


def _connection(run: AnalysisRun, ends: float) -> http.client.HTTPConnection:
    parts = urllib.parse.urlsplit(run.url)
    left = max(0.05, min(_REQUEST_SECONDS, ends - time.monotonic()))
    return http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=left)


class _Asking:
    """The requests, made once: a row of the golden inputs each, as binary data, which carries what JSON does not."""

    def __init__(self, run: AnalysisRun, manifest: Manifest, samples: Samples) -> None:
        self.model_path = f"/v2/models/{run.model}"
        self.samples = samples
        self.datatypes = {one.name: tensors.OF_MANIFEST[one.dtype] for one in (*manifest.inputs, *manifest.outputs)}
        self._made = [self._request(samples.row(index)) for index in range(samples.rows)]

    def request(self, number: int) -> tuple[bytes, dict[str, str], Samples]:
        """Body, headers, and what is expected."""
        body, headers = self._made[number % len(self._made)]
        return body, headers, self.samples.row(number)

    def _request(self, row: Samples) -> tuple[bytes, dict[str, str]]:
        binary = {name: tensors.to_binary(self.datatypes[name], value) for name, value in row.inputs.items()}
        inputs = [
            {"name": name, "datatype": self.datatypes[name], "shape": value.shape,
             "parameters": {"binary_data_size": len(binary[name])}}
            for name, value in row.inputs.items()
        ]  # fmt: skip
        head = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
        headers = {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(len(head))}
        return b"".join((head, *binary.values())), headers


class _Client:
    """One connection, which is opened again when it was closed."""

    def __init__(self, run: AnalysisRun, asking: _Asking) -> None:
        self._run = run
        self._asking = asking
        self._connection: http.client.HTTPConnection | None = None
        self._comparable = True

    def close(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = None

    def ask(self, number: int, ends: float, tally: _Tally) -> None:
        body, headers, expected = self._asking.request(number)
        tally.count("requests")
        try:
            connection = self._connected(ends)
            began = time.perf_counter()
            connection.request("POST", f"{self._asking.model_path}/infer", body, headers)
            answer = connection.getresponse()
            content = answer.read()
            tally.took(time.perf_counter() - began)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            tally.count("errors", f"request {number + 1}: no answer: {_words(error)}")
            return
        if answer.will_close:
            self.close()
        if answer.status != 200:
            tally.count("errors", f"request {number + 1}: {answer.status}: {content[:500].decode(errors='replace')}")
            return
        version = answer.headers.get(VERSION_HEADER, "none")
        if version != self._run.version_label:
            tally.count(
                "wrong_versions", f"request {number + 1}: answered by version {version}, not {self._run.version_label}"
            )
            return
        if not self._comparable:
            tally.count("not_comparable")
            return
        wrong = self._judged(answer, content, expected)
        if wrong:
            tally.count("mismatches", f"request {number + 1}: {wrong}")

    def _connected(self, ends: float) -> http.client.HTTPConnection:
        if self._connection is None:
            self._connection = _connection(self._run, ends)
            self._connection.request("GET", self._asking.model_path)
            answer = self._connection.getresponse()
            content = answer.read()
            if answer.will_close:  # as while it drains: the next request opens another by itself
                self._connection.close()
            if answer.status == 200:
                parameters = _object(content).get("parameters")
                told = parameters.get("golden_samples") if isinstance(parameters, dict) else None
                self._comparable = told != "GoldenNotComparable"
        return self._connection

    def _judged(self, answer: http.client.HTTPResponse, content: bytes, expected: Samples) -> str | None:
        """How the answer is not what is expected; None where it is."""
        try:
            given = _outputs(content, int(answer.headers.get(_HEADER_LENGTH) or len(content)))
        except (ValueError, KeyError, TypeError) as error:
            return f"the answer cannot be read: {_words(error)}"
        for name in expected.outputs:
            if name not in given:
                return f"the answer has no output {name!r}"
            if wrong := expected.disagreement(name, given[name]):
                return wrong
        return None


def _outputs(content: bytes, length: int) -> dict[str, Array]:
    """The outputs of an answer by name. Raises ValueError, KeyError, TypeError."""
    stated = _object(content[:length])
    rest = memoryview(content)[length:]
    found: dict[str, Array] = {}
    for output in stated["outputs"]:
        name, datatype, shape = output["name"], output["datatype"], output["shape"]
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            found[name] = tensors.from_json(name, datatype, shape, output["data"])
        else:
            found[name] = tensors.from_binary(name, datatype, shape, rest[:size])
            rest = rest[size:]
    return found


def _object(content: bytes) -> dict[str, Any]:
    found = orjson.loads(content)
    if not isinstance(found, dict):
        raise TypeError("it is no JSON object")
    return found


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
