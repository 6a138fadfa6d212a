"""The contract with a worker that runs the user's own image and command: plain files in a folder that all containers of
the pod share. docs/own-code.md says the same to who writes that code.

    data/                  what `data.uri` names; file:// data stay where they are
    checkpoint/<step>/     complete once a file DONE is in it; at the start there is the newest complete one
    progress.json          how far it is, as `Told`
    output/                what is published, if the command ends with 0

`fetch` fills the folder, `progress` watches it, `publish` reads it; each is a command of the trainer's image that reads
an `OwnRun` as JSON at `contract.JOB_PATH`, and ends with one of `contract.Outcome`s and a `contract.Summary`.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import urllib.parse
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from modelwright.contract import JOB_PATH, PROGRESS_PORT, Gate, Publish, Shape, StoreAccess, Task, Workers

FOLDER = "/modelwright"
DATA = "data"
CHECKPOINT = "checkpoint"
OUTPUT = "output"
PROGRESS_FILE = "progress.json"
DONE = "DONE"

METRICS_FILE = "metrics.json"
CLASSES_FILE = "classes.json"
FACTORY_FILE = "factory.json"
SAMPLES_FILES = ("samples.npz", "samples.safetensors")
NATIVE = "native"

FETCH = ("own", "fetch", "--job", JOB_PATH)
PROGRESS = ("own", "progress", "--job", JOB_PATH)
PUBLISH = ("own", "publish", "--job", JOB_PATH)
"""Arguments of the trainer image's entry point."""


class Code(Shape):
    """What the user wrote of the container. Where `command` is None it is the image's own."""

    image: str
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: Mapping[str, str] = Field(default_factory=dict)


class OwnData(Shape):
    """A file, or below a URI that ends with a slash all files; or, where `digest` is given, a prepared data set, whose
    manifest's these are. `store` is how to reach it where that differs from the job's store (its `uri` is not used)."""

    uri: str
    digest: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")
    target: str | None = None
    task: Task | None = None
    store: StoreAccess | None = None

    def path(self, folder: str = FOLDER) -> str:
        """Where the code finds it: a file where it is one file, else a folder."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.uri).path)
        if self.digest is not None or (self.uri.startswith("s3://") and path.endswith("/")):
            return posixpath.join(folder, DATA)
        if self.uri.startswith("s3://"):
            return posixpath.join(folder, DATA, posixpath.basename(path))
        return path.rstrip("/") or "/"


class OwnRun(Shape):
    """The resolved job of one attempt. `keep` is how many of the newest checkpoints the store keeps; `grace_seconds`
    the time between SIGTERM and SIGKILL, less a little; `stall_seconds` how long code that tells of its progress may be
    silent before it counts as hung."""

    contract: Literal[1] = 1
    namespace: str
    name: str
    uid: str
    attempt: int = Field(default=1, ge=1)
    publish: Publish
    store: StoreAccess
    data: OwnData
    code: Code
    workers: Workers = Workers()
    keep: int = Field(default=2, ge=1)
    gates: tuple[Gate, ...] = ()
    grace_seconds: float = Field(default=25.0, gt=0)
    stall_seconds: float = Field(default=600.0, gt=0)
    progress_port: int = Field(default=PROGRESS_PORT, ge=0, le=65535)

    def fingerprint(self, data_digest: str) -> str:
        """A sha256 over what the user asked for, except the number of workers: as `TrainingRun.fingerprint`."""
        stated = {"data": data_digest, "target": self.data.target, "task": self.data.task, "code": self.code.to_json()}
        return "sha256:" + hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def environment(run: OwnRun) -> dict[str, str]:
    """What the code finds in its environment, but for the pod's index. torchrun takes its options from PET_*; what
    begins without torchrun, one process in each pod, finds what `torch.distributed` reads itself."""
    workers = run.workers
    given = {
        "MODELWRIGHT_DATA": run.data.path(),
        "MODELWRIGHT_CHECKPOINT": posixpath.join(FOLDER, CHECKPOINT),
        "MODELWRIGHT_OUTPUT": posixpath.join(FOLDER, OUTPUT),
        "MODELWRIGHT_PROGRESS": posixpath.join(FOLDER, PROGRESS_FILE),
        "PET_NNODES": str(workers.replicas),
        "PET_NPROC_PER_NODE": str(workers.processes_per_worker),
        "PET_MASTER_ADDR": workers.master,
        "PET_MASTER_PORT": str(workers.master_port),
        # torchrun kills its processes 30 s after SIGTERM, unless told otherwise.
        "PET_SHUTDOWN_TIMEOUT": str(max(1, int(run.grace_seconds) - 5)),
        "MASTER_ADDR": workers.master,
        "MASTER_PORT": str(workers.master_port),
        "NNODES": str(workers.replicas),
        "WORLD_SIZE": str(workers.world_size),
    }
    if run.data.target is not None:
        given["MODELWRIGHT_TARGET"] = run.data.target
    if run.data.task is not None:
        given["MODELWRIGHT_TASK"] = run.data.task
    return given


INDEX_VARIABLES = ("PET_NODE_RANK", "NODE_RANK")
"""Hold the pod's index; so does RANK where there is one process in each pod."""


class Told(BaseModel):
    """The content of `progress.json`; all of it is optional, and what else is in it is the code's own affair. A step is
    one global batch, losses are means over rows."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    step: int = Field(default=0, ge=0)
    total_steps: int = Field(default=0, ge=0)
    epoch: int = Field(default=0, ge=0)
    epochs: int = Field(default=0, ge=0)
    loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    samples_per_second: float = Field(default=0.0, ge=0)


class Factory(Shape):
    """The content of `factory.json`: how to build the module anew in the image that trained it. `entrypoint` is
    "package.module:function", called with `kwargs`."""

    entrypoint: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", max_length=256)
    kwargs: Mapping[str, str | int | float | bool] = Field(default_factory=dict)
