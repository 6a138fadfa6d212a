"""One graph of several: the members' nodes and weights under names of their own, over one input, then the nodes that
combine what they give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from modelwright.artifact import (
    LOGITS,
    ONNX_FILE,
    PREDICTION,
    PROBABILITIES,
    WEIGHTS_FILE,
    Onnx,
    Tensor,
)
from onnx import helper, numpy_helper
from safetensors.numpy import save_file

from modelwright_trainer.combine.members import MembersDiffer, Opened
from modelwright_trainer.onnxgraph import IR_VERSION, OPSET, Array, apart, external, fill, infos, renamed, tensors

# Of Vote: what decides between classes with as many votes.
TIE = 1e-3
_LEAST = 1e-12


def loaded(one: Opened) -> onnx.ModelProto:
    """A member's graph with all of its weights."""
    model = onnx.load(one.folder / one.onnx.path, load_external_data=False)
    return fill(model, tensors(one.folder, one.onnx))


class Combination:
    """The members' graphs in one. `weights` are what the combination adds of its own."""

    def __init__(self, members: Sequence[Opened]) -> None:
        self._members = members
        self._nodes: list[onnx.NodeProto] = []
        self._small: list[onnx.TensorProto] = []
        self._functions: list[onnx.FunctionProto] = []
        self._weights: dict[str, Array] = {}
        self._opsets: dict[str, int] = {"": OPSET}
        self._version = IR_VERSION
        self.outputs = [self._add(number, one) for number, one in enumerate(members)]

    def _add(self, number: int, one: Opened) -> str:
        model = self._same_opset(one, loaded(one))
        self._version = max(self._version, model.ir_version)
        prefix, rows = f"member{number}.", one.rows.name
        kept = {rows: self._members[0].rows.name}
        called = {(function.domain, function.name) for function in model.functions}
        renamed(model.graph, lambda name: kept.get(name, f"{prefix}{name}" if name else ""))
        for nodes in (model.graph.node, *(function.node for function in model.functions)):
            _calls(nodes, called, prefix)
        for function in model.functions:
            function.name = f"{prefix}{function.name}"
        self._weights |= apart(model.graph)
        self._small += model.graph.initializer
        if model.graph.sparse_initializer:
            raise MembersDiffer(f"{one.name} has sparse initializers, which are not combined: export it without")
        self._nodes += model.graph.node
        self._functions += model.functions
        return f"{prefix}{one.output}"

    def _same_opset(self, one: Opened, model: onnx.ModelProto) -> onnx.ModelProto:
        for opset in model.opset_import:
            domain = "" if opset.domain == "ai.onnx" else opset.domain
            if not domain and opset.version != OPSET:
                try:
                    model = onnx.version_converter.convert_version(model, OPSET)
                except Exception as error:
                    raise MembersDiffer(
                        f"{one.name} is of ONNX's opset {opset.version}, which does not become {OPSET} of the others"
                        f" ({str(error).splitlines()[0][:200]}): export it with opset {OPSET}"
                    ) from error
            elif domain and self._opsets.setdefault(domain, opset.version) != opset.version:
                raise MembersDiffer(
                    f"{one.name} uses version {opset.version} of the operators {domain}, and another member version"
                    f" {self._opsets[domain]}: export them alike"
                )
        return model

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        self._nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name)))
        return name

    def weight(self, name: str, value: Array) -> str:
        self._weights[name] = np.asarray(value, np.float32)
        return name

    def each(self) -> list[str]:
        """What each member gives, [rows, classes] or [rows, 1]: the probabilities, the softmax of logits, or the
        prediction."""
        found = []
        for number, (one, name) in enumerate(zip(self._members, self.outputs, strict=True)):
            if one.output == LOGITS:
                name = self.node("Softmax", [name], f"combine.softmax{number}", axis=-1)
            tensor = next(tensor for tensor in one.manifest.outputs if tensor.name == one.output)
            if len(tensor.shape) == 1:
                shape = self.constant(f"combine.column{number}.shape", np.array([-1, 1], np.int64))
                name = self.node("Reshape", [name, shape], f"combine.column{number}")
            found.append(name)
        return found

    def write(self, folder: Path, outputs: Sequence[Tensor]) -> Onnx:
        """Writes the graph and its weights to `folder`, and checks it."""
        save_file({name: np.ascontiguousarray(value) for name, value in self._weights.items()}, folder / WEIGHTS_FILE)
        graph = helper.make_graph(
            self._nodes, "combination", infos([self._members[0].rows]), infos(outputs),
            [*external(folder / WEIGHTS_FILE), *self._small],
        )  # fmt: skip
        opsets = [helper.make_opsetid(domain, version) for domain, version in sorted(self._opsets.items())]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=self._version, functions=self._functions
        )  # fmt: skip
        model.producer_name = "modelwright"
        (folder / ONNX_FILE).write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(folder / ONNX_FILE)
        return Onnx(opset=OPSET, ir_version=self._version)


