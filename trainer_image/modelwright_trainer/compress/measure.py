"""What a model is worth at a stage: bytes, parameters, metrics and latency, always of its file in its runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path

from modelwright import artifact
from modelwright.derivation import Size

from modelwright_trainer import evaluated
from modelwright_trainer.compress import files
from modelwright_trainer.compress.state import State
from modelwright_trainer.compress.work import Work
from modelwright_trainer.onnxgraph import Session

_PART = "validation"


def of_state(work: Work, state: State) -> Size:
    with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
        return of_files(work, Path(folder), files.write(work, state, Path(folder)))


def of_parent(work: Work) -> Size:
    return of_files(work, work.parent.folder, work.parent.onnx)


def of_files(work: Work, folder: Path, made: artifact.Onnx) -> Size:
    """Of the validation split, where there is one."""
    session, known = Session(folder, made), len(work.rows.parts[_PART])
    figures = evaluated.measured(session, work.parent.manifest, work.rows, _PART).figures if known else {}
    return evaluated.size(folder, made, session, work.rows, figures)
