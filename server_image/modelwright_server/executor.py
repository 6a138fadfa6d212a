"""What waits to be computed, and the threads that compute it, apart from the loop that reads and writes.

A queue and threads, and nothing else: to hand an inference over by concurrent.futures' executor takes 11 µs of CPU,
more than a small model's inference itself (8 µs); by this, 2 µs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from modelwright_server.metrics import Metrics
from modelwright_server.outcomes import Kind, Refused

if TYPE_CHECKING:
    from modelwright_server.inference import Inference
    from modelwright_server.model import Model
    from modelwright_server.tensors import Array

log = logging.getLogger(__name__)

# How much is taken at once: more would keep the first of them waiting for the last's answer.
_MOST_JOBS = 32
# A request that is larger takes long to read alone, and is not to keep small ones waiting.
_LARGE_BYTES = 64 * 1024
RETRY_SECONDS = 1
_TOO_LATE = Refused(Kind.DEADLINE, "the request's time was over before it could be computed")


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """An inference to be made. `parse` reads its request, of `size` bytes, `answer` writes its response; both are
    called on a thread of the executor, and `done`, with the response or why there is none, on the loop. `arrived` is by
    `time.perf_counter`, and so is `deadline`, after which nobody waits for the answer."""

    parse: Callable[[], Inference]
    answer: Callable[[Inference, Sequence[Array]], Any]
    done: Callable[[Any], None]
    arrived: float
    size: int
    deadline: float | None = None


class Executor:
    """Runs jobs in the order in which they came, those of several requests as one where `model` allows it. At most
    `most_waiting` wait, none for longer than `most_seconds`. The threads end with the process.

    Where jobs are put together one thread computes the small ones: threads that take turns on the interpreter's lock
    cost more than what they read and write meanwhile (at 16 connections one thread answered 14,000 requests a second
    with 50 µs of CPU each, two 9,000 with 80, three 10,000 with 75), and the runtime has threads of its own. Large
    jobs, and those that must be computed each by itself, have as many as compute at once, and one that reads the next.
    """

    def __init__(self, threads: int, metrics: Metrics, *, most_waiting: int, most_seconds: float) -> None:
        self._small: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._large: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics
        self._most_waiting, self._most_seconds = most_waiting, most_seconds
        self._threads = threads + 1

    def start(self, model: Model) -> None:
        batched = model.most_rows > 1
        self._begin("small", 1 if batched else self._threads, model, self._small, _MOST_JOBS if batched else 1)
        self._begin("large", self._threads, model, self._large, 1)

    def _begin(self, name: str, threads: int, model: Model, waiting: queue.SimpleQueue[Job], most: int) -> None:
        for number in range(threads):
            arguments = (model, waiting, most)
            threading.Thread(target=self._work, args=arguments, name=f"{name}-{number}", daemon=True).start()

    @property
    def waiting(self) -> int:
        return self._small.qsize() + self._large.qsize()

    def submit(self, job: Job) -> None:
        """Raises Refused (Overloaded)."""
        if self.waiting >= self._most_waiting:
            raise Refused(
                Kind.OVERLOADED,
                f"{self._most_waiting} requests wait already, the most that this server lets wait: try again in"
                f" {RETRY_SECONDS} s, or add replicas",
            )
        (self._large if job.size > _LARGE_BYTES else self._small).put(job)

    def _work(self, model: Model, waiting: queue.SimpleQueue[Job], most: int) -> None:
        while True:
            jobs = [waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(jobs) < most:
                    jobs.append(waiting.get_nowait())
            try:
                outcomes = self._run(model, jobs)
            except Exception:  # a thread that ended would never be missed, and the pod be slower for ever
                log.exception("the executor failed")
                outcomes = [Refused(Kind.FAILED, "the server failed; its log says why")] * len(jobs)
            self._loop.call_soon_threadsafe(_tell, jobs, outcomes)

    def _run(self, model: Model, jobs: Sequence[Job]) -> list[Any]:
        """The response of each job, or why there is none."""
        outcomes: list[Any] = [None] * len(jobs)
        asked: dict[int, int] = {}
        inferences: list[Inference] = []
        for index, job in enumerate(jobs):
            outcomes[index] = self._late(job)
            if outcomes[index] is None:
                parsed = model.read(job.parse)
                if isinstance(parsed, Refused):
                    outcomes[index] = parsed
                elif parsed.timeout_seconds and time.perf_counter() > job.arrived + parsed.timeout_seconds:
                    outcomes[index] = _TOO_LATE
                else:
                    asked[id(parsed)] = index
                    inferences.append(parsed)
        for inference, arrays in model.infer(inferences, self._metrics.ran):
            index = asked[id(inference)]
            outcomes[index] = (
                arrays if isinstance(arrays, Refused) else model.write(jobs[index].answer, inference, arrays)
            )
        return outcomes

    def _late(self, job: Job) -> Refused | None:
        now = time.perf_counter()
        if job.deadline is not None and now > job.deadline:
            return _TOO_LATE
        if now > job.arrived + self._most_seconds:
            return Refused(
                Kind.OVERLOADED,
                f"the request waited for more than {self._most_seconds:g} s: try again, or add replicas",
            )
        return None


def _tell(jobs: Sequence[Job], outcomes: Sequence[Any]) -> None:
    for job, outcome in zip(jobs, outcomes, strict=True):
        try:
            job.done(outcome)
        except Exception:  # the others are still to be told
            log.exception("an answer could not be given")
