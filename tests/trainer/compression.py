"""A small published version in a store on the disk, and its compression stage by stage, as Jobs run it."""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from modelwright import artifact, versions
from modelwright.contract import Data, Split, StoreAccess, TrainingRun
from modelwright.derivation import CompressRun, DerivationSummary, Origin
from modelwright.store import Store
from modelwright_trainer import data, export, recipes
from modelwright_trainer.compress import stage
from modelwright_trainer.data import Table
from modelwright_trainer.onnxgraph import Session

from tests.trainer.tables import fitted

SPLIT = Split(train=0.6, validation=0.2, test=0.2, seed=7)


@dataclasses.dataclass
class World:
    """A store in `folder`, and a version in it."""

    folder: Path
    parent: Origin
    manifest: artifact.Manifest

    @property
    def access(self) -> StoreAccess:
        return StoreAccess(uri=f"file://{self.folder}/store")

    @property
    def store(self) -> Store:
        return Store(self.access, {})

    def asked(self, *steps: dict[str, Any], stage: int = 0, variant: str = "small", **more: Any) -> CompressRun:
        fields: dict[str, Any] = {
            "namespace": "team-a", "name": f"digits-v1-0-0--{variant}", "uid": "u",
            "publish": {"model": "digits", "version": "1.0.0", "variant": variant}, "store": self.access,
            "parent": self.parent, "steps": steps, "stage": stage, "seed": 3, **more,
        }  # fmt: skip
        return CompressRun.model_validate(fields)

    def run(self, asked: CompressRun) -> DerivationSummary:
        """One Job, in a fresh scratch folder."""
        with tempfile.TemporaryDirectory() as scratch:
            return stage.run(asked, self.store, Path(scratch))

    def all(self, *steps: dict[str, Any], **more: Any) -> list[DerivationSummary]:
        """All Jobs, the last of which publishes."""
        return [self.run(self.asked(*steps, stage=number, **more)) for number in range(len(steps) + 1)]

    def fetched(self, summary: DerivationSummary, folder: Path) -> artifact.Manifest:
        assert summary.artifact is not None, summary
        return versions.fetch(self.store, summary.artifact.uri, summary.artifact.digest, folder)

    def left(self, asked: CompressRun) -> list[str]:
        return self.store.names(asked.work_folder)


def published(folder: Path, table: Table, recipe: str, task: str = "Classification", **hyperparameters: str) -> World:
    """Trains a recipe on a table, and publishes it as version 1.0.0 of the model digits."""
    access = StoreAccess(uri=f"file://{folder}/store")
    store = Store(access, {})
    columns = {name: table.features[:, index] for index, name in enumerate(table.names)}
    if table.targets is not None:
        columns["target"] = [table.classes[one] for one in table.targets] if table.classes else table.targets
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    uri = f"file://{folder}/data.parquet"
    store.write(uri, buffer.getvalue())
    target = None if table.targets is None or task == "LanguageModelling" else "target"
    told = Data(uri=uri, target=target, features=table.names, task=task, split=SPLIT)  # type: ignore[arg-type]
    run = TrainingRun.model_validate(
        {
            "namespace": "team-a", "name": "digits", "uid": "u", "publish": {"model": "digits", "version": "1.0.0"},
            "store": access, "data": told, "trainer": {"recipe": recipe, "hyperparameters": hyperparameters},
        }
    )  # fmt: skip
    read = data.load(store, told, recipes.kind(run.trainer))
    parts = data.divided(read, SPLIT)
    learner = recipes.learner(run.trainer, told, read, parts["train"])
    weights = (
        learner.fit(read, parts["train"], lambda *_: None)
        if isinstance(learner, recipes.Fitted)
        else fitted(learner, read, parts["train"])
    )
    made = folder / "made"
    made.mkdir()
    learner.write(weights, made)
    session = Session(made)
    measured = {part: learner.measured(session, read, parts[part]) for part in ("test", "validation")}
    golden = export.golden(session, learner, read, parts["test"], made)
    export.write_documents(made, read, parts, [], measured)
    manifest = export.manifest(
        run, learner, read, parts, made, golden_samples=golden,
        figures={part: one.figures for part, one in measured.items()}, epochs=1, steps=1,
    )  # fmt: skip
    stands = export.publish(store, run, manifest, made)
    return World(folder, Origin(name="digits-v1-0-0", uri=stands.uri, digest=stands.digest), manifest)


def told(manifest: artifact.Manifest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(manifest.to_json())
    return found
