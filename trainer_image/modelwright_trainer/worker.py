"""One rank, as torchrun starts it: reads the data, trains, and as rank 0 evaluates and publishes.

It ends with a file in the run folder that says how: torchrun turns every exit code into 1.
"""

from __future__ import annotations

import datetime
import faulthandler
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from modelwright import artifact
from modelwright.contract import Outcome, PartFigures, Published, Split, Summary, TrainingRun
from modelwright.store import Store

from modelwright_trainer import data, export, initial, recipes, shards, slices
from modelwright_trainer.checkpoint import Checkpoints
from modelwright_trainer.failures import DataFailed, Preempted, UserFailed, failure_of, outcome_of
from modelwright_trainer.hyperparameters import hyperparameters
from modelwright_trainer.learner import Fitted
from modelwright_trainer.localcheckpoint import LocalCheckpoints
from modelwright_trainer.onnxgraph import Session, Weights
from modelwright_trainer.order import Cursor
from modelwright_trainer.outcome import Failed
from modelwright_trainer.progressfile import JOB_FILE, RUN_FOLDER, Teller, replace
from modelwright_trainer.training import Setting, State, Training

_stopping = False


def _on_stop(_signal: int, _frame: FrameType | None) -> None:
    global _stopping
    _stopping = True


def outcome_file(folder: Path, rank: int) -> Path:
    return folder / f"outcome-{rank}.json"


def main() -> None:
    signal.signal(signal.SIGTERM, _on_stop)
    folder, rank = Path(os.environ[RUN_FOLDER]), int(os.environ["RANK"])
    # The wrapper asks for the stacks where a rank hangs.
    faulthandler.register(signal.SIGUSR1, (folder / f"stacks-{rank}.txt").open("w"), all_threads=False)
    run = TrainingRun.model_validate_json(Path(os.environ[JOB_FILE]).read_text())
    teller = Teller(folder, rank)
    afterwards: list[Callable[[], None]] = []
    try:
        summary = _work(run, rank, folder, teller, afterwards)
        dist.barrier()  # no rank has succeeded before rank 0 has published
        for done in afterwards:
            done()
    except BaseException as error:
        if not isinstance(error, Failed):
            traceback.print_exc()
        summary = _summary(run, outcome_of(error), teller, failure=failure_of(error))
        teller.tell(phase="Failed")
        replace(outcome_file(folder, rank), summary.to_json())
        print(f"rank {rank}: {summary.outcome}: {error}", file=sys.stderr, flush=True)
        os._exit(summary.exit_code)  # taking down the process group could wait for peers that wait for us
    teller.tell(phase="Done")
    replace(outcome_file(folder, rank), summary.to_json())
    dist.destroy_process_group()


