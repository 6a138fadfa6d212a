"""The contract between the operator and the Jobs that make a version out of others: `compress` makes one step of a
compression, or publishes what the steps gave; `combine` makes one graph of several members; `import` takes what other
software has left in a store.

In: a `CompressRun`, `CombineRun` or `ImportRun` as JSON in `DERIVATION_VARIABLE`; store credentials as AWS_* variables
from the user's Secret. Out: a `DerivationSummary` as termination message, and an exit code of `contract.Outcome`.

The steps of a compression are Jobs one after the other. Each finds what the one before it left in the store, below
`work_folder`, and leaves its own there, its `state.json` last; one that is run again finds that, and only says it
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from modelwright import artifact
from modelwright.contract import Failure, Gate, Message, Published, Shape, StoreAccess, Task

COMPRESS = ("compress",)
COMBINE = ("combine",)
IMPORT = ("import",)
"""Arguments of the trainer image's entry point."""
DERIVATION_VARIABLE = "MODELWRIGHT_DERIVATION"

_DIGEST = r"^sha256:[0-9a-f]{64}$"
PartName = Literal["train", "validation", "test"]


class Origin(Shape):
    """A published version: its ModelVersion's name, its manifest and that one's digest."""

    name: str
    uri: str
    digest: str = Field(pattern=_DIGEST)


class Target(Shape):
    """What is published."""

    model: str
    version: str
    variant: str | None = None


class Finetune(Shape):
    """Training after a step, which keeps the step's structure. `distillation` is the share of the loss that comes from
    the parent's outputs: 0 is the targets alone."""

    epochs: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    batch_size: int = Field(default=64, ge=1)
    distillation: float = Field(default=0.0, ge=0, le=1)


class Prune(Shape):
    """Weights (Unstructured, NofM), or neurons, channels and heads (Structured), of least importance are removed.

    `sparsity` is the share that goes; of NofM it follows from `keep` of each `of` in a row of inputs. `rounds` is in
    how many steps (cubic schedule of Zhu and Gupta), each followed by its share of `finetune`. Structured shrinks
    tensors.
    """

    method: Literal["Magnitude", "Gradient", "Movement"] = "Magnitude"
    granularity: Literal["Unstructured", "NofM", "Structured"] = "Unstructured"
    sparsity: float = Field(default=0.5, gt=0, lt=1)
    keep: int = Field(default=2, ge=1)
    of: int = Field(default=4, ge=2)
    rounds: int = Field(default=1, ge=1)
    finetune: Finetune = Finetune()


class Merge(Shape):
    """Neurons of a layer whose incoming weights are alike (cosine of at least `threshold`) become one."""

    threshold: float = Field(default=0.95, gt=0, lt=1)
    finetune: Finetune = Finetune()


class Cluster(Shape):
    """Each tensor's weights become 2^`bits` values (k-means); fine-tuning moves the values, not the assignment."""

    bits: int = Field(default=4, ge=1, le=8)
    finetune: Finetune = Finetune()


class LowRank(Shape):
    """A layer becomes two of rank r where that saves: the least that keeps `energy` of the squared singular values."""

    energy: float = Field(default=0.95, gt=0, lt=1)
    finetune: Finetune = Finetune()


class Distill(Shape):
    """A smaller model learns the parent's outputs. Hyperparameters are the recipe's, as strings; those left out are the
    parent's own where the recipe is the same."""

    recipe: str
    hyperparameters: Mapping[str, str] = Field(default_factory=dict)
    temperature: float = Field(default=2.0, gt=0)
    distillation: float = Field(default=0.9, ge=0, le=1)


class Quantize(Shape):
    """By ONNX Runtime's tools, on the graph. After it there is no module any more."""

    scheme: Literal["Int8Dynamic", "Int8Static", "Int4Weight"]


