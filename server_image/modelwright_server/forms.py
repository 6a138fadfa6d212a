"""The forms in which an inference may be asked for over HTTP: tensors, records with named columns, V1's instances."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from modelwright_server import inference
from modelwright_server.http11 import Request, Response
from modelwright_server.inference import Inference
from modelwright_server.tensors import Array

if TYPE_CHECKING:
    from modelwright_server.model import Model


@dataclasses.dataclass(frozen=True)
class Form:
    """`read` makes an inference of a request and raises BadRequest, `write` a response of its outputs."""

    read: Callable[[Model, Request], Inference]
    write: Callable[[Model, Inference, Sequence[Array]], Response]


def _read_tensors(model: Model, request: Request) -> Inference:
    length = request.headers.get(inference.HEADER_LENGTH)
    return inference.parse(request.body, length, model.inputs, model.outputs)


TENSORS = Form(_read_tensors, lambda model, asked, arrays: inference.answer(model.name, model.version, asked, arrays))
RECORDS = Form(
    lambda model, request: model.records.parse(request.body),
    lambda model, asked, arrays: model.records.answer(model.name, model.version, asked, arrays),
)
INSTANCES = Form(
    lambda model, request: model.records.parse(request.body, "instances"),
    lambda model, asked, arrays: model.records.answer_v1(asked, arrays),
)
