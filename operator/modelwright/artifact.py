"""An artifact's manifest: the contract between trainer, compressor, server, CLI and operator.

A version is `<store>/models/<namespace>/<model>/versions/<version>[--<variant>]/manifest.json`; its digest is the
sha256 of that file's bytes. The files that it names lie, each once, under `<store>/models/<namespace>/<model>/blobs/`
by their own sha256. Equal content is equal bytes: there is no time, host or attempt in a manifest.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from modelwright.contract import Shape, Split, Task

MANIFEST = "manifest.json"
ONNX_FILE = "model.onnx"
WEIGHTS_FILE = "model.safetensors"
GOLDEN_FILE = "golden.safetensors"
BASELINE_FILE = "baseline.json"
HISTORY_FILE = "history.json"
EVALUATION_FILE = "evaluation.json"
PACKED_FILE = "model.packed"
INPUT = "features"
TOKENS = "tokens"
LOGITS = "logits"
PROBABILITIES = "probabilities"
NEXT = "next_probabilities"
PREDICTION = "prediction"
RECONSTRUCTION = "reconstruction"
SCORE = "anomaly_score"
CODE = "code"
CLUSTER = "cluster"
DISTANCES = "distances"
DISTANCE = "distance"
_DIGEST = r"^sha256:[0-9a-f]{64}$"


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def model_folder(store: str, namespace: str, model: str) -> str:
    return f"{store.rstrip('/')}/models/{namespace}/{model}"


def manifest_uri(store: str, namespace: str, model: str, version: str, variant: str | None = None) -> str:
    named = f"{version}--{variant}" if variant else version
    return f"{model_folder(store, namespace, model)}/versions/{named}/{MANIFEST}"


def blob_uri(manifest: str, digest: str) -> str:
    """Where the blob `digest` of the version whose manifest is at the URI `manifest` lies. Raises ValueError for a URI
    that is no manifest's."""
    folder, found, _ = manifest.rpartition("/versions/")
    if not found or not manifest.endswith(f"/{MANIFEST}"):
        raise ValueError(f"{manifest}: a version's URI ends with versions/<version>/{MANIFEST}")
    return f"{folder}/blobs/{digest.removeprefix('sha256:')}"


class File(Shape):
    """A file of the artifact: `path` is relative, where a reader puts it; `size` in bytes."""

    path: str
    digest: str = Field(pattern=_DIGEST)
    size: int = Field(ge=0)

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        if posixpath.normpath(path) != path or path.startswith(("/", "..")) or "\\" in path or path in ("", "."):
            raise ValueError(f"{path!r} is not a plain relative path")
        return path


Dtype = Literal[
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"
]
"""What a tensor may hold: all that golden samples and the protocol of inference have, by numpy's names."""


class Tensor(Shape):
    """An input or output of the graph; None in `shape` is any length (the first is the batch). `names` are those of the
    last axis."""

    name: str
    dtype: Dtype
    shape: tuple[int | None, ...]
    names: tuple[str, ...] = ()


class Onnx(Shape):
    """The graph in `path`, whose initializers are external data in `weights`: offsets into that file. "": they are in
    the graph, or in files of the user's own choice beside it. `packed` is the container of sparse and clustered
    tensors where there is one: the graph names its initializers and carries none of them, and whoever loads it decodes
    the container and gives them to the runtime (`modelwright.packing`). `unpacked` is what they take then, in bytes:
    a container that would become more is not decoded."""

    path: str = ONNX_FILE
    weights: str = WEIGHTS_FILE
    packed: str | None = None
    unpacked: int | None = Field(default=None, ge=0)
    opset: int
    ir_version: int


class Native(Shape):
    """The user's own files, which lie below `path`."""

    path: str = "native"


class HuggingFace(Shape):
    """A directory as Hugging Face's libraries write it, below `path`: config.json, safetensors, a tokenizer."""

    path: str = "hf"


class Formats(Shape):
    onnx: Onnx | None = None
    hf: HuggingFace | None = None
    native: Native | None = None

    @model_validator(mode="after")
    def _any(self) -> Formats:
        if self.onnx is None and self.hf is None and self.native is None:
            raise ValueError("an artifact has at least one format")
        return self


class Golden(Shape):
    """Test inputs, and the outputs of the final file in its own runtime. A runtime agrees when of each output at least
    `minimum_agreement` (a fraction) of the entries differ by at most absolute + relative · |expected|. It is comparable
    where provider and instruction set are the same. `alone`: each row was computed by itself, since in a batch it would
    differ, and so it is compared."""

    path: str = GOLDEN_FILE
    rows: int
    provider: str
    instruction_set: str
    runtime: str
    absolute_tolerance: float = 1e-5
    relative_tolerance: float = 1e-4
    minimum_agreement: float = Field(default=1.0, gt=0, le=1)
    alone: bool | None = None


