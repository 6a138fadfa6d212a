"""The contract between the operator and a serving pod, and with the Jobs that judge a version with the same image.

`serve`: in, a `ServingRun` as JSON in `SERVING_VARIABLE`, the store's credentials as AWS_* variables from the user's
Secret; meanwhile the Open Inference Protocol on `port` and `grpc_port`, and `/metrics`, `/status` and `/drain` on the
private `admin_port`; out, where it cannot serve, a `ServingFailure` as termination message and its reason's exit code.

`analyse` and `verify`: Jobs in the user's namespace; in, `ANALYSIS_VARIABLE` or `VERIFY_VARIABLE`; out, a summary as
termination message. `analyse` exits with 0 when it has measured, whatever the figures (judging is the operator's),
`verify` when the version is all right; else each with the code of its failure's reason.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from modelwright.contract import Message, Shape, StoreAccess, cut

SERVE = ("serve",)
ANALYSE = ("analyse",)
VERIFY = ("verify",)
"""Arguments of the server image's entry point."""
SERVING_VARIABLE = "MODELWRIGHT_SERVING"
ANALYSIS_VARIABLE = "MODELWRIGHT_ANALYSIS"
VERIFY_VARIABLE = "MODELWRIGHT_VERIFY"
PORT = 8080
GRPC_PORT = 8081
ADMIN_PORT = 9400
VERSION_HEADER = "Modelwright-Version"
"""Each answer on `port` carries it, and on `grpc_port` as trailing metadata; its value is `version_label`."""
LIVE_PATH = "/v2/health/live"
READY_PATH = "/v2/health/ready"
METRICS_PATH = "/metrics"
STATUS_PATH = "/status"
DRAIN_PATH = "/drain"

_DIGEST = r"^sha256:[0-9a-f]{64}$"
_MANIFEST = r"^(s3://[^/]+|file://)/.+/versions/[^/]+/manifest\.json$"


def version_label(version: str, variant: str | None = None) -> str:
    """`1.1.0` or `1.1.0--int8`: as header, as metrics' label `version`, and as the protocol's model version."""
    return f"{version}--{variant}" if variant else version


class Reason(enum.Enum):
    """Why a pod cannot serve, or a Job could not measure; with exit code, and whether another start may end otherwise.

    An exit without a message (137: the kernel's OOM killer, reason OOMKilled at the kubelet) has none of these.
    """

    ARTIFACT_DAMAGED = "ArtifactDamaged", 10, False
    GOLDEN_MISMATCH = "GoldenMismatch", 11, False
    FORMAT_UNAVAILABLE = "FormatUnavailable", 12, False
    VERSION_MISMATCH = "VersionMismatch", 13, False
    LOAD_FAILED = "LoadFailed", 14, False
    STORE_REFUSED = "StoreRefused", 15, False
    INVALID_RUN = "InvalidRun", 16, False
    STORE_UNREACHABLE = "StoreUnreachable", 20, True
    OUT_OF_MEMORY = "OutOfMemory", 21, True
    SERVICE_UNREACHABLE = "ServiceUnreachable", 22, True
    TIMED_OUT = "TimedOut", 23, True
    INTERNAL = "Internal", 24, True

    def __init__(self, reason: str, code: int, retried: bool) -> None:
        self.reason = reason
        """For conditions and termination messages."""
        self.code = code
        """The exit code."""
        self.retried = retried
        """Whether another start may end otherwise."""

    @classmethod
    def named(cls, reason: str) -> Reason:
        return next((one for one in cls if one.reason == reason), cls.INTERNAL)


class ServingFailure(Message):
    """`reason` is a `Reason`'s; `message` says what is wrong, where, and what to do."""

    reason: str
    message: str

    def shorter(self) -> ServingFailure | None:
        """The message's end goes."""
        return self.model_copy(update={"message": cut(self.message)}) if len(self.message) > 8 else None


