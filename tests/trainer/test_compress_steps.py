"""Each step on each recipe that it works on: what it makes smaller, what it keeps, what it leaves and why."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelwright.derivation import DerivationSummary
from modelwright_server import loading
from modelwright_trainer import onnxgraph
from modelwright_trainer.compress import cluster, merge, state
from modelwright_trainer.compress.importance import magnitude
from modelwright_trainer.compress.lowrank import rank_of
from modelwright_trainer.compress.schedule import shares, sparsities
from modelwright_trainer.failures import TrainingFailed, UserFailed

from tests.trainer.compression import World, published
from tests.trainer.tables import real, text

RECIPES: dict[str, dict[str, str]] = {
    "mlp": {"hiddenSizes": "48,32", "epochs": "8"},
    "cnn": {"imageShape": "1,8,8", "channels": "8,16", "hiddenSize": "32", "epochs": "4"},
    "linear": {"epochs": "4"},
    "transformer": {"vocabulary": "17", "layers": "1", "heads": "2", "headSize": "8", "epochs": "1"},
    "gradient-boosting": {"trees": "4"},
}
_made: dict[str, World] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worlds")


def world(folder: Path, recipe: str) -> World:
    """The digits learned by a recipe; made once."""
    if recipe not in _made:
        (folder / recipe).mkdir()
        table = real("digits", tokens=recipe == "transformer")
        _made[recipe] = published(folder / recipe, table, recipe, **RECIPES[recipe])
    return _made[recipe]


_variants = (f"v{number}" for number in itertools.count())


def line(one: World, *steps: dict[str, Any], **more: Any) -> tuple[DerivationSummary, DerivationSummary]:
    """The last step's and the publication's summaries."""
    *_, step, last = one.all(*steps, variant=next(_variants), **more)
    assert last.outcome == "Succeeded", last.failure
    return step, last


def weights_of(one: World, last: DerivationSummary, folder: Path) -> dict[str, np.ndarray]:
    """The published tensors, of a version that a server loads."""
    manifest = one.fetched(last, folder)
    assert not loading.check(folder, manifest, 1).warnings
    assert manifest.formats.onnx is not None
    return onnxgraph.tensors(folder, manifest.formats.onnx)


def smaller(step: DerivationSummary) -> float:
    assert step.before is not None
    assert step.after is not None
    return step.after.bytes / step.before.bytes


@pytest.mark.parametrize("method", ["Magnitude", "Gradient", "Movement"])
@pytest.mark.parametrize("recipe", ["mlp", "cnn", "transformer"])
def test_unstructured_pruning_empties_the_share_that_was_asked_for(
    folder: Path, recipe: str, method: str, tmp_path: Path
) -> None:
    prune = {"prune": {"method": method, "sparsity": 0.7, "rounds": 2, "finetune": {"epochs": 3}}}
    step, last = line(world(folder, recipe), prune)
    tensors = weights_of(world(folder, recipe), last, tmp_path)
    matrices = [value for name, value in tensors.items() if name.endswith("weight") and value.ndim > 1]
    emptied = sum(int((one == 0).sum()) for one in matrices)
    assert emptied == pytest.approx(0.7 * sum(one.size for one in matrices), abs=2)
    assert all(one.any() for one in matrices)
    assert smaller(step) < 0.8


@pytest.mark.parametrize("recipe", ["mlp", "cnn"])
def test_n_of_m_leaves_so_many_of_each_group_and_names_what_it_leaves(
    folder: Path, recipe: str, tmp_path: Path
) -> None:
    prune = {"prune": {"granularity": "NofM", "keep": 2, "of": 4, "rounds": 2, "finetune": {"epochs": 2}}}
    step, last = line(world(folder, recipe), prune)
    tensors = weights_of(world(folder, recipe), last, tmp_path)
    divided = [one for name, one in tensors.items() if one.ndim > 1 and int(np.prod(one.shape[1:])) % 4 == 0]
    assert divided
    assert all(((one.reshape(-1, 4) != 0).sum(axis=1) <= 2).all() for one in divided)
    if recipe == "cnn":
        assert "convolutions.0.weight is left: its 9 inputs are no multiple of 4" in step.notes


@pytest.mark.parametrize("method", ["Magnitude", "Gradient", "Movement"])
@pytest.mark.parametrize("recipe", ["mlp", "cnn", "transformer"])
def test_structured_pruning_shrinks_the_tensors_themselves(
    folder: Path, recipe: str, method: str, tmp_path: Path
) -> None:
    prune = {"prune": {"method": method, "granularity": "Structured", "sparsity": 0.5, "finetune": {"epochs": 2}}}
    step, last = line(world(folder, recipe), prune)
    manifest = world(folder, recipe).fetched(last, tmp_path)
    tensors = weights_of(world(folder, recipe), last, tmp_path)
    assert step.before is not None
    assert step.after is not None
    assert step.after.parameters < 0.75 * step.before.parameters
    shapes = {name: value.shape for name, value in tensors.items()}
    if recipe == "mlp":
        assert (shapes["linears.0.weight"], shapes["linears.1.weight"]) == ((24, 64), (16, 24))
        assert manifest.rebuild is not None
        assert manifest.rebuild.kind == "recipe"
        assert manifest.rebuild.hyperparameters["hiddenSizes"] == "24,16"
    elif recipe == "cnn":
        assert (shapes["convolutions.1.weight"], shapes["hidden.weight"]) == ((8, 4, 3, 3), (16, 32))
        assert manifest.rebuild is not None
    else:
        assert (shapes["blocks.0.asked.weight"], shapes["blocks.0.wide.weight"]) == ((8, 16), (32, 16))
        assert manifest.rebuild is None


def test_what_was_pruned_stays_empty_through_all_that_follows(folder: Path, tmp_path: Path) -> None:
    tune = {"epochs": 1, "distillation": 1.0}
    step, last = line(
        world(folder, "mlp"),
        {"prune": {"granularity": "Structured", "sparsity": 0.25, "finetune": tune}},
        {"prune": {"sparsity": 0.8, "finetune": tune}},
        {"cluster": {"bits": 3, "finetune": tune}},
        {"prune": {"sparsity": 0.9, "finetune": tune}},
    )
    tensors = weights_of(world(folder, "mlp"), last, tmp_path)
    assert tensors["linears.1.weight"].shape == (24, 36)
    assert all(len(np.unique(one)) <= 8 for one in tensors.values() if one.ndim > 1 and one.size > 100)
    assert sum(int((one == 0).sum()) for one in tensors.values() if one.ndim > 1) > 0.89 * (36 * 88 + 24 * 10)
    assert step.after is not None


def test_merging_takes_twins_for_one_and_computes_the_same() -> None:
    vectors = np.array([[1.0, 0, 0], [2.0, 0, 0.001], [0, 1, 0], [0, -1, 0]])
    leaders, multiples, nearest = merge.alike(vectors, 0.99)
    assert leaders.tolist() == [1, 1, 2, 3]
    assert multiples.tolist() == pytest.approx([0.5, 1, 1, 1], abs=1e-3)
    assert nearest == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("recipe", ["mlp", "cnn"])
def test_merging_shrinks_layers_or_says_how_alike_their_neurons_are(folder: Path, recipe: str, tmp_path: Path) -> None:
    step, last = line(world(folder, recipe), {"merge": {"threshold": 0.3, "finetune": {"epochs": 2}}})
    weights_of(world(folder, recipe), last, tmp_path)
    assert step.before is not None
    assert step.after is not None
    assert step.after.parameters < step.before.parameters
    none, _ = line(world(folder, recipe), {"merge": {"threshold": 0.999}})
    assert none.after is not None
    assert none.after.parameters == step.before.parameters
    assert "the two most alike have a cosine of" in none.notes[0]


@pytest.mark.parametrize("recipe", ["mlp", "transformer"])
def test_low_rank_makes_two_factors_where_that_saves(folder: Path, recipe: str, tmp_path: Path) -> None:
    one = world(folder, recipe)
    step, last = line(one, {"lowRank": {"energy": 0.5, "finetune": {"epochs": 1}}})
    tensors = weights_of(one, last, tmp_path)
    assert step.before is not None
    assert step.after is not None
    assert step.after.parameters < step.before.parameters
    assert any(name.endswith(".left") for name in tensors)
    assert one.fetched(last, tmp_path).rebuild is None
    none, _ = line(one, {"lowRank": {"energy": 0.9999}})
    assert any("weights in place of" in note for note in none.notes)


def test_what_is_of_low_rank_is_pruned_clustered_and_quantized_like_another(folder: Path, tmp_path: Path) -> None:
    tune = {"epochs": 1}
    steps = (
        {"lowRank": {"energy": 0.6, "finetune": tune}},
        {"prune": {"granularity": "Structured", "sparsity": 0.5, "finetune": tune}},
        {"prune": {"sparsity": 0.5, "finetune": tune}},
        {"cluster": {"bits": 4, "finetune": tune}},
        {"quantize": {"scheme": "Int8Dynamic"}},
    )
    step, last = line(world(folder, "mlp"), *steps)
    weights_of(world(folder, "mlp"), last, tmp_path)
    assert step.after is not None


def test_distilling_learns_from_the_file_of_any_origin(folder: Path, tmp_path: Path) -> None:
    student = {"hiddenSizes": "16", "epochs": "15", "learningRate": "0.005"}
    for recipe in ("mlp", "gradient-boosting"):
        one = world(folder, recipe)
        step, last = line(one, {"distill": {"recipe": "mlp", "hyperparameters": student}})
        manifest = one.fetched(last, tmp_path / recipe)
        assert manifest.rebuild is not None
        assert manifest.rebuild.kind == "recipe"
        assert manifest.rebuild.hyperparameters["hiddenSizes"] == "16"
        assert step.after is not None
        assert step.after.metrics["accuracy"] > 0.8


@pytest.mark.parametrize("scheme", ["Int8Dynamic", "Int8Static", "Int4Weight"])
@pytest.mark.parametrize("recipe", ["cnn", "transformer", "linear"])
def test_quantizing_works_on_every_recipe_with_layers(folder: Path, recipe: str, scheme: str, tmp_path: Path) -> None:
    step, last = line(world(folder, recipe), {"quantize": {"scheme": scheme}})
    weights_of(world(folder, recipe), last, tmp_path)
    assert smaller(step) < 0.8
    assert step.before is not None
    assert step.after is not None
    assert step.after.metrics["accuracy"] > step.before.metrics["accuracy"] - 0.05
    if (recipe, scheme) == ("cnn", "Int4Weight"):
        assert "convolutions.0.weight [8, 1, 3, 3] is left in float32: 4 bits are for matrices" in step.notes


@pytest.mark.parametrize(
    ("recipe", "step", "words"),
    [
        ("gradient-boosting", {"prune": {}}, "does not say how to build its module"),
        (
            "gradient-boosting",
            {"quantize": {"scheme": "Int8Dynamic"}},
            "has no matrix product or convolution with weights",
        ),
        ("linear", {"prune": {"granularity": "Structured"}}, "linear has no neurons, channels or heads inside"),
        ("linear", {"merge": {}}, "linear has no neurons, channels or heads inside"),
        ("transformer", {"merge": {}}, "which holds behind ReLU and not behind the transformer's GELU"),
    ],
)
def test_a_step_without_what_it_needs_says_so(folder: Path, recipe: str, step: dict[str, Any], words: str) -> None:
    one = world(folder, recipe)
    with pytest.raises(TrainingFailed, match=words) as told:
        one.run(one.asked(step, variant=next(_variants)))
    assert told.value.outcome.reason == "StepNeedsModule"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"recipe": "pca"}, r"distill\.recipe: pca does AnomalyDetection"),
        ({"recipe": "mlp", "hyperparameters": {"hidenSizes": "4"}}, r"distill\..*hidenSizes"),
        ({"recipe": "gradient-boosting"}, r"distill\.recipe: gradient-boosting is fitted at once"),
    ],
)
def test_a_recipe_that_cannot_be_taught_is_named(folder: Path, asked: dict[str, Any], words: str) -> None:
    one = world(folder, "mlp")
    with pytest.raises(UserFailed, match=words):
        one.run(one.asked({"distill": asked}, variant=next(_variants)))


def test_a_language_model_and_an_autoencoder_are_compressed_too(tmp_path: Path) -> None:
    table, letters = text()
    recipe = {"vocabulary": str(letters), "layers": "1", "heads": "2", "headSize": "8", "epochs": "1"}
    (tmp_path / "text").mkdir()
    one = published(tmp_path / "text", table, "transformer", "LanguageModelling", **recipe)
    tune = {"epochs": 1, "distillation": 0.5}
    step, _ = line(one, {"prune": {"sparsity": 0.6, "finetune": tune}}, {"cluster": {"bits": 4, "finetune": tune}})
    assert step.after is not None
    assert "perplexity" in step.after.metrics
    (tmp_path / "rows").mkdir()
    rows = published(tmp_path / "rows", real("digits"), "autoencoder", "AnomalyDetection", hiddenSizes="32", epochs="2")
    step, last = line(rows, {"prune": {"granularity": "Structured", "sparsity": 0.5, "finetune": tune}})
    assert step.after is not None
    manifest = rows.fetched(last, tmp_path / "got")
    assert manifest.rebuild is not None
    assert manifest.rebuild.kind == "recipe"
    assert (manifest.rebuild.hyperparameters["hiddenSizes"], manifest.rebuild.hyperparameters["codeSize"]) == (
        "16",
        "4",
    )


def test_a_regression_is_compressed_too(tmp_path: Path) -> None:
    one = published(tmp_path, real("diabetes"), "mlp", "Regression", hiddenSizes="32,16", epochs="20")
    tune = {"epochs": 2, "distillation": 0.5}
    step, last = line(one, {"prune": {"sparsity": 0.5, "finetune": tune}}, {"cluster": {"finetune": tune}})
    assert step.after is not None
    assert {"rmse", "r2"} <= set(last.metrics)


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=60), st.integers(1, 8), st.booleans())
def test_a_codebook_has_no_more_values_and_keeps_zeros(values: list[float], most: int, zero_apart: bool) -> None:
    tensor = np.array(values, np.float32)
    found = cluster.clustered(tensor, most + zero_apart, zero_apart=zero_apart)
    assert len(np.unique(found)) <= most + zero_apart
    assert found.min() >= min(0, tensor.min()) - 1e-5
    assert found.max() <= max(0, tensor.max()) + 1e-5
    if zero_apart:
        assert not found[tensor == 0].any()


@given(st.floats(0.01, 0.99), st.integers(1, 12), st.integers(0, 40))
def test_rounds_end_where_was_asked_and_share_all_epochs(asked: float, rounds: int, epochs: int) -> None:
    gone = sparsities(asked, rounds)
    assert gone == sorted(gone)
    assert gone[-1] == pytest.approx(asked)
    assert sum(shares(epochs, rounds)) == epochs


def test_magnitudes_compare_between_layers_of_unlike_scale() -> None:
    small = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    scores = magnitude({"a": small, "b": small * 1000}, ["a", "b"])
    np.testing.assert_allclose(scores["a"], scores["b"])
    np.testing.assert_allclose(scores["a"], [[1 / 30, 4 / 29], [9 / 25, 1]])


def test_the_rank_keeps_the_energy_and_is_the_least() -> None:
    values = np.array([3.0, 2.0, 1.0, 0.0])
    assert [rank_of(values, energy) for energy in (0.5, 0.64, 0.65, 0.92, 0.93, 0.999)] == [1, 1, 2, 2, 3, 3]


def test_minus_zero_is_zero_once_it_is_settled() -> None:
    assert not np.signbit(state.settled({"w": np.array([-0.0, 1.0], np.float32)})["w"]).any()
