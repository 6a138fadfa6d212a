"""What other software has made becomes a version; whatever is wrong with it is said, and nothing of it is loaded."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from modelwright import artifact, versions
from modelwright.artifact import Manifest, digest_of
from modelwright.contract import Outcome, Split, StoreAccess
from modelwright.datasets import DatasetRun
from modelwright.derivation import DERIVATION_VARIABLE, DerivationSummary, ImportRun
from modelwright.store import Store
from modelwright_trainer.dataset import command as dataset
from modelwright_trainer.imported import command, onnxfile, source
from modelwright_trainer.onnxgraph import Session
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from tests.trainer.tables import classified, learner, trained

NAMES = ("a", "b", "c")


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder with what is to be imported."""
    made = tmp_path / "there"
    made.mkdir()
    return made


def graph(weight: onnx.TensorProto | None = None, *, domain: str = "") -> onnx.ModelProto:
    """x [rows, 3] → y [rows, 2], the softmax of a product."""
    values = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2) / 10, "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["sums"]), helper.make_node("Softmax", ["sums"], ["y"], axis=-1)]
    if domain:
        nodes.insert(1, helper.make_node("Mystery", ["sums"], ["other"], domain=domain))
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])], [weight or values],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


def asked(there: Path, name: str = "model.onnx", **more: Any) -> ImportRun:
    return ImportRun.model_validate(
        {
            "namespace": "team-a", "name": "n", "uid": "u", "store": StoreAccess(uri=f"file://{there.parent}/store"),
            "publish": {"model": "foreign", "version": "1.0.0"}, "uri": f"file://{there}/{name}", "format": "Onnx",
            **more,
        }
    )  # fmt: skip


def ran(run: ImportRun, folder: Path) -> DerivationSummary:
    """As the Job runs it."""
    message = folder / "termination-log"
    message.touch()
    code = command.main(termination=message, environment={DERIVATION_VARIABLE: run.to_json()})
    summary = DerivationSummary.from_message(message.read_text())
    assert summary is not None
    assert Outcome.named(summary.outcome).code == code
    return summary


def fetched(run: ImportRun, summary: DerivationSummary, folder: Path) -> Manifest:
    assert summary.artifact is not None, summary.failure
    return versions.fetch(Store(run.store, {}), summary.artifact.uri, summary.artifact.digest, folder)


def refused(run: ImportRun, folder: Path, outcome: Outcome = Outcome.ARTIFACT_REFUSED) -> str:
    """The words, of an import that published nothing and loaded nothing."""
    began: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: began.append(1))
        patch.setattr(pickle, "load", lambda *_: began.append(1))
        summary = ran(run, folder)
    assert summary.outcome == outcome.reason, summary.failure
    assert summary.failure is not None
    assert not began, "it was loaded"
    assert not Store(run.store, {}).names(f"{run.store.uri}/models")
    return summary.failure.message


def test_a_graph_becomes_a_version_with_names_classes_and_golden_samples(there: Path, tmp_path: Path) -> None:
    content = graph().SerializeToString()
    (there / "model.onnx").write_bytes(content)
    run = asked(
        there, digest=digest_of(content), task="Classification", classes=["no", "yes"], columns=NAMES,
        names={"x": "features", "y": "probabilities"},
    )  # fmt: skip
    summary = ran(run, tmp_path)
    manifest = fetched(run, summary, tmp_path / "version")
    assert [(one.name, one.shape, one.names) for one in manifest.inputs] == [("features", (None, 3), NAMES)]
    assert [(one.name, one.names) for one in manifest.outputs] == [("probabilities", ("no", "yes"))]
    assert manifest.lineage.derived is not None
    assert (manifest.lineage.derived.kind, manifest.lineage.derived.method) == ("import", "Onnx")
    assert manifest.lineage.made_by == "import of a file"
    golden = load_file(tmp_path / "version" / "golden.safetensors")
    session = Session(tmp_path / "version", manifest.formats.onnx)
    np.testing.assert_array_equal(session.run(golden["features"])["probabilities"], golden["probabilities"])
    assert load_file(tmp_path / "version" / "model.safetensors")["w"].shape == (3, 2)
    again = ran(run, tmp_path)
    assert again.artifact == summary.artifact


