"""Hyperparameters of the recipes: read from strings, and refused so that one knows what to write."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright.api.recipes import RECIPES, HyperparameterError, MlpHyperparameters, parse, parse_mlp
from modelwright.api.tasks import Task
from modelwright.api.training_recipe import Recipe

PATH = "spec.trainer.hyperparameters"


def said(recipe: str = "mlp", **given: str) -> tuple[str, ...]:
    with pytest.raises(HyperparameterError) as error:
        parse(recipe, given)
    return error.value.problems


def test_strings_become_numbers_and_what_is_left_out_has_its_default() -> None:
    assert parse_mlp({"hiddenSizes": "300, 100", "learningRate": "1e-3", "epochs": "5"}) == MlpHyperparameters(
        hidden_sizes=(300, 100), learning_rate=0.001, epochs=5, batch_size=64, weight_decay=0.0, dropout=0.0, seed=0
    )


@pytest.mark.parametrize("name", ["learningrate", "learning_rate", "learning-rate", "learningRat", "LearningRate"])
def test_a_misspelt_name_is_told_with_the_nearest_right_one(name: str) -> None:
    assert said(**{name: "0.1"}) == (f"{PATH}.{name}: mlp has no such hyperparameter; did you mean learningRate?",)


def test_a_name_that_is_near_nothing_is_told_with_all_names() -> None:
    assert said(temperature="1")[0].endswith(
        "there are learningRate, batchSize, microBatchSize, epochs, optimizer, weightDecay, schedule, warmupSteps,"
        " gradientClipping, precision, seed, classWeights, noise, mixup, hiddenSizes, dropout"
    )


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("learningRate", "0", "'0' is out of range: above 0, at most 10"),
        ("learningRate", "fast", "'fast' is not a number, such as 0.001 or 1e-3"),
        ("learningRate", "nan", "'nan' is not a number, such as 0.001 or 1e-3"),
        ("learningRate", "1e999", "'1e999' is out of range: above 0, at most 10"),
        ("gradientClipping", "-1", "'-1' is out of range: at least 0, at most 1000000"),
        ("schedule", "cosine", "'cosine' is not Constant, Linear or Cosine"),
        ("precision", "fp16", "'fp16' is not fp32 or bf16"),
        ("dropout", "1", "'1' is out of range: at least 0, below 1"),
        ("batchSize", "6_4", "'6_4' is not a whole number, such as 64"),
        ("batchSize", "64.0", "'64.0' is not a whole number, such as 64"),
        ("epochs", "-1", "'-1' is out of range: at least 1, at most 100000"),
        ("hiddenSizes", "300;100", "'300;100' is not whole numbers with commas between, such as 300,100"),
        ("hiddenSizes", "", "'' is not whole numbers with commas between, such as 300,100"),
        ("hiddenSizes", "300,0", "'300,0' is out of range: 1 to 16 widths, each from 1 to 65536"),
        ("hiddenSizes", ",".join(["8"] * 17), "is out of range: 1 to 16 widths, each from 1 to 65536"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_right(name: str, value: str, reason: str) -> None:
    (line,) = said(**{name: value})
    assert line.startswith(f"{PATH}.{name}: ")
    assert line.endswith(reason)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(HyperparameterError) as error:
        parse("mlp", {"epoch": "3", "dropout": "2", "batchSize": "many"})
    assert len(error.value.problems) == 3
    assert str(error.value).count(PATH) == 3


def test_the_python_name_of_a_hyperparameter_is_none_of_the_apis() -> None:
    assert "did you mean batchSize?" in said(batch_size="64")[0]


def test_an_unknown_recipe_is_told_with_those_that_exist() -> None:
    assert said("mpl") == (
        "spec.trainer.recipe: 'mpl' is not a recipe; there are autoencoder, cnn, dbscan, gradient-boosting, kmeans,"
        " linear, mlp, pca, transformer",
    )


@given(
    st.builds(
        MlpHyperparameters,
        hidden_sizes=st.lists(st.integers(1, 65536), min_size=1, max_size=16).map(tuple),
        learning_rate=st.floats(1e-12, 10),
        batch_size=st.integers(1, 1_000_000),
        micro_batch_size=st.integers(0, 1_000_000),
        epochs=st.integers(1, 100_000),
        optimizer=st.sampled_from(["AdamW", "SGD"]),
        schedule=st.sampled_from(["Constant", "Linear", "Cosine"]),
        warmup_steps=st.integers(0, 1_000_000),
        gradient_clipping=st.floats(0, 1_000_000),
        precision=st.sampled_from(["fp32", "bf16"]),
        weight_decay=st.floats(0, 1),
        dropout=st.floats(0, 1, exclude_max=True),
        seed=st.integers(0, 2**32 - 1),
    )
)
def test_what_was_written_is_read_back_to_the_bit(given: MlpHyperparameters) -> None:
    assert parse("mlp", given.to_strings()) == given


@pytest.mark.parametrize(
    ("recipe", "given", "reason"),
    [
        ("cnn", {}, f"{PATH}.imageShape: required by cnn. Channels, height and width of the images, such as 3,32,32."),
        ("cnn", {"imageShape": "8,8"}, "'8,8' is not channels, height and width from 1 to 9999 with commas between,"),
        ("cnn", {"imageShape": "0,8,8"}, "'0,8,8' is not channels, height and width"),
        ("cnn", {"imageShape": "1,8,8", "flip": "Sideways"}, "'Sideways' is not None, Horizontal, Vertical or Both"),
        ("cnn", {"imageShape": "1,8,8", "rotate": "270"}, "'270' is out of range: at least 0, at most 180"),
        ("transformer", {}, f"{PATH}.vocabulary: required by transformer. How many tokens there are"),
        ("transformer", {"vocabulary": "1"}, "'1' is out of range: at least 2, at most 1000000"),
        ("linear", {"classWeights": "balanced"}, "'balanced' is not None or Balanced"),
        ("linear", {"hiddenSizes": "8"}, "linear has no such hyperparameter"),
    ],
)
def test_what_a_recipe_needs_is_told_with_what_to_write(recipe: str, given: dict[str, str], reason: str) -> None:
    (line,) = said(recipe, **given)
    assert reason in line


GIVEN = {
    "autoencoder": {"hiddenSizes": "16,8", "codeSize": "3", "noise": "0.1"},
    "cnn": {"imageShape": "3, 32, 32", "channels": "8,8", "crop": "2", "rotate": "10.5", "flip": "Both"},
    "dbscan": {"eps": "0.8", "minRows": "3"},
    "gradient-boosting": {"trees": "50", "learningRate": "0.05", "classWeights": "Balanced"},
    "kmeans": {"clusters": "3"},
    "linear": {"classWeights": "Balanced", "mixup": "0.2"},
    "mlp": {"hiddenSizes": "8", "noise": "0.05"},
    "pca": {"components": "4"},
    "transformer": {"vocabulary": "100", "heads": "2", "headSize": "8"},
}


def test_every_recipe_reads_what_it_writes_and_says_which_tasks_it_does() -> None:
    assert GIVEN.keys() == RECIPES.keys() == set(get_args(Recipe))
    for recipe, stated in GIVEN.items():
        read = parse(recipe, stated)
        assert parse(recipe, read.to_strings()) == read
        assert set(read.tasks) <= set(get_args(Task))
        assert read.tasks
    assert {task for model in RECIPES.values() for task in model.tasks} == set(get_args(Task))
