"""The recipe transformer: a sequence classifier, and a causal language model, on rows of token ids."""

from __future__ import annotations

import math

import numpy as np
import torch
from modelwright.api.recipes import TransformerHyperparameters
from modelwright.artifact import TOKENS, Tensor
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from modelwright_trainer.data import Table
from modelwright_trainer.failures import DataFailed
from modelwright_trainer.onnxgraph import Graph
from modelwright_trainer.recipes.common import TaskLearner
from modelwright_trainer.tasks import PADDING, Classification, LanguageModelling

# Added to the score of what is not to be seen. Not −∞: a row of padding alone would be NaN.
_UNSEEN = -1e9
_EPSILON = 1e-5
# Numbers that the module gives at once without gradients, and a graph's golden samples hold.
_EVALUATED, _GOLDEN = 2**23, 2**22


class Block(nn.Module):
    """Attention and two linear layers, each behind a normalization and beside a residual (pre-norm)."""

    def __init__(self, recipe: TransformerHyperparameters) -> None:
        super().__init__()
        width = recipe.heads * recipe.head_size
        self.head_size, self.dropout = recipe.head_size, recipe.dropout
        self.before = nn.LayerNorm(width, eps=_EPSILON)
        self.asked, self.keys, self.values, self.given = (nn.Linear(width, width) for _ in range(4))
        self.between = nn.LayerNorm(width, eps=_EPSILON)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, hidden: torch.Tensor, unseen: torch.Tensor | None) -> torch.Tensor:
        """`hidden` is [rows, length, width]. `unseen` [rows, 1, 1, length] is added to the scores; None: each token
        sees those before it, and itself."""
        rows, length, _ = hidden.shape
        normal = self.before(hidden)
        # A pruned block has fewer heads than the recipe, and a rank may have no row, of which -1 would say nothing.
        asked, keys, values = (
            whole.view(rows, length, whole.shape[-1] // self.head_size, self.head_size).transpose(1, 2)
            for whole in (layer(normal) for layer in (self.asked, self.keys, self.values))
        )
        seen = functional.scaled_dot_product_attention(
            asked, keys, values, attn_mask=unseen, is_causal=unseen is None,
            dropout_p=self.dropout if self.training else 0.0,
        )  # fmt: skip
        hidden = hidden + self._dropped(self.given(seen.transpose(1, 2).flatten(2)))
        return hidden + self._dropped(self.narrow(functional.gelu(self.wide(self.between(hidden)))))

    def _dropped(self, values: torch.Tensor) -> torch.Tensor:
        return functional.dropout(values, self.dropout, self.training) if self.dropout else values


class Transformer(nn.Module):
    """[rows, length] int64 → logits: [rows, length, tokens] where `causal`, else [rows, classes]."""

    def __init__(self, recipe: TransformerHyperparameters, length: int, width: int, *, causal: bool) -> None:
        super().__init__()
        inner = recipe.heads * recipe.head_size
        self.causal = causal
        self.embedding = nn.Embedding(recipe.vocabulary, inner)
        self.positions = nn.Parameter(torch.randn(length, inner) * 0.02)
        self.blocks = nn.ModuleList(Block(recipe) for _ in range(recipe.layers))
        self.after = nn.LayerNorm(inner, eps=_EPSILON)
        self.last = nn.Linear(inner, width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        there = tokens >= 0
        hidden = self.embedding(tokens.clamp(min=0)) + self.positions
        unseen = None
        if not self.causal:
            unseen = torch.where(there, 0.0, _UNSEEN).to(hidden.dtype)[:, None, None, :]
        for block in self.blocks:
            hidden = block(hidden, unseen)
        hidden = self.after(hidden)
        if not self.causal:
            weights = there.to(hidden.dtype)[:, :, None]
            hidden = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        given: torch.Tensor = self.last(hidden)
        return given


class TransformerLearner(TaskLearner):
    name = "transformer"

    def __init__(
        self, recipe: TransformerHyperparameters, task: Classification | LanguageModelling, table: Table
    ) -> None:
        """Raises DataFailed for what is no token of the vocabulary."""
        self.length = table.features.shape[1]
        _fit(table, recipe.vocabulary)
        super().__init__(recipe, task, Tensor(name=TOKENS, dtype="int64", shape=(None, self.length), names=table.names))
        self.recipe = recipe
        self.causal = isinstance(task, LanguageModelling)
        if self.causal and self.length < 2:
            raise DataFailed("a language model learns which token comes next, and the rows have one: give longer rows")
        wide = self.length * max(recipe.heads * max(self.length, 4 * recipe.head_size), task.width)
        self.evaluation_rows = max(1, _EVALUATED // wide)
        if self.causal:
            self.golden_rows = max(1, min(self.golden_rows, _GOLDEN // (self.length * task.width)))

    def module(self) -> nn.Module:
        return Transformer(self.recipe, self.length, self.task.width, causal=self.causal)

    def nodes(self, graph: Graph) -> None:
        recipe, length = self.recipe, self.length
        zero = graph.constant("zero", np.array(0, np.int64))
        known = graph.node("Max", [graph.input, zero], "known")
        embedded = graph.node("Gather", ["embedding.weight", known], "embedded")
        hidden = graph.node("Add", [embedded, "positions"], "hidden")
        if self.causal:
            shape = graph.constant("unseen.shape", np.array([length, length], np.int64))
            full = graph.node(
                "ConstantOfShape",
                [shape],
                "unseen.full",
                value=numpy_helper.from_array(np.array([_UNSEEN], np.float32)),
            )
            unseen = graph.node("Trilu", [full, graph.constant("above", np.array(1, np.int64))], "unseen", upper=1)
        else:
            there = graph.node("GreaterOrEqual", [graph.input, zero], "is_there")
            seen, hid = (graph.constant(name, np.array(value, np.float32))
                         for name, value in (("seen", 0.0), ("hid", _UNSEEN)))  # fmt: skip
            flat = graph.node("Where", [there, seen, hid], "unseen.flat")
            unseen = graph.reshape(flat, [-1, 1, 1, length], "unseen")
        for layer in range(recipe.layers):
            hidden = self._block(graph, hidden, unseen, f"blocks.{layer}")
        hidden = _normalized(graph, hidden, "after")
        if not self.causal:
            weights = graph.reshape(graph.cast(there, "float32"), [-1, length, 1], "weights")
            axis = graph.constant("axis", np.array([1], np.int64))
            total = graph.node(
                "ReduceSum", [graph.node("Mul", [hidden, weights], "weighted"), axis], "total", keepdims=0
            )
            count = graph.node("ReduceSum", [weights, axis], "count", keepdims=0)
            least = graph.node("Max", [count, graph.constant("least", np.array(1, np.float32))], "at_least")
            graph.linear(graph.node("Div", [total, least], "mean"), "last", self.task.raw)
            return
        graph.node("Add", [graph.product(hidden, "last"), "last.bias"], self.task.raw)

    def _block(self, graph: Graph, hidden: str, unseen: str, name: str) -> str:
        size = self.recipe.head_size
        heads = graph.shapes[f"{name}.asked.bias"][0] // size  # a pruned block has fewer than the recipe
        normal = _normalized(graph, hidden, f"{name}.before")

        def apart(part: str, order: list[int]) -> str:
            whole = _layer(graph, normal, f"{name}.{part}")
            split = graph.reshape(whole, [-1, self.length, heads, size], f"{name}.{part}.heads")
            return graph.node("Transpose", [split], f"{name}.{part}.apart", perm=order)

        asked, keys, values = apart("asked", [0, 2, 1, 3]), apart("keys", [0, 2, 3, 1]), apart("values", [0, 2, 1, 3])
        scale = graph.constant(f"{name}.scale", np.array(1 / math.sqrt(size), np.float32))
        scaled = graph.node("Mul", [asked, scale], f"{name}.scaled")
        scores = graph.node("MatMul", [scaled, keys], f"{name}.scores")
        shares = graph.node("Softmax", [graph.node("Add", [scores, unseen], f"{name}.seen")], f"{name}.shares", axis=-1)
        taken = graph.node("MatMul", [shares, values], f"{name}.taken")
        together = graph.node("Transpose", [taken], f"{name}.together", perm=[0, 2, 1, 3])
        flat = graph.reshape(together, [-1, self.length, heads * size], f"{name}.flat")
        hidden = graph.node("Add", [hidden, _layer(graph, flat, f"{name}.given")], f"{name}.attended")
        normal = _normalized(graph, hidden, f"{name}.between")
        wide = graph.node("Gelu", [_layer(graph, normal, f"{name}.wide")], f"{name}.gelu")
        return graph.node("Add", [hidden, _layer(graph, wide, f"{name}.narrow")], f"{name}.hidden")


def _normalized(graph: Graph, values: str, name: str) -> str:
    inputs = [values, f"{name}.weight", f"{name}.bias"]
    return graph.node("LayerNormalization", inputs, f"{name}.normal", axis=-1, epsilon=_EPSILON)


def _layer(graph: Graph, values: str, name: str) -> str:
    """An `nn.Linear` on [rows, length, …]."""
    return graph.node("Add", [graph.product(values, name), f"{name}.bias"], f"{name}.sums")


def _fit(table: Table, vocabulary: int) -> None:
    """Every entry is a token id, or padding behind the last of a row; looked at a piece at a time."""
    for at in range(0, table.rows, 65536):
        piece = table.features[at : at + 65536]
        wrong = np.argwhere((piece >= vocabulary) | (piece < PADDING))
        if len(wrong):
            row, column = wrong[0]
            raise DataFailed(
                f"column {table.names[column]} has the token {piece[row, column]} in row {at + row + 1}, and"
                f" trainer.hyperparameters.vocabulary says 0 to {vocabulary - 1}: raise it to one more than the largest"
                " token id; -1 is padding"
            )
        empty = np.flatnonzero(piece[:, 0] == PADDING)
        if len(empty):
            raise DataFailed(f"row {at + empty[0] + 1} is padding alone: leave it out")
        behind = np.argwhere((piece[:, 1:] != PADDING) & (piece[:, :-1] == PADDING))
        if len(behind):
            row, column = behind[0]
            raise DataFailed(
                f"column {table.names[column + 1]} has a token behind padding in row {at + row + 1}: padding, -1, is at"
                " the end of a row"
            )