def test_external_data_beside_the_graph_is_brought_along(there: Path, tmp_path: Path) -> None:
    onnx.save_model(
        graph(), there / "model.onnx", save_as_external_data=True, location="weights.data", size_threshold=0
    )  # fmt: skip
    run = asked(there)
    manifest = fetched(run, ran(run, tmp_path), tmp_path / "version")
    assert manifest.formats.onnx is not None
    rows = np.ones((4, 3), np.float32)
    given = Session(tmp_path / "version", manifest.formats.onnx).run(rows)["y"]
    expected = np.exp([0.6, 0.9]) / np.exp([0.6, 0.9]).sum()
    np.testing.assert_allclose(given, np.tile(expected, (4, 1)), rtol=1e-6)


def test_golden_samples_are_made_of_those_that_are_given(there: Path, tmp_path: Path) -> None:
    (there / "model.onnx").write_bytes(graph().SerializeToString())
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    save_file({"x": rows}, there / "samples.safetensors")
    run = asked(there, samples=f"file://{there}/samples.safetensors")
    fetched(run, ran(run, tmp_path), tmp_path / "version")
    np.testing.assert_array_equal(load_file(tmp_path / "version" / "golden.safetensors")["x"], rows)


def measured(there: Path, tmp_path: Path, gates: list[dict[str, Any]]) -> ImportRun:
    """The graph, which takes the third column for the second class, on a Dataset where that is right by half."""
    (there / "model.onnx").write_bytes(graph().SerializeToString())
    columns = {name: np.linspace(-1, 1, 60).astype(np.float32) for name in NAMES}
    kinds = np.where(np.arange(60) % 2, "yes", "no")
    pq.write_table(pa.table({**columns, "kind": kinds}), there / "rows.parquet")
    store = StoreAccess(uri=f"file://{tmp_path}/data")
    run = DatasetRun(
        namespace="team-a", name="rows", source_uri=f"file://{there}/rows.parquet", store=store, target="kind",
        task="Classification", split=Split(train=0.5, validation=0.2, test=0.3),
    )  # fmt: skip
    (tmp_path / "scratch").mkdir(exist_ok=True)
    prepared = dataset.prepare(run, Store(store, {}), tmp_path / "scratch", 128 * 1024**2).manifest
    assert prepared is not None
    return asked(
        there, task="Classification", classes=["no", "yes"], columns=NAMES,
        names={"x": "features", "y": "probabilities"},
        evaluation={"data": {"uri": prepared.uri, "digest": prepared.digest, "store": store}, "gates": gates},
    )  # fmt: skip


def test_it_is_measured_on_the_dataset_that_is_named(there: Path, tmp_path: Path) -> None:
    run = measured(there, tmp_path, [{"metric": "accuracy", "min": 0.1}])
    summary = ran(run, tmp_path)
    manifest = fetched(run, summary, tmp_path / "version")
    assert manifest.metrics["test"]["accuracy"] == summary.metrics["accuracy"]
    told = json.loads((tmp_path / "version" / "evaluation.json").read_text())["test"]
    assert told["rows"] == 18


def test_a_gate_keeps_an_import_from_being_published(there: Path, tmp_path: Path) -> None:
    summary = ran(measured(there, tmp_path, [{"metric": "accuracy", "min": 0.99}]), tmp_path)
    assert summary.outcome == Outcome.GATE_FAILED.reason
    assert summary.failure is not None
    assert "is below min 0.99 (95 % interval" in summary.failure.message
    assert summary.artifact is None


def external(**told: str) -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in told.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def declared(*dims: int) -> onnx.TensorProto:
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(24))


