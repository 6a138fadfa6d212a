"""FSDP2: each rank holds a share of every tensor (its rows along the first dimension), of the gradient and of the
optimizer's state; a layer is put together while it computes. As HSDP there are several copies, each held by some ranks.

https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from modelwright.api.recipes import SteppedHyperparameters
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from modelwright_trainer.onnxgraph import Weights
from modelwright_trainer.strategies.base import Strategy


class Sharded(Strategy):
    def __init__(
        self, module: nn.Module, recipe: SteppedHyperparameters, device: torch.device, shard_size: int | None
    ) -> None:
        size = shard_size_of(shard_size, dist.get_world_size())
        copies = dist.get_world_size() // size
        if copies > 1:
            mesh = init_device_mesh(device.type, (copies, size), mesh_dim_names=("copies", "shards"))
        else:
            mesh = init_device_mesh(device.type, (size,), mesh_dim_names=("shards",))
        self.shards = mesh.get_group("shards")
        for block in _blocks(module):
            fully_shard(block, mesh=mesh)
        self._root: FSDPModule = fully_shard(module, mesh=mesh)
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.set_force_sum_reduction_for_comms(True)  # Gloo has no average
        # Of the parameters as they are now: those that were there before are gone.
        super().__init__(module, recipe)

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        self._root.set_requires_gradient_sync(False)
        yield
        self._root.set_requires_gradient_sync(True)

    def weights(self) -> Weights:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return {name: value.numpy() for name, value in get_model_state_dict(self.module, options=options).items()}


def shard_size_of(asked: int | None, world_size: int) -> int:
    """How many ranks hold a copy together. All of them where the number asked for does not divide theirs, as after a
    loss of workers: it takes the least memory of each."""
    return asked if asked and world_size % asked == 0 else world_size


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that are put together one after the other: the entries of the outermost lists of modules. What is in
    none of them is put together for the whole pass."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            yield from (entry for entry in child if any(True for _ in entry.parameters()))
        else:
            yield from _blocks(child)
