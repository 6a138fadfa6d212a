"""What all steps work with."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from modelwright.artifact import LOGITS, PREDICTION, PROBABILITIES, RECONSTRUCTION, RecipeRebuild
from modelwright.derivation import Calibration

from modelwright_trainer.compress.state import State
from modelwright_trainer.compress.subject import Parent, learner, needs_module
from modelwright_trainer.evaluated import Material
from modelwright_trainer.learner import Fitted, Learner
from modelwright_trainer.onnxgraph import Session

_LEAST_PROBABILITY = 1e-12


@dataclasses.dataclass
class Work:
    """One Job's. `rows` are what the parent was trained on, `seed` is the run's and the stage's, `notes` is filled with
    what the user should know."""

    parent: Parent
    rows: Material
    calibration: Calibration
    seed: int
    scratch: Path
    notes: list[str] = dataclasses.field(default_factory=list)

    def learner(self, state: State) -> Learner:
        """The recipe of a state at work on the rows. Raises StepNeedsModule where it has no module."""
        if state.quantized:
            raise needs_module(
                "after quantize there is a graph alone, and no module any more: make it the last of"
                " spec.source.compress.steps"
            )
        found = self.publisher(state.rebuild or self.parent.rebuild)
        if isinstance(found, Fitted):
            raise needs_module(f"{found.__class__.__name__} is fitted at once and has no layers")
        return found

    def publisher(self, rebuild: RecipeRebuild) -> Learner | Fitted:
        key = (rebuild.recipe, tuple(sorted(rebuild.hyperparameters.items())))
        if key not in self._learners:
            self._learners[key] = learner(rebuild, self.parent.manifest, self.rows)
        return self._learners[key]

    @functools.cached_property
    def _learners(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], Learner | Fitted]:
        return {}

    @functools.cached_property
    def parent_session(self) -> Session:
        return self.parent.session()

    def teacher(self, features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """What the parent's file gives for these rows: logits, or the numbers of its task."""
        outputs = {one.name for one in self.parent.manifest.outputs}
        name = next((one for one in (LOGITS, PREDICTION, RECONSTRUCTION, PROBABILITIES) if one in outputs), None)
        if name is None:
            raise needs_module(
                f"{self.parent.name} gives {', '.join(sorted(outputs))}, of which nothing can be learned: leave"
                " distillation out"
            )
        given = self.parent_session.run(features, only=[name])[name]
        return np.log(np.maximum(given, _LEAST_PROBABILITY)) if name == PROBABILITIES else given
