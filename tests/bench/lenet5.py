"""LeNet-5 as Caffe's example has it (lenet_train_test.prototxt): 20 and 50 convolutions of 5×5, pooled by 2 each, 500
hidden neurons, 10 classes; 431,080 parameters. It is no recipe; the steps take any learner."""

from __future__ import annotations

import numpy as np
import torch
from modelwright.api.recipes import CnnHyperparameters
from modelwright_trainer.data import Table
from modelwright_trainer.onnxgraph import Graph
from modelwright_trainer.preprocessing import Moments, Standardize, moments, standardized
from modelwright_trainer.recipes.cnn import of_channels
from modelwright_trainer.recipes.common import Predictor
from modelwright_trainer.tasks import Classification
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    """[rows, 784] → logits [rows, 10]."""

    def __init__(self, found: Moments) -> None:
        super().__init__()
        self.standardize = Standardize(found)
        self.first, self.second = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.hidden, self.last = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        images = self.standardize(rows).view(-1, 1, 28, 28)
        for convolution in (self.first, self.second):
            images = functional.max_pool2d(convolution(images), 2)
        given: torch.Tensor = self.last(torch.relu(self.hidden(images.flatten(1))))
        return given


class LeNet5(Predictor):
    name = "lenet-5"

    def __init__(self, table: Table, train: np.ndarray) -> None:
        self._found = of_channels(moments(table.features, train), 1)
        super().__init__(
            CnnHyperparameters(image_shape=(1, 28, 28), channels=(20, 50), hidden_size=500),
            Classification.of(table, train), table, self._found,
        )  # fmt: skip

    def module(self) -> nn.Module:
        return Net(self._found)

    def nodes(self, graph: Graph) -> None:
        images = graph.reshape(standardized(graph, graph.input), [-1, 1, 28, 28], "images")
        for name in ("first", "second"):
            sums = graph.node("Conv", [images, f"{name}.weight", f"{name}.bias"], f"{name}.sums", kernel_shape=[5, 5])
            images = graph.node("MaxPool", [sums], f"{name}.pooled", kernel_shape=[2, 2], strides=[2, 2])
        hidden = graph.linear(graph.node("Flatten", [images], "flat"), "hidden", "hidden.sums")
        graph.linear(graph.node("Relu", [hidden], "hidden.given"), "last", self.task.raw)
