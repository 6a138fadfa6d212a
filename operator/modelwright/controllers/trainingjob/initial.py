"""The ModelVersion that a fine-tuning begins with: waited for until it is Ready. Pure.

Which artifact it is goes into what the pods are told, and nowhere else: a version never changes.
"""

from __future__ import annotations

import dataclasses

from modelwright import contract
from modelwright.api.training_job import TrainingJob
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.controllers.trainingjob.children import Blueprint
from modelwright.controllers.trainingjob.dataset import VERSION_NOT_READY, Missing


def name_of(job: TrainingJob) -> str | None:
    stated = job.spec.trainer.init_from
    return stated.model_version_ref.name if stated else None


def found(name: str, version: VersionView | None) -> contract.InitFrom | Missing:
    """What there is of the ModelVersion `name`; it is None where there is no such object."""
    if version is None:
        return Missing(
            VERSION_NOT_READY,
            f"waiting for ModelVersion {name}, which does not exist: create it, or mend trainer.initFrom",
        )
    if not version.ready or not version.digest:
        return Missing(VERSION_NOT_READY, f"waiting for ModelVersion {name}, which is not Ready")
    return contract.InitFrom(uri=version.uri, digest=version.digest)


def given(blueprint: Blueprint, begins: contract.InitFrom) -> Blueprint:
    """The blueprint of an attempt that begins with it."""
    return dataclasses.replace(blueprint, run=blueprint.run.model_copy(update={"init_from": begins}))
