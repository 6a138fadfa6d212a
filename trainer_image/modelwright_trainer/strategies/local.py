"""LocalSGD: each rank trains by itself for some steps, on its share of each global batch; then the models are averaged.

The outer optimizer takes the way from the last average to the new one as its gradient: SGD with Nesterov momentum, as
in DiLoCo (Douillard et al., 2023, https://arxiv.org/abs/2311.08105). With learning rate 1 and no momentum the new
average is taken as it is (Stich, 2018, https://arxiv.org/abs/1805.09767); after every step, and with plain SGD as the
inner optimizer, that is what averaged gradients give.

Unlike in DiLoCo the inner optimizer's moments are averaged, too. So all ranks are in the same state after a meeting,
and one copy of it is all that a checkpoint needs, whatever the number of ranks that goes on from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from modelwright.api.recipes import SteppedHyperparameters
from modelwright.contract import Strategy as Stated
from torch import nn

from modelwright_trainer.strategies.base import Strategy


class Local(Strategy):
    def __init__(self, module: nn.Module, recipe: SteppedHyperparameters, stated: Stated) -> None:
        super().__init__(module, recipe)
        self._steps = stated.local_steps
        self._outer = _Outer(module, stated.outer_learning_rate, stated.outer_momentum)
        self._apart = 0

    def update(self, rate: float) -> None:
        super().update(rate)
        self._apart += 1
        if self._apart >= self._steps:
            self.meet()

    @property
    def together(self) -> bool:
        return self._apart == 0

    @torch.no_grad()
    def meet(self) -> None:
        if self.together:
            return
        _average([parameter.data for parameter in self.module.parameters()])
        _average(list(self._moments()))
        self._outer.step()
        super().meet()
        self._apart = 0

    def _moments(self) -> Iterator[torch.Tensor]:
        for parameter in self.module.parameters():
            for value in self.optimizer.state.get(parameter, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    yield value

    def tensors(self) -> dict[str, Any]:
        return {**super().tensors(), "outer": self._outer.momenta}

    def restore(self, tensors: dict[str, Any]) -> None:
        super().restore(tensors)
        self._outer.begin()


class _Outer:
    """The outer optimizer. `momenta` are by the parameters' names; none without momentum."""

    def __init__(self, module: nn.Module, rate: float, momentum: float) -> None:
        self._module, self._rate, self._momentum = module, rate, momentum
        self._plain = rate == 1 and momentum == 0
        self.momenta = (
            {name: torch.zeros_like(value.data) for name, value in module.named_parameters()} if momentum else {}
        )
        self.begin()

    def begin(self) -> None:
        """The parameters as they are now are what the next way begins at."""
        self._last = {} if self._plain else {name: one.detach().clone() for name, one in self._named()}

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        return iter(self._module.named_parameters())

    def step(self) -> None:
        """From the average that the parameters are to what the ranks go on from."""
        if self._plain:
            return
        for name, parameter in self._named():
            last = self._last[name]
            way = parameter.data - last
            if self._momentum:
                momentum = self.momenta[name].mul_(self._momentum).add_(way)
                way.add_(momentum, alpha=self._momentum)
            last.add_(way, alpha=self._rate)
            parameter.data.copy_(last)


def _average(tensors: list[torch.Tensor]) -> None:
    """Each over all ranks, in place."""
    if not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, averaged in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(averaged.view_as(tensor))
