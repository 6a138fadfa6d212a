"""The same graph for the server of kserve's SDK, in the form that its documentation shows."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Onnx(Model):
    def load(self) -> None:
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
        self._names = [one.name for one in self._session.get_outputs()]
        self.ready = True

    def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        rows = payload.inputs[0].as_numpy().astype(np.float32)
        outputs = []
        for name, array in zip(self._names, self._session.run(self._names, {"features": rows}), strict=True):
            outputs.append(InferOutput(name=name, shape=list(array.shape), datatype="FP32"))
            outputs[-1].set_data_from_numpy(array, binary_data=False)
        return InferResponse(response_id="1", model_name=self.name, infer_outputs=outputs)


if __name__ == "__main__":
    model = Onnx("iris")
    model.load()
    port = int(os.environ["PORT"])
    ModelServer(http_port=port, grpc_port=port + 1, workers=1).start([model])
