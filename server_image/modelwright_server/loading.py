"""From a run to a model that may serve: fetched and every digest checked, loaded, its golden samples agreed, warm."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from modelwright import artifact, versions
from modelwright.artifact import Golden, Manifest
from modelwright.contract import StoreAccess
from modelwright.serving import Phase, Reason, ServingRun, ServingWarning, version_label
from modelwright.store import Store, StoreError, Trouble

from modelwright_server.failures import ServingFailed

if TYPE_CHECKING:
    from modelwright_server.drift import Baseline
    from modelwright_server.engine import Engine
    from modelwright_server.golden import Samples

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
_NO_ROOM_BYTES = 1024 * 1024


Took = Callable[[str, float], None]


class Named(Protocol):
    """A version in a store: what all three kinds of run name."""

    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def variant(self) -> str | None: ...
    @property
    def manifest_uri(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def store(self) -> StoreAccess: ...


@dataclasses.dataclass(frozen=True)
class Loaded:
    engine: Engine
    manifest: Manifest
    samples: Samples
    warnings: tuple[ServingWarning, ...]
    unbatched: str | None = None
    """Why requests must not be put together; None where they may."""
    baseline: Baseline | None = None


def folder_of(digest: str) -> Path:
    """Where a version's files go: the same place after a restart of the container, so that they are not fetched again
    (each is checked again all the same)."""
    return Path(tempfile.gettempdir()) / "modelwright" / digest.removeprefix("sha256:")[:32]


def fetch(run: Named, folder: Path, patience_seconds: float) -> Manifest:
    """Brings the run's version into `folder`, each digest checked. Raises ServingFailed."""

    def fetched(store: Store) -> Manifest:
        # What this server does not run is said before it is brought: the user's own files may be many.
        _check_formats(run, versions.read(store, run.manifest_uri, run.digest))
        return versions.fetch(store, run.manifest_uri, run.digest, folder)

    return _patiently(run, folder, patience_seconds, fetched)


def fetch_golden(run: Named, folder: Path, patience_seconds: float) -> Manifest:
    """Brings only the run's golden samples into `folder`, the manifest's digest and theirs checked. Raises
    ServingFailed."""

    def fetched(store: Store) -> Manifest:
        manifest = versions.read(store, run.manifest_uri, run.digest)
        golden = _check_formats(run, manifest)
        wanted = next(file for file in manifest.files if file.path == golden.path)
        uri = artifact.blob_uri(run.manifest_uri, wanted.digest)
        path = folder / wanted.path
        path.parent.mkdir(parents=True, exist_ok=True)
        found, _ = store.download(uri, path)
        if found != wanted.digest:
            raise versions.Damaged(f"{uri}: {wanted.path} is {found}")
        return manifest

    return _patiently(run, folder, patience_seconds, fetched)


