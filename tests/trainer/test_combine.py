"""Versions made of several: from published members to a published combination, evaluated against the best of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from modelwright import artifact, versions
from modelwright.contract import Outcome, Published, StoreAccess
from modelwright.derivation import DERIVATION_VARIABLE, CombineRun, DerivationSummary
from modelwright.store import Store
from modelwright_trainer import onnxgraph, packed
from modelwright_trainer.combine import command, stack
from modelwright_trainer.failures import DataFailed
from modelwright_trainer.onnxgraph import Session
from onnx import TensorProto, helper
from safetensors.numpy import load_file

from tests.trainer.pods import KEYS, job, train
from tests.trainer.tables import real
from tests.trainer.test_tasks import stored

pytestmark = pytest.mark.usefixtures("keys")
RECIPES: dict[str, dict[str, Any]] = {
    "net": {"recipe": "mlp", "hyperparameters": {"hiddenSizes": "32", "epochs": "6", "learningRate": "0.003"}},
    "line": {"recipe": "linear", "hyperparameters": {"epochs": "8", "learningRate": "0.01"}},
    "trees": {"recipe": "gradient-boosting", "hyperparameters": {"trees": "10"}},
}


@pytest.fixture(scope="module")
def members(
    access: StoreAccess, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Published]:  # fmt: skip
    """Three recipes, trained on the digits."""
    found = {}
    for name, trainer in RECIPES.items():
        run = job(access, name, processes=1, trainer=trainer)
        summary, pod = train(run, tmp_path_factory.mktemp("members") / name)
        assert summary.artifact, pod.log()
        found[name] = summary.artifact
    return found


@pytest.fixture(scope="module")
def regressions(access: StoreAccess, store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Published]:
    uri = stored(store, real("diabetes"), "diabetes-combined", target=True)
    trainers = {
        "line": {"recipe": "linear", "hyperparameters": {"epochs": "30", "learningRate": "0.01"}},
        "trees": {"recipe": "gradient-boosting", "hyperparameters": {"trees": "20"}},
    }
    found = {}
    for name, trainer in trainers.items():
        data = {"uri": uri, "target": "y", "task": "Regression", "split": {"train": 0.6, "validation": 0.2,
                "test": 0.2, "stratify": False}}  # fmt: skip
        run = job(access, f"amount-{name}", processes=1, trainer=trainer, data=data)
        summary, pod = train(run, tmp_path_factory.mktemp("members") / name)
        assert summary.artifact, pod.log()
        found[name] = summary.artifact
    return found


NUMBERS = itertools.count()


def asked(access: StoreAccess, members: dict[str, Published], method: str, **more: Any) -> CombineRun:
    weights = more.pop("weights", {})
    return CombineRun.model_validate(
        {
            "namespace": "team-a", "name": f"combined-v1-0-0--{method.lower()}", "uid": "uid", "store": access,
            "publish": {"model": "combined", "version": f"1.0.{next(NUMBERS)}", "variant": "made"},
            "members": [
                {"name": name, "uri": one.uri, "digest": one.digest, "weight": weights.get(name, 1.0)}
                for name, one in members.items()
            ],
            "method": method, **more,
        }
    )  # fmt: skip


def ran(run: CombineRun, folder: Path) -> DerivationSummary:
    """As the Job runs it."""
    message = folder / "termination-log"
    message.touch()
    code = command.main(termination=message, environment={**KEYS, DERIVATION_VARIABLE: run.to_json()})
    summary = DerivationSummary.from_message(message.read_text())
    assert summary is not None
    assert Outcome.named(summary.outcome).code == code
    return summary


def fetched(store: Store, made: Published, folder: Path) -> tuple[artifact.Manifest, Session]:
    manifest = versions.fetch(store, made.uri, made.digest, folder)
    return manifest, Session(folder, manifest.formats.onnx)


def pixels(rows: int = 200) -> np.ndarray[Any, Any]:
    return real("digits").features[:rows]


def each(store: Store, members: dict[str, Published], folder: Path) -> list[np.ndarray[Any, Any]]:
    return [
        fetched(store, one, folder / name)[1].run(pixels(), only=["probabilities"])["probabilities"]
        for name, one in members.items()
    ]


def test_a_mean_is_of_what_the_members_give_and_says_where_it_came_from(
    access: StoreAccess, store: Store, members: dict[str, Published], tmp_path: Path
) -> None:
    summary = ran(asked(access, members, "Mean"), tmp_path)
    assert summary.artifact is not None, summary.failure
    manifest, session = fetched(store, summary.artifact, tmp_path / "combined")
    given = session.run(pixels())
    expected = np.mean(each(store, members, tmp_path), axis=0)
    np.testing.assert_allclose(given["probabilities"], expected, atol=1e-6)
    np.testing.assert_allclose(given["logits"], np.log(np.maximum(expected, 1e-12)), atol=1e-3)
    derived = manifest.lineage.derived
    assert derived is not None
    assert (derived.kind, derived.method) == ("combination", "Mean")
    assert [(one.name, one.digest) for one in derived.parents] == [(n, one.digest) for n, one in members.items()]
    assert manifest.lineage.data is not None
    assert manifest.lineage.data.split_rows == {"train": 1438, "validation": 180, "test": 179}
    assert manifest.metrics["test"]["accuracy"] == summary.metrics["accuracy"] > 0.9
    assert summary.before is not None
    assert summary.after is not None
    assert summary.after.parameters >= sum(
        load_file(tmp_path / name / "model.safetensors")[tensor].size
        for name in members for tensor in load_file(tmp_path / name / "model.safetensors")
    )  # fmt: skip
    golden = load_file(tmp_path / "combined" / "golden.safetensors")
    np.testing.assert_array_equal(session.run(golden["features"])["logits"], golden["logits"])


def test_it_is_compared_with_the_best_member_with_the_interval(
    access: StoreAccess, store: Store, members: dict[str, Published], tmp_path: Path
) -> None:
    summary = ran(asked(access, members, "Weighted", weights={"net": 3.0, "line": 0.5}), tmp_path)
    assert summary.artifact is not None, summary.failure
    manifest, session = fetched(store, summary.artifact, tmp_path / "combined")
    expected = np.average(each(store, members, tmp_path), axis=0, weights=[3, 0.5, 1])
    np.testing.assert_allclose(session.run(pixels())["probabilities"], expected, atol=1e-6)
    told = json.loads((tmp_path / "combined" / "evaluation.json").read_text())["combination"]
    accuracies = {name: figures["accuracy"] for name, figures in told["members"].items()}
    best = told["againstBest"]["accuracy"]
    assert best["reference"] == max(accuracies.values()) == accuracies[best["member"]]
    assert best["difference"] == pytest.approx(manifest.metrics["test"]["accuracy"] - best["reference"])
    assert best["interval"][0] <= best["difference"] <= best["interval"][1]
    assert any(note.startswith("accuracy ") and "95 % interval" in note for note in summary.notes)


def test_a_vote_goes_to_the_class_of_most_members_and_a_tie_to_the_likelier(
    access: StoreAccess, store: Store, members: dict[str, Published], tmp_path: Path
) -> None:
    summary = ran(asked(access, members, "Vote"), tmp_path)
    assert summary.artifact is not None, summary.failure
    _, session = fetched(store, summary.artifact, tmp_path / "combined")
    probabilities = each(store, members, tmp_path)
    votes = np.sum([np.eye(10)[one.argmax(axis=1)] for one in probabilities], axis=0)
    likely = np.mean(probabilities, axis=0)
    most = np.where(votes == votes.max(axis=1, keepdims=True), likely, -1).argmax(axis=1)
    given = session.run(pixels())["probabilities"]
    assert (given.argmax(axis=1) == most).all()
    assert (votes.max(axis=1) == 1).sum() + (votes.max(axis=1) == 2).sum() > 0, "the members agree on all rows"
    np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-5)


def test_a_stack_is_what_was_fitted_to_validation_rows_and_is_judged_by_others(
    access: StoreAccess, store: Store, members: dict[str, Published], tmp_path: Path
) -> None:
    summary = ran(asked(access, members, "Stack"), tmp_path)
    assert summary.artifact is not None, summary.failure
    _, session = fetched(store, summary.artifact, tmp_path / "combined")
    weights = load_file(tmp_path / "combined" / "model.safetensors")
    assert weights["combine.weight"].shape == (10, 30)
    rows = np.concatenate([np.log(np.maximum(one, 1e-12)) for one in each(store, members, tmp_path)], axis=1)
    expected = rows @ weights["combine.weight"].T + weights["combine.bias"]
    np.testing.assert_allclose(session.run(pixels())["logits"], expected, atol=1e-3)
    told = json.loads((tmp_path / "combined" / "evaluation.json").read_text())["combination"]["stack"]
    assert told["folds"] == 5
    assert told["outOfFold"]["accuracy"] > 0.9
    refused = ran(asked(access, members, "Stack", evaluation={"split": "validation"}, seed=1,
                        publish={"model": "combined", "version": "1.0.1"}), tmp_path)  # fmt: skip
    assert refused.failure is not None
    assert "spec.evaluation.split: Stack learns from the validation rows" in refused.failure.message


@pytest.mark.parametrize("method", ["Mean", "Stack"])
def test_predictions_of_a_number_are_combined(
    method: str, access: StoreAccess, store: Store, regressions: dict[str, Published], tmp_path: Path
) -> None:
    run = asked(access, regressions, method, publish={"model": "amount", "version": f"1.0.{len(method)}"})
    summary = ran(run, tmp_path)
    assert summary.artifact is not None, summary.failure
    manifest, session = fetched(store, summary.artifact, tmp_path / "combined")
    features = real("diabetes").features
    given = [fetched(store, one, tmp_path / name)[1].run(features)["prediction"] for name, one in regressions.items()]
    if method == "Mean":
        np.testing.assert_allclose(session.run(features)["prediction"], np.mean(given, axis=0), rtol=1e-4)
    assert manifest.metrics["test"]["r2"] > 0.2
    refused = ran(asked(access, regressions, "Vote"), tmp_path)
    assert refused.outcome == Outcome.USER_ERROR.reason
    assert refused.failure is not None
    assert "Vote is for Classification, and the members do Regression" in refused.failure.message


def test_it_is_published_once_and_said_again(
    access: StoreAccess, members: dict[str, Published], tmp_path: Path
) -> None:
    run = asked(access, members, "Mean", publish={"model": "combined", "version": "2.0.0"})
    first, again = ran(run, tmp_path), ran(run, tmp_path)
    assert first.artifact == again.artifact
    assert again.metrics["accuracy"] == first.metrics["accuracy"]
    other = asked(access, members, "Vote", publish={"model": "combined", "version": "2.0.0"})
    assert ran(other, tmp_path).outcome == Outcome.VERSION_CONFLICT.reason


def test_a_gate_that_fails_publishes_nothing_and_says_by_how_much(
    access: StoreAccess, store: Store, members: dict[str, Published], tmp_path: Path
) -> None:
    weak = {"name": "line", "uri": members["line"].uri, "digest": members["line"].digest}
    run = asked(
        access, members, "Weighted", weights={"trees": 1000.0}, publish={"model": "combined", "version": "3.0.0"},
        evaluation={"gates": [{"metric": "accuracy", "min": 0.999},
                              {"metric": "log_loss", "maxRegression": 0.0},
                              {"metric": "f1_macro", "maxRegression": 1.0, "against": weak}]},
    )  # fmt: skip
    summary = ran(run, tmp_path)
    assert summary.outcome == Outcome.GATE_FAILED.reason
    assert summary.failure is not None
    assert "below min 0.999" in summary.failure.message
    assert "the best member (95 % interval of the difference" in summary.failure.message
    assert "measured on 179 test rows" in summary.failure.message
    uri = artifact.manifest_uri(access.uri, "team-a", "combined", "3.0.0")
    assert store.size(uri) is None


def republished(store: Store, one: Published, name: str, folder: Path, **changes: Any) -> Published:
    """A copy of a version with another manifest."""
    manifest = versions.fetch(store, one.uri, one.digest, folder / name)
    changed = manifest.model_copy(update={"model": name, **changes})
    uri = artifact.manifest_uri("s3://modelwright/store", "team-a", name, manifest.version)
    return Published(uri=uri, digest=versions.publish(store, uri, changed, folder / name))


def test_a_member_whose_weights_are_in_a_container_is_decoded(
    access: StoreAccess, store: Store, members: dict[str, Published], tmp_path: Path
) -> None:
    folder = tmp_path / "packed"
    manifest = versions.fetch(store, members["net"].uri, members["net"].digest, folder)
    rounded = {name: np.round(one * 4) / 4 if "linears" in name else one
               for name, one in load_file(folder / "model.safetensors").items()}  # fmt: skip
    stated = packed.write((folder / "model.onnx").read_bytes(), rounded, folder)
    assert stated.packed is not None
    named = {"model.onnx", stated.packed}
    kept = [one for one in manifest.files if one.path not in {"model.onnx", "model.safetensors"}]
    files = (*kept, *(versions.file_entry(folder / name, name) for name in sorted(named)))
    changed = manifest.model_copy(
        update={"model": "packed", "formats": artifact.Formats(onnx=stated), "files": files, "rebuild": None}
    )
    uri = artifact.manifest_uri(access.uri, "team-a", "packed", "1.0.0")
    small = Published(uri=uri, digest=versions.publish(store, uri, changed, folder))
    both = {"packed": small, "line": members["line"]}
    summary = ran(asked(access, both, "Mean"), tmp_path)
    assert summary.artifact is not None, summary.failure
    _, session = fetched(store, summary.artifact, tmp_path / "combined")
    expected = np.mean(each(store, both, tmp_path / "each"), axis=0)
    np.testing.assert_allclose(session.run(pixels())["probabilities"], expected, atol=1e-6)


def test_members_that_differ_are_named_with_what_differs(
    access: StoreAccess, store: Store, members: dict[str, Published], regressions: dict[str, Published], tmp_path: Path
) -> None:
    net = members["net"]
    plain = versions.read(store, net.uri, net.digest)
    classes = (*"102", *"3456789")
    rows = plain.inputs[0]
    swapped = rows.model_copy(update={"names": (rows.names[1], rows.names[0], *rows.names[2:])})
    without = tuple(one.model_copy(update={"name": f"my_{one.name}"}) for one in plain.outputs)
    cases: dict[str, tuple[Published, str]] = {
        "classes": (
            republished(store, net, "classes", tmp_path, classes=classes),
            "class 1 is '1' in classes and '0' in line: their order must be the same",
        ),
        "fewer": (
            republished(store, net, "fewer", tmp_path, classes=tuple("012")),
            "output probabilities of fewer is float32 [rows, 10], and float32 [rows, 3] is combined",
        ),
        "columns": (
            republished(store, net, "columns", tmp_path, inputs=(swapped,)),
            "column of the input features 1 is 'pixel_1' in columns and 'pixel_0' in line",
        ),
        "typed": (
            republished(store, net, "typed", tmp_path, inputs=(rows.model_copy(update={"dtype": "float64"}),)),
            "input features of typed has the type float64, and input features of line the type float32",
        ),
        "outputs": (
            republished(store, net, "outputs", tmp_path, outputs=without),
            "outputs gives my_logits, my_probabilities, and of Classification probabilities or logits is combined",
        ),
        "amounts": (regressions["line"], "amounts does Regression, and line does Classification"),
    }  # fmt: skip
    for name, (one, words) in cases.items():
        summary = ran(asked(access, {"line": members["line"], name: one}, "Mean", seed=3), tmp_path)
        assert summary.outcome == Outcome.MEMBERS_DIFFER.reason, (name, summary.failure)
        assert summary.failure is not None
        assert words in summary.failure.message
        assert summary.failure.message.startswith("spec.source.combine.members: ")


def test_what_is_asked_for_in_vain_is_refused_with_the_remedy(
    access: StoreAccess, store: Store, members: dict[str, Published], tmp_path: Path
) -> None:
    weighed = ran(asked(access, members, "Mean", weights={"net": 2.0}, seed=4), tmp_path)
    assert weighed.failure is not None
    assert "net has the weight 2, and Mean takes none" in weighed.failure.message
    wrong = {**members, "net": members["net"].model_copy(update={"digest": members["line"].digest})}
    damaged = ran(asked(access, wrong, "Mean", seed=5), tmp_path)
    assert damaged.outcome == Outcome.STORE_REFUSED.reason
    manifest = versions.read(store, members["net"].uri, members["net"].digest)
    data = manifest.lineage.data
    assert data is not None
    assert data.split is not None
    elsewhere = manifest.lineage.model_copy(
        update={"data": data.model_copy(update={"split": data.split.model_copy(update={"seed": 8})})}
    )
    other = republished(store, members["net"], "elsewhere", tmp_path, lineage=elsewhere)
    mixed = ran(asked(access, {**members, "elsewhere": other}, "Mean", seed=6), tmp_path)
    assert mixed.failure is not None
    assert "the test rows of one may be training rows of the other: name the Dataset" in mixed.failure.message


def test_out_of_fold_figures_tell_nothing_of_what_is_learned_by_heart() -> None:
    """Members that know nothing: what is fitted to their outputs is right where it was fitted, and nowhere else."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, 60)
    given = generator.dirichlet([0.5, 0.5], (60, 12))
    rows = np.log(np.maximum(given, 1e-12)).reshape(60, -1)
    weight, bias = stack._fitted(rows, targets, 2, 0.01)
    assert np.mean((rows @ weight.T + bias).argmax(axis=1) == targets) > 0.8
    assert stack.fit(given, targets, ("no", "yes"), seed=0).out_of_fold.figures["accuracy"] < 0.65


def test_a_class_with_too_few_validation_rows_cannot_be_stacked() -> None:
    targets = np.array([0] * 20 + [1])
    with pytest.raises(DataFailed, match="1 are of class yes, and 2 are the least: give the Dataset a larger valid"):
        stack.fit(np.full((21, 2, 2), 0.5), targets, ("no", "yes"), seed=0)
    with pytest.raises(DataFailed, match="of which there are 9, and 10 are the least"):
        stack.fit(np.zeros((9, 2, 1)), np.zeros(9), (), seed=0)


def test_names_inside_of_branches_are_told_apart_too() -> None:
    """A graph in a node sees the values outside of it."""
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["inner"])], "then", [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )  # fmt: skip
    node = helper.make_node("If", ["which"], ["y"], then_branch=inner, else_branch=inner)
    one = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0]),
         helper.make_tensor("which", TensorProto.BOOL, [], [1])],
    )  # fmt: skip
    onnxgraph.renamed(one, lambda name: "rows" if name == "x" else f"a.{name}" if name else "")
    model = helper.make_model(one, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(["a.y"], {"rows": np.array([1.0], np.float32)})[0] == [3.0]
