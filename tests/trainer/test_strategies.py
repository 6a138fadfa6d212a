"""The strategies against each other and against one rank: what they learn, and that interruptions do not show.

Losses are compared step by step, relative; after two epochs of 23 steps, the last of each with 29 rows for four ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelwright.contract import StoreAccess

from tests.trainer.pods import job, train
from tests.trainer.ranks import Case, Result, trained

TOLERANCE = 1e-4
TWO = {"epochs": "2"}
SGD = {**TWO, "optimizer": "SGD", "learningRate": "0.05"}
CLIPPED = {**TWO, "gradientClipping": "0.5"}
CLIPPED_SGD = {**SGD, "gradientClipping": "0.2"}
FSDP = {"type": "FSDP"}
HSDP = {"type": "FSDP", "shardSize": 2}
EVERY_STEP = {"type": "LocalSGD", "localSteps": 1}
LOCAL = {"type": "LocalSGD", "localSteps": 4}
MOMENTUM = {"type": "LocalSGD", "localSteps": 4, "outerLearningRate": "0.7", "outerMomentum": "0.5"}
STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "DDP": {}, "FSDP": FSDP, "HSDP": HSDP, "LocalSGD": LOCAL, "LocalSGD with momentum": MOMENTUM,
}  # fmt: skip
# How each case compares: to which of one rank.
ALIKE = {
    "DDP": (Case("ddp", TWO), "plain"),
    "FSDP": (Case("fsdp", TWO, FSDP), "plain"),
    "HSDP": (Case("hsdp", TWO, HSDP), "plain"),
    "DDP in micro-batches": (Case("ddp-micro", {**TWO, "microBatchSize": "5"}), "plain"),
    "FSDP in micro-batches": (Case("fsdp-micro", {**TWO, "microBatchSize": "5"}, FSDP), "plain"),
    "DDP, clipped": (Case("ddp-clip", CLIPPED), "clipped"),
    "FSDP, clipped": (Case("fsdp-clip", CLIPPED, FSDP), "clipped"),
    "HSDP, clipped in micro-batches": (Case("hsdp-clip", {**CLIPPED, "microBatchSize": "3"}, HSDP), "clipped"),
    "DDP, SGD": (Case("ddp-sgd", SGD), "sgd"),
    "FSDP, SGD, clipped": (Case("fsdp-sgd", CLIPPED_SGD, FSDP), "sgd, clipped"),
    "LocalSGD that averages after every step, SGD": (Case("local-1", SGD, EVERY_STEP), "sgd"),
    "LocalSGD with an outer optimizer that changes nothing": (
        Case("local-outer", SGD, {**EVERY_STEP, "outerLearningRate": "1", "outerMomentum": "0"}), "sgd",
    ),
}  # fmt: skip
ALONE = {
    "plain": Case("alone", TWO),
    "clipped": Case("alone-clip", CLIPPED),
    "sgd": Case("alone-sgd", SGD),
    "sgd, clipped": Case("alone-sgd-clip", CLIPPED_SGD),
    "in micro-batches": Case("alone-micro", {**TWO, "microBatchSize": "10"}),
    "scheduled": Case("alone-scheduled", {**TWO, "schedule": "Cosine", "warmupSteps": "5"}),
    "bf16": Case("alone-bf16", {**TWO, "precision": "bf16"}),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Result]:
    results = trained(1, list(ALONE.values()), tmp_path_factory.mktemp("alone"))
    return dict(zip(ALONE, results, strict=True))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Result]:
    results = trained(4, [case for case, _ in ALIKE.values()], tmp_path_factory.mktemp("four"))
    return dict(zip(ALIKE, results, strict=True))


def apart(one: Result, other: Result) -> float:
    assert one.losses.keys() == other.losses.keys()
    return max(abs(one.losses[step] / other.losses[step] - 1) for step in one.losses)


def same(one: Result, other: Result) -> bool:
    return one.weights.keys() == other.weights.keys() and all(
        np.array_equal(one.weights[name], other.weights[name]) for name in one.weights
    )


@pytest.mark.parametrize("name", ALIKE)
def test_four_ranks_learn_what_one_does(name: str, four: Mapping[str, Result], alone: Mapping[str, Result]) -> None:
    one, other = four[name], alone[ALIKE[name][1]]
    print(f"{name}: losses of {len(one.losses)} steps differ from one rank's by at most {apart(one, other):.2g}")
    assert len(one.losses) == 46
    assert apart(one, other) < TOLERANCE
    for weight, value in one.weights.items():
        np.testing.assert_allclose(value, other.weights[weight], rtol=1e-3, atol=1e-4)
    assert one.figure("validation_loss") == pytest.approx(other.figure("validation_loss"), rel=TOLERANCE)


def test_clipping_changes_the_course_so_that_it_is_tested(alone: Mapping[str, Result]) -> None:
    assert apart(alone["clipped"], alone["plain"]) > 0.01
    assert apart(alone["sgd, clipped"], alone["sgd"]) > 0.01


def test_micro_batches_of_one_rank_learn_what_the_whole_batch_does(alone: Mapping[str, Result]) -> None:
    assert apart(alone["in micro-batches"], alone["plain"]) < TOLERANCE


def test_a_warm_up_begins_slowly_and_the_end_is_calm(alone: Mapping[str, Result]) -> None:
    assert alone["scheduled"].losses[1] == alone["plain"].losses[1]
    assert alone["scheduled"].losses[3] > alone["plain"].losses[3]


def test_bfloat16_learns_alike_and_its_weights_are_float32(alone: Mapping[str, Result]) -> None:
    assert {value.dtype for value in alone["bf16"].weights.values()} == {np.dtype(np.float32)}
    assert 0 < apart(alone["bf16"], alone["plain"]) < 0.05
    assert alone["bf16"].figure("validation_loss") == pytest.approx(alone["plain"].figure("validation_loss"), rel=0.05)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mapping[str, Result], Path]:
    """Each strategy on four ranks to the end of 3 epochs, and the folder of their store."""
    folder = tmp_path_factory.mktemp("whole")
    cases = [Case(f"calm-{index}", LONG, strategy) for index, strategy in enumerate(STRATEGIES.values())]
    return dict(zip(STRATEGIES, trained(4, cases, folder), strict=True)), folder


LONG = {
    "epochs": "3", "learningRate": "0.01", "schedule": "Cosine", "warmupSteps": "10", "gradientClipping": "5",
}  # fmt: skip
STEPS = 3 * 23


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_reaches_the_gate(name: str, whole: tuple[Mapping[str, Result], Path]) -> None:
    figure = whole[0][name].figure("validation_accuracy")
    print(f"{name}: {figure:.4f} of the validation split after {LONG['epochs']} epochs")
    assert figure >= 0.93


@pytest.fixture(scope="module")
def resumed(whole: tuple[Mapping[str, Result], Path]) -> Mapping[str, tuple[Result, Result]]:
    """What was done before a crash after step 37, and what another attempt made of it."""
    cases: list[Case] = []
    for index, strategy in enumerate(STRATEGIES.values()):
        cases.append(Case(f"crash-{index}", LONG, strategy, 30, crash_at=37))
        cases.append(Case(f"crash-{index}", LONG, strategy, 30, attempt=2))
    results = trained(4, cases, whole[1])
    return dict(zip(STRATEGIES, zip(results[::2], results[1::2], strict=True), strict=True))


@pytest.mark.parametrize("name", STRATEGIES)
def test_after_a_crash_it_is_as_if_there_had_been_none(
    name: str, whole: tuple[Mapping[str, Result], Path], resumed: Mapping[str, tuple[Result, Result]]
) -> None:
    first, second = resumed[name]
    calm = whole[0][name]
    assert first.ended == "Crash"
    # LocalSGD saves where the ranks meet: in the second epoch, which begins after step 23, after steps 27 and 31.
    assert min(second.losses) == (32 if "LocalSGD" in name else 31)
    assert second.losses == {step: loss for step, loss in calm.losses.items() if step in second.losses}
    assert {**first.losses, **second.losses}.keys() == calm.losses.keys()
    assert same(second, calm)


@pytest.fixture(scope="module")
def resumed_locally(whole: tuple[Mapping[str, Result], Path]) -> Mapping[str, Sequence[Result]]:
    """As `resumed`, with local checkpoints: what was done before the crash, after it, and after one in which a rank
    lost its volume."""
    cases: list[Case] = []
    for index, strategy in enumerate(STRATEGIES.values()):
        for named, lost in ((f"local-{index}", None), (f"lost-{index}", 2)):
            cases.append(Case(named, LONG, strategy, 20, crash_at=37, local_steps=5))
            cases.append(Case(named, LONG, strategy, 20, attempt=2, local_steps=5, lost=lost))
    results = trained(4, cases, whole[1])
    return {name: results[4 * index : 4 * index + 4] for index, name in enumerate(STRATEGIES)}


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_goes_on_from_local_checkpoints_where_all_ranks_have_theirs(
    name: str, whole: tuple[Mapping[str, Result], Path], resumed_locally: Mapping[str, Sequence[Result]]
) -> None:
    calm = whole[0][name]
    first, second, _, after_loss = resumed_locally[name]
    assert first.ended == "Crash"
    assert min(second.losses) == 36
    assert min(after_loss.losses) < 36, "one rank has lost its own: all go on from the store's"
    for later in (second, after_loss):
        assert later.losses == {step: loss for step, loss in calm.losses.items() if step in later.losses}
        assert same(later, calm)


@pytest.fixture(scope="module")
def resized(whole: tuple[Mapping[str, Result], Path]) -> Mapping[str, tuple[Result, Result]]:
    """What was done by four ranks before a stop after step 37, and by three after it; FSDP's by DDP, too."""
    named = {**STRATEGIES, "FSDP, then DDP": FSDP}
    stopped = [Case(f"stop-{index}", LONG, strategy, stop_at=37) for index, strategy in enumerate(named.values())]
    after = [
        Case(case.job, LONG, {} if name == "FSDP, then DDP" else case.strategy, attempt=2)
        for name, case in zip(named, stopped, strict=True)
    ]
    before, later = trained(4, stopped, whole[1]), trained(3, after, whole[1])
    return dict(zip(named, zip(before, later, strict=True), strict=True))