class ServingRun(Shape):
    """What a pod serves, and how.

    `revision` names the set of pods that this one is of (blue or green); it is only told, in `/status`.
    `threads` is how many a single inference uses; None follows the container's CPU limit. At most `max_waiting`
    requests wait for one, none longer than `max_wait_seconds`; others are 429, or RESOURCE_EXHAUSTED. What several
    requests ask is computed as one, up to `max_batch_rows` rows, where the graph's rows are independent; 1 computes
    each by itself. `warmup_requests` inferences are run on golden inputs before the pod is ready. `max_request_bytes`
    bounds a request's body; a larger one is 413.
    After SIGTERM the pod accepts and answers for `lame_duck_seconds` more (each answer with `Connection: close`), then
    waits up to `grace_seconds` for requests in flight: the pod's termination grace period is longer than preStop plus
    both. A connection of gRPC is told to end, and its client to open another, after `grpc_connection_age_seconds`: more
    than that and a tenth no drain and no end of a pod has to wait for it, and `grace_seconds` is to be longer.
    `store_patience_seconds` is how long a store that does not answer is tried again.
    """

    contract: Literal[1] = 1
    namespace: str
    service: str
    revision: str
    model: str
    version: str
    variant: str | None = None
    manifest_uri: str = Field(pattern=_MANIFEST)
    digest: str = Field(pattern=_DIGEST)
    store: StoreAccess
    port: int = Field(default=PORT, ge=0, le=65535)
    grpc_port: int = Field(default=GRPC_PORT, ge=0, le=65535)
    admin_port: int = Field(default=ADMIN_PORT, ge=0, le=65535)
    threads: int | None = Field(default=None, ge=1, le=1024)
    max_waiting: int = Field(default=128, ge=1, le=1_000_000)
    max_wait_seconds: float = Field(default=10.0, gt=0)
    max_batch_rows: int = Field(default=64, ge=1, le=1_000_000)
    warmup_requests: int = Field(default=50, ge=0, le=100_000)
    max_request_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    lame_duck_seconds: float = Field(default=2.0, ge=0, le=600)
    grace_seconds: float = Field(default=25.0, gt=0)
    grpc_connection_age_seconds: float = Field(default=10.0, gt=0, le=3600)
    store_patience_seconds: float = Field(default=120.0, ge=0)

    @property
    def version_label(self) -> str:
        return version_label(self.version, self.variant)


class Phase(enum.Enum):
    """Where a serving pod is. It is live in all of these, ready in `Ready` only; a drain changes nothing of it."""

    FETCHING = "Fetching"
    LOADING = "Loading"
    CHECKING = "Checking"
    WARMING_UP = "WarmingUp"
    READY = "Ready"
    STOPPING = "Stopping"
    FAILED = "Failed"


class ServingWarning(Shape):
    """`GoldenNotComparable`: the golden samples are of another kind of hardware, so that they prove nothing here."""

    reason: Literal["GoldenNotComparable"]
    message: str


class ServingStatus(Shape):
    """`GET /status`. `load_seconds` are by part: fetch, session, golden, warmup, and total (from the process's start
    until it was ready)."""

    phase: str
    run: ServingRun
    warnings: tuple[ServingWarning, ...] = ()
    load_seconds: Mapping[str, float] = Field(default_factory=dict)


class DrainState(Shape):
    """`GET`, `POST` (drain) and `DELETE` (drain no more) `/drain`. While it drains, each answer on `port` carries
    `Connection: close` and the connection is closed after it; the pod stays ready. A connection on which nothing is
    asked stays open; those of gRPC end by their age. The counts are of `port` and `grpc_port` together."""

    draining: bool
    open_connections: int
    in_flight: int


class AnalysisRun(Shape):
    """Sends `requests` inferences of golden inputs to the service at `url` (`http://host[:port]`), over `concurrency`
    connections that are kept open. `timeout_seconds` bounds the whole run, the wait for the service's first answer
    included."""

    contract: Literal[1] = 1
    url: str = Field(pattern=r"^http://[^/?#]+/?$")
    model: str
    version: str
    variant: str | None = None
    manifest_uri: str = Field(pattern=_MANIFEST)
    digest: str = Field(pattern=_DIGEST)
    store: StoreAccess
    requests: int = Field(default=50, ge=1, le=1_000_000)
    concurrency: int = Field(default=2, ge=1, le=256)
    timeout_seconds: float = Field(default=120.0, gt=0)

    @property
    def version_label(self) -> str:
        return version_label(self.version, self.variant)


class AnalysisSummary(Message):
    """What an analysis measured. Of the `requests` that were sent, `errors` got no answer or another one than 200,
    `wrong_versions` one of another version, `mismatches` one that does not agree with the golden outputs (not judged,
    and counted as `not_comparable`, where the answering pod computes on another kind of hardware). Latencies are those
    of the answers, in milliseconds. `first_error` are the words of the first that went wrong in any of these ways.
    `failure` says why it could not measure; the figures are then those until there.
    """

    requests: int = 0
    errors: int = 0
    wrong_versions: int = 0
    mismatches: int = 0
    not_comparable: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    first_error: str | None = None
    failure: ServingFailure | None = None

    def shorter(self) -> AnalysisSummary | None:
        """The end of the longer of its texts goes."""
        error, failure = self.first_error, self.failure
        if error and len(error) > len(failure.message if failure else ""):
            return self.model_copy(update={"first_error": cut(error)})
        shorter = failure.shorter() if failure else None
        return self.model_copy(update={"failure": shorter}) if shorter else None


