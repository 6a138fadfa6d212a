"""The threads that compute, apart from the loop that reads and writes.

A queue and threads, and nothing else: to hand an inference over by concurrent.futures' executor takes 11 µs of CPU,
more than a small model's inference itself (8 µs); by this, 2 µs.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

Work = Callable[[], object]


class Workers:
    """Calls what it is given on one of `threads` threads, in order. They end with the process."""

    def __init__(self, threads: int) -> None:
        waiting: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self.submit: Callable[[Work], None] = waiting.put
        for number in range(threads):
            threading.Thread(target=_work, args=(waiting,), name=f"inference-{number}", daemon=True).start()


def _work(waiting: queue.SimpleQueue[Work]) -> None:
    while True:
        work = waiting.get()
        try:
            work()
        except Exception:  # a thread that ended would never be missed, and the pod be slower for ever
            log.exception("a worker failed")
