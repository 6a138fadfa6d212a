"""What the training loop asks of a strategy."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.distributed as dist
from modelwright.api.recipes import SteppedHyperparameters
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from modelwright_trainer.learner import whole
from modelwright_trainer.onnxgraph import Weights
from modelwright_trainer.optimizers import clip, optimizer


class Strategy:
    """A module and its optimizer on one rank. All ranks call its methods together, in the same order.

    A gradient is that of the loss which `forward` led to, averaged over the ranks: the loop weights each rank's sum by
    world size over global rows, and so it is the mean over the rows of the global batch, however they are shared.
    """

    shards: dist.ProcessGroup | None = None
    """The ranks that hold a gradient together; None where each rank holds all of its own."""

    def __init__(self, module: nn.Module, recipe: SteppedHyperparameters) -> None:
        self.module = module
        self.optimizer = optimizer(module.parameters(), recipe)
        self._longest = recipe.gradient_clipping

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """What the module gives, for a loss to train on."""
        given: torch.Tensor = self.module(features)
        return given

    def held_back(self) -> contextlib.AbstractContextManager[None]:
        """Around forward and backward pass of a micro-batch that others of the same step follow: its gradients are
        added to, and shared with the last one's."""
        return contextlib.nullcontext()

    def update(self, rate: float) -> None:
        """Ends a step: the gradients that are there move the parameters by the learning rate `rate`, and are gone."""
        if self._longest:
            clip(self.module.parameters(), self._longest, self.shards)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def together(self) -> bool:
        """Whether all ranks have the same model just now."""
        return True

    def meet(self) -> None:
        """Brings the ranks together: afterwards all have the same model, and the same buffers."""
        for buffer in self.module.buffers():
            dist.broadcast(buffer, src=0)

    def tensors(self) -> dict[str, Any]:
        """The state dict for a checkpoint, of ranks that are together; also what one is loaded into, in place."""
        model, state = get_state_dict(self.module, self.optimizer)
        return {"model": model, "optimizer": state}

    def restore(self, tensors: dict[str, Any]) -> None:
        """Goes on from `tensors`, which were loaded."""
        set_state_dict(
            self.module, self.optimizer,
            model_state_dict=tensors["model"], optim_state_dict=tensors["optimizer"],
        )  # fmt: skip

    def weights(self) -> Weights:
        """The whole state dict of the trained module; of use on rank 0 alone."""
        return whole(self.module)
