"""What a model is worth at a stage: bytes, parameters, metrics and latency, always of its file in its runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from modelwright import artifact
from modelwright.derivation import Size

from modelwright_trainer import evaluated, onnxgraph
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
    session, tensors = Session(folder, made), onnxgraph.tensors(folder, made)
    known = len(work.rows.parts[_PART])
    figures = evaluated.measured(session, work.parent.manifest, work.rows, _PART).figures if known else {}
    weights = sum((folder / name).stat().st_size for name in (made.weights, made.packed) if name)
    graph = (folder / made.path).stat().st_size
    return Size(
        bytes=graph + weights,
        weights_bytes=weights or graph,
        parameters=sum(one.size for one in tensors.values()),
        nonzero=sum(int(np.count_nonzero(one)) for one in tensors.values()),
        metrics=figures,
        latency_p50_ms=round(evaluated.latency_p50_ms(session, work.rows.table, work.rows.parts["train"]), 4),
    )
