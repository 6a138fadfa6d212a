"""The recipe cnn: a convolutional network for images whose pixels are the columns."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from modelwright.api.recipes import CnnHyperparameters
from torch import nn

from modelwright_trainer import augmentation
from modelwright_trainer.data import Table
from modelwright_trainer.failures import UserFailed
from modelwright_trainer.learner import Batch
from modelwright_trainer.onnxgraph import Graph
from modelwright_trainer.preprocessing import Moments, Standardize, moments, standardized
from modelwright_trainer.recipes.common import Predictor
from modelwright_trainer.split import Rows
from modelwright_trainer.tasks import Classification, Regression


class Convolutional(nn.Module):
    """[rows, channels · height · width] float32 → what `head` makes of the last layer's numbers."""

    def __init__(self, standardize: Standardize, recipe: CnnHyperparameters, width: int, head: nn.Module) -> None:
        super().__init__()
        self.standardize = standardize
        self.shape = recipe.image_shape
        widths = [self.shape[0], *recipe.channels]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        *_, (height, columns) = sides(recipe)
        self.hidden = nn.Linear(widths[-1] * height * columns, recipe.hidden_size)
        self.last = nn.Linear(recipe.hidden_size, width)
        self.dropout = recipe.dropout
        self.head = head

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        images = self.standardize(rows).view(len(rows), *self.shape)
        for convolution in self.convolutions:
            images = torch.relu(convolution(images))
            if min(images.shape[2:]) > 1:
                images = nn.functional.max_pool2d(images, 2)
        hidden = torch.relu(self.hidden(images.flatten(1)))
        if self.dropout:
            hidden = nn.functional.dropout(hidden, self.dropout, self.training)
        given: torch.Tensor = self.head(self.last(hidden))
        return given


def sides(recipe: CnnHyperparameters) -> list[tuple[int, int]]:
    """Height and width of the images, then after each convolution. Where a side is 1 nothing is pooled."""
    found = [recipe.image_shape[1:]]
    for _ in recipe.channels:
        height, width = found[-1]
        found.append((height // 2, width // 2) if min(height, width) > 1 else (height, width))
    return found


def of_channels(found: Moments, channels: int) -> Moments:
    """Moments of the pixels made those of their channels: all pixels of a channel share one mean and deviation."""
    mean, deviation = (one.reshape(channels, -1) for one in found)
    middle = mean.mean(axis=1, keepdims=True)
    spread = np.sqrt((np.square(deviation) + np.square(mean - middle)).mean(axis=1, keepdims=True))
    return tuple(np.broadcast_to(one, mean.shape).ravel().copy() for one in (middle, spread))


class Cnn(Predictor):
    name = "cnn"

    def __init__(
        self, recipe: CnnHyperparameters, task: Classification | Regression, table: Table, train: Rows
    ) -> None:
        """Raises UserFailed where the columns are not the pixels of such images."""
        channels, height, width = recipe.image_shape
        if channels * height * width != len(table.names):
            raise UserFailed(
                f"spec.trainer.hyperparameters.imageShape: {channels} · {height} · {width} is"
                f" {channels * height * width} pixels, and the data set has {len(table.names)} columns beside the"
                " target"
            )
        super().__init__(recipe, task, table, of_channels(moments(table.features, train), channels))
        self.recipe = recipe

    def module(self) -> nn.Module:
        return Convolutional(Standardize(self._moments), self.recipe, self.task.width, self.task.head())

    def augmented(self, batch: Batch) -> Batch:
        recipe = self.recipe
        if batch.rows and (recipe.crop or recipe.rotate or recipe.flip != "None"):
            images = batch.features.view(batch.rows, *recipe.image_shape)
            if recipe.flip in ("Horizontal", "Both"):
                images = augmentation.mirrored(images, 3)
            if recipe.flip in ("Vertical", "Both"):
                images = augmentation.mirrored(images, 2)
            if recipe.rotate:
                images = augmentation.turned(images, recipe.rotate)
            if recipe.crop:
                images = augmentation.shifted(images, recipe.crop)
            batch = Batch(images.reshape(batch.features.shape), batch.targets)
        return super().augmented(batch)

    def nodes(self, graph: Graph) -> None:
        images = graph.reshape(standardized(graph, graph.input), [-1, *self.recipe.image_shape], "images")
        for layer, (height, width) in enumerate(sides(self.recipe)[:-1]):
            name = f"convolutions.{layer}"
            images = graph.node(
                "Conv", [images, f"{name}.weight", f"{name}.bias"], f"{name}.sums", kernel_shape=[3, 3], pads=[1] * 4
            )
            images = graph.node("Relu", [images], f"{name}.given")
            if min(height, width) > 1:
                images = graph.node("MaxPool", [images], f"{name}.pooled", kernel_shape=[2, 2], strides=[2, 2])
        hidden = graph.linear(graph.node("Flatten", [images], "flat"), "hidden", "hidden.sums")
        graph.linear(graph.node("Relu", [hidden], "hidden.given"), "last", self.task.raw)
