"""For training code of your own that runs in a TrainingJob: its progress, its checkpoints and what it publishes.

One file that needs nothing but Python: install the package `modelwright`, or copy the file. All that it does is to
write the plain files that docs/own-code.md describes, so code that does not import it can do the same. Outside of a
pod the files go to the folder `modelwright` of the working directory.

    from modelwright import trainlib

    found = trainlib.checkpoint()                       # (step, folder) to go on from, or None
    for step in range(found[0] if found else 0, steps):
        loss = train_a_batch()
        trainlib.progress(step=step + 1, total_steps=steps, loss=loss)
        if trainlib.stopping() or (step + 1) % 100 == 0:
            with trainlib.save_checkpoint(step + 1) as folder:
                torch.save(model.state_dict(), folder / "model.pt")
        if trainlib.stopping():
            raise SystemExit(1)                         # another attempt goes on from here
    torch.onnx.export(model, example, trainlib.output() / "model.onnx")
    trainlib.publish(metrics={"accuracy": 0.97})

Of several processes that train together only the first writes; the others may call all of it, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_DONE = "DONE"
_told: dict[str, Any] = {}
_stop: threading.Event | None = None


def _place(variable: str, name: str) -> Path:
    return Path(os.environ.get(variable) or Path("modelwright") / name)


def is_first() -> bool:
    """Whether this is the process that tells: rank 0 of all."""
    return int(os.environ.get("RANK") or os.environ.get("NODE_RANK") or "0") == 0


def data() -> Path:
    """What `spec.data.uri` names: a file, or the folder of its files. Raises RuntimeError outside of a pod, unless
    MODELWRIGHT_DATA is set."""
    path = os.environ.get("MODELWRIGHT_DATA")
    if not path:
        raise RuntimeError("MODELWRIGHT_DATA is not set: outside of a TrainingJob, set it to the path of the data")
    return Path(path)


def output() -> Path:
    """The folder that is published if the process ends with exit code 0: `model.onnx` with its external data, or any
    files in `native`."""
    made = _place("MODELWRIGHT_OUTPUT", "output")
    made.mkdir(parents=True, exist_ok=True)
    return made


def progress(
    *,
    step: int | None = None,
    total_steps: int | None = None,
    epoch: int | None = None,
    epochs: int | None = None,
    loss: float | None = None,
    validation_loss: float | None = None,
    validation_accuracy: float | None = None,
    samples_per_second: float | None = None,
) -> None:
    """Tells how far it is; what is left out stays as it was told last. A step is one global batch, losses are means
    over rows. Once code tells of its progress, silence for `failurePolicy.stallTimeout` counts as a hang."""
    given = {
        "step": step,
        "totalSteps": total_steps,
        "epoch": epoch,
        "epochs": epochs,
        "loss": loss,
        "validationLoss": validation_loss,
        "validationAccuracy": validation_accuracy,
        "samplesPerSecond": samples_per_second,
    }
    _told.update({name: _number(value) for name, value in given.items() if value is not None})
    if is_first():
        _replace(_place("MODELWRIGHT_PROGRESS", "progress.json"), json.dumps(_told))


def checkpoint() -> tuple[int, Path] | None:
    """The newest complete checkpoint, as its step and its folder; None where there is none."""
    folder = _place("MODELWRIGHT_CHECKPOINT", "checkpoint")
    found = [entry for entry in folder.iterdir() if _is_complete(entry)] if folder.is_dir() else []
    newest = max(found, key=lambda entry: int(entry.name), default=None)
    return None if newest is None else (int(newest.name), newest)


@contextlib.contextmanager
def save_checkpoint(step: int, *, keep: int = 2) -> Iterator[Path]:
    """Gives a folder to save to. When the block ends without an error the checkpoint is complete, and all but the
    newest `keep` are removed here; how many the store keeps is `checkpoint.keep` of the TrainingJob. In the other
    processes it gives a folder that is dropped."""
    if not is_first():
        with tempfile.TemporaryDirectory() as dropped:
            yield Path(dropped)
        return
    folder = _place("MODELWRIGHT_CHECKPOINT", "checkpoint")
    made = folder / str(step)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    yield made
    (made / _DONE).touch()
    complete = sorted((entry for entry in folder.iterdir() if _is_complete(entry)), key=lambda entry: int(entry.name))
    for old in complete[: -max(1, keep)]:
        (old / _DONE).unlink(missing_ok=True)  # what is half removed is not complete
        shutil.rmtree(old, ignore_errors=True)


def stopping() -> bool:
    """Whether the pod is to end (SIGTERM), as for a suspension or an eviction: save a checkpoint, and exit, with any
    code but 0. The first call takes over the handling of SIGTERM, and is made in the main thread; so call it once
    before the training begins. Where several processes train together it may be true in one of them alone."""
    global _stop
    if _stop is None:
        _stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda _signal, _frame: _stop.set() if _stop else None)
    return _stop.is_set()


def publish(
    *,
    metrics: Mapping[str, float] | None = None,
    classes: Sequence[str] | None = None,
    onnx: str | os.PathLike[str] | None = None,
    native: str | os.PathLike[str] | None = None,
    samples: Mapping[str, Any] | None = None,
    entrypoint: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Says what is published once the process has ended with exit code 0.

    metrics: figures by name, on rows that were not trained on; the job's gates decide on them.
    classes: names of the classes, in the order of the outputs.
    onnx, native: a model.onnx, or a folder with one and its external data; any other files or folder. Left out where
        they are in `output()` already.
    samples: numpy arrays by the names of the graph's inputs, a few rows each, which the server is checked with; without
        them inputs are made up.
    entrypoint, kwargs: "package.module:function" and its arguments, which builds the module anew in the same image.
    """
    if not is_first():
        return
    folder = output()
    if onnx is not None:
        _copy(Path(onnx), folder / "model.onnx" if Path(onnx).is_file() else folder)
    if native is not None:
        _copy(Path(native), folder / "native" / Path(native).name if Path(native).is_file() else folder / "native")
    if samples is not None:
        import numpy

        numpy.savez(folder / "samples.npz", **samples)
    documents = {
        "metrics.json": None if metrics is None else {name: _number(value) for name, value in metrics.items()},
        "classes.json": None if classes is None else [str(name) for name in classes],
        "factory.json": None if entrypoint is None else {"entrypoint": entrypoint, "kwargs": dict(kwargs or {})},
    }
    for name, document in documents.items():
        if document is not None:
            _replace(folder / name, json.dumps(document))


def _number(value: Any) -> Any:
    """As Python's own: a tensor or an array of one element is no JSON."""
    return value.item() if hasattr(value, "item") else value


def _is_complete(entry: Path) -> bool:
    return entry.name.isdecimal() and (entry / _DONE).exists()


def _copy(source: Path, into: Path) -> None:
    if source.resolve() == into.resolve():
        return
    if source.is_dir():
        shutil.copytree(source, into, dirs_exist_ok=True)
    else:
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, into)


def _replace(path: Path, text: str) -> None:
    """Whoever reads it sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)
