"""What a serving pod tells Prometheus, by the names and labels of `modelwright.serving`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from modelwright import serving
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from modelwright_server.outcomes import Kind

if TYPE_CHECKING:
    from modelwright_server.drift import Figures

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
_LABELS = ("model", "version")


class Metrics:
    """The figures of one model version. The gauges are read where they are, when somebody asks."""

    def __init__(self, model: str, version: str) -> None:
        self._registry = CollectorRegistry()
        self._labels = (model, version)
        self._requests = Counter(
            serving.REQUESTS, serving.METRICS[serving.REQUESTS], (*_LABELS, "code"), registry=self._registry
        )
        self._by_code: dict[int, Counter] = {}
        self._seconds = Histogram(
            serving.REQUEST_SECONDS, serving.METRICS[serving.REQUEST_SECONDS], _LABELS,
            buckets=serving.LATENCY_BOUNDS, registry=self._registry,
        ).labels(*self._labels)  # fmt: skip
        self._load = Gauge(
            serving.LOAD_SECONDS, serving.METRICS[serving.LOAD_SECONDS], (*_LABELS, "part"), registry=self._registry
        )
        self._errors = Counter(
            serving.ERRORS, serving.METRICS[serving.ERRORS], (*_LABELS, "kind"), registry=self._registry
        )
        self._by_kind = {kind: self._errors.labels(*self._labels, kind.told) for kind in Kind}
        self._batches = Histogram(
            serving.BATCH_REQUESTS, serving.METRICS[serving.BATCH_REQUESTS], _LABELS,
            buckets=serving.BATCH_BOUNDS, registry=self._registry,
        ).labels(*self._labels)  # fmt: skip
        # There from the start: a rate over a counter that appears with its first error misses that error.
        for code in (200, 400, 500):
            self._counter(code)

    def answered(self, code: int, seconds: float) -> None:
        """An inference request was answered with status `code`, `seconds` after its last byte came."""
        self._counter(code).inc()
        self._seconds.observe(seconds)

    def refused(self, kind: Kind) -> None:
        """An inference request was refused, or failed."""
        self._by_kind[kind].inc()

    def ran(self, requests: int) -> None:
        """So many requests were computed as one."""
        self._batches.observe(requests)

    def loaded(self, part: str, seconds: float) -> None:
        self._load.labels(*self._labels, part).set(seconds)

    def follow(self, name: str, value: Callable[[], float]) -> None:
        """The gauge `name` of `modelwright.serving` is what `value` gives."""
        gauge = Gauge(name, serving.METRICS[name], _LABELS, registry=self._registry)
        gauge.labels(*self._labels).set_function(value)

    def follow_drift(self, figures: Callable[[], Figures]) -> None:
        """The figures of drift are what `figures` gives."""
        self._registry.register(_Drift(self._labels, figures))

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def _counter(self, code: int) -> Counter:
        found = self._by_code.get(code)
        if found is None:
            found = self._by_code[code] = self._requests.labels(*self._labels, str(code))
        return found


class _Drift(Collector):
    """Computed when somebody asks: what is not known yet is not there."""

    def __init__(self, labels: tuple[str, str], figures: Callable[[], Figures]) -> None:
        self._of, self._figures = labels, figures

    def collect(self) -> Iterator[Metric]:
        found = self._figures()
        yield self._gauge(serving.DRIFT_ROWS, {(): float(found.rows)})
        by_feature = {
            serving.INPUT_PSI: found.psi, serving.INPUT_MISSING: found.missing, serving.INPUT_OUTSIDE: found.outside,
        }  # fmt: skip
        for name, values in by_feature.items():
            yield self._gauge(name, {(feature,): value for feature, value in values.items()}, "feature")
        if found.prediction is not None:
            yield self._gauge(serving.PREDICTION_PSI, {(): found.prediction})

    def _gauge(self, name: str, values: Mapping[tuple[str, ...], float], *more: str) -> Metric:
        gauge = GaugeMetricFamily(name, serving.METRICS[name], labels=(*_LABELS, *more))
        for labels, value in values.items():
            gauge.add_metric((*self._of, *labels), value)
        return gauge