class VerifyRun(Shape):
    """A version that is in the store, as somebody says it is. `digest` is the manifest's."""

    contract: Literal[1] = 1
    model: str
    version: str
    variant: str | None = None
    manifest_uri: str = Field(pattern=_MANIFEST)
    digest: str = Field(pattern=_DIGEST)
    store: StoreAccess
    store_patience_seconds: float = Field(default=120.0, ge=0)


class VerifySummary(Message):
    """What a version in the store is. `ok`: it is that model's and version's, each file is what its digest says, its
    graph loads and its golden samples agree. `metrics` are those of the test split, `classes` the number of classes,
    `bytes` the size of all files. `warnings` as in `ServingStatus`. Where it is not ok, `failure` says why."""

    ok: bool
    digest: str
    task: str | None = None
    classes: int | None = None
    bytes: int | None = None
    metrics: Mapping[str, float] = Field(default_factory=dict)
    warnings: tuple[ServingWarning, ...] = ()
    failure: ServingFailure | None = None

    def shorter(self) -> VerifySummary | None:
        """First the message's end goes, then metrics."""
        if self.failure and len(self.failure.message) > 256:
            return self.model_copy(update={"failure": self.failure.shorter()})
        if self.metrics:
            return self.model_copy(update={"metrics": dict(list(self.metrics.items())[:-1])})
        return self.model_copy(update={"warnings": self.warnings[:-1]}) if self.warnings else None


REQUESTS = "modelwright_serving_requests"
REQUEST_SECONDS = "modelwright_serving_request_seconds"
IN_FLIGHT = "modelwright_serving_in_flight"
WAITING = "modelwright_serving_waiting"
BATCH_REQUESTS = "modelwright_serving_batch_requests"
ERRORS = "modelwright_serving_errors"
CONNECTIONS = "modelwright_serving_open_connections"
LOAD_SECONDS = "modelwright_serving_load_seconds"
READY = "modelwright_serving_ready"
DRAINING = "modelwright_serving_draining"
DRIFT_ROWS = "modelwright_serving_drift_window_rows"
INPUT_PSI = "modelwright_serving_input_drift_psi"
INPUT_MISSING = "modelwright_serving_input_missing_share"
INPUT_OUTSIDE = "modelwright_serving_input_out_of_range_share"
PREDICTION_PSI = "modelwright_serving_prediction_drift_psi"

METRICS: Mapping[str, str] = {
    REQUESTS: "Inference requests that were answered, by HTTP status code; 500 and above are the server's errors.",
    REQUEST_SECONDS: "Seconds from an inference request's last byte to its answer's.",
    IN_FLIGHT: "Requests that are being answered.",
    WAITING: "Inference requests that wait to be computed.",
    BATCH_REQUESTS: "Inference requests that were computed as one.",
    ERRORS: "Inference requests that were refused or failed, by kind.",
    CONNECTIONS: "Open connections of clients.",
    LOAD_SECONDS: "Seconds that each part of the start took.",
    READY: "1 where the pod is ready.",
    DRAINING: "1 while each answer closes its connection.",
    DRIFT_ROWS: "Rows that the figures of drift are of; they are there from 500 on.",
    INPUT_PSI: "Population stability index of a feature's last values against the training data's.",
    INPUT_MISSING: "Share of a feature's last values that are missing.",
    INPUT_OUTSIDE: "Share of a feature's last values beyond all of the training data's.",
    PREDICTION_PSI: "Population stability index of the last predictions against the training data's targets.",
}
"""By name, at /metrics, each with the labels `model` and `version` (`version_label`). Requests is a counter (so
exposed with `_total`) with the label `code`, request seconds a histogram with the upper bounds `LATENCY_BOUNDS`, load
seconds a gauge with the label `part`, errors a counter with the label `kind`, batch requests a histogram with the
bounds `BATCH_BOUNDS`, the others are gauges; of them input drift, missing and out of range have the label `feature`."""

# Ten to the decade between 1 ms and 10 s: a quantile interpolated within a bucket is at most 26 % off.
LATENCY_BOUNDS = (0.00025, 0.0005, *(round(0.001 * 10 ** (step / 10), 6) for step in range(41)))
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32)
