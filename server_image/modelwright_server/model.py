"""A loaded version, as the protocol tells of it and asks it: over HTTP and over gRPC alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from modelwright.serving import ServingRun

from modelwright_server.batching import Batch, batches
from modelwright_server.drift import Window
from modelwright_server.engine import Engine, InferenceFailed
from modelwright_server.inference import BadRequest, Inference
from modelwright_server.loading import Loaded
from modelwright_server.outcomes import Kind, Refused
from modelwright_server.records import Records
from modelwright_server.tensors import Array, Spec

log = logging.getLogger(__name__)

PLATFORM = "onnxruntime_onnx"
Ran = Callable[[int], None]


class Model:
    """`inputs` and `outputs` by name; `golden` is how the golden samples fared; `most_rows` are computed as one of what
    several requests ask, 1 where they must not be put together."""

    def __init__(self, run: ServingRun, loaded: Loaded) -> None:
        self.name, self.version = run.model, run.version_label
        self.engine: Engine = loaded.engine
        self.inputs: dict[str, Spec] = {one.name: one for one in loaded.engine.inputs}
        self.outputs: dict[str, Spec] = {one.name: one for one in loaded.engine.outputs}
        self.records = Records(loaded.manifest, loaded.engine.inputs, loaded.engine.outputs)
        self.golden = loaded.warnings[0].reason if loaded.warnings else "Agreed"
        self.window = Window(loaded.baseline) if loaded.baseline else None
        """What has been asked and answered; None where the version has no baseline to compare it with."""
        self.most_rows = 1 if loaded.unbatched else run.max_batch_rows

    def metadata(self) -> dict[str, Any]:
        def told(one: Spec) -> dict[str, Any]:
            return {"name": one.name, "datatype": one.datatype, "shape": one.lengths}

        return {
            "name": self.name,
            "versions": [self.version],
            "platform": PLATFORM,
            "inputs": [told(one) for one in self.inputs.values()],
            "outputs": [told(one) for one in self.outputs.values()],
            "parameters": {"golden_samples": self.golden},
        }

    # Called on the executor's threads. Nothing is raised: whatever goes wrong is in what is returned.

    def read(self, parse: Callable[[], Inference]) -> Inference | Refused:
        try:
            return parse()
        except Exception as error:
            return _refusal(error)

    def infer(self, inferences: Sequence[Inference], ran: Ran) -> Iterator[tuple[Inference, list[Array] | Refused]]:
        """The outputs that each asks for, or why there are none; not in their order. `ran` is told how many were run as
        one."""
        for batch in batches(inferences, self.most_rows):
            ran(len(batch.inferences))
            found = self._run(batch)
            if isinstance(found, Refused) and len(batch.inferences) > 1:
                # One of them may have brought it about, and is not to be the others' undoing.
                for one, rows in zip(batch.inferences, batch.rows, strict=True):
                    alone = self._run(Batch((one,), (rows,)))
                    yield one, alone if isinstance(alone, Refused) else alone[0]
            elif isinstance(found, Refused):
                yield batch.inferences[0], found
            else:
                yield from zip(batch.inferences, found, strict=True)

    def write(
        self, answer: Callable[[Inference, Sequence[Array]], Any], inference: Inference, arrays: Sequence[Array]
    ) -> Any:
        try:
            return answer(inference, arrays)
        except Exception as error:
            return _refusal(error)

    def _run(self, batch: Batch) -> list[list[Array]] | Refused:
        try:
            inputs, names = batch.inputs(), batch.outputs()
            arrays = self.engine.run(inputs, names)
            if self.window:
                self.window.saw(inputs, dict(zip(names, arrays, strict=True)))
            return list(batch.divided(arrays))
        except Exception as error:
            return _refusal(error)


def _refusal(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, BadRequest):
        return Refused(Kind.BAD_REQUEST, str(error))
    if isinstance(error, InferenceFailed):
        log.warning("an inference failed: %s", error)
        return Refused(Kind.FAILED, f"the inference failed: {error}")
    if isinstance(error, MemoryError):
        log.warning("memory ran out in an inference")
        return Refused(Kind.OUT_OF_MEMORY, "the inference failed: memory ran out; send fewer rows at once")
    log.error("an inference failed", exc_info=error)
    return Refused(Kind.FAILED, f"the server failed: {type(error).__name__}; its log says why")