def constant(*dims: int) -> onnx.ModelProto:
    """A graph of a few bytes that asks for a value of any size."""
    made = graph()
    shape = helper.make_node(
        "Constant", [], ["shape"], value=numpy_helper.from_array(np.array(dims, np.int64), "shape")
    )
    made.graph.node.extend([shape, helper.make_node("ConstantOfShape", ["shape"], ["large"])])
    made.graph.output.append(helper.make_tensor_value_info("large", TensorProto.FLOAT, list(dims)))
    return made


WRONG: dict[str, tuple[onnx.ModelProto, str]] = {
    "outside": (graph(external(location="../secret")), "in '../secret', which is outside of the file's folder"),
    "absolute": (graph(external(location="/etc/passwd")), "in '/etc/passwd', which is outside of the file's folder"),
    "nowhere": (graph(external()), "has its data in '', which is outside"),
    "other system": (graph(external(location="C:\\x")), "which is outside of the file's folder"),
    "missing": (graph(external(location="gone.data")), "gone.data: mend the URI, or upload it"),
    "short": (
        graph(external(location="short.data", length="24")),
        "tensor w is said to be 24 bytes from byte 0 of short.data, which has 8: upload the whole file",
    ),
    "other length": (
        graph(external(location="short.data", length="8")),
        "tensor w declares [3, 2], which is 24 bytes, and has 8: the file is damaged or made to mislead",
    ),
    "bomb": (
        graph(declared(1_000_000, 1_000_000)),
        "tensor w declares [1000000, 1000000], which is 4000000000000 bytes, and has 24",
    ),
    "negative": (graph(declared(-3, -2)), "tensor w has the shape [-3, -2]"),
    "constant": (constant(100_000, 100_000), "the value large would take 40000000000 bytes whatever the rows are"),
    "custom": (
        graph(domain="acme.ops"),
        "uses acme.ops.Mystery, an operator of a library of its own, which the runtime has not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_graph_that_is_not_what_it_says_is_refused_before_it_is_loaded(
    what: str, there: Path, tmp_path: Path
) -> None:
    made, words = WRONG[what]
    (there / "model.onnx").write_bytes(made.SerializeToString())
    (there / "short.data").write_bytes(bytes(8))
    assert words in refused(asked(there), tmp_path)


def test_a_file_that_was_cut_off_is_refused(there: Path, tmp_path: Path) -> None:
    whole = graph().SerializeToString()
    for length in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        (there / "model.onnx").write_bytes(whole[:length])
        said = refused(asked(there), tmp_path)
        assert f"file://{there}/model.onnx" in said
        assert "upload it again" in said or "export the model again" in said


def test_another_digest_is_refused_and_a_missing_file_named(there: Path, tmp_path: Path) -> None:
    (there / "model.onnx").write_bytes(graph().SerializeToString())
    said = refused(asked(there, digest="sha256:" + "0" * 64), tmp_path)
    assert "and spec.source.import.digest says sha256:000" in said
    assert "there is no file://" in refused(asked(there, "other.onnx"), tmp_path)


def test_links_are_not_followed(there: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(24))
    (there / "linked.data").symlink_to(secret)
    (there / "model.onnx").write_bytes(graph(external(location="linked.data")).SerializeToString())
    assert "linked.data: copy what it leads to" in refused(asked(there), tmp_path)
    (tmp_path / "folder").mkdir()
    secret.rename(tmp_path / "folder" / "data")
    (there / "sub").symlink_to(tmp_path / "folder")
    (there / "model.onnx").write_bytes(graph(external(location="sub/data")).SerializeToString())
    assert "is reached through a link" in refused(asked(there), tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.pt", b"anything"),
        ("model.onnx", pickle.dumps({"w": 1})),
        ("model.onnx", b"PK\x03\x04 a zip, as torch.save writes"),
    ],
)
def test_pickles_are_refused_by_name_and_by_content(name: str, content: bytes, there: Path, tmp_path: Path) -> None:
    (there / name).write_bytes(content)
    said = refused(asked(there, name), tmp_path)
    assert "whoever loads a pickle runs what is in it, so none is imported: save the weights as safetensors" in said


