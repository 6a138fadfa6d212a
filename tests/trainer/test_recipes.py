"""Every recipe on real data: how good it gets, and that the published file gives what the module gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from modelwright_trainer import export
from modelwright_trainer.data import Table
from modelwright_trainer.failures import DataFailed, UserFailed
from modelwright_trainer.learner import Batch
from modelwright_trainer.recipes.cnn import of_channels
from modelwright_trainer.tasks import Classification
from scipy.special import softmax
from sklearn.metrics import explained_variance_score, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight

from tests.trainer.tables import CPU, exported, fitted, learner, parts, real, text, trained

DIGITS = real("digits")
CNN = {"imageShape": "1,8,8", "channels": "16,32", "epochs": "12", "learningRate": "0.003"}


def figures_of(
    table: Table, folder: Path, recipe: str, task: str = "Classification", **hyperparameters: str
) -> dict[str, float]:
    """Of rows that were not trained on, from a file that is checked against the module."""
    train, test = parts(table)
    one = learner(table, recipe, task, train=train, **hyperparameters)
    weights = fitted(one, table, train)
    session = exported(one, weights, folder)
    export.agree(one, weights, session, table, test)
    figures = one.measured(session, table, test).figures
    print(f"{recipe}, {task}: {' '.join(f'{name}={value:.4g}' for name, value in figures.items())}")
    return figures


@pytest.mark.parametrize(
    ("recipe", "hyperparameters", "gate"),
    [
        ("linear", {"epochs": "20", "learningRate": "0.01"}, 0.94),
        ("mlp", {"epochs": "15", "hiddenSizes": "64,32", "learningRate": "0.003"}, 0.95),
        ("cnn", CNN, 0.97),
        ("cnn", {**CNN, "crop": "1", "rotate": "10", "noise": "0.1", "epochs": "16"}, 0.96),
        ("mlp", {"epochs": "20", "learningRate": "0.003", "mixup": "0.2", "dropout": "0.1"}, 0.95),
    ],
)
def test_images_are_told_apart(recipe: str, hyperparameters: dict[str, str], gate: float, tmp_path: Path) -> None:
    assert figures_of(DIGITS, tmp_path, recipe, **hyperparameters)["accuracy"] >= gate


def test_a_transformer_tells_rows_of_tokens_apart(tmp_path: Path) -> None:
    """The digits again: 64 tokens, each of 17 shades."""
    given = {"vocabulary": "17", "layers": "1", "epochs": "15", "learningRate": "0.005"}
    assert figures_of(real("digits", tokens=True), tmp_path, "transformer", **given)["accuracy"] >= 0.9


def test_a_transformer_learns_which_letter_comes_next(tmp_path: Path) -> None:
    table, letters = text()
    given = {"vocabulary": str(letters), "layers": "1", "epochs": "4", "batchSize": "64", "learningRate": "0.005"}
    shares = np.bincount(table.features[table.features >= 0]) / (table.features >= 0).sum()
    unigram = float(np.exp(-(shares * np.log(np.maximum(shares, 1e-9))).sum()))
    figures = figures_of(table, tmp_path, "transformer", "LanguageModelling", **given)
    assert figures["perplexity"] < 0.75 * unigram
    assert figures["perplexity"] == pytest.approx(np.exp(figures["log_loss"]))


@pytest.mark.parametrize(
    ("recipe", "given"),
    [
        ("linear", {"epochs": "60", "learningRate": "0.02"}),
        ("mlp", {"epochs": "40", "hiddenSizes": "32", "learningRate": "0.003", "weightDecay": "0.1"}),
    ],
)
def test_a_number_is_predicted_in_its_own_unit(recipe: str, given: dict[str, str], tmp_path: Path) -> None:
    table = real("diabetes")
    figures = figures_of(table, tmp_path, recipe, "Regression", **given)
    assert table.targets is not None
    assert figures["r2"] >= 0.35
    assert figures["rmse"] < table.targets.std() * 0.85


def test_an_autoencoder_finds_rows_that_are_unlike_those_it_learned_from(tmp_path: Path) -> None:
    """It learns from benign tumours alone, and gives malignant ones higher scores."""
    labelled = real("breast_cancer")
    assert labelled.targets is not None
    table = dataclasses.replace(labelled, targets=None, classes=())
    benign = np.flatnonzero(labelled.targets == 1)
    train = benign[: len(benign) * 4 // 5]
    rest = np.setdiff1d(np.arange(table.rows), train)
    given = {"epochs": "60", "hiddenSizes": "16", "codeSize": "4", "learningRate": "0.003", "noise": "0.1"}
    one = learner(table, "autoencoder", "AnomalyDetection", train=train, **given)
    weights = fitted(one, table, train)
    session = exported(one, weights, tmp_path)
    export.agree(one, weights, session, table, rest)
    outputs = session.run(table.features[rest])
    area = roc_auc_score(labelled.targets[rest] == 0, outputs["anomaly_score"])
    print(f"autoencoder: malignant against benign by anomaly score, area under the curve {area:.3f}")
    assert area >= 0.9
    scale = np.where(table.features[train].std(axis=0) > 0, table.features[train].std(axis=0), 1)
    expected = np.square((outputs["reconstruction"] - table.features[rest]) / scale).mean(axis=1)
    np.testing.assert_allclose(outputs["anomaly_score"], expected, rtol=1e-3)
    measured = one.measured(session, table, rest)
    assert measured.figures["reconstruction_error"] == pytest.approx(expected.mean(), rel=1e-3)
    explained = explained_variance_score(
        table.features[rest] / scale, outputs["reconstruction"] / scale, multioutput="variance_weighted"
    )
    assert measured.figures["explained_variance"] == pytest.approx(explained, rel=1e-3)
    assert measured.details["anomalyScores"]["0.9"] == pytest.approx(np.quantile(expected, 0.9), rel=1e-3)


def test_a_score_does_not_hang_on_how_large_the_numbers_are(tmp_path: Path) -> None:
    """Of columns far from 0 the score of a row is the same whichever rows it is computed with."""
    table = dataclasses.replace(real("wine"), targets=None, classes=())
    table = dataclasses.replace(table, features=(table.features + np.float32(1e5)))
    one = learner(table, "autoencoder", "AnomalyDetection")
    session = exported(one, trained(one, table), tmp_path)
    together = session.run(table.features)["anomaly_score"]
    alone = np.concatenate([session.run(table.features[row : row + 1])["anomaly_score"] for row in range(40)])
    np.testing.assert_allclose(alone, together[:40], rtol=1e-4, atol=1e-5)


# Rows of token ids


def test_padding_changes_nothing_before_it_and_the_next_token_is_that_behind_the_last(tmp_path: Path) -> None:
    table, letters = text(12)
    one = learner(table, "transformer", "LanguageModelling", vocabulary=str(letters), layers="2")
    weights = trained(one, table, steps=3)
    session = exported(one, weights, tmp_path)
    rows = table.features[1:3].copy()
    whole = session.run(rows)
    rows[:, 7:] = -1
    padded = session.run(rows)
    np.testing.assert_allclose(padded["logits"][:, :7], whole["logits"][:, :7], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(padded["next_probabilities"], softmax(whole["logits"][:, 6], axis=1), rtol=1e-4)
    np.testing.assert_allclose(whole["next_probabilities"], softmax(whole["logits"][:, 11], axis=1), rtol=1e-4)


def test_a_classifier_does_not_look_at_padding(tmp_path: Path) -> None:
    table = real("digits", tokens=True)
    one = learner(table, "transformer", vocabulary="17", layers="1")
    weights = trained(one, table, steps=2)
    session = exported(one, weights, tmp_path)
    module = one.rebuilt(weights)
    short = np.full((2, 64), -1, dtype=np.int64)
    short[:, :5] = [[1, 2, 3, 4, 5], [16, 0, 0, 0, 7]]
    given = session.run(short)["logits"]
    np.testing.assert_allclose(given, module(torch.from_numpy(short)).detach().numpy(), rtol=1e-4, atol=1e-5)
    # Where a position is padding, what it would have embedded makes no difference.
    with torch.no_grad():
        module.positions[5:] += 100
    np.testing.assert_allclose(given, module(torch.from_numpy(short)).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([1, 2, 17], "column x2 has the token 17 in row 2, and trainer.hyperparameters.vocabulary says 0 to 16: raise"),
        ([1, -2, 3], "column x1 has the token -2 in row 2"),
        ([1, -1, 3], "column x2 has a token behind padding in row 2: padding, -1, is at the end of a row"),
        ([-1, -1, -1], "row 2 is padding alone: leave it out"),
    ],
)
def test_what_is_no_row_of_tokens_is_named(row: list[int], words: str) -> None:
    table = real("digits", tokens=True)
    features = np.array([[1, 2, 3], row, [4, 5, -1]], dtype=np.int64)
    given = dataclasses.replace(table, features=features, targets=np.array([0, 1, 2]), names=("x0", "x1", "x2"))
    with pytest.raises(DataFailed, match="row 2") as told:
        learner(given, "transformer", vocabulary="17")
    assert words in str(told.value)


def test_columns_that_are_no_such_image_are_told_before_training() -> None:
    with pytest.raises(UserFailed, match=r"imageShape: 1 · 28 · 28 is 784 pixels, and the data set has 64 columns"):
        learner(DIGITS, "cnn", imageShape="1,28,28")


def test_a_task_that_the_recipe_does_not_do_is_refused() -> None:
    with pytest.raises(UserFailed, match="autoencoder does AnomalyDetection, and the task is Classification"):
        learner(DIGITS, "autoencoder")


# Parts


def test_all_pixels_of_a_channel_share_mean_and_deviation() -> None:
    generator = np.random.default_rng(0)
    images = generator.normal(3, 2, (50, 2, 4, 4)) * np.array([1, 10])[None, :, None, None]
    flat = images.reshape(50, -1)
    mean, deviation = of_channels((flat.mean(axis=0), flat.std(axis=0)), 2)
    np.testing.assert_allclose(mean.reshape(2, 16)[:, 3], images.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(deviation.reshape(2, 16)[:, 5], images.std(axis=(0, 2, 3)))


def test_balanced_weights_are_scikit_learn_s_and_a_class_counts_as_much_as_another() -> None:
    table = real("breast_cancer")
    assert table.targets is not None
    rows = np.concatenate([np.flatnonzero(table.targets == 0)[:20], np.flatnonzero(table.targets == 1)])
    task = Classification.of(table, rows, balanced=True)
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=table.targets[rows])
    np.testing.assert_allclose(task._weights, expected, rtol=1e-6)
    batch = Batch.of(table, rows, CPU)
    same = torch.zeros(len(rows), 2)
    assert float(task.loss(same, batch)) == pytest.approx(len(rows) * np.log(2), rel=1e-5)


def test_balanced_weights_find_more_of_a_rare_class(tmp_path: Path) -> None:
    """Six eights among all other digits."""
    assert DIGITS.targets is not None
    train, test = parts(DIGITS)
    train = np.delete(train, np.flatnonzero(DIGITS.targets[train] == 8)[6:])
    eights = test[DIGITS.targets[test] == 8]
    found = []
    for weights in ("None", "Balanced"):
        one = learner(DIGITS, "linear", train=train, classWeights=weights, epochs="4", learningRate="0.005")
        folder = tmp_path / weights
        folder.mkdir()
        given = exported(one, fitted(one, DIGITS, train), folder).run(DIGITS.features[eights])["probabilities"]
        found.append(float(np.mean(given.argmax(axis=1) == 8)))
    print(f"recall of eights, of which there are 6 among {len(train)} rows: {found[0]:.2f}, balanced {found[1]:.2f}")
    assert found[1] > found[0]


def test_a_rank_without_a_row_can_take_part() -> None:
    """Of a last batch with fewer rows than ranks some ranks get none, and all must take the step."""
    given = {"crop": "1", "rotate": "5", "flip": "Both", "noise": "0.1", "mixup": "0.2"}
    letters, count = text(8)
    bare = dataclasses.replace(DIGITS, targets=None, classes=())
    for one, table in (
        (learner(DIGITS, "cnn", imageShape="1,8,8", **given), DIGITS),
        (learner(DIGITS, "mlp", mixup="1", noise="1", classWeights="Balanced"), DIGITS),
        (learner(real("diabetes"), "linear", "Regression", mixup="1"), real("diabetes")),
        (learner(bare, "autoencoder", "AnomalyDetection", noise="1"), bare),
        (learner(real("digits", tokens=True), "transformer", vocabulary="17"), real("digits", tokens=True)),
        (learner(letters, "transformer", "LanguageModelling", vocabulary=str(count)), letters),
    ):
        module = one.module().train()
        none = one.augmented(Batch.of(table, np.empty(0, dtype=np.int64), CPU))
        loss = one.loss(module(none.features), none)
        loss.backward()
        assert loss.item() == 0
        assert all(value.grad is not None and not value.grad.any() for value in module.parameters())
        with torch.no_grad():
            assert len(one.sums(module(none.features), none)) == len(
                one.sums(module(Batch.of(table, np.arange(3), CPU).features), Batch.of(table, np.arange(3), CPU))
            )
