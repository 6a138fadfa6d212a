"""The operator under a sampling profiler: `python -m tests.bench.profiled OUT` writes to OUT where its CPU time went.

The kernel's profiling timer fires by CPU time, so that waiting is no sample. What a C function does (orjson, TLS,
system calls, pydantic's core) counts for the Python function that called it.
"""

from __future__ import annotations

import collections
import json
import linecache
import signal
import sys
from pathlib import Path
from types import FrameType

from modelwright.app import main

SECONDS_OF_CPU = 0.005
# The first that a frame's file matches, from the innermost frame outwards.
GROUPS = (
    ("Kopf", "/kopf/"),
    ("pydantic, the API's models", "/pydantic/"),
    ("pydantic, the API's models", "/modelwright/api/"),
    ("pydantic, the API's models", "/modelwright/contract.py"),
    ("JSON", "/json/"),
    ("TLS", "/ssl.py"),
    ("TLS", "/asyncio/sslproto.py"),
    ("aiohttp", "/aiohttp/"),
    ("aiohttp", "/yarl/"),
    ("aiohttp", "/multidict/"),
    ("Prometheus metrics", "/prometheus_client/"),
    ("asyncio and its system calls", "/asyncio/"),
    ("asyncio and its system calls", "/selectors.py"),
    ("ours: client", "/modelwright/kube/client.py"),
    ("ours: client", "/modelwright/kube/credentials.py"),
    ("ours: caches, queues, Events", "/modelwright/kube/"),
    ("ours: controllers", "/modelwright/"),
)
sampled: collections.Counter[str] = collections.Counter()


def group_of(frame: FrameType | None) -> str:
    while frame is not None:
        code = frame.f_code
        if "orjson." in linecache.getline(code.co_filename, frame.f_lineno or 0):
            return "JSON"
        for group, part in GROUPS:
            if part in code.co_filename:
                return group
        frame = frame.f_back
    return "the rest"


def sample(_: int, frame: FrameType | None) -> None:
    sampled[group_of(frame)] += 1


def run(out: Path) -> int:
    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, SECONDS_OF_CPU, SECONDS_OF_CPU)
    # Only what happens after the start counts: the bench says when.
    signal.signal(signal.SIGUSR1, lambda *_: sampled.clear())
    signal.signal(signal.SIGUSR2, lambda *_: out.write_text(json.dumps(sampled)))
    return main()


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
