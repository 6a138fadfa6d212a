"""The optimizers by the names that hyperparameters give them, and the clipping of gradients that may be sharded."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from modelwright.api.recipes import SteppedHyperparameters
from torch.distributed.tensor import DTensor
from torch.nn import Parameter


def optimizer(parameters: Iterable[Parameter], recipe: SteppedHyperparameters) -> torch.optim.Optimizer:
    """Of the whole or sharded parameters of a module."""
    if recipe.optimizer == "SGD":
        return torch.optim.SGD(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def clip(parameters: Iterable[Parameter], longest: float, shards: dist.ProcessGroup | None = None) -> None:
    """Shortens the gradient of all parameters together to the 2-norm `longest` where it is longer. `shards` are the
    ranks that hold it together; None where each holds all of it."""
    held = [_held(parameter.grad) for parameter in parameters if parameter.grad is not None]
    squares = torch.stack([torch.linalg.vector_norm(part.float()) ** 2 for part in held]).sum()
    if shards is not None:
        dist.all_reduce(squares, group=shards)
    # Without a branch, which on a GPU would wait for the norm. A norm that is no number is left to be noticed.
    scale = torch.clamp(longest / (squares.sqrt() + 1e-12), max=1.0)
    torch._foreach_mul_(held, scale)


def _held(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
