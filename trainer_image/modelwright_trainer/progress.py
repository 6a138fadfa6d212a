"""The pod's progress on one port: Prometheus text at /metrics, JSON at /progress, /healthz."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator

from modelwright.contract import METRICS, Progress
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Collector:
    def __init__(self, look: Callable[[], Progress]) -> None:
        self._look = look

    def collect(self) -> Iterator[GaugeMetricFamily]:
        seen = self._look()
        figures = {
            "epoch": seen.epoch, "epochs": seen.epochs, "step": seen.step, "steps": seen.total_steps,
            "loss": seen.train_loss, "validation_loss": seen.validation_loss,
            "validation_accuracy": seen.validation_accuracy, "samples_per_second": seen.samples_per_second,
            "eta_seconds": seen.eta_seconds,
            "gpu_percent": seen.gpu_percent, "gpu_memory_percent": seen.gpu_memory_percent,
            "last_checkpoint_step": seen.last_checkpoint_step, "checkpoint_bytes": seen.checkpoint_bytes,
            "checkpoint_seconds": seen.checkpoint_seconds, "last_update_timestamp_seconds": seen.updated,
        }  # fmt: skip
        for name, text in METRICS.items():
            short = name.removeprefix("modelwright_training_")
            if short == "rank_step":
                ranks = GaugeMetricFamily(name, text, labels=["rank", "phase"])
                for rank in seen.ranks:
                    ranks.add_metric([str(rank.rank), rank.phase], rank.step)
                yield ranks
            elif figures[short] is not None:  # what is not known yet has no value
                yield GaugeMetricFamily(name, text, value=figures[short])


def metrics_text(look: Callable[[], Progress]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Collector(look))
    return generate_latest(registry)


def serve(port: int, look: Callable[[], Progress]) -> http.server.ThreadingHTTPServer:
    """Serves from a thread until the process ends or `shutdown()`; port 0 takes a free one. Raises OSError."""

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/metrics":
                self._answer(200, _CONTENT_TYPE, metrics_text(look))
            elif path == "/progress":
                self._answer(200, "application/json", look().to_json().encode())
            elif path == "/healthz":
                self._answer(200, "text/plain", b"ok\n")
            else:
                self._answer(404, "text/plain", b"there are /metrics, /progress and /healthz\n")

        def _answer(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """A line per scrape would bury the training's own."""

    server = http.server.ThreadingHTTPServer(("", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
