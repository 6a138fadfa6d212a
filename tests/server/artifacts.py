"""Versions as the trainer publishes them, made without torch: a perceptron whose weights are external data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from modelwright import artifact, versions
from modelwright.artifact import Manifest
from modelwright.contract import StoreAccess
from modelwright.hardware import instruction_set
from modelwright.store import Store
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

FEATURES, CLASSES, ROWS = 8, 3, 16
Edit = Callable[[dict[str, Any]], None]
Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Published:
    """A version in a store on the disk; `folder` holds its files as they were published."""

    uri: str
    digest: str
    store: StoreAccess
    folder: Path
    manifest: Manifest

    @property
    def named(self) -> dict[str, Any]:
        """The fields that all kinds of run share."""
        return {
            "model": self.manifest.model, "version": self.manifest.version, "variant": self.manifest.variant,
            "manifest_uri": self.uri, "digest": self.digest, "store": self.store,
        }  # fmt: skip

    def blob(self, name: str) -> Path:
        """Where the store has the file `name`."""
        digest = next(file.digest for file in self.manifest.files if file.path == name)
        return Path(artifact.blob_uri(self.uri, digest).removeprefix("file://"))

    def golden(self) -> dict[str, npt.NDArray[Any]]:
        found: dict[str, npt.NDArray[Any]] = load_file(self.folder / artifact.GOLDEN_FILE)
        return found

    def expected(self, rows: Floats) -> list[npt.NDArray[Any]]:
        """Logits and probabilities of `rows`, from the runtime itself."""
        session = onnxruntime.InferenceSession(self.folder / artifact.ONNX_FILE, providers=["CPUExecutionProvider"])
        found: list[npt.NDArray[Any]] = session.run(["logits", "probabilities"], {"features": rows})
        return found


def publish(
    place: Path,
    *,
    version: str = "1.0.0",
    variant: str | None = None,
    seed: int = 0,
    hidden: int = 16,
    edit: Edit = lambda _: None,
    nodes: Sequence[onnx.NodeProto] | None = None,
    golden: Mapping[str, npt.NDArray[Any]] | None = None,
    baseline: Mapping[str, Any] | None = None,
) -> Published:
    """Publishes a version of `iris` to the store in `place`. `edit` may alter the manifest before; `nodes` are put
    between the features and the first layer (from `features` to `prepared`); `golden` replaces golden tensors;
    `baseline` is of the training data."""
    label = artifact.manifest_uri(f"file://{place}/store", "team-a", "iris", version, variant)
    folder = place / f"made-{version}-{variant}-{seed}"
    folder.mkdir(parents=True)
    _write_graph(folder, np.random.default_rng(seed), hidden, nodes)
    rows = np.random.default_rng(1).normal(size=(ROWS, FEATURES)).astype(np.float32)
    session = onnxruntime.InferenceSession(folder / artifact.ONNX_FILE, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"features": rows})
    samples = {"features": rows, "logits": logits, "probabilities": probabilities, **(golden or {})}
    save_file(samples, folder / artifact.GOLDEN_FILE)
    (folder / artifact.BASELINE_FILE).write_text(json.dumps(baseline or {"rows": ROWS}))
    content = _stated(folder, version, variant)
    edit(content)
    manifest = Manifest.model_validate(content)
    access = StoreAccess(uri=f"file://{place}/store")
    digest = versions.publish(Store(access, {}), label, manifest, folder)
    return Published(label, digest, access, folder, manifest)


def _stated(folder: Path, version: str, variant: str | None) -> dict[str, Any]:
    names = tuple(f"f{index}" for index in range(FEATURES))
    classes = tuple(f"c{index}" for index in range(CLASSES))
    files = (artifact.ONNX_FILE, artifact.WEIGHTS_FILE, artifact.GOLDEN_FILE, artifact.BASELINE_FILE)
    return {
        "model": "iris", "version": version, "variant": variant, "task": "Classification", "classes": classes,
        "formats": {"onnx": {"opset": 21, "ir_version": 10}},
        "files": [versions.file_entry(folder / name, name) for name in files],
        "inputs": [{"name": "features", "dtype": "float32", "shape": (None, FEATURES), "names": names}],
        "outputs": [{"name": name, "dtype": "float32", "shape": (None, CLASSES), "names": classes}
                    for name in ("logits", "probabilities")],
        "golden": {"rows": ROWS, "provider": "CPUExecutionProvider", "instruction_set": instruction_set(),
                   "runtime": f"onnxruntime {onnxruntime.__version__}"},
        "metrics": {"test": {"accuracy": 0.93}, "train": {"accuracy": 0.97}},
        "lineage": {
            "training_job": "iris-v1", "fingerprint": artifact.digest_of(version.encode()), "seed": 0, "epochs": 1,
            "steps": 3, "world_size": 2,
            "data": {"uri": "file:///d", "digest": artifact.digest_of(b"d"), "target": "t", "rows": 10, "split": {},
                     "split_rows": {"train": 8, "validation": 1, "test": 1}},
        },
        "frameworks": {"onnxruntime": onnxruntime.__version__},
    }  # fmt: skip


def _write_graph(
    folder: Path, random: np.random.Generator, hidden: int, before: Sequence[onnx.NodeProto] | None
) -> None:
    weights = {
        "first.weight": random.normal(size=(hidden, FEATURES)).astype(np.float32),
        "first.bias": random.normal(size=hidden).astype(np.float32),
        "second.weight": random.normal(size=(CLASSES, hidden)).astype(np.float32),
        "second.bias": random.normal(size=CLASSES).astype(np.float32),
    }
    save_file(weights, folder / artifact.WEIGHTS_FILE)
    graph = helper.make_graph(
        [
            *(before or [helper.make_node("Identity", ["features"], ["prepared"])]),
            helper.make_node("Gemm", ["prepared", "first.weight", "first.bias"], ["linear"], transB=1),
            helper.make_node("Relu", ["linear"], ["hidden"]),
            helper.make_node("Gemm", ["hidden", "second.weight", "second.bias"], ["logits"], transB=1),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ],
        "mlp",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", FEATURES])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", CLASSES])
         for name in ("logits", "probabilities")],
        external(folder / artifact.WEIGHTS_FILE),
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (folder / artifact.ONNX_FILE).write_bytes(model.SerializeToString(deterministic=True))


def external(path: Path) -> list[TensorProto]:
    """An initializer for each tensor of a safetensors file of float32, with its place in the file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    initializers = []
    for name, entry in sorted(json.loads(content[8 : 8 + length]).items()):
        begin, end = entry["data_offsets"]
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=entry["shape"])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", path.name), ("offset", str(8 + length + begin)), ("length", str(end - begin))):
            tensor.external_data.add(key=key, value=value)
        initializers.append(tensor)
    return initializers