def _summary(run: TrainingRun, outcome: Outcome, teller: Teller, **more: object) -> Summary:
    told = teller.told
    return Summary.model_validate(
        {
            "outcome": outcome.reason, "exit_code": outcome.code, "attempt": run.attempt,
            "index": int(os.environ.get("GROUP_RANK", "0")), "epoch": told.get("epoch", 0), "step": told["step"],
            "last_checkpoint_step": told.get("last_checkpoint_step"), **more,
        }
    )  # fmt: skip


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _work(run: TrainingRun, rank: int, folder: Path, teller: Teller, afterwards: list[Callable[[], None]]) -> Summary:
    """`afterwards` is given what is to be done once all ranks have succeeded."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    recipe = hyperparameters(run.trainer)
    device = _device()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        # Here the ranks wait for each other to come, too; a hang later is the wrapper's to notice.
        timeout=datetime.timedelta(seconds=max(run.stall_seconds, run.workers.rendezvous_seconds)),
    )
    teller.tell(phase="Loading", world_size=dist.get_world_size())
    store = Store(run.store)
    reach = Store(run.data.store) if run.data.store else store
    # Of a Dataset the digest is known before its rows are read.
    prepared = shards.read(reach, run.data) if run.data.digest else None
    kind = recipes.kind(run.trainer)
    table = None if prepared else data.load(reach, run.data, kind)
    digest = table.digest if table else prepared.digest
    _same_everywhere(digest, run)
    fingerprint = run.fingerprint(digest, recipe.to_strings())
    standing: list[tuple[Published, artifact.Manifest] | None] = [None]
    if rank == 0:
        standing = [export.published_before(store, run, fingerprint)]
    dist.broadcast_object_list(standing, src=0)
    if standing[0]:
        published, manifest = standing[0]
        export.check_gates(run.evaluation.gates, manifest.metrics["test"])
        print(f"published before: {published.uri} {published.digest}", flush=True)
        return _summary(run, Outcome.SUCCEEDED, teller, artifact=published, metrics=dict(manifest.metrics["test"]))
    if prepared:
        run, parts = prepared.resolved(run), prepared.parts
        leads = os.environ["LOCAL_RANK"] == "0"
        table = shards.load(reach, prepared, folder / "data", writes=leads, tell=teller.tell, kind=kind)
    else:
        parts = data.divided(table, run.data.split or Split())
    slices.check(run.evaluation.slices, table)
    if run.early_stopping and not len(parts["validation"]):
        raise UserFailed("earlyStopping looks at the validation split, which has no rows")
    if run.early_stopping and not run.early_stopping.fits(run.data.task):
        raise UserFailed(f"earlyStopping.metric: the task {run.data.task} has no accuracy: write validation_loss")
    learner = recipes.learner(run.trainer, run.data, table, parts["train"])
    scratch = folder / f"rank-{rank}"
    scratch.mkdir(exist_ok=True)
    if run.init_from and isinstance(learner, Fitted):
        raise UserFailed(f"spec.trainer.initFrom: {run.trainer.recipe} is fitted at once: leave it out")
    first = initial.weights(store, run.init_from, run.trainer, learner, scratch / "initial") if run.init_from else None
    local = LocalCheckpoints(run, rank, dist.get_world_size()) if run.checkpoint.local else None
    if local is not None:
        afterwards.append(local.remove)
    setting = Setting(
        run, learner, table, parts, rank, dist.get_world_size(), device, Checkpoints(store, run, rank, scratch), teller,
        stop=lambda: _stopping, losses=folder / "losses.txt", initial=first, local=local,
    )  # fmt: skip
    state, weights = _fitted(setting, learner) if isinstance(learner, Fitted) else _trained(setting)
    teller.tell(phase="Evaluating")
    if rank != 0:
        return _summary(run, Outcome.SUCCEEDED, teller)
    made = scratch / "artifact"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    figures, manifest, more = _evaluated(setting, state, weights, made)
    print(f"test: {' '.join(f'{name}={value:.6g}' for name, value in figures.items())}", flush=True)
    teller.tell(phase="Publishing")
    published = export.publish(store, run, manifest, made)
    print(f"published: {published.uri} {published.digest}", flush=True)
    return _summary(run, Outcome.SUCCEEDED, teller, artifact=published, metrics=figures, **more)


def _trained(setting: Setting) -> tuple[State, Weights]:
    training = Training(setting)
    training.run()
    return training.state, training.weights()


def _fitted(setting: Setting, learner: Fitted) -> tuple[State, Weights]:
    """As `_trained`, of what is fitted at once: one epoch, and a step for each round. There are no checkpoints."""
    if setting.world_size > 1:
        raise UserFailed(
            f"spec.workers: {setting.run.trainer.recipe} is fitted at once, by one process: write replicas: 1 and"
            " processesPerWorker: 1"
        )
    done = 0

    def tell(step: int, steps: int) -> None:
        nonlocal done
        done = step
        setting.teller.tell(phase="Training", epoch=0, epochs=1, step=step, total_steps=steps, world_size=1)
        if setting.stop():
            raise Preempted(step, None)

    tell(0, 1)
    weights = learner.fit(setting.table, setting.parts["train"], tell)
    setting.teller.tell(epoch=1)
    return State(Cursor(epoch=1, step=done)), weights


def _evaluated(
    setting: Setting, state: State, weights: Weights, folder: Path
) -> tuple[dict[str, float], artifact.Manifest, dict[str, tuple[PartFigures, ...]]]:
    """Exports to `folder`, measures what was exported, and lets the gates decide; only then there is a manifest. Last
    what the summary says of slices and classes."""
    run, learner, table, parts = setting.run, setting.learner, setting.table, setting.parts
    learner.write(weights, folder)
    session = Session(folder)
    test = parts["test"]
    export.agree(learner, weights, session, table, test)
    measured = {
        part: learner.measured(session, table, parts[part]) for part in ("test", "validation") if len(parts[part])
    }
    figures = {part: one.figures for part, one in measured.items()}
    export.check_gates(run.evaluation.gates, figures["test"], measured["test"])
    samples = export.golden(session, learner, table, test, folder)
    found = slices.measured(run.evaluation.slices, learner, session, table, test)
    if found:
        measured["test"].details["slices"] = found
    export.write_documents(folder, table, parts, state.history, measured)
    manifest = export.manifest(
        run, learner, table, parts, folder, golden_samples=samples, figures=figures,
        epochs=state.cursor.epoch, steps=state.cursor.step,
    )  # fmt: skip
    more = {"slices": slices.told(found, run.data.task), "classes": slices.worst_classes(measured["test"])}
    return figures["test"], manifest, more


def _same_everywhere(digest: str, run: TrainingRun) -> None:
    digests: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(digests, digest)
    if len(set(digests)) > 1:
        raise DataFailed(f"data.uri: {run.data.uri} changed while the ranks read it: write a new object, and name that")


if __name__ == "__main__":
    main()
