"""The Job that prepares a data set. It runs in the user's namespace with the user's own credentials: the operator reads
no store."""

from __future__ import annotations

import hashlib
import json

from modelwright import datasets
from modelwright.api.dataset import Dataset
from modelwright.api.dataset_split import fraction
from modelwright.api.storage import StorageStatus
from modelwright.contract import Split, StoreAccess
from modelwright.controllers.dataset.observed import DATASET_LABEL, HASH_ANNOTATION
from modelwright.controllers.podspec import (
    RETRIES,
    container,
    failure_policy,
    job,
    overlaid,
    pod,
    short_hash,
    store_used,
    template_overlay,
)
from modelwright.kube.resources import Object
from modelwright.settings import Settings

CONTAINER = "dataset"
_PARTS: tuple[datasets.PartName, ...] = ("train", "validation", "test")


def run_hash(dataset: Dataset) -> str:
    """Of all that the user wrote. The operator's image and defaults are not among it: an upgrade of the operator
    prepares nothing anew."""
    spec = json.dumps(dataset.spec.to_object(), sort_keys=True)
    return hashlib.sha256(spec.encode()).hexdigest()[:8]


def job_name(dataset: Dataset) -> str:
    """With a hash of the uid: a Dataset that is made again meets no Job of the one before it."""
    return f"{dataset.metadata.name}-{short_hash(dataset.metadata.uid)}-{run_hash(dataset)}"


def dataset_run(dataset: Dataset, storage: StorageStatus) -> datasets.DatasetRun:
    spec, checks = dataset.spec, dataset.spec.checks
    return datasets.DatasetRun(
        namespace=dataset.metadata.namespace,
        name=dataset.metadata.name,
        source_uri=spec.source.uri,
        part_uris={part: uri for part in _PARTS if (uri := getattr(spec.source, part)) is not None},
        store=StoreAccess(uri=storage.uri, endpoint=storage.endpoint, region=storage.region),
        target=spec.schema_.target,
        task=spec.schema_.task,
        split=_split(dataset),
        checks=datasets.Checks(
            min_rows=checks.min_rows,
            no_missing=checks.no_missing or (),
            min_class_fraction=float(checks.min_class_fraction) if checks.min_class_fraction else None,
            unique=checks.unique or (),
        ),
    )


def _split(dataset: Dataset) -> Split | datasets.Given:
    spec, split = dataset.spec, dataset.spec.split
    if spec.source.uri is None or split.column is not None:
        return datasets.Given(column=split.column, seed=split.seed)
    has_classes = spec.schema_.task == "Classification"
    return Split(
        train=float(fraction(split, "train")),
        validation=float(fraction(split, "validation")),
        test=float(fraction(split, "test")),
        stratify=has_classes if split.stratify is None else split.stratify,
        seed=split.seed,
    )


def dataset_job(dataset: Dataset, settings: Settings, owner: Object) -> Object:
    storage = store_used(dataset.spec.storage, settings)
    labels = {"app.kubernetes.io/managed-by": "modelwright", DATASET_LABEL: dataset.metadata.name}
    variables = {datasets.DATASET_VARIABLE: dataset_run(dataset, storage).to_json()}
    secret = storage.secret_ref.name if storage.secret_ref else ""
    resources = dataset.spec.resources.to_object() if dataset.spec.resources else {}
    prepares = container(CONTAINER, settings.trainer_image, datasets.COMMAND, variables, secret, resources=resources)
    template = {"metadata": {"labels": labels}, "spec": pod(prepares)}
    return job(
        job_name(dataset),
        dataset.metadata.namespace,
        labels,
        owner,
        overlaid(template, template_overlay(dataset.spec.pod_template)),
        annotations={HASH_ANNOTATION: run_hash(dataset)},
        backoffLimit=RETRIES,
        podReplacementPolicy="Failed",
        podFailurePolicy=failure_policy(CONTAINER),
    )