def _patiently(run: Named, folder: Path, seconds: float, fetched: Callable[[Store], Manifest]) -> Manifest:
    """What `fetched` gives; a store that does not answer is tried again until `seconds` are over."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    store = Store(run.store)
    ends = time.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            manifest = fetched(store)
            break
        except versions.Damaged as error:
            raise _damaged(store, run, str(error)) from error
        except StoreError as error:
            if error.trouble is not Trouble.UNREACHABLE:
                raise _refused(store, run, error) from error
            if shutil.disk_usage(folder).free < _NO_ROOM_BYTES:
                raise ServingFailed(
                    Reason.LOAD_FAILED,
                    f"{folder} is full: give the pod's volume at /tmp room for all of the version's files",
                ) from error
            if time.monotonic() + pause > ends:
                raise ServingFailed(Reason.STORE_UNREACHABLE, f"{error}; tried for {seconds:.0f} s") from error
            log.warning("%s; trying again in %.1f s", error, pause)
            # Pods that start at once should not all come back at once.
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret hangs on it
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
    _check_names(run, manifest)
    return manifest


def load(
    run: ServingRun, threads: int, tell: Callable[[Phase], None] = lambda _: None, took: Took = lambda *_: None
) -> Loaded:
    """All of it, in order; `tell` is told what begins, `took` how long it took. Raises ServingFailed."""
    folder = folder_of(run.digest)
    tell(Phase.FETCHING)
    with _timed("fetch", took):
        manifest = fetch(run, folder, run.store_patience_seconds)
    loaded = check(folder, manifest, threads, tell, took)
    tell(Phase.WARMING_UP)
    with _timed("warmup", took):
        names = [one.name for one in loaded.engine.outputs]
        for index in range(run.warmup_requests):
            loaded.engine.run(loaded.samples.row(index).inputs, names)
        from modelwright_server import drift
        from modelwright_server.batching import obstacle

        engine = loaded.engine
        unbatched = obstacle(engine.inputs, engine.outputs, loaded.samples, engine.run)
    return dataclasses.replace(loaded, unbatched=unbatched, baseline=drift.read(folder, manifest))


def check(
    folder: Path,
    manifest: Manifest,
    threads: int,
    tell: Callable[[Phase], None] = lambda _: None,
    took: Took = lambda *_: None,
) -> Loaded:
    """Loads what was fetched, and runs its golden samples. Raises ServingFailed."""
    tell(Phase.LOADING)
    with _timed("session", took):
        # Imported here: a process is live, and its failures to fetch are told, before the runtime is there.
        from modelwright_server.engine import PROVIDER, Engine, InferenceFailed

        engine = Engine(folder, manifest, threads)
    tell(Phase.CHECKING)
    with _timed("golden", took):
        from modelwright_server import golden

        samples = golden.read(folder, manifest)
        try:
            warning = golden.check(samples, engine.run, PROVIDER)
        except InferenceFailed as error:
            raise ServingFailed(Reason.LOAD_FAILED, f"the graph fails on its golden samples: {error}") from error
    if warning:
        log.warning("%s: %s", warning.reason, warning.message)
    return Loaded(engine, manifest, samples, (warning,) if warning else ())


@contextlib.contextmanager
def _timed(part: str, took: Took) -> Iterator[None]:
    began = time.perf_counter()
    yield
    took(part, time.perf_counter() - began)


def _check_formats(run: Named, manifest: Manifest) -> Golden:
    """The golden samples of a version with a graph. Raises ServingFailed (FormatUnavailable) where it has none."""
    if manifest.formats.onnx is None or manifest.golden is None:
        formats = manifest.formats.model_dump(exclude_none=True)
        raise ServingFailed(Reason.FORMAT_UNAVAILABLE, f"{run.manifest_uri}: {_not_served(formats)}")
    return manifest.golden


def _not_served(formats: Iterable[str]) -> str:
    return (
        f"its formats are {', '.join(sorted(formats)) or 'none'}, and this server runs onnx: choose another runtime, or"
        " publish the version as ONNX"
    )


def _check_names(run: Named, manifest: Manifest) -> None:
    stated = (manifest.model, version_label(manifest.version, manifest.variant))
    asked = (run.model, version_label(run.version, run.variant))
    if stated != asked:
        raise ServingFailed(
            Reason.VERSION_MISMATCH,
            f"{run.manifest_uri} is {' '.join(stated)}, and {' '.join(asked)} was asked for: mend the reference",
        )


def _refused(store: Store, run: Named, error: StoreError) -> ServingFailed:
    """Of a store that answered: a blob that is missing is the artifact's damage, all else is the store's refusal."""
    if error.trouble is Trouble.NO_OBJECT and "/blobs/" in str(error):
        lost = "a file"
        with contextlib.suppress(StoreError, ValueError):
            manifest = Manifest.from_bytes(store.read(run.manifest_uri))
            named = {artifact.blob_uri(run.manifest_uri, file.digest): file.path for file in manifest.files}
            lost = next((path for uri, path in named.items() if str(error).startswith(uri)), lost)
        return ServingFailed(
            Reason.ARTIFACT_DAMAGED,
            f"{lost} of {run.model} {version_label(run.version, run.variant)} is missing in the store ({error}):"
            " restore it, or publish the version anew",
        )
    return ServingFailed(Reason.STORE_REFUSED, str(error))


def _damaged(store: Store, run: Named, message: str) -> ServingFailed:
    """What is not as its digest says is damaged; an undamaged manifest that this server cannot read is of another time
    or kind."""
    with contextlib.suppress(StoreError, ValueError):
        content = store.read(run.manifest_uri)
        stated = json.loads(content) if artifact.digest_of(content) == run.digest else None
        unread = _unread(stated) if isinstance(stated, dict) else None
        if unread:
            return ServingFailed(Reason.FORMAT_UNAVAILABLE, f"{run.manifest_uri}: {unread}")
    return ServingFailed(Reason.ARTIFACT_DAMAGED, f"{message}: restore it, or publish the version anew")


def _unread(stated: Mapping[str, Any]) -> str | None:
    """Why a manifest that is whole may yet not be one for this server."""
    schema, formats = stated.get("schemaVersion"), stated.get("formats")
    if schema not in (None, 1):
        return f"its schema is {schema}, and this server reads 1: use a newer image"
    if isinstance(formats, dict) and "onnx" not in formats:
        return _not_served(formats)
    return None
