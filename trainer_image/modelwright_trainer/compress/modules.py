"""A recipe's module with the tensors of a compressed model, which may be smaller, or two factors in place of one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from modelwright_trainer.learner import Learner
from modelwright_trainer.onnxgraph import LEFT, RIGHT, Array

WEIGHTED = (nn.Linear, nn.Conv2d, nn.Embedding)


class LowRankLinear(nn.Module):
    """x → x · rightᵀ · leftᵀ + bias: `left` [out, rank], `right` [rank, in]."""

    def __init__(self, left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.left, self.right, self.bias = (nn.Parameter(torch.empty_like(one)) for one in (left, right, bias))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return functional.linear(functional.linear(rows, self.right), self.left, self.bias)


def built(learner: Learner, weights: Mapping[str, Array]) -> nn.Module:
    """The module, in evaluation mode, on the CPU."""
    module = learner.module()
    tensors = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    for name in [name for name in tensors if name.endswith(f".{LEFT}")]:
        place = name.removesuffix(f".{LEFT}")
        factors = LowRankLinear(tensors[name], tensors[f"{place}.{RIGHT}"], tensors[f"{place}.bias"])
        module.set_submodule(place, factors)
    for name, tensor in tensors.items():
        place, _, own = name.rpartition(".")
        owner = module.get_submodule(place)
        if getattr(owner, own).shape != tensor.shape:
            _resize(owner, own, tensor)
    module.load_state_dict(tensors)
    return module.eval()


def _resize(owner: nn.Module, own: str, tensor: torch.Tensor) -> None:
    """What the recipe made wider. A layer computes with the tensors that it has; its numbers are for people."""
    empty = torch.empty_like(tensor)
    setattr(owner, own, nn.Parameter(empty) if isinstance(getattr(owner, own), nn.Parameter) else empty)
    if own == "weight" and isinstance(owner, nn.Linear):
        owner.out_features, owner.in_features = tensor.shape
    elif own == "weight" and isinstance(owner, nn.Conv2d):
        owner.out_channels, owner.in_channels = tensor.shape[:2]


def weighted(module: nn.Module) -> list[str]:
    """The names of the tensors that are worth compressing: weights of linear layers, convolutions and embeddings, in
    the module's order."""
    found = []
    for place, part in module.named_modules():
        if isinstance(part, LowRankLinear):
            found += [f"{place}.{LEFT}", f"{place}.{RIGHT}"]
        elif isinstance(part, WEIGHTED):
            found.append(f"{place}.weight")
    return found
