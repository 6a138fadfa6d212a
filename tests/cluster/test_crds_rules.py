"""Each rule of the API, with the API server's exact words; and that the operator's models say the same."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from modelwright.api.errors import problems
from modelwright.api.kinds import KINDS
from modelwright.api.types import Quantity, Version
from pydantic import TypeAdapter, ValidationError

from devcluster.light import LightCluster
from tests.cluster import crds
from tests.cluster.crds import (
    Manifest,
    combined,
    compressed,
    dataset,
    imported,
    model,
    model_version,
    own_code,
    searched,
    training_job,
)

LONG = "a" * 41
DIGEST = "sha256:" + "0" * 64


def retaining(**retention: object) -> Manifest:
    return crds.edited(model(), retention=retention)


SEMVER = "is not a semantic version; write MAJOR.MINOR.PATCH, such as 1.0.0 or 1.0.0-rc.1"
FRACTION = 'is not a fraction; write a decimal from 0 to 1 with at most 6 places, such as "0.8"'
DECIMAL = 'is not a decimal; write it in quotes with a point, such as "0.93"'
QUANTITY = "is not a quantity; write a number with or without a unit, such as 2, 500m or 4Gi"
NAMED = (
    "must have at most 40 characters, lower-case letters, digits and hyphens, and begin with a letter: pods, Services"
    " and labels are named after it"
)

SOURCE = (
    "is not a source; write s3://bucket/path/rows.parquet (or .csv, .jsonl, .ndjson), or a prefix that ends with a"
    " slash, s3://bucket/path/; or file:///path of either form"
)

FILE = {"uri": "s3://abc/x.parquet", "target": "label", "task": "Classification"}

REFUSED: dict[str, tuple[Manifest, list[str]]] = {
    # Dataset
    "a source of an unknown format": (
        dataset(source__uri="s3://abc/raw/digits.xlsx"),
        [
            "spec.source.uri: Invalid value: \"s3://abc/raw/digits.xlsx\": 's3://abc/raw/digits.xlsx' " + SOURCE,
        ],
    ),
    "a whole bucket as a source": (
        dataset(source__uri="s3://abc/"),
        [f"spec.source.uri: Invalid value: \"s3://abc/\": 's3://abc/' {SOURCE}"],
    ),
    "no source": (dataset(source=None), ["spec.source: Required value"]),
    "no schema": (dataset(schema=None), ["spec.schema: Required value"]),
    "a data set's split that is not whole": (
        dataset(split={"train": "0.8", "validation": "0.1", "test": "0.2"}),
        ["spec.split: Invalid value: train 0.8, validation 0.1 and test 0.2 must add up to 1"],
    ),
    "a share that not every class can have": (
        dataset(checks={"minClassFraction": "0.6"}),
        [
            "spec.checks.minClassFraction: Invalid value: minClassFraction 0.6 cannot be: there are two classes or"
            ' more, so it is above 0 and at most "0.5"'
        ],
    ),
    "a column that is checked twice": (
        dataset(checks={"noMissing": ["x", "x"]}),
        ['spec.checks.noMissing[1]: Duplicate value: "x"'],
    ),
    "a data set on volumes alone with a Secret": (
        dataset(source__uri="file:///data/in/", storage={"uri": "file:///data/out", "secretRef": {"name": "store"}}),
        [
            "spec.storage: Invalid value: endpoint, region and secretRef are of s3://, but the source and storage.uri"
            " are file://; leave them out"
        ],
    ),
    "a source of one place and of parts": (
        dataset(source={"uri": "s3://abc/raw/", "train": "s3://abc/train/", "test": "s3://abc/test/"}),
        [
            "spec.source: Invalid value: give uri; or train, test and perhaps validation, for rows that are divided"
            " already"
        ],
    ),
    "nothing to test on": (
        dataset(source={"train": "s3://abc/train/"}),
        [
            "spec.source: Invalid value: give both train and test: a model is trained on the one and measured on the"
            " other"
        ],
    ),
    "parts that are said twice": (
        dataset(source={"train": "s3://abc/train/", "test": "s3://abc/test/"}, split={"column": "part"}),
        ["spec.split: Invalid value: the source says which part each row is in; leave out all of split but seed"],
    ),
    "a column and fractions": (
        dataset(split={"column": "part", "train": "0.8"}),
        [
            "spec.split: Invalid value: column says which part a row is in; leave out train, validation, test and"
            " stratify"
        ],
    ),
    "a target without a task": (
        dataset(schema={"target": "label"}),
        [
            "spec.schema: Invalid value: give both target and task: which column is to be predicted, and as what; or"
            " none of them"
        ],
    ),
    "shares of classes that are none": (
        dataset(schema__task="Regression", split={"stratify": True}, checks={"minClassFraction": "0.1"}),
        [
            "spec.split: Invalid value: stratify keeps the shares of classes, and there are none without the task"
            " Classification; leave it out",
            "spec.checks: Invalid value: minClassFraction is of classes, and there are none without the task"
            " Classification; leave it out",
        ],
    ),
    "a data set's pod with an account": (
        dataset(podTemplate={"spec": {"serviceAccountName": "me"}}),
        [
            "spec.podTemplate.spec: Invalid value: serviceAccountName, serviceAccount and automountServiceAccountToken"
            " cannot be set: workers hold no credentials of Kubernetes"
        ],
    ),
    # TrainingJob
    "a name that is too long": (training_job(LONG), [f"metadata.name: Invalid value: '{LONG}' {NAMED}"]),
    "a name with a dot": (training_job("digits.v1"), [f"metadata.name: Invalid value: 'digits.v1' {NAMED}"]),
    "a name that begins with a digit": (
        training_job("1-digits"),
        [f"metadata.name: Invalid value: '1-digits' {NAMED}"],
    ),
    "no publish": (training_job(publish=None), ["spec.publish: Required value"]),
    "a version that is not SemVer": (
        training_job(publish__version="1.0"),
        [f"spec.publish.version: Invalid value: \"1.0\": '1.0' {SEMVER}"],
    ),
    "a version with build metadata": (
        training_job(publish__version="1.0.0+b1"),
        [
            "spec.publish.version: Invalid value: \"1.0.0+b1\": '1.0.0+b1' has build metadata, which no label or name"
            " can hold; leave out the + and what follows it"
        ],
    ),
    "a version that makes no name": (
        training_job(publish__version="1.0.0-RC1"),
        [
            "spec.publish.version: Invalid value: \"1.0.0-RC1\": '1.0.0-RC1' cannot be part of a name; write the"
            " pre-release in lower-case letters, digits and dots, such as 1.0.0-rc.1"
        ],
    ),
    "a version as a number": (
        training_job(publish__version=1.5),
        [
            'spec.publish.version: Invalid value: "number": spec.publish.version in body must be of type string:'
            ' "number"'
        ],
    ),
    "a model that is no name": (
        training_job(publish__model="Digits"),
        [
            "spec.publish.model: Invalid value: \"Digits\": 'Digits' is not a name; write lower-case letters, digits"
            " and hyphens, beginning with a letter"
        ],
    ),
    "model and version that make too long a name": (
        training_job(publish__model="a" * 38),
        [
            f"spec.publish: Invalid value: the ModelVersion would be named '{'a' * 38}-v1-0-0', and a name has at most"
            " 40 characters; shorten model or version"
        ],
    ),
    "no data URI": (
        training_job(data__uri=None),
        ["spec.data: Invalid value: give exactly one of uri and datasetRef"],
    ),
    "a file and a Dataset": (
        training_job(data={**FILE, "datasetRef": {"name": "digits"}}),
        [
            "spec.data: Invalid value: give exactly one of uri and datasetRef",
            "spec.data: Invalid value: target, task and split are the Dataset's own; leave them out beside datasetRef",
        ],
    ),
    "a Dataset and what it says itself": (
        training_job(data={"datasetRef": {"name": "digits"}, "split": {"seed": 7}}),
        [
            "spec.data: Invalid value: target, task and split are the Dataset's own; leave them out beside datasetRef",
        ],
    ),
    "data of another scheme": (
        training_job(data__uri="https://x/y.parquet"),
        [
            "spec.data.uri: Invalid value: \"https://x/y.parquet\": 'https://x/y.parquet' is not a file's URI; write"
            " s3://bucket/path/rows.parquet or file:///path/rows.parquet"
        ],
    ),
    "an unknown task": (
        training_job(data__task="classification"),
        [
            'spec.data.task: Unsupported value: "classification": supported values: "AnomalyDetection",'
            ' "Classification", "Clustering", "LanguageModelling", "Regression"'
        ],
    ),
    "a recipe without a target": (
        training_job(data__target=None),
        [
            "spec.data: Invalid value: target and task are required with a recipe: which column is to be predicted, and"
            " as what"
        ],
    ),
    "a target that nothing predicts": (
        training_job(data={"uri": "s3://abc/x.parquet", "target": "label", "task": "AnomalyDetection"}),
        [
            "spec.data.target: Invalid value: AnomalyDetection predicts no column: leave target out, and take that"
            " column out of the file where it is to be learned nothing from"
        ],
    ),
    "classes' shares where there are no classes": (
        training_job(data__task="Regression", data__split={"stratify": True}),
        [
            "spec.data.split.stratify: Invalid value: stratify keeps the shares of classes, and the task Regression has"
            " none; leave it out"
        ],
    ),
    "a recipe for a prefix": (
        training_job(data__uri="s3://abc/raw/"),
        [
            "spec.data.uri: Invalid value: s3://abc/raw/ is a prefix, which your own code may read; a recipe reads one"
            " file, such as s3://bucket/path/rows.parquet"
        ],
    ),
    "neither a recipe nor an image": (
        own_code(trainer={}),
        ["spec.trainer: Invalid value: give exactly one of recipe, a built-in one, and image, with your own code"],
    ),
    "a recipe and an image": (
        training_job(trainer={"recipe": "mlp", "image": "registry/team/own:1"}),
        ["spec.trainer: Invalid value: give exactly one of recipe, a built-in one, and image, with your own code"],
    ),
    "a command for a recipe": (
        training_job(trainer={"recipe": "mlp", "command": ["python"]}),
        [
            "spec.trainer: Invalid value: command, args and env are of your own code, and so of an image; leave them"
            " out beside a recipe"
        ],
    ),
    "hyperparameters for own code": (
        own_code(trainer__hyperparameters={"epochs": "3"}),
        [
            "spec.trainer.hyperparameters: Invalid value: hyperparameters are of a recipe; your own code has args and"
            " env"
        ],
    ),
    "own code that begins with a version": (
        own_code(trainer__initFrom={"modelVersionRef": {"name": "digits-v1-0-0"}}),
        ["spec.trainer.initFrom: Invalid value: initFrom is of a recipe; your own code loads what it likes"],
    ),
    "an image that is none": (
        own_code(trainer__image="my image"),
        [
            "spec.trainer.image: Invalid value: \"my image\": 'my image' is not an image; write"
            " registry/repository:tag or registry/repository@sha256:digest"
        ],
    ),
    "a variable of the operator's": (
        own_code(trainer__env=[{"name": "MODELWRIGHT_DATA", "value": "/data"}]),
        [
            'spec.trainer.env[0].name: Invalid value: "MODELWRIGHT_DATA": MODELWRIGHT_DATA is set by the operator;'
            " leave it out, or name yours otherwise"
        ],
    ),
    "a variable that no shell knows": (
        own_code(trainer__env=[{"name": "9-lives", "value": "1"}]),
        [
            "spec.trainer.env[0].name: Invalid value: \"9-lives\": '9-lives' is not a variable's name; write letters,"
            " digits and _, not beginning with a digit"
        ],
    ),
    "a variable twice": (
        own_code(trainer__env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        ['spec.trainer.env[1]: Duplicate value: {"name":"A"}'],
    ),
    "a strategy for own code": (
        own_code(strategy={}),
        [
            "spec.strategy: Invalid value: strategy is of recipes: your own code shares the work as it likes; leave it"
            " out"
        ],
    ),
    "early stopping of own code": (
        own_code(earlyStopping={}),
        [
            "spec.earlyStopping: Invalid value: earlyStopping is of recipes: your own code ends when it likes; leave it"
            " out"
        ],
    ),
    "own code's checkpoints every so many steps": (
        own_code(checkpoint={"everySteps": 50}),
        [
            "spec.checkpoint.everySteps: Invalid value: everySteps is of recipes: your own code saves when it likes;"
            " leave it out"
        ],
    ),
    "own code's local checkpoints": (
        own_code(checkpoint={"local": {"path": "/checkpoints", "everySteps": 5}}),
        ["spec.checkpoint.local: Invalid value: local is of recipes: your own code saves where it likes; leave it out"],
    ),
    "local checkpoints in the pod's own folder": (
        training_job(checkpoint={"local": {"path": "/tmp/here", "everySteps": 5}}),  # noqa: S108
        [
            "spec.checkpoint.local.path: Invalid value: \"/tmp/here\": '/tmp/here' is no place for a volume; write an"
            " absolute path such as /checkpoints, not below /tmp"
        ],
    ),
    "a split for own code": (
        own_code(data__split={}),
        [
            "spec.data.split: Invalid value: split is of recipes: your own code divides the rows as it likes; leave it"
            " out"
        ],
    ),
    "a fraction that is none": (
        training_job(data__split__train="80%"),
        [f"spec.data.split.train: Invalid value: \"80%\": '80%' {FRACTION}"],
    ),
    "fractions that do not add up": (
        training_job(data__split__train="0.85"),
        ["spec.data.split: Invalid value: train 0.85, validation 0.1 and test 0.1 must add up to 1"],
    ),
    "nothing to measure on": (
        training_job(data__split={"train": "0.9", "test": "0"}),
        [
            "spec.data.split: Invalid value: train and test must be above 0: a model is trained on the one and measured"
            " on the other"
        ],
    ),
    "a store's URI without bucket": (
        training_job(storage__uri="s3://"),
        [
            "spec.storage.uri: Invalid value: \"s3://\": 's3://' is not a store's URI; write s3://bucket/path or file:///path"
        ],
    ),
    "an endpoint without scheme": (
        training_job(storage__endpoint="store:7070"),
        [
            "spec.storage.endpoint: Invalid value: \"store:7070\": 'store:7070' is not an endpoint; write https://host"
            " or https://host:port"
        ],
    ),
    "S3's options where there is no S3": (
        training_job(data__uri="file:///data/x.parquet", storage__uri="file:///data/out"),
        [
            "spec.storage: Invalid value: endpoint, region and secretRef are of s3://, but data.uri and storage.uri are"
            " file://; leave them out"
        ],
    ),
    "an unknown recipe": (
        training_job(trainer__recipe="mpl"),
        [
            'spec.trainer.recipe: Unsupported value: "mpl": supported values: "autoencoder", "cnn", "dbscan",'
            ' "gradient-boosting", "kmeans", "linear", "mlp", "pca", "transformer"'
        ],
    ),
    "a hyperparameter's name that is too long": (
        training_job(trainer__hyperparameters={"x" * 64: "1"}),
        ["spec.trainer.hyperparameters: Invalid value: a hyperparameter's name has 1 to 63 characters"],
    ),
    "no workers": (
        training_job(workers__replicas=0),
        ["spec.workers.replicas: Invalid value: 0: spec.workers.replicas in body should be greater than or equal to 1"],
    ),
    "too many workers": (
        training_job(workers__replicas=65),
        ["spec.workers.replicas: Invalid value: 65: spec.workers.replicas in body should be less than or equal to 64"],
    ),
    "fewer workers than none": (
        training_job(workers={"replicas": 2, "minReplicas": 3}),
        ["spec.workers.minReplicas: Invalid value: minReplicas is above replicas; write at most as many"],
    ),
    "a queue and fewer workers": (
        training_job(queueName="team-a", workers={"replicas": 2, "minReplicas": 1}),
        [
            "spec.workers.minReplicas: Invalid value: minReplicas is for want of room, and a queue finds room for all"
            " workers or none; leave out one of them"
        ],
    ),
    "a queue that cannot be": (
        training_job(queueName="Team A"),
        [
            "spec.queueName: Invalid value: \"Team A\": 'Team A' is not a queue's name; write lower-case letters,"
            " digits, hyphens and dots"
        ],
    ),
    "a priority that is no class": (
        training_job(workers={"priorityClassName": "-1"}),
        [
            "spec.workers.priorityClassName: Invalid value: \"-1\": '-1' is not a PriorityClass; write lower-case"
            " letters, digits, hyphens and dots"
        ],
    ),
    "a deadline that passes at once": (
        training_job(failurePolicy={"activeDeadline": "1s"}),
        ["spec.failurePolicy.activeDeadline: Invalid value: activeDeadline is '1s'; write 10s to 8760h"],
    ),
    "a cleaning up that never comes": (
        training_job(cleanup={"after": "9000h"}),
        ["spec.cleanup.after: Invalid value: after is '9000h'; write 0s to 8760h"],
    ),
    "a cleaning up without a time": (training_job(cleanup={}), ["spec.cleanup.after: Required value"]),
    "a stall timeout that an ordinary step would pass": (
        training_job(failurePolicy={"stallTimeout": "1s"}),
        ["spec.failurePolicy.stallTimeout: Invalid value: stallTimeout is '1s'; write 10s to 24h"],
    ),
    "a stall timeout without a unit": (
        training_job(failurePolicy={"stallTimeout": "600"}),
        [
            "spec.failurePolicy.stallTimeout: Invalid value: \"600\": '600' is not a duration; write numbers with"
            " units, such as 200ms, 30s or 1m30s"
        ],
    ),
    "early stopping by a split that is not there": (
        training_job(earlyStopping={}, data__split={"train": "0.9", "validation": "0", "test": "0.1"}),
        [
            "spec.earlyStopping: Invalid value: earlyStopping looks at the validation split, and data.split.validation"
            " is 0"
        ],
    ),
    "a quantity with a wrong unit": (
        training_job(workers__resources__requests={"memory": "4GB"}),
        [f"spec.workers.resources.requests[memory]: Invalid value: \"4GB\": '4GB' {QUANTITY}"],
    ),
    "a negative quantity": (
        training_job(workers__resources__limits={"nvidia.com/gpu": -1}),
        [f"spec.workers.resources.limits[nvidia.com/gpu]: Invalid value: -1: '-1' {QUANTITY}"],
    ),
    "a service account": (
        training_job(workers__podTemplate={"spec": {"serviceAccountName": "admin"}}),
        [
            "spec.workers.podTemplate.spec: Invalid value: serviceAccountName, serviceAccount and"
            " automountServiceAccountToken cannot be set: workers hold no credentials of Kubernetes"
        ],
    ),
    "a restart policy": (
        training_job(workers__podTemplate={"spec": {"restartPolicy": "Always"}}),
        [
            "spec.workers.podTemplate.spec: Invalid value: restartPolicy, hostname and subdomain cannot be set: the"
            " workers find each other by them"
        ],
    ),
    "a strategy that does not exist": (
        training_job(strategy__type="ZeRO"),
        ['spec.strategy.type: Unsupported value: "ZeRO": supported values: "DDP", "FSDP", "LocalSGD"'],
    ),
    "local steps where there are none": (
        training_job(strategy={"localSteps": 8}),
        [
            "spec.strategy: Invalid value: localSteps, outerLearningRate and outerMomentum are of LocalSGD, and type is"
            " DDP; leave them out"
        ],
    ),
    "local steps without their number": (
        training_job(strategy={"type": "LocalSGD"}),
        [
            "spec.strategy: Invalid value: localSteps is required with LocalSGD: how many steps each process trains by"
            " itself, such as 16"
        ],
    ),
    "shards where there are none": (
        training_job(strategy={"type": "LocalSGD", "localSteps": 8, "shardSize": 2}),
        ["spec.strategy.shardSize: Invalid value: shardSize is of FSDP, and type is LocalSGD; leave it out"],
    ),
    "an outer optimizer out of range": (
        training_job(strategy={"type": "LocalSGD", "localSteps": 8, "outerLearningRate": "0", "outerMomentum": "1"}),
        [
            "spec.strategy.outerLearningRate: Invalid value: 0 is out of range: above 0, at most 10",
            "spec.strategy.outerMomentum: Invalid value: 1 is out of range: at least 0, below 1",
        ],
    ),
    "copies of the model that do not come out even": (
        training_job(workers={"replicas": 3, "processesPerWorker": 2}, strategy={"type": "FSDP", "shardSize": 4}),
        [
            "spec.strategy.shardSize: Invalid value: shardSize does not divide the number of processes,"
            " workers.replicas times workers.processesPerWorker; write one of its divisors"
        ],
    ),
    "an unknown metric": (
        training_job(evaluation={"metrics": ["accuracy", "acuracy"]}),
        [
            'spec.evaluation.metrics[1]: Unsupported value: "acuracy": supported values: "accuracy", "auroc",'
            ' "average_precision", "balanced_accuracy", "calibration_error", "explained_variance", "f1_macro",'
            ' "f1_micro", "f1_min", "log_loss", "mae", "mse", "perplexity", "precision_macro", "precision_micro",'
            ' "precision_min", "r2", "recall_macro", "recall_micro", "recall_min", "reconstruction_error", "rmse",'
            ' "silhouette"'
        ],
    ),
    "a metric twice": (
        training_job(evaluation={"metrics": ["accuracy", "accuracy"]}),
        ['spec.evaluation.metrics[1]: Duplicate value: "accuracy"'],
    ),
    "a gate without a bound": (
        training_job(evaluation__gates=[{"metric": "accuracy"}]),
        ["spec.evaluation.gates[0]: Invalid value: give min, max or both"],
    ),
    "two gates on one metric": (
        training_job(evaluation__gates=[{"metric": "accuracy", "min": "0.9"}, {"metric": "accuracy", "max": "1"}]),
        ['spec.evaluation.gates[1]: Duplicate value: {"metric":"accuracy"}'],
    ),
    "a gate that nothing passes": (
        training_job(evaluation__gates=[{"metric": "log_loss", "min": "0.9", "max": "0.8"}]),
        ["spec.evaluation.gates[0]: Invalid value: no figure can pass: min is above max"],
    ),
    "a gate in percent": (
        training_job(evaluation__gates=[{"metric": "accuracy", "min": "93"}]),
        ['spec.evaluation.gates[0]: Invalid value: accuracy lies between 0 and 1; write 93 % as "0.93"'],
    ),
    "a recall in percent": (
        training_job(evaluation={"gates": [{"metric": "recall_min", "min": "80"}]}),
        ['spec.evaluation.gates[0]: Invalid value: recall_min lies between 0 and 1; write 93 % as "0.93"'],
    ),
    "a bound that is no number": (
        training_job(evaluation__gates=[{"metric": "accuracy", "min": "high"}]),
        [f"spec.evaluation.gates[0].min: Invalid value: \"high\": 'high' {DECIMAL}"],
    ),
    "a gate on what is not measured": (
        training_job(evaluation={"metrics": ["log_loss"], "gates": [{"metric": "accuracy", "min": "0.9"}]}),
        [
            "spec.evaluation.gates: Invalid value: a gate is on a metric that is not measured; add it to"
            " evaluation.metrics"
        ],
    ),
    # ModelVersion
    "a name that does not say the version": (
        model_version("digits-1"),
        ["metadata.name: Invalid value: 'digits-1' must say which version it is; write 'digits-v1-0-0'"],
    ),
    "a name that does not say the variant": (
        model_version(variant="int8"),
        ["metadata.name: Invalid value: 'digits-v1-0-0' must say which version it is; write 'digits-v1-0-0--int8'"],
    ),
    "a variant that is none": (
        model_version("digits-v1-0-0--a--b", variant="a--b"),
        [
            "spec.variant: Invalid value: \"a--b\": 'a--b' is not a variant; write lower-case letters, digits and"
            " single hyphens, such as int8"
        ],
    ),
    "a version of nothing": (
        model_version(source={}),
        ["spec.source: Invalid value: give exactly one of trainingJobRef, artifact, import, compress and combine"],
    ),
    "a version of two sources": (
        compressed(source__trainingJobRef={"name": "digits-v1-0-0"}),
        ["spec.source: Invalid value: give exactly one of trainingJobRef, artifact, import, compress and combine"],
    ),
    "a store of a version that is trained": (
        model_version(storage={"uri": "s3://abc"}),
        [
            "spec.storage: Invalid value: storage is of import, compress and combine; of an artifact it is"
            " source.artifact.storage: leave it out"
        ],
    ),
    "an evaluation of a version that is trained": (
        model_version(evaluation={"split": "test"}),
        [
            "spec.evaluation: Invalid value: evaluation is of import, compress and combine; a TrainingJob has its own:"
            " leave it out"
        ],
    ),
    "a slice by values and by bounds": (
        training_job(evaluation={"slices": [{"column": "pixel_1", "values": ["0"], "bounds": ["8"]}]}),
        ["spec.evaluation.slices[0]: Invalid value: give exactly one of values and bounds"],
    ),
    "a slice between a bound and itself": (
        training_job(evaluation={"slices": [{"column": "pixel_1", "bounds": ["8", "8.0"]}]}),
        ["spec.evaluation.slices[0].bounds: Invalid value: bounds are each once"],
    ),
    "slices of a program of one's own": (
        own_code(evaluation={"slices": [{"column": "pixel_1", "bounds": ["8"]}]}),
        [
            "spec.evaluation.slices: Invalid value: slices are of recipes: your own code is not evaluated, and says its"
            " own figures; leave them out"
        ],
    ),
    "an import of a file with a slash at its end": (
        imported(uri="s3://abc/model/"),
        [
            "spec.source.import.uri: Invalid value: Onnx is imported from a file, but of HuggingFace from a folder,"
            " with a slash at its end"
        ],
    ),
    "an import of safetensors of nobody knows what": (
        imported(format="Safetensors"),
        [
            "spec.source.import.recipe: Invalid value: recipe says what Safetensors are the weights of, and goes with"
            " them alone",
            "spec.source.import: Invalid value: Safetensors need columns and task: the recipe is built with them",
        ],
    ),
    "an import with what is of another format": (
        imported(
            uri="s3://abc/model/",
            format="HuggingFace",
            names={"a": "b"},
            columns=["x"],
            hyperparameters={"hiddenSizes": "3"},
        ),
        [
            "spec.source.import.hyperparameters: Invalid value: hyperparameters are of a recipe; leave them out",
            "spec.source.import.names: Invalid value: names are of the graph of Onnx; leave them out",
            "spec.source.import: Invalid value: samples, digest and columns are of one file with one graph; leave them"
            " out with HuggingFace",
        ],
    ),
    "an import with classes of no classification": (
        imported(classes=["a", "b"]),
        [
            "spec.source.import.classes: Invalid value: classes are of the task Classification; give it as task, or"
            " leave them out"
        ],
    ),
    "an import that is measured on nothing, and compared with nothing": (
        imported(at={"evaluation": {"gates": [{"metric": "accuracy", "maxRegression": "0"}]}}),
        [
            "spec.evaluation: Invalid value: what is imported does not say what it was trained on; give datasetRef, the"
            " Dataset to measure it on",
            "spec.evaluation.gates: Invalid value: what is imported is made of no version to compare it with; give"
            " against beside maxRegression",
        ],
    ),
    "an import from no URI": (
        imported(uri="model.onnx"),
        [
            "spec.source.import.uri: Invalid value: \"model.onnx\": 'model.onnx' is not a file's URI; write"
            " s3://bucket/path/model.onnx or file:///path"
        ],
    ),
    "a compression that would overwrite its parent": (
        compressed(variant=None),
        [
            "spec.variant: Invalid value: a form of 1.0.0 under the same version must have another variant than its"
            " parent: give variant, such as int8"
        ],
    ),
    "a compression out of itself": (
        compressed(source__compress__from={"version": "1.0.0", "variant": "small"}),
        [
            "spec.source.compress.from: Invalid value: 1.0.0 of variant small cannot be compressed out of itself; name"
            " another version in from, or write another variant"
        ],
    ),
    "no steps": (
        compressed(source__compress__steps=[]),
        ["spec.source.compress.steps: Invalid value: there is nothing to do; write one step or more"],
    ),
    "steps and a target": (
        compressed(source__compress__target={"bytes": "20Ki", "maxRegression": "0.01"}),
        [
            "spec.source.compress: Invalid value: give exactly one of steps, and target, for which a search finds the"
            " steps"
        ],
    ),
    "neither steps nor a target": (
        compressed(source__compress__steps=None),
        [
            "spec.source.compress: Invalid value: give exactly one of steps, and target, for which a search finds the"
            " steps"
        ],
    ),
    "a target of nothing": (
        searched(),
        ["spec.source.compress.target: Invalid value: give bytes, latencyP50 or both"],
    ),
    "bytes that are none": (
        searched(bytes="20KB"),
        [
            "spec.source.compress.target.bytes: Invalid value: \"20KB\": '20KB' is no number of bytes; write a whole"
            ' one with or without a unit, such as 20Ki or "20480"'
        ],
    ),
    "a latency in seconds": (
        searched(latencyP50="1s"),
        [
            "spec.source.compress.target.latencyP50: Invalid value: \"1s\": '1s' is not a latency; write milliseconds"
            " above 0, such as 1ms or 0.25ms"
        ],
    ),
    "a latency of nothing": (
        searched(latencyP50="0.0ms"),
        [
            "spec.source.compress.target.latencyP50: Invalid value: \"0.0ms\": '0.0ms' is not a latency; write"
            " milliseconds above 0, such as 1ms or 0.25ms"
        ],
    ),
    "a target that must be better": (
        searched(bytes="20Ki", maxRegression="-0.1"),
        [
            "spec.source.compress.target.maxRegression: Invalid value: maxRegression -0.1 is below 0; write how much"
            ' worse it may be, such as "0.01"'
        ],
    ),
    "a step that is two": (
        compressed({"merge": {}, "cluster": {}}),
        [
            "spec.source.compress.steps[0]: Invalid value: a step is exactly one of prune, merge, cluster, lowRank,"
            " distill and quantize; write one item for each"
        ],
    ),
    "a step that is none": (
        compressed({}),
        [
            "spec.source.compress.steps[0]: Invalid value: a step is exactly one of prune, merge, cluster, lowRank,"
            " distill and quantize; write one item for each"
        ],
    ),
    "a step after the module is gone": (
        compressed({"quantize": {"scheme": "Int8Dynamic"}}, {"cluster": {}}),
        [
            "spec.source.compress.steps: Invalid value: quantize comes last, and once: after it there is no module that"
            " another step could change"
        ],
    ),
    "rows to calibrate nothing with": (
        compressed({"quantize": {"scheme": "Int8Dynamic"}}, source__compress__calibration={"rows": 64}),
        [
            "spec.source.compress.calibration: Invalid value: calibration is of a step quantize with the scheme"
            " Int8Static; leave it out"
        ],
    ),
    "calibration on the test split": (
        compressed({"quantize": {"scheme": "Int8Static"}}, source__compress__calibration={"split": "test"}),
        ['spec.source.compress.calibration.split: Unsupported value: "test": supported values: "train", "validation"'],
    ),
    "a pruning of nothing": (
        compressed({"prune": {}}),
        [
            'spec.source.compress.steps[0].prune: Invalid value: give sparsity, the share that goes, such as "0.9";'
            " but leave it out with NofM, where pattern says it"
        ],
    ),
    "a pruning of all": (
        compressed({"prune": {"sparsity": "1"}}),
        [
            "spec.source.compress.steps[0].prune.sparsity: Invalid value: sparsity 1 must lie between 0 and 1, without"
            ' them; write a decimal such as "0.9"'
        ],
    ),
    "a pattern of single weights": (
        compressed({"prune": {"sparsity": "0.5", "pattern": "2:4"}}),
        [
            "spec.source.compress.steps[0].prune: Invalid value: pattern is of granularity NofM, which needs it: write"
            " both, such as 2:4, or none of them"
        ],
    ),
    "a pattern that keeps all": (
        compressed({"prune": {"granularity": "NofM", "pattern": "4:4"}}),
        [
            "spec.source.compress.steps[0].prune.pattern: Invalid value: \"4:4\": '4:4' keeps all weights; the first"
            " number is of those that stay, and below the second, such as 2:4"
        ],
    ),
    "a pattern that is none": (
        compressed({"prune": {"granularity": "NofM", "pattern": "2of4"}}),
        [
            "spec.source.compress.steps[0].prune.pattern: Invalid value: \"2of4\": '2of4' is not a pattern; write how"
            " many of how many weights in a row stay, such as 2:4"
        ],
    ),
    "rounds without training": (
        compressed({"prune": {"sparsity": "0.9", "rounds": 4}}),
        [
            "spec.source.compress.steps[0].prune: Invalid value: rounds and the method Movement are of training; give"
            " finetune.epochs"
        ],
    ),
    "a training without a rate": (
        compressed({"cluster": {"finetune": {"epochs": 2, "learningRate": "0"}}}),
        [
            "spec.source.compress.steps[0].cluster.finetune.learningRate: Invalid value: learningRate 0 must be above"
            ' 0; write a decimal such as "0.001"'
        ],
    ),
    "a threshold that nothing reaches": (
        compressed({"merge": {"threshold": "1.0"}}),
        [
            "spec.source.compress.steps[0].merge.threshold: Invalid value: threshold 1.0 must lie between 0 and 1,"
            ' without them; write a decimal such as "0.95"'
        ],
    ),
    "an energy of nothing": (
        compressed({"lowRank": {"energy": "0"}}),
        [
            "spec.source.compress.steps[0].lowRank.energy: Invalid value: energy 0 must lie between 0 and 1, without"
            ' them; write a decimal such as "0.95"'
        ],
    ),
    "a temperature of nothing": (
        compressed({"distill": {"recipe": "mlp", "temperature": "0"}}),
        [
            "spec.source.compress.steps[0].distill.temperature: Invalid value: temperature 0 must be above 0; write a"
            ' decimal such as "2"'
        ],
    ),
    "too many bits": (
        compressed({"cluster": {"bits": 9}}),
        [
            "spec.source.compress.steps[0].cluster.bits: Invalid value: 9: spec.source.compress.steps[0].cluster.bits"
            " in body should be less than or equal to 8"
        ],
    ),
    "a compression's pod with an account": (
        compressed(source__compress__podTemplate={"spec": {"serviceAccountName": "me"}}),
        [
            "spec.source.compress.podTemplate.spec: Invalid value: serviceAccountName, serviceAccount and"
            " automountServiceAccountToken cannot be set: workers hold no credentials of Kubernetes"
        ],
    ),
    "a combination of one": (
        combined({"version": "1.0.0"}),
        ["spec.source.combine.members: Invalid value: one version is no combination; write two members or more"],
    ),
    "a member twice": (
        combined({"version": "1.0.0"}, {"version": "1.1.0"}, {"version": "1.0.0"}),
        ["spec.source.combine.members: Invalid value: each version once; a member that counts more has a weight"],
    ),
    "a stack that is judged by what it is fitted on": (
        combined(source__combine__method="Stack", evaluation={"split": "validation"}),
        [
            "spec.evaluation.split: Invalid value: Stack is fitted on the validation split, and would be judged by it;"
            " write test, or leave split out"
        ],
    ),
    "a member that is itself": (
        combined({"version": "1.0.0"}, {"version": "2.0.0"}),
        ["spec.source.combine.members: Invalid value: 2.0.0 cannot be a member of itself; take it out of members"],
    ),
    "weights of a mean": (
        combined({"version": "1.0.0", "weight": "2"}, {"version": "1.1.0"}),
        [
            "spec.source.combine.members: Invalid value: weight is of the methods Vote and Weighted, and Mean counts"
            " all alike or by itself; leave it out"
        ],
    ),
    "a member that counts nothing": (
        combined({"version": "1.0.0", "weight": "0"}, {"version": "1.1.0"}, source__combine__method="Vote"),
        ['spec.source.combine.members[0].weight: Invalid value: weight 0 must be above 0; write a decimal such as "1"'],
    ),
    "a version's gate without a bound": (
        compressed(evaluation={"gates": [{"metric": "accuracy"}]}),
        ["spec.evaluation.gates[0]: Invalid value: give min, max or maxRegression"],
    ),
    "a version's gate that nothing passes": (
        compressed(evaluation={"gates": [{"metric": "log_loss", "min": "2", "max": "1"}]}),
        ["spec.evaluation.gates[0]: Invalid value: no figure can pass: min is above max"],
    ),
    "a regression in percent": (
        compressed(evaluation={"gates": [{"metric": "accuracy", "maxRegression": "1.5"}]}),
        ['spec.evaluation.gates[0]: Invalid value: accuracy lies between 0 and 1; write 93 % as "0.93"'],
    ),
    "a regression that is none": (
        compressed(evaluation={"gates": [{"metric": "log_loss", "maxRegression": "-1"}]}),
        [
            "spec.evaluation.gates[0].maxRegression: Invalid value: maxRegression -1 is below 0; write how much worse"
            ' it may be, such as "0.01"'
        ],
    ),
    "a comparison of nothing": (
        compressed(evaluation={"gates": [{"metric": "accuracy", "min": "0.9", "against": {"channel": "stable"}}]}),
        [
            "spec.evaluation.gates[0].against: Invalid value: against is what maxRegression is compared with; give"
            " both, or leave it out"
        ],
    ),
    "a comparison with two": (
        compressed(
            evaluation={
                "gates": [
                    {"metric": "accuracy", "maxRegression": "0.1", "against": {"channel": "stable", "version": "1.0.0"}}
                ]
            }
        ),
        ["spec.evaluation.gates[0].against: Invalid value: give exactly one of version and channel"],
    ),
    "a channel's own variant": (
        compressed(
            evaluation={
                "gates": [
                    {"metric": "accuracy", "maxRegression": "0.1", "against": {"channel": "stable", "variant": "int8"}}
                ]
            }
        ),
        [
            "spec.evaluation.gates[0].against.variant: Invalid value: variant is of version; a channel says itself"
            " which it points at: leave it out"
        ],
    ),
    "a comparison with itself": (
        compressed(
            evaluation={
                "gates": [
                    {"metric": "accuracy", "maxRegression": "0.1", "against": {"version": "1.0.0", "variant": "small"}}
                ]
            }
        ),
        [
            "spec.evaluation.gates: Invalid value: a gate compares 1.0.0 with itself; name another version or a channel"
            " in against, or leave it out"
        ],
    ),
    # Model
    "a channel that points at nothing": (
        model(stable={}),
        ["spec.channels[stable]: Invalid value: give exactly one of version and latest"],
    ),
    "approval for a channel that is none": (
        crds.edited(model(), approval={"channels": ["stable", "edge"], "by": "Manual"}),
        [
            "spec.approval.channels: Invalid value: approval.channels names a channel that spec.channels does not have;"
            " add it there, or take it out here"
        ],
    ),
    "approval for no channel": (
        crds.edited(model(), approval={"channels": [], "by": "Manual"}),
        ["spec.approval.channels: Invalid value: name a channel or more, or leave approval out"],
    ),
    "approval by nobody": (
        crds.edited(model(), approval={"channels": ["stable"]}),
        ["spec.approval.by: Required value"],
    ),
    "retention that keeps nothing": (
        retaining(keepLast=0),
        [
            "spec.retention.keepLast: Invalid value: 0: spec.retention.keepLast in body should be greater than or equal"
            " to 1"
        ],
    ),
    "a version that is pinned twice": (
        retaining(keepLast=1, pinned=["1.0.0", "1.0.0"]),
        ['spec.retention.pinned[1]: Duplicate value: "1.0.0"'],
    ),
    "a store that is cleaned up under an upload": (
        retaining(keepLast=1, minAge="10m"),
        ["spec.retention.minAge: Invalid value: minAge is '10m'; write 1h to 8760h"],
    ),
    "a channel that points at two things": (
        model(stable={"version": "1.0.0", "latest": True}),
        ["spec.channels[stable]: Invalid value: give exactly one of version and latest"],
    ),
    "a channel that is not the latest": (
        model(stable={"latest": False}),
        ['spec.channels.stable.latest: Unsupported value: false: supported values: "true"'],
    ),
    "a channel's name that is none": (
        model(**{"Stable!": {"latest": True}}),
        [
            "spec.channels: Invalid value: a channel's name has at most 30 lower-case letters, digits and hyphens, and"
            " begins with a letter"
        ],
    ),
}

IN_OTHER_WORDS = {
    "a version as a number", "a hyperparameter's name that is too long", "no workers", "too many workers",
    "too many bits", "retention that keeps nothing",
}  # fmt: skip

TAKEN: dict[str, Manifest] = {
    "the smallest Dataset": dataset(),
    "a Dataset with all checks": dataset(
        source__uri="file:///data/rows.csv",
        checks={"minRows": 1, "noMissing": ["x", "y"], "minClassFraction": "0.5", "unique": ["id"]},
    ),
    "a Dataset that is divided already": dataset(
        source={"train": "s3://abc/train.csv", "test": "file:///data/test.csv"}, split={"seed": 3}, schema={}
    ),
    "a Dataset whose column says the parts": dataset(split={"column": "part"}, schema__task="Regression"),
    "a Dataset without a validation split": dataset(split={"train": "0.9", "validation": "0"}),
    "a TrainingJob on a Dataset": training_job(data={"datasetRef": {"name": "digits"}}),
    "the smallest TrainingJob": {
        "apiVersion": crds.API_VERSION,
        "kind": "TrainingJob",
        "metadata": {"name": "small"},
        "spec": {
            "publish": {"model": "small", "version": "0.1.0"},
            "data": {"uri": "s3://abc/x.parquet", "target": "label", "task": "Classification"},
            "trainer": {"recipe": "mlp"},
        },
    },
    "a number to predict": training_job(data={"uri": "s3://abc/x.parquet", "target": "price", "task": "Regression"}),
    "nothing to predict": training_job(
        data={"uri": "s3://abc/x.parquet", "task": "AnomalyDetection"}, trainer={"recipe": "autoencoder"},
        evaluation={"gates": [{"metric": "reconstruction_error", "max": "2.5"}]},
    ),
    "a Dataset whose target is passed over": training_job(
        data={"datasetRef": {"name": "digits"}, "task": "LanguageModelling"}, trainer={"recipe": "transformer"}
    ),
    "own code": own_code(),
    "own code with all that it can have": own_code(
        data={"uri": "s3://abc/raw/rows.csv", "target": "label", "task": "Classification"},
        trainer={"image": f"registry/team/own@{DIGEST}", "args": ["--fast"], "env": [{"name": "LEVEL", "value": "3"}]},
        checkpoint={"keep": 3}, failurePolicy={"maxRestarts": 0, "stallTimeout": "30s"},
        evaluation={"gates": [{"metric": "accuracy", "min": "0.9"}]},
    ),
    "copies of the model, two processes each": training_job(
        workers={"replicas": 3, "processesPerWorker": 2}, strategy={"type": "FSDP", "shardSize": 2}
    ),
    "copies of as many processes as the GPUs say": training_job(strategy={"type": "FSDP", "shardSize": 2}),
    "averages with an outer optimizer": training_job(
        strategy={"type": "LocalSGD", "localSteps": 8, "outerLearningRate": "0.7", "outerMomentum": "0.9"}
    ),
    "a fine-tuning": training_job(
        trainer={"recipe": "mlp", "initFrom": {"modelVersionRef": {"name": "digits-v1-0-0"}}}
    ),
    "a pre-release": training_job(publish__version="1.0.0-rc.1"),
    "workers that may be fewer": training_job(
        workers={"replicas": 4, "minReplicas": 1, "priorityClassName": "low"},
        cleanup={"after": "0s"},
        failurePolicy={"activeDeadline": "24h"},
    ),
    "a queue": training_job(queueName="team-a.b"),
    "the longest name": training_job("a" * 40),
    "volumes alone": training_job(
        data__uri="file:///data/x.parquet",
        storage={"uri": "file:///data/out"},
        workers__podTemplate={
            "spec": {"volumes": [{"name": "data", "hostPath": {"path": "/x"}}], "nodeSelector": {"a": "b"}}
        },
    ),
    "quantities of all forms": training_job(
        workers__resources__requests={"cpu": 2, "memory": "1e3", "ephemeral-storage": "1.5Gi", "nvidia.com/gpu": "0"}
    ),
    "no validation split": training_job(data__split={"train": "0.9", "validation": "0", "test": "0.1"}),
    "thirds": training_job(data__split={"train": "0.333333", "validation": "0.333333", "test": "0.333334"}),
    "a variant": model_version("digits-v1-0-0-rc-1--int8", version="1.0.0-rc.1", variant="int8"),
    "the smallest compression": compressed(),
    "all steps": compressed(
        {"prune": {"method": "Movement", "granularity": "Structured", "sparsity": "0.5", "rounds": 3,
                   "finetune": {"epochs": 3, "learningRate": "0.01", "batchSize": 32, "distillation": "0.5"}}},
        {"prune": {"granularity": "NofM", "pattern": "2:4"}},
        {"merge": {"threshold": "0.9"}},
        {"lowRank": {"energy": "0.99", "finetune": {"epochs": 1}}},
        {"distill": {"recipe": "mlp", "hyperparameters": {"hiddenSizes": "8"}, "temperature": "4.5"}},
        {"cluster": {"bits": 3}},
        {"quantize": {"scheme": "Int8Static"}},
        source__compress__calibration={"split": "validation", "rows": 64},
        source__compress__seed=7,
        source__compress__resources={"requests": {"cpu": "500m"}},
        storage={"uri": "s3://abc/x", "secretRef": {"name": "store"}},
        evaluation={"datasetRef": {"name": "rows"}, "split": "validation", "gates": [
            {"metric": "accuracy", "min": "0.9", "maxRegression": "0.01", "against": {"channel": "stable"}},
            {"metric": "log_loss", "maxRegression": "0.1", "against": {"version": "1.1.0", "variant": "int8"}},
            {"metric": "f1_macro", "maxRegression": "0"},
        ]},
    ),
    "a target of both": searched(
        bytes="20480", latencyP50="0.25ms", metric="f1_macro", epochs=0, candidates=100
    ),
    "a compression under another version": model_version(
        "digits-v1-0-1", version="1.0.1",
        source={"compress": {"from": {"version": "1.0.0", "variant": "big"}, "steps": [{"cluster": {}}]}},
    ),
    "the smallest combination": combined(),
    "a vote of weights": combined(
        {"version": "1.0.0", "weight": "2"}, {"version": "1.0.0", "variant": "int8"}, source__combine__method="Vote"
    ),
    "a model without channels": {
        "apiVersion": crds.API_VERSION, "kind": "Model", "metadata": {"name": "digits"}, "spec": {},
    },
    "a model that waits for people, and keeps few": crds.edited(
        model(), approval={"channels": ["stable"], "by": "Manual"}, retention={"keepLast": 1, "pinned": ["1.0.0"]}
    ),
    "a channel's variant": model(edge={"version": "1.0.0", "variant": "int8"}, candidate={"latest": True}),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _installed(light: LightCluster) -> None:
    crds.install(light)


def refused_by_models(manifest: Manifest) -> tuple[str, ...]:
    kind = next(kind for kind in KINDS if kind.kind_name() == manifest["kind"])
    try:
        kind.model_validate(manifest)
    except ValidationError as error:
        return problems(error)
    return ()


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_in_words_that_say_what_to_write(light: LightCluster, what: str) -> None:
    manifest, expected = REFUSED[what]
    assert crds.refusal(light, manifest) == expected


@pytest.mark.parametrize("what", REFUSED)
def test_the_operator_refuses_it_too_and_a_rule_has_the_same_words(what: str) -> None:
    manifest, expected = REFUSED[what]
    said = refused_by_models(manifest)
    assert len(said) == len(expected)
    # Types, bounds and enums are told by pydantic in its own words, and so are the keys of maps.
    if what not in IN_OTHER_WORDS and "Invalid value: " in expected[0]:
        path, rest = expected[0].split(": Invalid value: ", 1)
        assert said[0].startswith(path.split("[")[0])
        assert rest.endswith(said[0].split(": ", 1)[1])


@pytest.mark.parametrize("what", TAKEN)
def test_it_is_taken_by_the_api_server_and_by_the_operator(light: LightCluster, what: str) -> None:
    assert crds.refusal(light, TAKEN[what]) == []
    assert refused_by_models(TAKEN[what]) == ()


# Strings that are near the edge: of the characters that versions are made of.
VERSIONS = st.one_of(
    st.text("0123.-+aZ", min_size=1, max_size=12),
    st.from_regex(r"(0|[1-9][0-9]?)\.(0|1|01)\.(0|[1-9])(-[0-9a-zA-Z.-]{1,6})?(\+[a-z0-9.]{0,3})?", fullmatch=True),
).filter(lambda text: len(text) <= 32)
QUANTITIES = st.one_of(
    st.integers(-2, 10**6),
    st.text("0129.-+eEmkKMGiun", max_size=7),
    st.from_regex(r"[+-]?[0-9]{1,3}(\.[0-9]{0,2})?(Ki|Mi|Gi|m|k|M|G|e[0-9]|KB)?", fullmatch=True),
)
# An example is a list, for one kubectl. Shrinking one would ask kubectl for minutes, and the sets say what differs.
FEW = settings(
    max_examples=3, deadline=None, phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck)
)


def by_models(of: object, values: list[object]) -> set[str]:
    adapter: TypeAdapter[object] = TypeAdapter(of)
    found = set()
    for index, value in enumerate(values):
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError:
            continue
        found.add(f"x{index}")
    return found


@FEW
@given(st.lists(VERSIONS, min_size=60, max_size=60))
def test_api_server_and_operator_agree_on_every_version(light: LightCluster, versions: list[str]) -> None:
    manifests = [training_job(f"x{index}", publish__version=version) for index, version in enumerate(versions)]
    assert crds.accepted(light, manifests) == by_models(Version, list(versions))


@FEW
@given(st.lists(QUANTITIES, min_size=60, max_size=60))
def test_api_server_and_operator_agree_on_every_quantity(light: LightCluster, quantities: list[int | str]) -> None:
    manifests = [
        training_job(f"x{index}", workers__resources={"requests": {"cpu": quantity}})
        for index, quantity in enumerate(quantities)
    ]
    assert crds.accepted(light, manifests) == by_models(Quantity, list(quantities))


@FEW
@given(st.lists(st.tuples(*[st.sampled_from(["0", "0.1", "0.2", "0.3", "0.7", "0.8", "1", "1.0", "0.700001"])] * 3),
                min_size=60, max_size=60))  # fmt: skip
def test_api_server_and_operator_agree_on_every_split(light: LightCluster, splits: list[tuple[str, str, str]]) -> None:
    parts = [dict(zip(("train", "validation", "test"), split, strict=True)) for split in splits]
    manifests = [training_job(f"x{index}", data__split=split) for index, split in enumerate(parts)]
    # A Dataset's may leave some out.
    manifests += [
        dataset(f"y{index}", split={part: share for part, share in split.items() if part != out})
        for index, split in enumerate(parts)
        for out in [("train", "validation", "test", "")[index % 4]]
    ]
    by_operator = {manifest["metadata"]["name"] for manifest in manifests if not refused_by_models(manifest)}
    assert crds.accepted(light, manifests) == by_operator