def _calls(nodes: Iterable[onnx.NodeProto], functions: set[tuple[str, str]], prefix: str) -> None:
    for node in nodes:
        if (node.domain, node.op_type) in functions:
            node.op_type = f"{prefix}{node.op_type}"
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _calls(inner.node, functions, prefix)


def outputs_of(one: Opened) -> tuple[Tensor, ...]:
    """What the combination gives: as the recipes of the task do."""
    if one.manifest.task == "Regression":
        given = next(tensor for tensor in one.manifest.outputs if tensor.name == PREDICTION)
        return (Tensor(name=PREDICTION, dtype="float32", shape=(None, 1), names=given.names),)
    classes = one.manifest.classes
    return tuple(
        Tensor(name=name, dtype="float32", shape=(None, len(classes)), names=classes)
        for name in (LOGITS, PROBABILITIES)
    )


def averaged(made: Combination, weights: Sequence[float], *, vote: bool, classes: int) -> None:
    """Adds the nodes of Mean, Weighted and Vote: the weighted mean of what the members give; of a vote, of 1 for the
    class that a member holds most likely and 0 for the others, in which the members' mean probabilities count so little
    (`TIE`) that they decide between equal votes alone."""
    given = made.each()
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    mean = _weighted(made, given, shares, "combine.mean")
    if vote:
        votes = []
        labels = made.constant("combine.labels", np.arange(classes, dtype=np.int64)[None])
        for number, name in enumerate(given):
            most = made.node("ArgMax", [name], f"combine.most{number}", axis=1, keepdims=1)
            equal = made.node("Equal", [most, labels], f"combine.is_most{number}")
            votes.append(made.node("Cast", [equal], f"combine.vote{number}", to=onnx.TensorProto.FLOAT))
        counted = _weighted(made, votes, shares, "combine.votes")
        mean = _weighted(made, [counted, mean], np.array([1 - TIE, TIE]), "combine.decided")
    if not classes:
        made.node("Identity", [mean], PREDICTION)
        return
    made.node("Identity", [mean], PROBABILITIES)
    least = made.constant("combine.least", np.array(_LEAST, np.float32))
    made.node("Log", [made.node("Max", [mean, least], "combine.positive")], LOGITS)


def _weighted(made: Combination, given: Sequence[str], shares: Array, output: str) -> str:
    parts = [
        made.node("Mul", [name, made.constant(f"{output}.share{number}", np.float32(share))], f"{output}.part{number}")
        for number, (name, share) in enumerate(zip(given, shares, strict=True))
    ]
    return made.node("Sum", parts, output)


def stacked(made: Combination, weights: Mapping[str, Array], *, classes: int) -> None:
    """Adds the nodes of a fitted model over what the members give: of `combine.stack.fit`, weight [outputs, inputs] and
    bias [outputs]."""
    given = made.each()
    if classes:
        least = made.constant("combine.least", np.array(_LEAST, np.float32))
        given = [
            made.node("Log", [made.node("Max", [name, least], f"combine.positive{number}")], f"combine.log{number}")
            for number, name in enumerate(given)
        ]
    rows = made.node("Concat", given, "combine.given", axis=1)
    inputs = [rows, made.weight("combine.weight", weights["weight"]), made.weight("combine.bias", weights["bias"])]
    made.node("Gemm", inputs, LOGITS if classes else PREDICTION, transB=1)
    if classes:
        made.node("Softmax", [LOGITS], PROBABILITIES, axis=-1)