def fails_on_large_values() -> list[onnx.NodeProto]:
    """Passes the features on, and fails in the runtime where the first of them, rounded down, is 100 or more: then a
    reshape is asked for that the tensor's size does not allow. Golden samples never do that."""
    constant = helper.make_node
    return [
        constant("Constant", [], ["start"], value=helper.make_tensor("s", TensorProto.INT64, [2], [0, 0])),
        constant("Constant", [], ["stop"], value=helper.make_tensor("e", TensorProto.INT64, [2], [1, 1])),
        constant("Slice", ["features", "start", "stop"], ["corner"]),
        constant("Constant", [], ["hundred"], value=helper.make_tensor("h", TensorProto.FLOAT, [], [100.0])),
        constant("Div", ["corner", "hundred"], ["share"]),
        constant("Floor", ["share"], ["whole"]),
        constant("Cast", ["whole"], ["count"], to=TensorProto.INT64),
        constant("Constant", [], ["flat"], value=helper.make_tensor("f", TensorProto.INT64, [1], [-1])),
        constant("Reshape", ["count", "flat"], ["more"]),
        constant("Shape", ["features"], ["shape"]),
        constant("Constant", [], ["last"], value=helper.make_tensor("l", TensorProto.INT64, [2], [0, 1])),
        constant("Mul", ["last", "more"], ["addition"]),
        constant("Constant", [], ["positive"], value=helper.make_tensor("z", TensorProto.INT64, [1], [0])),
        constant("Max", ["addition", "positive"], ["bounded"]),
        constant("Add", ["shape", "bounded"], ["asked"]),
        constant("Reshape", ["features", "asked"], ["prepared"]),
    ]
