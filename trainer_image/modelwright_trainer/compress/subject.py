"""What is compressed: the parent's files, its data as it was trained on, and its recipe at work on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import onnx
from modelwright import artifact, versions
from modelwright.artifact import Manifest, RecipeRebuild
from modelwright.contract import Data, Outcome, Trainer
from modelwright.derivation import NamedData, Origin
from modelwright.store import Store
from onnx import external_data_helper, numpy_helper

from modelwright_trainer import evaluated, packed, recipes
from modelwright_trainer.evaluated import Material
from modelwright_trainer.failures import TrainingFailed
from modelwright_trainer.learner import Fitted, Learner
from modelwright_trainer.onnxgraph import Array, Session


@dataclasses.dataclass(frozen=True)
class Parent:
    """A fetched version. `folder` holds its files."""

    name: str
    digest: str
    manifest: Manifest
    folder: Path

    @property
    def onnx(self) -> artifact.Onnx:
        """Raises StepNeedsModule where it has no graph, which all is measured on."""
        if self.manifest.formats.onnx is None:
            raise needs_module(f"{self.name} has no ONNX graph: publish it with one")
        return self.manifest.formats.onnx

    @property
    def rebuild(self) -> RecipeRebuild:
        """Raises StepNeedsModule where no recipe made it."""
        rebuild = self.manifest.rebuild
        if not isinstance(rebuild, RecipeRebuild):
            how = (
                "your own code made it"
                if rebuild
                else "its manifest does not say how to build its module (it was imported, quantized, combined, or its"
                " recipe has no layers: gradient-boosting, kmeans, pca)"
            )
            raise needs_module(
                f"{self.name}: {how}, and this step works on the module of a recipe: of the steps quantize and distill"
                " do without"
            )
        return rebuild

    def session(self) -> Session:
        return Session(self.folder, self.onnx)


def needs_module(words: str) -> TrainingFailed:
    return TrainingFailed(Outcome.STEP_NEEDS_MODULE, words)


def fetch(store: Store, origin: Origin, folder: Path) -> Parent:
    """Raises Damaged, StoreError."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = versions.fetch(store, origin.uri, origin.digest, folder)
    return Parent(origin.name, origin.digest, manifest, folder)


def trained_on(store: Store, manifest: Manifest, named: NamedData | None, folder: Path) -> Material:
    """The rows that a version was trained on, divided as they were; of one that was imported, and says nothing of them,
    those that are named. Raises DataFailed, Damaged, StoreError."""
    return evaluated.material(store, named if manifest.lineage.data is None else None, manifest, folder)


def graph_of(parent: Parent, tensors: Mapping[str, Array]) -> tuple[bytes, dict[str, Array]]:
    """The parent's graph, which names its larger initializers, and these."""
    model = onnx.load(parent.folder / parent.onnx.path, load_external_data=False)
    for one in model.graph.initializer:
        if external_data_helper.uses_external_data(one):
            one.CopyFrom(numpy_helper.from_array(tensors[one.name], one.name))
    return packed.apart(model.SerializeToString(deterministic=True))


def learner(rebuild: RecipeRebuild, manifest: Manifest, rows: Material) -> Learner | Fitted:
    """The recipe at work on the rows. Raises UserFailed, DataFailed."""
    trainer = Trainer(recipe=rebuild.recipe, hyperparameters=rebuild.hyperparameters)
    told = Data(uri=rows.lineage.uri, target=rows.lineage.target, task=manifest.task or "Classification")
    return recipes.learner(trainer, told, rows.table, rows.parts["train"])
