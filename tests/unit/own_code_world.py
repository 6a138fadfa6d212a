"""A pod with the user's own code, without the pod: its folder and a store, both on the disk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from modelwright.contract import StoreAccess, Summary
from modelwright.owncode import OwnRun
from modelwright.store import Store
from modelwright_trainer.owncode.fetch import fetch
from modelwright_trainer.owncode.files import Folder
from modelwright_trainer.owncode.publish import publish
from onnx import TensorProto, helper, numpy_helper

FEATURES, CLASSES = 4, 3


@dataclasses.dataclass(frozen=True)
class Pod:
    """One attempt's pod of index 0; `store` outlives it."""

    run: OwnRun
    store: Store
    folder: Folder

    def fetch(self) -> Pod:
        fetch(self.run, self.store, self.folder, 0)
        return self

    def publish(self) -> Summary:
        return publish(self.run, self.store, self.folder, 0)

    def leave(self, name: str, content: str | bytes) -> None:
        """As the user's code would, in its output."""
        path = self.folder.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def complete(self, step: int, **files: str) -> Path:
        """A checkpoint that the code has completed."""
        made = self.folder.checkpoint / str(step)
        made.mkdir(parents=True)
        for name, content in files.items():
            (made / name).write_text(content)
        (made / "DONE").touch()
        return made


def pod(place: Path, attempt: int = 1, **more: Any) -> Pod:
    """`more` replaces fields of its run. The data are in the store's own folder."""
    rows = place / "raw" / "rows.csv"
    rows.parent.mkdir(parents=True, exist_ok=True)
    if not rows.exists():
        rows.write_text("a,b\n1,2\n")
    access = StoreAccess(uri=f"file://{place}/store")
    fields: dict[str, Any] = {
        "namespace": "team-a", "name": "own", "uid": "uid", "attempt": attempt, "store": access,
        "publish": {"model": "own", "version": "1.0.0"}, "data": {"uri": f"file://{rows}", "target": "b"},
        "code": {"image": "registry/team/own:1", "command": ["python", "train.py"]},
    }  # fmt: skip
    folder = Folder(place / f"pod-{attempt}")
    folder.root.mkdir()
    return Pod(OwnRun.model_validate({**fields, **more}), Store(access, {}), folder)


def graph(node: str = "Softmax", *, features: int = FEATURES, seed: int = 0) -> onnx.ModelProto:
    """A linear model with `node` at its end, from `x` to `y`."""
    weights = np.random.default_rng(seed).normal(size=(features, CLASSES)).astype(np.float32)
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"]), helper.make_node(node, ["scores"], ["y"])],
        "own",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", CLASSES])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def told(path: Path) -> Any:
    return json.loads(path.read_text())