class Step(Shape):
    """Exactly one of them."""

    prune: Prune | None = None
    merge: Merge | None = None
    cluster: Cluster | None = None
    low_rank: LowRank | None = None
    distill: Distill | None = None
    quantize: Quantize | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a step is exactly one of {', '.join(type(self).model_fields)}, not {given or 'none'}")
        return self

    @property
    def kind(self) -> str:
        """Its name as a user writes it, such as lowRank."""
        return str(next(iter(json.loads(self.to_json()))))


class TargetSearch(Shape):
    """In place of steps: what the version must be, and how much worse than the parent by `metric` it may be for that
    (None: the task's main one), on the validation split. `epochs` of training follow each step that is tried, of at
    most `candidates`."""

    bytes: int | None = Field(default=None, ge=1)
    latency_p50_ms: float | None = Field(default=None, gt=0)
    metric: str | None = None
    max_regression: float = Field(ge=0)
    epochs: int = Field(default=4, ge=0)
    candidates: int = Field(default=24, ge=1)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.bytes is None and self.latency_p50_ms is None:
            raise ValueError("a target has bytes, latencyP50 or both")
        return self


class Candidate(Shape):
    """What a search has tried. `steps` are for people; `regression` is by how much it is worse than the parent, and
    below 0 where it is better."""

    steps: str
    bytes: int = Field(ge=0)
    latency_p50_ms: float | None = None
    figure: float
    regression: float
    fits: bool = False


class Searched(Shape):
    """What a search has found. `reference` is the parent's figure of the metric; `front` are the candidates to which no
    other is superior in bytes, latency and metric alike, the smallest first; `chosen` are the steps of the accepted
    one, none where there is none."""

    metric: str
    reference: float
    tried: int = Field(ge=0)
    front: tuple[Candidate, ...] = ()
    chosen: tuple[Step, ...] = ()
    chosen_words: str | None = None


class Calibration(Shape):
    """Rows that static quantization measures ranges on, never of the test split."""

    split: Literal["train", "validation"] = "train"
    rows: int = Field(default=512, ge=1)


class DerivedGate(Gate):
    """`max_regression` bounds how much worse than `against` (None: the parent, or the best member) the metric is; which
    way is worse is the metric's own."""

    max_regression: float | None = Field(default=None, ge=0)
    against: Origin | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.min is None and self.max is None and self.max_regression is None:
            raise ValueError(f"gate on {self.metric}: give min, max or maxRegression")
        return self


class NamedData(Shape):
    """A prepared data set: its manifest, and the store where that is another one than the version's."""

    uri: str
    digest: str = Field(pattern=_DIGEST)
    store: StoreAccess | None = None


class DerivedEvaluation(Shape):
    """`data` None is what the parent was trained on."""

    data: NamedData | None = None
    split: PartName = "test"
    gates: tuple[DerivedGate, ...] = ()


class _Derivation(Shape):
    contract: Literal[1] = 1
    namespace: str
    name: str
    uid: str
    publish: Target
    store: StoreAccess
    evaluation: DerivedEvaluation = DerivedEvaluation()
    seed: int = Field(default=0, ge=0, lt=2**32)

    @property
    def manifest_uri(self) -> str:
        """Where the version is published."""
        to = self.publish
        return artifact.manifest_uri(self.store.uri, self.namespace, to.model, to.version, to.variant)

    def fingerprint(self) -> str:
        """A sha256 over what decides the version that is made: two runs that share it were asked for the same thing."""
        apart = {"namespace", "name", "uid", "store", "evaluation", "stage"}
        stated = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=apart)
        return "sha256:" + hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