def test_names_and_classes_that_do_not_fit_are_told(there: Path, tmp_path: Path) -> None:
    (there / "model.onnx").write_bytes(graph().SerializeToString())
    said = refused(asked(there, names={"input": "features"}), tmp_path)
    assert "has no input or output input; it has x, y" in said
    said = refused(asked(there, names={"x": "sums"}), tmp_path)
    assert "sums is the name of another value" in said
    summary = ran(asked(there, task="Classification", classes=["a", "b", "c"]), tmp_path)
    assert summary.failure is not None
    assert "spec.source.import.classes: 3 are named, and the outputs are y" in summary.failure.message


# safetensors with a recipe


def state(there: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
    """A perceptron that was trained elsewhere, in weights.safetensors; what is to be said of it."""
    table = classified()
    one = learner(table, "mlp", hiddenSizes="8")
    weights = dict(trained(one, table))
    change(weights)
    save_file(weights, there / "weights.safetensors")
    return {
        "format": "Safetensors", "task": "Classification", "classes": table.classes, "columns": table.names,
        "recipe": "mlp", "hyperparameters": {"hiddenSizes": "8"},
    }  # fmt: skip


def test_a_recipe_s_weights_become_a_version_that_can_be_trained_on(there: Path, tmp_path: Path) -> None:
    run = asked(there, "weights.safetensors", **state(there))
    manifest = fetched(run, ran(run, tmp_path), tmp_path / "version")
    assert isinstance(manifest.rebuild, artifact.RecipeRebuild)
    assert (manifest.rebuild.recipe, manifest.rebuild.inputs, manifest.rebuild.outputs) == ("mlp", 3, 3)
    assert manifest.inputs[0].names == ("x0", "x1", "x2")
    assert [one.name for one in manifest.outputs] == ["logits", "probabilities"]
    table = classified()
    given = Session(tmp_path / "version", manifest.formats.onnx).run(table.features)["logits"]
    assert table.targets is not None
    assert np.mean(given.argmax(axis=1) == table.targets) > 0.8


def test_weights_that_are_not_the_recipe_s_are_told_by_tensor_and_shape(there: Path, tmp_path: Path) -> None:
    said = state(there, lambda weights: weights.pop("linears.0.bias"))
    assert "has no tensor linears.0.bias" in refused(asked(there, "weights.safetensors", **said), tmp_path)
    said = state(there) | {"hyperparameters": {"hiddenSizes": "9"}}
    words = refused(asked(there, "weights.safetensors", **said), tmp_path)
    assert "spec.source.import: linears.0.weight has shape [8, 3] in" in words
    assert "and [9, 3] in the module" in words
    said = state(there, lambda weights: weights.update({"linears.0.bias": np.full(8, np.nan, np.float32)}))
    assert "linears.0.bias has values that are infinite" in refused(
        asked(there, "weights.safetensors", **said), tmp_path
    )
    said = state(there) | {"recipe": "gradient-boosting", "hyperparameters": {}}
    assert "is fitted at once" in refused(asked(there, "weights.safetensors", **said), tmp_path)


def safetensors(header: dict[str, Any], content: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff" * 7, "is no safetensors file, or was cut off after 7 bytes"),
        ((10**15).to_bytes(8, "little") + b"{}", "is no safetensors file, or was cut off"),
        (
            safetensors({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
            "and its header declares",
        ),
        (
            safetensors({"w": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 8]}}, bytes(8)),
            "tensor w declares F32 [1000000, 1000000], which is 4000000000000 bytes, and has 8",
        ),
        (
            safetensors({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                         "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]}}, bytes(6)),
            "tensor b is said to begin at byte 2, and the one before it ends at 4",
        ),
        (safetensors({"w": {"dtype": "X9", "shape": [1], "data_offsets": [0, 1]}}, b"1"), "which is no type and shape"),
        (safetensors({"w": [1]}, b""), "its header cannot be read"),
    ],
)  # fmt: skip
def test_safetensors_that_are_not_what_they_say_are_refused(
    content: bytes, words: str, there: Path, tmp_path: Path
) -> None:
    said = state(there)
    (there / "weights.safetensors").write_bytes(content)
    assert words in refused(asked(there, "weights.safetensors", **said), tmp_path)


# a Hugging Face directory


def directory(there: Path) -> Path:
    folder = there / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    places = {}
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file({f"layer.{number}": np.ones((4, 4), np.float16)}, folder / name)
        places[f"layer.{number}"] = name
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 64}, "weight_map": places})
    )
    return folder


