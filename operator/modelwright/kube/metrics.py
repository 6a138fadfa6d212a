"""The operator's own metrics. Names follow Prometheus's conventions: base units, `_total` for counters."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From a pass that changes nothing (under a millisecond) to one that waits on a slow API server.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """All metrics of the core. Without a registry they count and are not exported (tests, the CLI)."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"modelwright_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"modelwright_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"modelwright_{name}", text, labels, registry=registry, buckets=_SECONDS)

        self.queue_depth = gauge("queue_depth", "Keys that wait for a worker", "queue")
        self.queue_latency = histogram(
            "queue_latency_seconds", "From a key's first add to the start of its pass", "queue"
        )
        self.queue_retries = counter("queue_retries_total", "Passes that failed and will be tried again", "queue")
        self.busy_workers = gauge("busy_workers", "Workers that are in a pass", "queue")
        self.reconcile_duration = histogram("reconcile_duration_seconds", "Length of a reconcile pass", "queue")
        self.reconciles = counter("reconciles_total", "Passes by result: success, conflict, error", "queue", "result")
        self.requests = counter(
            "requests_total", "Requests to the API server; code 0 had no answer", "verb", "resource", "code"
        )
        self.request_duration = histogram("request_duration_seconds", "Time to a request's answer", "verb")
        self.watch_restarts = counter("watch_restarts_total", "Watches that ended, by why", "resource", "reason")
        self.lists = counter("lists_total", "Full lists of a reflector", "resource")
        self.cache_objects = gauge("cache_objects", "Objects in a reflector's cache", "resource")
        self.events = counter(
            "events_total", "Kubernetes Events by result: written, counted, dropped, failed", "result"
        )
        self.leader = gauge("leader", "1 while this replica holds the Lease")
