"""The same graph for MLServer, which has no runtime of its own for ONNX: its own decoding and encoding around it."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):
    async def load(self) -> bool:
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
        self._names = [one.name for one in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        found = self._session.run(self._names, {"features": rows})
        outputs = [NumpyCodec.encode_output(name, array) for name, array in zip(self._names, found, strict=True)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
