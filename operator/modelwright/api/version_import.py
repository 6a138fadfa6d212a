"""How a version is imported that other software has made: what lies where, and what is to be known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from modelwright.api.base import ApiModel
from modelwright.api.pods import PodTemplateOverlay, Resources
from modelwright.api.rules import Rule
from modelwright.api.tasks import Task
from modelwright.api.training_recipe import Hyperparameters, Recipe
from modelwright.api.types import Digest, ImportUri, Items

_Label = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Import(ApiModel):
    """A model that other software has left in the store. A Job compares all that it declares with what is there, before
    anything of it is loaded, and publishes it as a version."""

    uri: ImportUri = Field(
        description="The file, or of HuggingFace the folder, with a slash at its end. It is read with the endpoint and"
        " the credentials of spec.storage."
    )
    digest: Digest | None = Field(
        default=None, description="sha256 of the file: another one is refused. Left out: what lies there is taken."
    )
    format: Literal["Onnx", "Safetensors", "HuggingFace"] = Field(
        description="Onnx: a graph, its external data beside it. Safetensors: the state dict of a built-in recipe."
        " HuggingFace: a folder with config.json, safetensors and a tokenizer, which the built-in server does not run."
    )
    task: Task | None = Field(default=None, description="What it does, where it is one of these.")
    classes: Annotated[Items[_Label], Field(min_length=2, max_length=1000)] | None = Field(
        default=None, description="With Classification: the names of the classes, in the order of the outputs."
    )
    columns: Annotated[Items[_Label], Field(min_length=1, max_length=4096)] | None = Field(
        default=None, description="The names of the input's columns, in order. Safetensors need them."
    )
    names: (
        Annotated[
            Mapping[Annotated[str, StringConstraints(min_length=1, max_length=128)], _Label], Field(max_length=16)
        ]
        | None
    ) = Field(
        default=None,
        description="With Onnx: other names for its inputs and outputs. What is evaluated or combined gives"
        " probabilities or logits, or prediction.",
    )
    samples: ImportUri | None = Field(
        default=None,
        description="A safetensors file with an array for each input, by its name: of these rows golden samples are"
        " made. Left out: of made-up numbers.",
    )
    recipe: Recipe | None = Field(default=None, description="With Safetensors: the recipe whose weights they are.")
    hyperparameters: Hyperparameters | None = Field(
        default=None, description="With Safetensors: those of the recipe that decide the shapes."
    )
    resources: Resources | None = Field(default=None, description="What the pod needs.")
    pod_template: PodTemplateOverlay | None = Field(
        default=None, description="What to add to the pod: the volume of a URI that is file://."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(self.format == 'HuggingFace') == self.uri.endsWith('/')",
            "{self.format} is imported from a file, but of HuggingFace from a folder, with a slash at its end",
            lambda one: (one.format == "HuggingFace") == one.uri.endswith("/"),
            field="uri",
        ),
        Rule(
            "has(self.recipe) == (self.format == 'Safetensors')",
            "recipe says what Safetensors are the weights of, and goes with them alone",
            lambda one: (one.recipe is not None) == (one.format == "Safetensors"),
            field="recipe",
        ),
        Rule(
            "self.format != 'Safetensors' || (has(self.columns) && has(self.task))",
            "Safetensors need columns and task: the recipe is built with them",
            lambda one: one.format != "Safetensors" or (one.columns is not None and one.task is not None),
        ),
        Rule(
            "!has(self.hyperparameters) || has(self.recipe)",
            "hyperparameters are of a recipe; leave them out",
            lambda one: one.hyperparameters is None or one.recipe is not None,
            field="hyperparameters",
        ),
        Rule(
            "!has(self.names) || self.format == 'Onnx'",
            "names are of the graph of Onnx; leave them out",
            lambda one: one.names is None or one.format == "Onnx",
            field="names",
        ),
        Rule(
            "!(has(self.samples) || has(self.digest) || has(self.columns)) || self.format != 'HuggingFace'",
            "samples, digest and columns are of one file with one graph; leave them out with HuggingFace",
            lambda one: (
                one.format != "HuggingFace" or (one.samples is None and one.digest is None and one.columns is None)
            ),
        ),
        Rule(
            "!has(self.classes) || (has(self.task) && self.task == 'Classification')",
            "classes are of the task Classification; give it as task, or leave them out",
            lambda one: one.classes is None or one.task == "Classification",
            field="classes",
        ),
    )
