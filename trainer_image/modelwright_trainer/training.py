"""The training loop: resumable at any step, and the same whatever happened in between. How the ranks share the work is
the strategy's."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from modelwright.contract import TrainingRun
from torch.nn.attention import SDPBackend, sdpa_kernel

from modelwright_trainer import strategies
from modelwright_trainer.checkpoint import Checkpoints, Saved
from modelwright_trainer.data import Table
from modelwright_trainer.failures import Preempted, UserFailed
from modelwright_trainer.learner import Batch, Learner
from modelwright_trainer.localcheckpoint import LocalCheckpoints
from modelwright_trainer.onnxgraph import Weights
from modelwright_trainer.order import Cursor, Plan, share
from modelwright_trainer.progressfile import Teller
from modelwright_trainer.schedule import Schedule
from modelwright_trainer.split import Rows

# The ranks look at each other (losses, stop flag) about this often; it bounds how late a stop is noticed.
_LOOK_SECONDS = 0.5
_LOOK_STEPS = 50


@dataclasses.dataclass
class State:
    """What a resumed run needs beside the tensors. Losses are means over rows; `loss_sum` is over the rows of the epoch
    so far. `bad_epochs` counts since `best`."""

    cursor: Cursor = dataclasses.field(default_factory=Cursor)
    loss_sum: float = 0.0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: float | None = None
    bad_epochs: int = 0
    stopped_early: bool = False

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> State:
        fields = {field.name: document[field.name] for field in dataclasses.fields(cls)}
        return cls(**{**fields, "cursor": Cursor(**document["cursor"])})


@dataclasses.dataclass(frozen=True)
class Setting:
    """What one rank trains with. `stop` says whether this pod was told to stop; `losses` is a file for the loss of
    each step, or None; `initial` are the weights to begin with, where they are not drawn; `local` the checkpoints on a
    volume, where they are asked for."""

    run: TrainingRun
    learner: Learner
    table: Table
    parts: Mapping[str, Rows]
    rank: int
    world_size: int
    device: torch.device
    checkpoints: Checkpoints
    teller: Teller
    stop: Callable[[], bool]
    losses: Path | None = None
    initial: Weights | None = None
    local: LocalCheckpoints | None = None


class Training:
    """A run on one rank. `run()` is collective."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.learner, recipe = setting.learner, setting.learner.hyperparameters
        self.plan = Plan(len(setting.parts["train"]), recipe.batch_size, recipe.epochs, recipe.seed)
        self.schedule = Schedule.of(recipe, self.plan.steps)
        torch.manual_seed(recipe.seed)
        module = self.learner.module()
        if setting.initial is not None:
            module.load_state_dict({name: torch.from_numpy(value) for name, value in setting.initial.items()})
        module = module.to(setting.device)
        self.strategy = strategies.made(setting.run.strategy, module, recipe, setting.device)
        self.fingerprint = setting.run.fingerprint(setting.table.digest, recipe.to_strings())
        self.state = State()
        self.saved_step: int | None = None
        """Of the newest checkpoint, which may not be complete yet."""
        self._locally_saved_step: int | None = None
        self._pending: list[torch.Tensor] = []
        self._pending_rows: list[int] = []
        self._look_after = 1
        self._looked = time.monotonic()
        self._order: tuple[int, Rows] = (-1, np.empty(0, dtype=np.int64))

    def run(self) -> State:
        """Trains to the end, from the newest checkpoint where there is one. Raises Preempted after a stop, with a
        checkpoint written."""
        self._settle()
        self._resume()
        self._tell("Training")
        self._looked = time.monotonic()
        while not self.plan.done(self.state.cursor) and not self.state.stopped_early:
            self._step()
        self._tell_of(self.setting.checkpoints.drained())
        if self.setting.local is not None:
            self.setting.local.drained()
        return self.state

    def weights(self) -> Weights:
        """The whole trained state dict; of use on rank 0 alone. Collective."""
        return self.strategy.weights()

    def _settle(self) -> None:
        """Passes without effect. DDP arranges its buckets anew after the first backward pass; with more than two ranks
        that changes the order in which floats are added, and a resumed run must begin with the arrangement that an
        undisturbed one has."""
        one = self._batch(np.zeros(1, dtype=np.int64))
        self.strategy.module.eval()  # what is normalized over a batch takes no single row in training
        for _ in range(2):
            self._loss(one).backward()
            self.strategy.optimizer.zero_grad()

    def _loss(self, batch: Batch) -> torch.Tensor:
        """The sum over the batch's rows."""
        device, half = self.setting.device.type, self.learner.hyperparameters.precision == "bf16"
        # A rank once died of a corrupted heap in bfloat16 on processors, where torch's fused attention is suspected:
        # https://github.com/pytorch/pytorch/issues/156022
        plain = sdpa_kernel(SDPBackend.MATH) if half and device == "cpu" else contextlib.nullcontext()
        with plain, torch.autocast(device, torch.bfloat16, enabled=half):
            return self.learner.loss(self.strategy.forward(batch.features), batch)

    def _resume(self) -> None:
        local = self.setting.local.newest(self.fingerprint) if self.setting.local else None
        stored = self.setting.checkpoints.newest(self.fingerprint, after=local[0].step if local else -1)
        found = stored or local
        if found is None:
            return
        name, document = found
        tensors = self.strategy.tensors()
        if stored or self.setting.local is None:
            self.setting.checkpoints.load(name, tensors)
        else:
            self.setting.local.load(name, tensors)
        self.strategy.restore(tensors)
        self.state = State.parse(document)
        self.saved_step = name.step
        last = self.state.history[-1] if self.state.history else {}
        self.setting.teller.tell(resumed_from_step=name.step, last_checkpoint_step=name.step, **_told(last))
        if self.setting.rank == 0:
            of = "checkpoint" if stored else "local checkpoint"
            print(f"resumed from the {of} at step {name.step} ({name})", flush=True)

    def _step(self) -> None:
        setting, state, strategy = self.setting, self.state, self.strategy
        begin, end = self.plan.batch_at(state.cursor)
        torch.manual_seed(_step_seed(self.plan.seed, state.cursor.step, setting.rank))
        strategy.module.train()
        pieces = self._pieces(begin, end)
        losses = []
        for number, rows in enumerate(pieces, start=1):
            batch = self.learner.augmented(self._batch(rows))
            with strategy.held_back() if number < len(pieces) else contextlib.nullcontext():
                total = self._loss(batch)
                # The strategy takes the mean over the ranks, whose pieces may differ in size: weighted so, it is the
                # mean over the rows.
                (total * (setting.world_size / (end - begin))).backward()
            losses.append(total.detach())
        strategy.update(self.schedule.at(state.cursor.step))
        self._pending.append(losses[0] if len(losses) == 1 else torch.stack(losses).sum())
        self._pending_rows.append(end - begin)
        state.cursor = self.plan.after(state.cursor)
        self._tell_of(setting.checkpoints.ended())

        epoch_ends = state.cursor.row == 0
        if epoch_ends:
            strategy.meet()
        save = strategy.together and self._is_due(state.cursor.step)
        save_locally = strategy.together and self._is_due_locally(state.cursor.step)
        if not (epoch_ends or save or save_locally or len(self._pending) >= self._look_after):
            return
        stop = self._look()
        if epoch_ends:
            self._end_epoch()
        if save or stop:
            strategy.meet()
            self._save()
        elif save_locally:
            strategy.meet()
            self._save_locally()
        if stop:
            self._tell_of(setting.checkpoints.drained())
            raise Preempted(state.cursor.step, self.saved_step)

    def _pieces(self, begin: int, end: int) -> list[Rows]:
        """This rank's rows of the global batch, in micro-batches: as many on all ranks, so that a rank with fewer rows
        still takes part in what they do together."""
        setting, size = self.setting, self.learner.hyperparameters.micro_batch_size
        largest = -(-(end - begin) // setting.world_size)
        count = -(-largest // size) if size else 1
        first, last = share(begin, end, setting.rank, setting.world_size)
        order = self._ordered(self.state.cursor.epoch)
        cuts = [share(first, last, number, count) for number in range(count)]
        return [order[one:other] for one, other in cuts]

    def _is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be written, or was while the ranks were apart."""
        every = self.setting.run.checkpoint.every_steps
        return step // every > (self.saved_step or 0) // every

    def _is_due_locally(self, step: int) -> bool:
        local = self.setting.local
        if local is None:
            return False
        last = max(self._locally_saved_step or 0, self.saved_step or 0)
        return step // local.every_steps > last // local.every_steps

    def _look(self) -> bool:
        """Gathers the losses since the last look, and whether any rank was told to stop. All ranks add up in the same
        order, and so see the same numbers and decide alike."""
        setting, state = self.setting, self.state
        now = time.monotonic()
        seconds = (now - self._looked) / len(self._pending)
        stop = float(setting.stop())
        own = torch.cat([torch.stack(self._pending).double().cpu(), torch.tensor([stop, seconds], dtype=torch.float64)])
        gathered = [torch.empty_like(own) for _ in range(setting.world_size)]
        dist.all_gather(gathered, own)
        table = torch.stack(gathered).numpy()
        sums = np.zeros(len(self._pending))
        for part in table[:, :-2]:
            sums = sums + part
        counts, first_step = np.array(self._pending_rows), state.cursor.step - len(sums) + 1
        if not np.isfinite(sums).all():
            at = first_step + int(np.flatnonzero(~np.isfinite(sums))[0])
            raise UserFailed(
                f"the training loss became {sums[at - first_step]} at step {at}: lower"
                f" trainer.hyperparameters.learningRate ({self.learner.hyperparameters.learning_rate:g}), or look for"
                " extreme values in the features"
            )
        for loss in sums:
            state.loss_sum += float(loss)
        slowest = float(table[:, -1].max())
        self._look_after = max(1, min(_LOOK_STEPS, int(_LOOK_SECONDS / max(slowest, 1e-6))))
        if setting.losses and setting.rank == 0:
            with setting.losses.open("a") as file:
                for index, loss in enumerate(sums / counts):
                    file.write(f"{first_step + index} {float(loss)!r}\n")
        self._tell(
            "Training", train_loss=float(sums.sum() / counts.sum()), samples_per_second=float(counts.mean()) / slowest
        )
        self._pending, self._pending_rows, self._looked = [], [], now
        return bool(table[:, -2].max())

    def _end_epoch(self) -> None:
        state = self.state
        figures = {"epoch": float(state.cursor.epoch), "train_loss": state.loss_sum / self.plan.rows}
        state.loss_sum = 0.0
        if len(self.setting.parts["validation"]):
            figures |= self._validate()
        state.history.append(figures)
        self._consider_stopping(figures)
        self._tell("Training", **_told(figures))
        if self.setting.rank == 0:
            print(" ".join(f"{name}={value:.6g}" for name, value in figures.items()), flush=True)
        self._looked = time.monotonic()

    def _validate(self) -> dict[str, float]:
        """The learner's figures of the validation split, each rank on its share, the same on all ranks; in float32, as
        the published file computes."""
        rows = self.setting.parts["validation"]
        self.strategy.module.eval()
        with torch.no_grad():
            # A rank without a share still has to know how many sums there are: those of no rows.
            own = self._sums(rows[:0])
            for piece in self._shared_pieces(rows):
                own += self._sums(piece)
        gathered = [torch.empty_like(own) for _ in range(self.setting.world_size)]
        dist.all_gather(gathered, own)
        columns = zip(*(part.tolist() for part in gathered), strict=True)
        return self.learner.figures(np.array([math.fsum(column) for column in columns]), len(rows))

    def _shared_pieces(self, rows: Rows) -> Iterator[Rows]:
        """This rank's share of `rows` in pieces, as many on all ranks: a sharded module is put together by all of
        them."""
        first, last = share(0, len(rows), self.setting.rank, self.setting.world_size)
        largest = -(-len(rows) // self.setting.world_size)
        size = self.learner.evaluation_rows
        for at in range(0, largest, size):
            yield rows[first + at : min(first + at + size, last)]

    def _sums(self, rows: Rows) -> torch.Tensor:
        batch = self._batch(rows)
        return self.learner.sums(self.strategy.module(batch.features), batch).cpu()

    def _consider_stopping(self, figures: Mapping[str, float]) -> None:
        rule, state = self.setting.run.early_stopping, self.state
        if rule is None:
            return
        figure = figures[rule.metric]
        better = state.best is None or (figure < state.best if rule.mode == "Min" else figure > state.best)
        state.best, state.bad_epochs = (figure, 0) if better else (state.best, state.bad_epochs + 1)
        state.stopped_early = state.bad_epochs >= rule.patience

    def _save(self) -> None:
        step = self.state.cursor.step
        document = {**dataclasses.asdict(self.state), "fingerprint": self.fingerprint}
        self._tell_of(self.setting.checkpoints.save(step, self.strategy.tensors(), document))
        self.saved_step = step
        self._looked = time.monotonic()

    def _save_locally(self) -> None:
        step, local = self.state.cursor.step, self.setting.local
        assert local is not None  # noqa: S101 - it would not be due
        document = {**dataclasses.asdict(self.state), "fingerprint": self.fingerprint}
        local.save(step, self.strategy.tensors(), document)
        self._locally_saved_step = step
        self._looked = time.monotonic()

    def _tell_of(self, saved: Saved | None) -> None:
        if saved is not None:
            self._tell(
                "Training", last_checkpoint_step=saved.step, checkpoint_bytes=saved.size,
                checkpoint_seconds=saved.seconds,
            )  # fmt: skip

    def _tell(self, phase: str, **more: float | int | None) -> None:
        cursor = self.state.cursor
        self.setting.teller.tell(
            phase=phase, epoch=cursor.epoch, epochs=self.plan.epochs, step=cursor.step, total_steps=self.plan.steps,
            world_size=self.setting.world_size, **more,
        )  # fmt: skip

    def _ordered(self, epoch: int) -> Rows:
        """Rows of the table in the order of an epoch."""
        if self._order[0] != epoch:
            self._order = (epoch, self.setting.parts["train"][self.plan.order(epoch)])
        return self._order[1]

    def _batch(self, rows: Rows) -> Batch:
        return Batch.of(self.setting.table, rows, self.setting.device)


def _told(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: figures[name] for name in ("validation_loss", "validation_accuracy") if name in figures}


def _step_seed(seed: int, step: int, rank: int) -> int:
    """The random state is a function of (seed, step, rank), and so none has to be kept in a checkpoint."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:8], "big") >> 1
