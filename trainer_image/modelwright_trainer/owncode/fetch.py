"""Before the user's code: its data and the newest checkpoint are brought into the pod, and what would make all of it
vain is said before it begins."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from modelwright import artifact, versions
from modelwright.datasets import DatasetManifest, folder_of
from modelwright.owncode import FOLDER, OwnRun
from modelwright.store import Store, StoreError, Trouble
from modelwright.versions import Damaged
from pydantic import ValidationError

from modelwright_trainer.failures import DataFailed
from modelwright_trainer.owncode import checkpoints
from modelwright_trainer.owncode.files import Fetched, Folder
from modelwright_trainer.rendezvous import Rendezvous, await_master

_ALTERED = "it was altered in the store: delete the Dataset and create it anew"


def fetch(run: OwnRun, store: Store, folder: Folder, index: int, sleep: Callable[[float], None] = time.sleep) -> None:
    """Fills the pod's folder. Raises DataFailed, Conflict, Damaged, StoreError, and Failed where the pods do not find
    each other."""
    folder.make()
    access = run.data.store
    data_digest = _data(run, Store(access) if access else store, folder)
    fingerprint = run.fingerprint(data_digest)
    uri = artifact.manifest_uri(run.store.uri, run.namespace, run.publish.model, run.publish.version)
    standing = versions.standing(store, uri)
    if standing is not None:
        # Another one's, or else an earlier attempt's, which then stands.
        versions.agreed(uri, standing, fingerprint)
    step = checkpoints.restore(store, run, fingerprint, folder.checkpoint)
    print("no checkpoint: the code begins anew" if step is None else f"checkpoint of step {step}", flush=True)
    if run.workers.replicas > 1:
        # The name of a pod that was only just started is not in DNS yet, which is for nobody's code to know.
        workers = run.workers
        meeting = Rendezvous(
            workers.master, workers.master_port, 0, workers.replicas, workers.rendezvous_seconds
        )  # fmt: skip
        print(f"worker {index}: index 0 is {await_master(meeting, sleep=sleep)}", flush=True)
    found = Fetched(data_digest=data_digest, fingerprint=fingerprint, resumed_step=step)
    folder.fetched.write_text(found.to_json())


def _data(run: OwnRun, store: Store, folder: Folder) -> str:
    """Brings the data to where the code looks for them; their digest."""
    data = run.data
    try:
        if data.digest is not None:
            return _dataset(store, data.uri, data.digest, folder.data)
        place = folder.root / PurePosixPath(data.path()).relative_to(FOLDER) if data.uri.startswith("s3://") else None
        if data.uri.endswith("/") or (place is None and Path(data.path()).is_dir()):
            return _prefix(store, data.uri, place)
        digest, size = store.download(data.uri, place)
    except StoreError as error:
        if error.trouble in (Trouble.NO_OBJECT, Trouble.NO_BUCKET, Trouble.BAD_URI):
            raise DataFailed(f"data.uri: {error}") from error
        raise
    print(f"{data.uri}: {size} bytes, {digest}", flush=True)
    return digest


def _prefix(store: Store, uri: str, into: Path | None) -> str:
    """Brings all files below `uri`; the digest is of their names and digests."""
    names = store.names(uri)
    if not names:
        raise DataFailed(f"data.uri: below {uri} there is nothing: upload the files, or mend the URI")
    whole, total = hashlib.sha256(), 0
    for name in names:
        if ".." in name.split("/"):
            raise DataFailed(f"data.uri: {uri}{name} cannot be a file of the pod's: rename it")
        path = into / name if into else None
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        digest, size = store.download(f"{uri.rstrip('/')}/{name}", path)
        whole.update(f"{digest} {name}\n".encode())
        total += size
    print(f"{uri}: {len(names)} files, {total} bytes", flush=True)
    return f"sha256:{whole.hexdigest()}"


def _dataset(store: Store, uri: str, digest: str, into: Path) -> str:
    """Brings the shards of a prepared data set, as <part>/<number>.parquet, with its manifest beside them."""
    content = store.read(uri)
    if artifact.digest_of(content) != digest:
        raise Damaged(f"{uri}: the manifest is {artifact.digest_of(content)}, and {digest} was asked for: {_ALTERED}")
    try:
        manifest = DatasetManifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataFailed(
            f"{uri}: {'.'.join(map(str, first['loc']))}: {first['msg']}: delete the Dataset and create it anew"
        ) from error
    for part, split in manifest.splits.items():
        (into / part).mkdir(exist_ok=True)
        for number, shard in enumerate(split.shards):
            found, _ = store.download(f"{folder_of(uri)}/{shard.path}", into / part / f"{number:05d}.parquet")
            if found != shard.digest:
                raise Damaged(f"{folder_of(uri)}/{shard.path} is {found}: {_ALTERED}")
    (into / "dataset.json").write_bytes(content)
    print(f"Dataset {manifest.name}: {manifest.rows} rows", flush=True)
    return digest
