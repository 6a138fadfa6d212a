"""Training after a step that keeps what the step made: zeros stay zero, and the entries of one code stay equal.

Each tensor is a function of what is trained: itself times its mask, or its codebook at the places of its codes, whose
gradients are so summed per code (Han, Mao and Dally 2016, arXiv:1510.00149).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from modelwright.derivation import Finetune
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from modelwright_trainer.compress.modules import built
from modelwright_trainer.compress.state import Held, State, settled
from modelwright_trainer.compress.work import Work
from modelwright_trainer.failures import UserFailed
from modelwright_trainer.learner import Batch, Learner
from modelwright_trainer.onnxgraph import Array
from modelwright_trainer.order import Plan
from modelwright_trainer.tasks import PADDING, AnomalyDetection, Classification, LanguageModelling, Regression

_CPU = torch.device("cpu")
Watch = Callable[[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]], None]
"""Told after each backward pass of the tensors and of their gradients, by name."""
_TEMPERATURE = 2.0


class Trained(nn.Module):
    """The tensors of a module as functions of what is trained."""

    def __init__(self, module: nn.Module, held: Mapping[str, Held]) -> None:
        super().__init__()
        self.module = module
        self.leaves: dict[str, torch.Tensor] = {}
        self._places: dict[str, torch.Tensor] = {}
        self._masks: dict[str, torch.Tensor] = {}
        for name, parameter in module.named_parameters():
            value, kept = parameter.detach(), held.get(name, Held())
            if kept.values is not None:
                book, places = torch.unique(value, return_inverse=True)
                self._places[name] = places
                self._masks[name] = (book != 0).to(value.dtype) if kept.sparse else torch.ones_like(book)
                leaf = book
            else:
                if kept.sparse:
                    self._masks[name] = (value != 0).to(value.dtype)
                leaf = value.clone()
            self.leaves[name] = leaf.requires_grad_()

    def tensors(self) -> dict[str, torch.Tensor]:
        found = {}
        for name, leaf in self.leaves.items():
            value = leaf * self._masks[name] if name in self._masks else leaf
            found[name] = value[self._places[name]] if name in self._places else value
        return found

    def weights(self) -> dict[str, Array]:
        """The whole state dict."""
        state = {name: value.numpy() for name, value in self.module.state_dict().items()}
        with torch.no_grad():
            return settled({**state, **{name: value.numpy() for name, value in self.tensors().items()}})


def finetune(
    work: Work, state: State, asked: Finetune, epochs: int, label: str, *, watch: Watch | None = None
) -> State:
    """The state after `epochs` of training, with its structure. `label` tells its random numbers from those of other
    trainings of the step. Raises UserFailed where the loss is no number any more."""
    if not epochs:
        return state
    learner = work.learner(state)
    module = built(learner, state.weights).train()
    trained = Trained(module, state.held)
    plan = Plan(len(work.rows.parts["train"]), asked.batch_size, epochs, seed_of(work.seed, label) % 2**32)
    loop(work, learner, trained, plan, asked.learning_rate, asked.distillation, _TEMPERATURE, watch)
    return state.with_weights(trained.weights())


def loop(
    work: Work,
    learner: Learner,
    trained: Trained,
    plan: Plan,
    rate: float,
    distillation: float,
    temperature: float,
    watch: Watch | None = None,
) -> None:
    """AdamW with a learning rate that falls in half a cosine; `distillation` is the share of the loss that comes from
    the teacher."""
    train = work.rows.parts["train"]
    optimizer = torch.optim.AdamW(list(trained.leaves.values()), lr=rate, weight_decay=0.0)
    step = 0
    for epoch in range(plan.epochs):
        order = train[plan.order(epoch)]
        for at in range(0, len(order), plan.batch):
            torch.manual_seed(seed_of(plan.seed, str(step)))
            batch = learner.augmented(Batch.of(work.rows.table, order[at : at + plan.batch], _CPU))
            tensors = trained.tensors()
            if watch is not None:
                for value in tensors.values():
                    value.retain_grad()
            outputs = functional_call(trained.module, tensors, (batch.features,))
            loss = _loss(work, learner, outputs, batch, distillation, temperature)
            if not torch.isfinite(loss):
                raise UserFailed(
                    f"fine-tuning: the loss became {loss.item()} at step {step}: lower finetune.learningRate ({rate:g})"
                )
            optimizer.zero_grad()
            loss.backward()
            if watch is not None:
                watch(tensors, {name: value.grad for name, value in tensors.items() if value.grad is not None})
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * step / plan.steps)) / 2
            optimizer.step()
            step += 1


def _loss(
    work: Work, learner: Learner, outputs: torch.Tensor, batch: Batch, distillation: float, temperature: float
) -> torch.Tensor:
    """The mean over the rows."""
    targets = learner.loss(outputs, batch) if distillation < 1 else outputs.sum() * 0
    if not distillation:
        return targets / batch.rows
    wanted = torch.from_numpy(work.teacher(batch.features.numpy()))
    return (
        (1 - distillation) * targets + distillation * distance(learner, outputs, wanted, batch, temperature)
    ) / batch.rows


def distance(
    learner: Any, outputs: torch.Tensor, wanted: torch.Tensor, batch: Batch, temperature: float
) -> torch.Tensor:
    """How far outputs are from the teacher's, the sum over the rows: of logits the divergence at a temperature, times
    its square, so that gradients keep their size (Hinton, Vinyals and Dean 2015, arXiv:1503.02531); of numbers the
    squared error, in units of their standard deviation."""
    task = learner.task
    if isinstance(task, Classification):
        return _divergence(outputs, wanted, temperature).sum()
    if isinstance(task, LanguageModelling):
        there = (batch.features[:, 1:] != PADDING).to(outputs.dtype)
        each = _divergence(outputs[:, :-1], wanted[:, :-1], temperature)
        return ((each * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)).sum()
    if isinstance(task, Regression | AnomalyDetection):
        return task.distance(outputs, wanted)
    raise AssertionError(type(task))


def _divergence(outputs: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
    ours = functional.log_softmax(outputs / temperature, dim=-1)
    theirs = functional.log_softmax(wanted / temperature, dim=-1)
    return functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1) * temperature**2


def seed_of(seed: int, label: str) -> int:
    """A seed for torch, from the run's and what it is for."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{label}".encode()).digest()[:8], "big") >> 1


def batches(rows: Array, size: int) -> list[np.ndarray[Any, Any]]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]
