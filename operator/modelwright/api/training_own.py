"""The user's own image and command in the workers, and what of a TrainingJob is of recipes alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, StringConstraints

from modelwright.api.base import ApiModel
from modelwright.api.rules import Rule, Rules, cel_matches
from modelwright.api.tasks import CEL_WITHOUT_TARGET, WITHOUT_TARGET
from modelwright.api.types import Items, each_once

if TYPE_CHECKING:
    from modelwright.api.training_spec import TrainingJobSpec

_IMAGE_PATTERN = r"[^\s]+"
_VARIABLE_PATTERN = "[A-Za-z_][A-Za-z0-9_]*"
# What the operator sets itself: modelwright.owncode.environment.
_OURS_PATTERN = (
    "(MODELWRIGHT|PET)_.*|MASTER_ADDR|MASTER_PORT|NNODES|NODE_RANK|WORLD_SIZE|RANK|LOCAL_RANK|JOB_COMPLETION_INDEX"
)

Image = Annotated[
    str,
    StringConstraints(min_length=1, max_length=512),
    Rules(
        Rule(
            cel_matches("self", _IMAGE_PATTERN),
            "'{self}' is not an image; write registry/repository:tag or registry/repository@sha256:digest",
            lambda text: re.fullmatch(_IMAGE_PATTERN, text) is not None,
        )
    ),
]
Words = Annotated[Items[Annotated[str, StringConstraints(max_length=32768)]], Field(max_length=64)]


class EnvironmentVariable(ApiModel):
    """A variable of the container's environment."""

    name: Annotated[
        str,
        StringConstraints(min_length=1, max_length=128),
        Rules(
            Rule(
                cel_matches("self", _VARIABLE_PATTERN),
                "'{self}' is not a variable's name; write letters, digits and _, not beginning with a digit",
                lambda text: re.fullmatch(_VARIABLE_PATTERN, text) is not None,
            ),
            Rule(
                f"!{cel_matches('self', _OURS_PATTERN)}",
                "{self} is set by the operator; leave it out, or name yours otherwise",
                lambda text: re.fullmatch(_OURS_PATTERN, text) is None,
            ),
        ),
    ] = Field(description="Its name.")
    value: Annotated[str, StringConstraints(max_length=4096)] = Field(
        description="Its value. Secrets come through workers.podTemplate, into the container trainer."
    )


Environment = Annotated[Items[EnvironmentVariable], Field(max_length=64), each_once("variable", lambda one: one.name)]


def is_own(spec: TrainingJobSpec) -> bool:
    """Whether the workers run the user's own code."""
    return spec.trainer.image is not None and spec.trainer.recipe is None


_WITHOUT_TARGET = f"(self.data.task in {CEL_WITHOUT_TARGET})"
_OWN = "(has(self.trainer.image) && !has(self.trainer.recipe))"

OWN_CODE_RULES: tuple[Rule, ...] = (
    Rule(
        f"!{_OWN} || !has(self.strategy)",
        "strategy is of recipes: your own code shares the work as it likes; leave it out",
        lambda spec: not is_own(spec) or spec.strategy is None,
        field="strategy",
    ),
    Rule(
        f"!{_OWN} || !has(self.earlyStopping)",
        "earlyStopping is of recipes: your own code ends when it likes; leave it out",
        lambda spec: not is_own(spec) or spec.early_stopping is None,
        field="earlyStopping",
    ),
    Rule(
        f"!{_OWN} || !has(self.checkpoint.everySteps)",
        "everySteps is of recipes: your own code saves when it likes; leave it out",
        lambda spec: not is_own(spec) or spec.checkpoint.every_steps is None,
        field="checkpoint.everySteps",
    ),
    Rule(
        f"!{_OWN} || !has(self.checkpoint.local)",
        "local is of recipes: your own code saves where it likes; leave it out",
        lambda spec: not is_own(spec) or spec.checkpoint.local is None,
        field="checkpoint.local",
    ),
    Rule(
        f"!{_OWN} || !has(self.evaluation.slices)",
        "slices are of recipes: your own code is not evaluated, and says its own figures; leave them out",
        lambda spec: not is_own(spec) or spec.evaluation.slices is None,
        field="evaluation.slices",
    ),
    Rule(
        f"!{_OWN} || !has(self.data.split)",
        "split is of recipes: your own code divides the rows as it likes; leave it out",
        lambda spec: not is_own(spec) or spec.data.split is None,
        field="data.split",
    ),
    Rule(
        "!has(self.trainer.recipe) || !has(self.data.uri)"
        f" || (has(self.data.task) && (has(self.data.target) || {_WITHOUT_TARGET}))",
        "target and task are required with a recipe: which column is to be predicted, and as what",
        lambda spec: (
            spec.trainer.recipe is None
            or spec.data.uri is None
            or (spec.data.task is not None and (spec.data.target is not None or spec.data.task in WITHOUT_TARGET))
        ),
        field="data",
    ),
    Rule(
        "!has(self.trainer.recipe) || !has(self.data.uri) || !has(self.data.target)"
        f" || !has(self.data.task) || !{_WITHOUT_TARGET}",
        "{self.data.task} predicts no column: leave target out, and take that column out of the file where it is to be"
        " learned nothing from",
        lambda spec: spec.trainer.recipe is None or spec.data.target is None or spec.data.task not in WITHOUT_TARGET,
        field="data.target",
    ),
    Rule(
        "!has(self.trainer.recipe) || !has(self.data.uri) || !self.data.uri.endsWith('/')",
        "{self.data.uri} is a prefix, which your own code may read; a recipe reads one file, such as"
        " s3://bucket/path/rows.parquet",
        lambda spec: spec.trainer.recipe is None or not (spec.data.uri or "").endswith("/"),
        field="data.uri",
    ),
)
"""Rules of a TrainingJob's spec. A field that does nothing with own code is refused with it, and so has no default."""
