"""`python -m modelwright_server [--port 8080]`: serves until SIGTERM, then ends what it has begun."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import signal
import sys
from collections.abc import Sequence

_GRACE_SECONDS = 25


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def describe() -> str:
    """`modelwright-server 0.1.0 (onnxruntime 1.22.0, python 3.13.5)`."""
    return (
        f"modelwright-server {_installed('modelwright')}"
        f" (onnxruntime {_installed('onnxruntime')}, python {platform.python_version()})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="modelwright_server", description="Serve models by the Open Inference Protocol V2."
    )
    parser.add_argument(
        "--version", action="store_true", help="print the versions of the server and of what it runs on"
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on; default all")  # noqa: S104 - pods' Services
    parser.add_argument("--port", type=int, default=8080, help="default 8080")
    chosen = parser.parse_args(arguments)
    if chosen.version:
        print(describe())
        return 0
    import uvicorn

    from modelwright_server.app import build_app

    # uvicorn repeats the signal to the handler that it found, which by default would make a graceful end a failed one.
    signal.signal(signal.SIGTERM, lambda *_: None)
    config = uvicorn.Config(
        build_app(_installed("modelwright")),
        host=chosen.host,
        port=chosen.port,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