class RecipeRebuild(Shape):
    """How to build the module anew: the recipe's name, its hyperparameters, and the widths of input and output."""

    kind: Literal["recipe"] = "recipe"
    recipe: str
    hyperparameters: Mapping[str, str]
    inputs: int
    outputs: int


class FactoryRebuild(Shape):
    """How to build the module anew with the user's own code: `entrypoint`, "package.module:function", of the image
    `image`, called with `kwargs`."""

    kind: Literal["factory"] = "factory"
    image: str = Field(pattern=r"^.+@sha256:[0-9a-f]{64}$")
    entrypoint: str
    kwargs: Mapping[str, str | int | float | bool] = Field(default_factory=dict)


class DataLineage(Shape):
    """`uri` and `digest` are of the file, or of the manifest of a prepared data set. `rows` are of the whole, then of
    each part; `split` says how it was divided, None where it came divided. The user's own code divides the rows as it
    likes, and tells nobody."""

    uri: str
    digest: str = Field(pattern=_DIGEST)
    target: str | None = None
    rows: int | None = None
    split: Split | None = None
    split_rows: Mapping[str, int] = Field(default_factory=dict)


class Ancestor(Shape):
    """A version that another was made of: its ModelVersion's name, and its manifest's digest."""

    name: str
    digest: str = Field(pattern=_DIGEST)


class Derived(Shape):
    """How a version was made of others. `steps` are those of a compression, each as it was asked for, in JSON."""

    kind: Literal["compression", "combination", "import"]
    parents: tuple[Ancestor, ...] = ()
    steps: tuple[str, ...] = ()
    method: str | None = None


class Lineage(Shape):
    """Where a version came from. `fingerprint` is of what was asked for, `initial` the digest of the version whose
    weights the training began with. Of a derived version the training is its parent's; it has none where it was made of
    several, or imported."""

    training_job: str | None = None
    data: DataLineage | None = None
    derived: Derived | None = None
    fingerprint: str = Field(pattern=_DIGEST)
    initial: str | None = Field(default=None, pattern=_DIGEST)
    seed: int | None = None
    epochs: int | None = None
    steps: int | None = None
    world_size: int | None = None

    @property
    def made_by(self) -> str:
        """For people: by what the version was made."""
        if self.derived is not None:
            return f"{self.derived.kind} of {', '.join(one.name for one in self.derived.parents) or 'a file'}"
        return f"TrainingJob {self.training_job}"


class Manifest(Shape):
    """One immutable version. `metrics` are by split, those of the test split from the outputs of the final file, or
    what the user's own code says of it. Golden samples are there where there is a graph; `baseline` is "" where no
    recipe made one."""

    schema_version: Literal[1] = 1
    model: str
    version: str
    variant: str | None = None
    task: Task | None = None
    classes: tuple[str, ...] = ()
    formats: Formats
    files: tuple[File, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    golden: Golden | None = None
    baseline: str = BASELINE_FILE
    metrics: Mapping[str, Mapping[str, float]]
    lineage: Lineage
    frameworks: Mapping[str, str]
    rebuild: Annotated[RecipeRebuild | FactoryRebuild, Field(discriminator="kind")] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        paths = [file.path for file in self.files]
        if len(set(paths)) != len(paths):
            raise ValueError("files: a path is named twice")
        onnx, golden = self.formats.onnx, self.golden
        if onnx and not golden:
            raise ValueError("golden: a graph has golden samples")
        wanted = [
            golden.path if golden else "",
            self.baseline,
            *((onnx.path, onnx.weights, onnx.packed or "") if onnx else ()),
        ]
        missing = sorted({path for path in wanted if path} - set(paths))
        if missing:
            raise ValueError(f"files: {', '.join(missing)} is used, and not among them")
        return self

    def to_bytes(self) -> bytes:
        return self.to_json().encode()

    @property
    def digest(self) -> str:
        """The version's digest, of the manifest as it is written."""
        return digest_of(self.to_bytes())

    @classmethod
    def from_bytes(cls, content: bytes, digest: str | None = None) -> Manifest:
        """Reads a manifest, of the given digest where one is given. Raises ValueError."""
        if digest is not None and digest_of(content) != digest:
            raise ValueError(f"the manifest is {digest_of(content)}, and {digest} was asked for")
        return cls.model_validate_json(content)
