"""Checkpoints of the user's own code: folders of any files, in the pod and in the store.

    checkpoint/<step>/{…, DONE}                                                      in the pod
    <store>/checkpoints/<namespace>/<job>/<uid>/own/step-00000050-attempt-1/{…, DONE}     in the store

In the store DONE names all files with their digests, and comes last: a checkpoint without it does not exist. The
attempt in the name keeps a late attempt's files apart from those of the attempt that took over.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from modelwright import artifact
from modelwright.contract import Shape
from modelwright.owncode import DONE, OwnRun
from modelwright.store import Store, StoreError, Trouble
from modelwright.versions import Damaged, file_entry
from pydantic import ValidationError

from modelwright_trainer import checkpointname
from modelwright_trainer.checkpointname import Name

_LOCAL = re.compile(r"^(0|[1-9]\d{0,17})$")


class Whole(Shape):
    """The content of DONE in the store."""

    fingerprint: str
    files: tuple[artifact.File, ...]


def folder_uri(run: OwnRun) -> str:
    return f"{run.store.uri.rstrip('/')}/checkpoints/{run.namespace}/{run.name}/{run.uid}/own"


def stored(paths: Iterable[str]) -> list[Name]:
    """The checkpoints that exist among the paths of their folder, newest first."""
    return checkpointname.complete(paths, DONE)


def complete(folder: Path) -> list[int]:
    """The steps of the complete checkpoints in the pod, newest first."""
    if not folder.is_dir():
        return []
    found = [entry for entry in folder.iterdir() if _LOCAL.match(entry.name) and (entry / DONE).exists()]
    return sorted((int(entry.name) for entry in found), reverse=True)


def save(store: Store, run: OwnRun, fingerprint: str, step: int, folder: Path) -> bool:
    """Uploads the checkpoint in `folder`, and removes from the store what is older than the ones to keep. False where
    the code removed it meanwhile, having a newer one. Raises StoreError."""
    uri, name = folder_uri(run), Name(step, run.attempt)
    try:
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / DONE)
        files = tuple(file_entry(path, path.relative_to(folder).as_posix()) for path in paths)
        for file, path in zip(files, paths, strict=True):
            store.write(f"{uri}/{name}/{file.path}", path)
    except FileNotFoundError:
        return False
    except StoreError:
        if (folder / DONE).exists():
            raise
        return False
    try:
        store.create(f"{uri}/{name}/{DONE}", Whole(fingerprint=fingerprint, files=files).to_json().encode())
    except StoreError as error:
        # Our own request, answered too late and sent again; nobody else has this attempt's number.
        if error.trouble is not Trouble.EXISTS:
            raise
    _remove_old(store, run, name)
    return True


def _remove_old(store: Store, run: OwnRun, newest: Name) -> None:
    """Keeps the newest ones up to `newest`; those of later attempts are none of this attempt's business."""
    uri = folder_uri(run)
    paths = store.names(uri)
    ours = [name for name in stored(paths) if name <= newest and name.attempt <= newest.attempt]
    for old in ours[run.keep :]:
        # DONE first: what is half removed does not exist.
        doomed = sorted(
            (path for path in paths if path.startswith(f"{old}/")), key=lambda path: path != f"{old}/{DONE}"
        )
        store.remove(f"{uri}/{path}" for path in doomed)


def restore(store: Store, run: OwnRun, fingerprint: str, folder: Path) -> int | None:
    """Brings the newest whole checkpoint into `folder`, as the code left it; its step, None where there is none. Those
    of other code or data are passed over. Raises StoreError."""
    uri = folder_uri(run)
    for name in stored(store.names(uri)):
        try:
            whole = Whole.model_validate_json(store.read(f"{uri}/{name}/{DONE}"))
            if whole.fingerprint != fingerprint:
                print(f"the checkpoint at step {name.step} is of other code or data: passed over", flush=True)
                continue
            _bring(store, f"{uri}/{name}", whole, folder / str(name.step))
        except (Damaged, ValidationError, StoreError) as error:
            if isinstance(error, StoreError) and error.trouble is not Trouble.NO_OBJECT:
                raise
            print(f"checkpoint {name} is damaged, and passed over: {error}", flush=True)
            continue
        return name.step
    return None


def _bring(store: Store, uri: str, whole: Whole, into: Path) -> None:
    """All files or none. Raises Damaged, StoreError."""
    try:
        into.mkdir(parents=True)
        for file in whole.files:
            path = into / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            digest, _ = store.download(f"{uri}/{file.path}", path)
            if digest != file.digest:
                raise Damaged(f"{file.path} is {digest}, not {file.digest}")  # noqa: TRY301 - all files or none
        (into / DONE).touch()
        for path in (into, *into.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise
