"""A loaded version, as the protocol tells of it and asks it: over HTTP and over gRPC alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from modelwright.serving import ServingRun

from modelwright_server.engine import Engine, InferenceFailed
from modelwright_server.inference import BadRequest, Inference
from modelwright_server.loading import Loaded
from modelwright_server.outcomes import Kind, Refused
from modelwright_server.tensors import Array, Spec

log = logging.getLogger(__name__)

PLATFORM = "onnxruntime_onnx"
Given = TypeVar("Given")


class Model:
    """`inputs` and `outputs` by name; `golden` is how the golden samples fared."""

    def __init__(self, run: ServingRun, loaded: Loaded) -> None:
        self.name, self.version = run.model, run.version_label
        self.engine: Engine = loaded.engine
        self.inputs: dict[str, Spec] = {one.name: one for one in loaded.engine.inputs}
        self.outputs: dict[str, Spec] = {one.name: one for one in loaded.engine.outputs}
        self.golden = loaded.warnings[0].reason if loaded.warnings else "Agreed"

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

    def infer(self, parse: Callable[[], Inference], answer: Callable[[Inference, list[Array]], Given]) -> Given:
        """What `answer` makes of the outputs that `parse` asks for. Called on worker threads. Raises Refused, whatever
        goes wrong: what the client did wrong, or a runtime that fails."""
        try:
            asked = parse()
            arrays = self.engine.run(asked.inputs, [wanted.spec.name for wanted in asked.outputs])
            return answer(asked, arrays)
        except Refused:
            raise
        except BadRequest as error:
            raise Refused(Kind.BAD_REQUEST, str(error)) from error
        except InferenceFailed as error:
            log.warning("an inference failed: %s", error)
            raise Refused(Kind.FAILED, f"the inference failed: {error}") from error
        except MemoryError as error:
            log.warning("memory ran out in an inference")
            raise Refused(
                Kind.OUT_OF_MEMORY, "the inference failed: memory ran out; send fewer rows at once"
            ) from error
        except Exception as error:
            log.exception("an inference failed")
            raise Refused(Kind.FAILED, f"the server failed: {type(error).__name__}; its log says why") from error
