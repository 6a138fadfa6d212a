"""Checkpoints on a volume of the pods' own: often, and without the store. The store's checkpoints go on beside them.

    <path>/<namespace>/<job>/<uid>/rank-0-of-4/step-00000050-attempt-1.{pt,json}

Each rank keeps what it has itself, and reads nobody else's: a volume of one node is enough. So they are of use where
all ranks come back to theirs, as many as before; else what is in the store is.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from modelwright.contract import TrainingRun
from modelwright.versions import file_entry
from torch.distributed.tensor import DTensor

from modelwright_trainer.checkpoint import copied
from modelwright_trainer.checkpointname import Name
from modelwright_trainer.failures import UserFailed

# Ranks that were killed may be one save apart.
_KEPT = 2


class LocalCheckpoints:
    """Of one rank. `newest` is collective. `waited` are the seconds that the training has waited for them."""

    def __init__(self, run: TrainingRun, rank: int, world_size: int) -> None:
        stated = run.checkpoint.local
        assert stated is not None  # noqa: S101 - the caller's to know
        self._attempt, self._path = run.attempt, stated.path
        self.every_steps = stated.every_steps
        job = Path(stated.path) / run.namespace / run.name / run.uid
        self._folder = job / f"rank-{rank}-of-{world_size}"
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="local-checkpoint")
        self._pending: Future[None] | None = None
        self.waited = 0.0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> UserFailed:
        return UserFailed(
            f"spec.checkpoint.local.path: {self._path}: {error.strerror}: mount a volume there by"
            " spec.workers.podTemplate that the pod's group may write to (fsGroup), with room for two checkpoints"
        )

    def save(self, step: int, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Begins to save a copy of `tensors` (a state dict) and `state` (JSON). Waits for the save before where that
        has not ended, and raises its error: UserFailed."""
        began = time.monotonic()
        self.drained()
        copy = _own(copied(tensors))
        self._pending = self._writer.submit(self._write, Name(step, self._attempt), copy, dict(state))
        self.waited += time.monotonic() - began

    def drained(self) -> None:
        """Waits for what is being saved, if anything is; raises its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, name: Name, tensors: dict[str, Any], state: Mapping[str, Any]) -> None:
        path = self._folder / f"{name}.pt"
        try:
            torch.save(tensors, path)
            document = json.dumps({"state": state, "digest": file_entry(path, path.name).digest})
            # The last word: without it there is no checkpoint. Renamed, since a process may be killed as it writes.
            fresh = self._folder / f".{name}.json"
            fresh.write_text(document)
            fresh.replace(path.with_suffix(".json"))
            for old in self._names()[_KEPT:]:
                for suffix in (".json", ".pt"):
                    (self._folder / f"{old}{suffix}").unlink(missing_ok=True)
        except OSError as error:
            raise self._refused(error) from error

    def _names(self) -> list[Name]:
        """Newest first."""
        found = (Name.parse(path.stem) for path in self._folder.glob("step-*.json"))
        return sorted((name for name in found if name is not None), reverse=True)

    def newest(self, fingerprint: str) -> tuple[Name, dict[str, Any]] | None:
        """The newest that every rank has whole, and its state; None where there is none. Those of other data or
        hyperparameters are passed over."""
        own = {name: state for name in self._names() if (state := self._whole(name, fingerprint)) is not None}
        gathered: list[list[Name]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(gathered, list(own))
        common = set(gathered[0]).intersection(*gathered[1:])
        if not common:
            return None
        name = max(common)
        return name, own[name]

    def _whole(self, name: Name, fingerprint: str) -> dict[str, Any] | None:
        path = self._folder / f"{name}.pt"
        try:
            document = json.loads(path.with_suffix(".json").read_text())
            state: dict[str, Any] = document["state"]
            if state["fingerprint"] != fingerprint:
                return None
            if file_entry(path, path.name).digest != document["digest"]:
                print(f"local checkpoint {name} is damaged, and passed over", flush=True)
                return None
        except (OSError, ValueError, KeyError):
            return None
        return state

    def load(self, name: Name, tensors: dict[str, Any]) -> None:
        """Fills `tensors`, a state dict of the right shapes, in place."""
        read = torch.load(self._folder / f"{name}.pt", weights_only=True, map_location="cpu")
        _fill(tensors, read)

    def remove(self) -> None:
        """After the publication nobody goes on from them."""
        self.drained()
        shutil.rmtree(self._folder, ignore_errors=True)


def _own(value: Any) -> Any:
    """A state dict with this rank's shares instead of sharded tensors."""
    if isinstance(value, DTensor):
        return value.to_local()
    if isinstance(value, dict):
        return {name: _own(one) for name, one in value.items()}
    return type(value)(_own(one) for one in value) if isinstance(value, list | tuple) else value


def _fill(into: Any, read: Any) -> None:
    """Copies the tensors of `read` into those of `into`; what is no tensor is replaced."""
    for key in into if isinstance(into, dict) else range(len(into)):
        here = into[key]
        if isinstance(here, torch.Tensor):
            (here.to_local() if isinstance(here, DTensor) else here).copy_(read[key])
        elif isinstance(here, dict | list):
            _fill(here, read[key])
        else:
            into[key] = read[key]