def hf(there: Path) -> ImportRun:
    return asked(there, "model/", format="HuggingFace", task="LanguageModelling")


def test_a_hugging_face_directory_is_published_whole_for_other_runtimes(there: Path, tmp_path: Path) -> None:
    folder = directory(there)
    run = hf(there)
    manifest = fetched(run, ran(run, tmp_path), tmp_path / "version")
    assert manifest.formats == artifact.Formats(hf=artifact.HuggingFace())
    assert (manifest.golden, manifest.inputs, manifest.task) == (None, (), "LanguageModelling")
    assert {file.path for file in manifest.files} == {f"hf/{one.name}" for one in folder.iterdir()}
    for one in folder.iterdir():
        assert (tmp_path / "version" / "hf" / one.name).read_bytes() == one.read_bytes()


def changed(name: str, content: bytes | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)

    return change


SHARD = "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("config.json", None), "has no config.json"),
        (changed("config.json", b"{"), "config.json cannot be read as JSON"),
        (changed("config.json", b"{}"), "says neither model_type nor architectures"),
        (changed("config.json", b'{"model_type": "x", "auto_map": {"AutoModel": "m.M"}}'), "needs code of its own"),
        (changed("tokenizer.json", None), "has no tokenizer"),
        (changed("modeling.py", b"import os"), "modeling.py is code, which no runtime here runs"),
        (changed("pytorch_model.bin", b"x"), "pytorch_model.bin ends with .bin: whoever loads a pickle"),
        (changed(SHARD, None), f"names the shard {SHARD} for layer.2, which is not there"),
        (changed(SHARD, safetensors({}, b"")), f"{SHARD} has no tensor layer.2"),
        (changed(SHARD, b"\x20"), "is no safetensors file, or was cut off after 1 bytes"),
        (changed("model.safetensors.index.json", None), "has neither model.safetensors nor"),
        (
            changed("model.safetensors.index.json", json.dumps(
                {"metadata": {"total_size": 99}, "weight_map": {"layer.2": SHARD}}).encode()),
            "says 99 bytes in all, and its tensors have 32",
        ),
    ],
)  # fmt: skip
def test_a_directory_that_is_not_whole_is_refused(
    change: Callable[[Path], None], words: str, there: Path, tmp_path: Path
) -> None:
    change(directory(there))
    assert words in refused(hf(there), tmp_path)


def test_a_folder_with_nothing_in_it_is_told(there: Path, tmp_path: Path) -> None:
    assert "there is nothing: upload the files, or mend the URI" in refused(hf(there), tmp_path)


@pytest.mark.parametrize("path", ["a/../../b", "/a", "..", "a\\b", "C:/x", "", "a\0b"])
def test_paths_that_leave_their_folder(path: str) -> None:
    assert not source.inside(path)
    assert source.inside("a/b.data")


def test_whole_numbers_of_half_a_byte_are_left_to_the_checker() -> None:
    assert onnxfile._bytes(TensorProto.INT4, 8) is None
    assert onnxfile._bytes(TensorProto.FLOAT16, 8) == 16
    assert onnxfile._bytes(TensorProto.INT64, 8) == 64