class CompressRun(_Derivation):
    """One Job of a compression: step `stage` of `steps`, counted from 0; `stage` = len(steps) evaluates and
    publishes. With a `target` stage 0 searches for steps, and stage 1 publishes."""

    parent: Origin
    steps: tuple[Step, ...] = ()
    target: TargetSearch | None = None
    stage: int = Field(ge=0)
    calibration: Calibration = Calibration()

    @model_validator(mode="after")
    def _either(self) -> Self:
        if bool(self.steps) == (self.target is not None):
            raise ValueError("give exactly one of steps and target")
        return self

    @property
    def publishes(self) -> bool:
        return self.stage == (len(self.steps) or 1)

    @property
    def work_folder(self) -> str:
        """Where the stages leave what they made, as a URI; it is removed after the publication."""
        folder = artifact.model_folder(self.store.uri, self.namespace, self.publish.model)
        return f"{folder}/work/{self.fingerprint().removeprefix('sha256:')[:32]}"


class Member(Origin):
    weight: float = Field(default=1.0, gt=0)


class CombineRun(_Derivation):
    """`Stack` fits a logistic (or linear) model on the members' outputs, out of fold."""

    members: tuple[Member, ...] = Field(min_length=2)
    method: Literal["Vote", "Mean", "Weighted", "Stack"] = "Mean"


ImportFormat = Literal["Onnx", "Safetensors", "HuggingFace"]


class ImportRun(_Derivation):
    """What lies at `uri`, of sha256 `digest` where one is given: a file, or of HuggingFace all files below it.

    `columns` are the names of the input's last axis, `names` other names for inputs and outputs of an ONNX graph,
    `samples` the URI of a safetensors file with golden inputs by their names. Safetensors are a `recipe`'s state dict.
    """

    uri: str
    digest: str | None = Field(default=None, pattern=_DIGEST)
    format: ImportFormat
    task: Task | None = None
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    names: Mapping[str, str] = Field(default_factory=dict)
    samples: str | None = None
    recipe: str | None = None
    hyperparameters: Mapping[str, str] = Field(default_factory=dict)


class Size(Shape):
    """A model as it is at some stage. `bytes` are of all files that a server loads, `weights_bytes` of the weights'
    file alone. `parameters` are the entries of its weights, `nonzero` those that are not 0. `metrics` are of the
    validation split (of the evaluation's own where it is published), `latency_p50_ms` of one row in ONNX Runtime on one
    thread, with all weights decoded."""

    bytes: int = Field(ge=0)
    weights_bytes: int = Field(ge=0)
    parameters: int = Field(ge=0)
    nonzero: int = Field(ge=0)
    metrics: Mapping[str, float] = Field(default_factory=dict)
    latency_p50_ms: float | None = None


class DerivationSummary(Message):
    """A Job's termination message. `notes` are for the user: which layers a step left alone, and why. `before` and
    `after` are of the step; of the publication, of the parent (or best member) and of the version. `outcome` is an
    `Outcome`'s reason."""

    outcome: str
    stage: int = 0
    before: Size | None = None
    after: Size | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    artifact: Published | None = None
    metrics: Mapping[str, float] = Field(default_factory=dict)
    search: Searched | None = None
    failure: Failure | None = None

    def shorter(self) -> DerivationSummary | None:
        """First notes go, then the largest of a search's front, then frames, then metrics, then the message's end."""
        update = self._cut()
        return self.model_copy(update=update) if update else None

    def _cut(self) -> dict[str, object]:
        failure, after = self.failure, self.after
        if len(self.notes) > 1:
            return {"notes": (*self.notes[:-2], "…")}
        if self.notes and len(self.notes[0]) > 200:
            return {"notes": (self.notes[0][:200] + "…",)}
        if self.search and len(self.search.front) > 1:
            return {"search": self.search.model_copy(update={"front": self.search.front[:-1]})}
        if failure and failure.frames:
            return {"failure": failure.without_outer_frame()}
        if self.metrics:
            return {"metrics": dict(list(self.metrics.items())[: len(self.metrics) // 2])}
        if self.before or (after and after.metrics):
            return {"before": None, "after": after and after.model_copy(update={"metrics": {}})}
        message = failure.shorter() if failure else None
        return {"failure": message} if message else {}
