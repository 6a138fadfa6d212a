"""What is to be imported, brought from the store: plain files in a folder of ours, none of which runs code."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

from modelwright.contract import Outcome
from modelwright.store import Store, StoreError, Trouble, place_of

from modelwright_trainer.failures import TrainingFailed

FIELD = "spec.source.import"
# Suffixes of files that are Python's pickle, or a zip with one in it: who loads them runs what is in them.
_PICKLES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".mar", ".dill"})
_PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_ZIP = b"PK\x03\x04"


class Refused(TrainingFailed):
    """What was found is not imported; the text says what it is about and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(Outcome.ARTIFACT_REFUSED, message)


def inside(location: str) -> bool:
    """Whether a path that a file names stays in that file's own folder, on any system."""
    path = PurePosixPath(location)
    plain = bool(location) and not path.is_absolute() and "\\" not in location and ":" not in location
    return plain and ".." not in path.parts and "\0" not in location


def not_pickled(name: str, start: bytes = b"") -> None:
    """Raises Refused for a file that is a pickle by its name or its first bytes."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _PICKLES or start.startswith((*_PICKLE_STARTS, _ZIP)):
        what = f"ends with {suffix}" if suffix in _PICKLES else "begins like a pickle or a zip"
        raise Refused(
            f"{name} {what}: whoever loads a pickle runs what is in it, so none is imported: save the weights as"
            " safetensors, or export the model as ONNX"
        )


def brought(
    store: Store, uri: str, path: Path, *, digest: str | None = None, most: int | None = None, below: str | None = None
) -> str:
    """Brings a file from the store; its digest. `below` is the folder that it was found in. Raises Refused where there
    is none, where it is reached through a link, is larger than `most` bytes, or of another digest; StoreError."""
    _no_link(uri, below or folder_of(uri))
    try:
        size = store.size(uri)
    except StoreError as error:
        if error.trouble in (Trouble.NO_BUCKET, Trouble.BAD_URI):
            raise Refused(f"{FIELD}.uri: {error}") from error
        raise
    if size is None:
        raise Refused(f"{FIELD}.uri: there is no {uri}: mend the URI, or upload it")
    if not size:
        raise Refused(f"{uri} is empty (0 bytes): upload it again")
    if most is not None and size > most:
        raise Refused(f"{uri} has {size} bytes, and {most} are the most")
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise TrainingFailed(
            Outcome.INFRASTRUCTURE,
            f"the scratch volume has {free} bytes free, and {uri} has {size}: mount a larger volume at /tmp by"
            " podTemplate",
        )
    found, _ = store.download(uri, path)
    if digest is not None and found != digest:
        raise Refused(f"{uri} is {found}, and {FIELD}.digest says {digest}: it is another file than the one meant")
    with path.open("rb") as file:
        not_pickled(PurePosixPath(uri).name, file.read(8))
    return found


def _no_link(uri: str, below: str) -> None:
    """What a link on a volume leads to may be anybody's file."""
    bucket, key = place_of(uri)
    if bucket:
        return
    path, root = Path("/") / key, Path("/") / place_of(f"{below.rstrip('/')}/x")[1]
    for one in (path, *path.parents):
        if one == root.parent:
            return
        if one.is_symlink():
            raise Refused(f"{uri} is reached through a link, {one}: copy what it leads to")


def folder_of(uri: str) -> str:
    return uri.rpartition("/")[0]
