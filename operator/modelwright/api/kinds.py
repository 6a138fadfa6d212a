"""The kinds of the API, in the order in which documents tell of them."""

from __future__ import annotations

from modelwright.api.base import ApiObject
from modelwright.api.dataset import Dataset
from modelwright.api.inference_service import InferenceService
from modelwright.api.model import Model
from modelwright.api.model_version import ModelVersion
from modelwright.api.training_job import TrainingJob

KINDS: tuple[type[ApiObject], ...] = (Dataset, TrainingJob, ModelVersion, Model, InferenceService)
