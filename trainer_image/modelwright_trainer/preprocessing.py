"""Numeric preprocessing inside the graph, so that a client sends what the data set holds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from modelwright_trainer.onnxgraph import Graph
from modelwright_trainer.split import Rows

STANDARDIZED = "standardized"
"""The name of standardized rows in a graph."""
_ROWS = 65536
Moments = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def moments(features: npt.NDArray[np.float32], rows: Rows) -> Moments:
    """Mean and standard deviation (of the population) of each column over the given rows, in two passes; of a
    memory-mapped array a piece at a time is read."""
    pieces = [rows[at : at + _ROWS] for at in range(0, len(rows), _ROWS)]
    mean = sum(features[piece].astype(np.float64).sum(axis=0) for piece in pieces) / len(rows)
    squares = sum(np.square(features[piece].astype(np.float64) - mean).sum(axis=0) for piece in pieces)
    return np.asarray(mean), np.sqrt(squares / len(rows))


def scales(found: Moments) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What is taken off each column, and what it is then divided by: its mean and standard deviation, but 1 for a
    column that is constant."""
    mean, deviation = found
    return mean.astype(np.float32), np.where(deviation > 0, deviation, 1.0).astype(np.float32)


class Standardize(nn.Module):
    """(x - mean) / scale per feature. `mean` and `scale` have shape [features] and are of the training split; a
    constant feature has scale 1."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, found: Moments) -> None:
        super().__init__()
        mean, scale = scales(found)
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.from_numpy(scale))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows - self.mean) / self.scale


class Rescale(nn.Module):
    """given · scale + mean: the inverse of `Standardize`, on the last layer's numbers."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, found: Moments) -> None:
        super().__init__()
        mean, scale = scales(found)
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.from_numpy(scale))

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return given * self.scale + self.mean


def standardized(graph: Graph, rows: str, prefix: str = "standardize") -> str:
    """`Standardize` as nodes of a graph; `prefix` is the module's name in the state dict."""
    centered = graph.node("Sub", [rows, f"{prefix}.mean"], "centered")
    return graph.node("Div", [centered, f"{prefix}.scale"], STANDARDIZED)


def rescaled(graph: Graph, given: str, output: str, prefix: str = "head") -> str:
    """`Rescale` as nodes of a graph; `prefix` is the module's name in the state dict."""
    return graph.node("Add", [graph.node("Mul", [given, f"{prefix}.scale"], "unshifted"), f"{prefix}.mean"], output)