@pytest.mark.parametrize("name", [*STRATEGIES, "FSDP, then DDP"])
def test_a_stop_and_another_number_of_ranks_lose_and_repeat_no_step(
    name: str, whole: tuple[Mapping[str, Result], Path], resized: Mapping[str, tuple[Result, Result]]
) -> None:
    first, second = resized[name]
    assert first.ended == "Preempted"
    at = first.state.cursor.step
    assert sorted(first.losses) == list(range(1, at + 1))
    assert sorted(second.losses) == list(range(at + 1, STEPS + 1))
    if "LocalSGD" in name:  # it learns from other pieces of the batches than four ranks would
        assert second.figure("validation_accuracy") >= 0.93
        return
    calm = whole[0][name.split(",")[0]]
    assert second.losses[at + 1] == pytest.approx(calm.losses[at + 1], rel=1e-5)
    assert max(abs(second.losses[step] / calm.losses[step] - 1) for step in second.losses) < 0.01


SMALL = {"batchSize": "512", "epochs": "1", "gradientClipping": "0.5"}
TOKENS = {**SMALL, "vocabulary": "17", "layers": "1", "heads": "2", "headSize": "4"}
RECIPES = {
    "linear": Case("linear", SMALL, recipe="linear"),
    "mlp, Regression": Case("regression", SMALL, task="Regression"),
    "cnn": Case("cnn", {**SMALL, "imageShape": "1,8,8", "channels": "4,8"}, recipe="cnn"),
    "autoencoder": Case("autoencoder", SMALL, recipe="autoencoder", task="AnomalyDetection"),
    "transformer": Case("transformer", TOKENS, recipe="transformer"),
    "transformer, LanguageModelling": Case("language", TOKENS, recipe="transformer", task="LanguageModelling"),
}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Result]]:
    """Each recipe on two ranks: with DDP, with FSDP in micro-batches, and so in bfloat16."""
    cases = []
    for case in RECIPES.values():
        pieces = {**case.hyperparameters, "microBatchSize": "100"}
        half = {**pieces, "precision": "bf16"}
        cases += [
            case,
            dataclasses.replace(case, job=f"{case.job}-fsdp", hyperparameters=pieces, strategy=FSDP),
            dataclasses.replace(case, job=f"{case.job}-bf16", hyperparameters=half, strategy=FSDP),
        ]
    results = trained(2, cases, tmp_path_factory.mktemp("recipes"))
    return {name: results[3 * index : 3 * index + 3] for index, name in enumerate(RECIPES)}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns_the_same_in_shards(name: str, recipes: Mapping[str, list[Result]]) -> None:
    whole, sharded, half = recipes[name]
    furthest = f"at most {apart(sharded, whole):.2g}, in bfloat16 {apart(half, whole):.2g}"
    print(f"{name}: losses of FSDP in micro-batches differ from those of DDP by {furthest}")
    assert len(whole.losses) == 3
    assert apart(sharded, whole) < TOLERANCE
    for weight, value in sharded.weights.items():
        np.testing.assert_allclose(value, whole.weights[weight], rtol=1e-3, atol=1e-4)
    assert apart(half, whole) < 0.05
    assert {value.dtype for value in half.weights.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "strategy", [FSDP, {"type": "LocalSGD", "localSteps": 4}], ids=lambda strategy: str(strategy["type"])
)
@pytest.mark.usefixtures("keys")
def test_a_pod_of_two_ranks_publishes_what_passes_the_gate(
    strategy: Mapping[str, Any], access: StoreAccess, tmp_path: Path
) -> None:
    name = f"digits-{strategy['type'].lower()}"
    gates = {"gates": [{"metric": "accuracy", "min": 0.93}]}
    summary, pod = train(job(access, name, evaluation=gates, strategy=strategy), tmp_path / "pod")
    assert summary.artifact, pod.log()
    assert summary.metrics["accuracy"] >= 0.93
