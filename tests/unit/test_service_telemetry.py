"""What pods tell is read as Prometheus means it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright import serving
from modelwright.controllers.inferenceservice.telemetry import Telemetry, parse, quantile, total
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


def exposition(codes: dict[str, int], seconds: list[float], *, draining: bool = False) -> str:
    """As a pod exposes it."""
    registry = CollectorRegistry()
    labels = {"model": "digits", "version": "1.0.0"}
    requests = Counter(serving.REQUESTS, "requests", [*labels, "code"], registry=registry)
    for code, count in codes.items():
        requests.labels(**labels, code=code).inc(count)
    latency = Histogram(
        serving.REQUEST_SECONDS, "seconds", list(labels), buckets=serving.LATENCY_BOUNDS, registry=registry
    )
    for value in seconds:
        latency.labels(**labels).observe(value)
    for name, value in ((serving.DRAINING, int(draining)), (serving.CONNECTIONS, 3), (serving.IN_FLIGHT, 1)):
        Gauge(name, name, list(labels), registry=registry).labels(**labels).set(value)
    return generate_latest(registry).decode()


def test_a_pods_figures_are_read() -> None:
    told = parse(exposition({"200": 7, "400": 2, "500": 1}, [0.002] * 10, draining=True))
    assert (told.requests, told.errors, told.draining, told.connections, told.in_flight) == (10, 1, True, 3, 1)
    assert told.buckets[-1] == (math.inf, 10)


def test_another_pods_text_is_refused() -> None:
    with pytest.raises(ValueError, match="draining"):
        parse("# HELP x y\n# TYPE x gauge\nx 1\n")


def test_figures_of_pods_add_up_and_the_quantile_is_of_all() -> None:
    slow = parse(exposition({"200": 1}, [5.0]))
    fast = parse(exposition({"200": 99}, [0.001] * 99))
    seen = total([fast, slow])
    assert (seen.requests, seen.errors) == (100, 0)
    assert seen.p99 is not None
    assert seen.p99 < 0.01
    assert total([fast, slow, slow, slow]).p99 == pytest.approx(5.0, rel=0.27)


def test_nothing_answered_has_no_quantile() -> None:
    assert quantile(0.99, []) is None
    assert quantile(0.99, [(0.1, 0), (math.inf, 0)]) is None
    assert total([Telemetry(False, 0, 0, 0, 0, ())]).p99 is None


def test_beyond_the_last_bound_it_is_that_bound() -> None:
    assert quantile(0.99, [(0.1, 0), (math.inf, 5)]) == 0.1


@given(st.lists(st.floats(0.0003, 9.9), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_is_within_its_bucket_of_the_true_one(values: list[float], share: float) -> None:
    told = parse(exposition({"200": len(values)}, values))
    found = quantile(share, told.buckets)
    assert found is not None
    true = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    bounds = [0.0, *serving.LATENCY_BOUNDS]
    above = next(bound for bound in bounds if bound >= true)
    below = max(bound for bound in bounds if bound < true)
    assert below <= found <= above * 1.0000001
