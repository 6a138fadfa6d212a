"""Checkpoints in the store: torch.distributed.checkpoint's files, and `state.json` beside them.

    <store>/checkpoints/<namespace>/<job>/<uid>/step-00000050-attempt-1/{__0_0.distcp, …, state.json, .metadata}

Each rank writes and uploads its own files; `state.json` names all with their digests; `.metadata` comes last and is
created, never overwritten: a checkpoint without it does not exist. The attempt in the name keeps a late attempt's files
apart from those of the attempt that took over.

The training waits while its state is copied, and goes on while the copy is written. One copy is on its way at most.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import pickle
import shutil
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from modelwright.contract import TrainingRun
from modelwright.store import Store, StoreError, Trouble
from modelwright.versions import Damaged, file_entry

from modelwright_trainer.checkpointname import Name, complete

METADATA = ".metadata"
STATE = "state.json"
# All that a checkpoint of tensors is described by. `.metadata` is a pickle, and a pickle may name any function.
_DESCRIPTION = "torch.distributed.checkpoint.metadata"
_NAMED = {
    *((_DESCRIPTION, name) for name in (
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "BytesStorageMetadata", "StorageMeta", "_MEM_FORMAT_ENCODING",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"), ("torch", "Size"),
    ("torch.serialization", "_get_layout"), ("pathlib._local", "PosixPath"), ("pathlib", "PosixPath"),
}  # fmt: skip


def folder_uri(run: TrainingRun) -> str:
    return f"{run.store.uri.rstrip('/')}/checkpoints/{run.namespace}/{run.name}/{run.uid}"


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NAMED:
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.layout):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"a checkpoint's metadata does not need {module}.{name}")


class _Reader(dcp.FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002 - the base class's signature
        with (Path(self.path) / METADATA).open("rb") as file:
            metadata = _Unpickler(file).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = dcp.metadata.StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


@dataclasses.dataclass(frozen=True)
class Saved:
    """A complete checkpoint: its size in bytes, over all ranks, and the seconds that writing it took."""

    step: int
    size: int
    seconds: float


class Checkpoints:
    """The checkpoints of one job, seen from one rank. Its methods are collective, but for `ended`: all ranks call them
    together, and all end with the same answer. `scratch` is a folder of this rank alone. `waited` are the seconds that
    the training has waited for checkpoints."""

    def __init__(self, store: Store, run: TrainingRun, rank: int, scratch: Path) -> None:
        self._store, self._run, self._rank, self._scratch = store, run, rank, scratch
        self._uri = folder_uri(run)
        # What is said while one is written must not come between what the training's ranks say to each other.
        patience = datetime.timedelta(seconds=max(run.stall_seconds, run.workers.rendezvous_seconds))
        self._group = dist.new_group(backend="gloo", timeout=patience)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Saved] | None = None
        self.waited = 0.0

    def save(self, step: int, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> Saved | None:
        """Begins to save `tensors` (a state dict, of which a copy is made) and `state` (JSON), and to remove what is
        older than the ones to keep. Waits for the save before where that has not ended, and gives it; raises its
        error."""
        before, began = self.drained(), time.monotonic()
        copy = copied(tensors)
        self._pending = self._writer.submit(self._write, step, copy, dict(state))
        self.waited += time.monotonic() - began
        return before

    def ended(self) -> Saved | None:
        """A save that has ended since the last look; raises its error, such as a StoreError."""
        return self.drained() if self._pending is not None and self._pending.done() else None

    def drained(self) -> Saved | None:
        """Waits for what is being saved, if anything is; raises its error."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        began = time.monotonic()
        try:
            return pending.result()
        finally:
            self.waited += time.monotonic() - began

    def _write(self, step: int, tensors: dict[str, Any], state: Mapping[str, Any]) -> Saved:
        began = time.monotonic()
        name = Name(step, self._run.attempt)
        folder = self._scratch / str(name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)  # a rank that has nothing to write would make none
        dcp.save(tensors, checkpoint_id=folder, process_group=self._group)
        own = [file_entry(path, path.name) for path in sorted(folder.iterdir()) if path.name != METADATA]
        for file in own:
            self._store.write(f"{self._uri}/{name}/{file.path}", folder / file.path)
        # A rank that has failed is known to the others here: they fail with it, and `.metadata` is not written.
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, [file.model_dump() for file in own], group=self._group)
        if self._rank == 0:
            files = {file["path"]: file["digest"] for part in gathered for file in part}
            document = json.dumps({"state": state, "files": files}).encode()
            self._store.write(f"{self._uri}/{name}/{STATE}", document)
            try:
                self._store.create(f"{self._uri}/{name}/{METADATA}", (folder / METADATA).read_bytes())
            except StoreError as error:
                # Our own request, answered too late and sent again; nobody else has this attempt's number.
                if error.trouble is not Trouble.EXISTS:
                    raise
            self._remove_old(name)
        dist.barrier(group=self._group)
        shutil.rmtree(folder, ignore_errors=True)
        size = sum(file["size"] for part in gathered for file in part)
        return Saved(step, size, time.monotonic() - began)

    def _remove_old(self, newest: Name) -> None:
        """Keeps the newest ones up to `newest`; those of later attempts are none of this attempt's business."""
        paths = self._store.names(self._uri)
        ours = [name for name in complete(paths, METADATA) if name <= newest and name.attempt <= newest.attempt]
        for old in ours[self._run.checkpoint.keep :]:
            prefix = f"{old}/"
            # `.metadata` first: what is half removed does not exist.
            doomed = sorted((path for path in paths if path.startswith(prefix)), key=lambda path: METADATA not in path)
            self._store.remove(f"{self._uri}/{path}" for path in doomed)

    def newest(self, fingerprint: str, after: int = -1) -> tuple[Name, dict[str, Any]] | None:
        """The newest whole checkpoint of a later step than `after`, brought into this rank's scratch folder, and its
        state; None where there is none. Rank 0 chooses. Those of other data or hyperparameters are passed over."""
        chosen: list[Any] = [None]
        for name in self._listed():
            if name.step <= after:
                break
            if self._rank == 0:
                chosen = [self._brought(name)]
            dist.broadcast_object_list(chosen, src=0)
            state = chosen[0]
            if state is None:
                continue
            if state["fingerprint"] != fingerprint:
                # The spec was corrected, or the data were: what was learned from others is no start for these.
                if self._rank == 0:
                    print(
                        f"the checkpoint at step {name.step} is of other data or hyperparameters: passed over",
                        flush=True,
                    )
                continue
            if self._rank != 0 and self._brought(name) is None:
                raise StoreError(Trouble.NO_OBJECT, f"{self._uri}/{name}: it was there for rank 0, and is gone")
            return name, state
        return None

    def _listed(self) -> list[Name]:
        listed: list[Any] = [complete(self._store.names(self._uri), METADATA) if self._rank == 0 else None]
        dist.broadcast_object_list(listed, src=0)
        names: list[Name] = listed[0]
        return names

    def _brought(self, name: Name) -> dict[str, Any] | None:
        folder = self._scratch / f"resume-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        uri = f"{self._uri}/{name}"
        try:
            document = json.loads(self._store.read(f"{uri}/{STATE}"))
            for path, digest in document["files"].items():
                found, _ = self._store.download(f"{uri}/{path}", folder / Path(path).name)
                if found != digest:
                    raise Damaged(f"{path} is {found}, not {digest}")  # noqa: TRY301 - it is passed over below
            (folder / METADATA).write_bytes(self._store.read(f"{uri}/{METADATA}"))
        except (Damaged, ValueError, KeyError, StoreError) as error:
            if isinstance(error, StoreError) and error.trouble is not Trouble.NO_OBJECT:
                raise
            print(f"checkpoint {name} is damaged, and passed over: {error}", file=sys.stderr, flush=True)
            return None
        state: dict[str, Any] = document["state"]
        return state

    def load(self, name: Name, tensors: dict[str, Any]) -> None:
        """Fills `tensors`, a state dict of the right shapes, in place."""
        folder = self._scratch / f"resume-{name}"
        dcp.load(tensors, storage_reader=_Reader(folder), process_group=self._group)
        shutil.rmtree(folder, ignore_errors=True)


def copied(value: Any) -> Any:
    """A state dict whose tensors, or this rank's shares of them, are copies in main memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone() if value.device.type == "cpu" else value.detach().to("cpu")
    if isinstance(value, dict):
        return {name: copied(one) for name, one in value.items()}
    return type(value)(copied(one) for one in value) if isinstance(value, list | tuple) else value
