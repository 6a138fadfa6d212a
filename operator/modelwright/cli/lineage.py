"""`modelwright lineage`: from the data by the training, and what was made of it, to the service that answers, as the
objects in the cluster tell it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from modelwright.api.versions import model_version_name
from modelwright.cli import drawing
from modelwright.cli.cluster import Refused, Where, connected
from modelwright.kube.resources import DATASETS, INFERENCESERVICES, MODELVERSIONS, TRAININGJOBS, Object

Kind = Literal["Data", "Dataset", "TrainingJob", "Artifact", "ModelVersion", "InferenceService"]


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """`digest` is of its artifact; `notes` is what else one asks of it."""

    kind: Kind
    name: str
    digest: str = ""
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


@dataclasses.dataclass
class Graph:
    """Edges lead from what was used to what was made of it, with the word for how."""

    nodes: dict[str, Node] = dataclasses.field(default_factory=dict)
    edges: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)

    def add(self, node: Node) -> str:
        self.nodes.setdefault(node.title, node)
        return node.title

    def connect(self, source: str, target: str, how: str) -> None:
        if (source, target, how) not in self.edges:
            self.edges.append((source, target, how))


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """The namespace's objects, by name."""

    versions: Mapping[str, Object]
    jobs: Mapping[str, Object] = dataclasses.field(default_factory=dict)
    datasets: Mapping[str, Object] = dataclasses.field(default_factory=dict)
    services: Mapping[str, Object] = dataclasses.field(default_factory=dict)

    def asked(self, name: str) -> list[str]:
        """The ModelVersions that `name` means: one, or those that an InferenceService serves or changes to, or all of a
        model. Raises Refused."""
        if name in self.versions:
            return [name]
        if name in self.services:
            found = [one for one in served(self.services[name]).values() if one in self.versions]
            if found:
                return sorted(set(found))
            raise Refused(f"InferenceService {name} serves nothing yet")
        of_model = sorted(one for one, obj in self.versions.items() if obj["spec"].get("model") == name)
        if of_model:
            return of_model
        raise Refused(f"{name} is no ModelVersion, InferenceService or Model with versions in this namespace")


def graph(known: Known, names: Iterable[str]) -> Graph:
    """The ancestors of the ModelVersions `names`, and who serves them."""
    made, seen = Graph(), set[str]()
    waiting = list(names)
    asked = set(waiting)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        obj = known.versions.get(name)
        if obj is None:
            made.add(Node("ModelVersion", name, notes=("it does not exist any more",)))
            continue
        here = made.add(_version(name, obj))
        for source, how in _parents(obj):
            made.connect(f"ModelVersion {source}", here, how)
            waiting.append(source)
        _origin(made, known, obj, here)
    for name, service in sorted(known.services.items()):
        for role, version in served(service).items():
            if version in asked:
                made.connect(f"ModelVersion {version}", made.add(Node("InferenceService", name)), role)
    return made


def served(service: Object) -> dict[str, str]:
    """The ModelVersions that an InferenceService has to do with, by the word for how."""
    status = service.get("status") or {}
    found = {
        "serves": (status.get("active") or {}),
        "changes to": (status.get("rollout") or {}).get("target") or {},
    }
    names = {role: str((one.get("modelVersionRef") or {}).get("name", "")) for role, one in found.items()}
    if names["changes to"] == names["serves"]:
        del names["changes to"]
    return {role: name for role, name in names.items() if name}


def _version(name: str, obj: Object) -> Node:
    status = obj.get("status") or {}
    metrics = ", ".join(f"{one} {value}" for one, value in sorted((status.get("metrics") or {}).items())[:3])
    retracted = (obj["spec"].get("retracted") or {}).get("reason")
    notes = (metrics, f"retracted: {retracted}" if retracted else "")
    return Node("ModelVersion", name, _digest(status.get("artifact")), tuple(filter(None, notes)))


def _digest(artifact: Object | None) -> str:
    return str((artifact or {}).get("digest", ""))


def _parents(obj: Object) -> Iterator[tuple[str, str]]:
    """The names of the ModelVersions that one was made of, and how."""
    model, source = str(obj["spec"]["model"]), obj["spec"].get("source") or {}

    def named(one: Mapping[str, Any]) -> str:
        return model_version_name(model, str(one["version"]), one.get("variant"))

    if compress := source.get("compress"):
        steps = ", ".join(next(iter(step), "") for step in compress.get("steps") or ())
        yield named(compress["from"]), f"compressed: {steps}" if steps else "compressed"
    for member in (source.get("combine") or {}).get("members") or ():
        weight = f", weight {member['weight']}" if member.get("weight") else ""
        yield named(member), f"combined: {source['combine'].get('method', 'Mean')}{weight}"


def _origin(made: Graph, known: Known, obj: Object, here: str) -> None:
    """Where a version that was made of no other comes from."""
    source, status = obj["spec"].get("source") or {}, obj.get("status") or {}
    if artifact := source.get("artifact") or source.get("import"):
        made.connect(made.add(Node("Artifact", str(artifact["uri"]), _digest(artifact))), here, "imported")
        return
    lineage = status.get("lineage") or {}
    job = str((source.get("trainingJobRef") or lineage.get("trainingJob") or {}).get("name", ""))
    if not job or source.get("compress") or source.get("combine"):
        return
    training = made.add(_training(known.jobs.get(job), job))
    made.connect(training, here, "published")
    initial = ((((known.jobs.get(job) or {}).get("spec") or {}).get("trainer") or {}).get("initFrom") or {}).get(
        "modelVersionRef"
    )
    if initial:
        made.connect(made.add(_version(initial["name"], known.versions[initial["name"]])
                              if initial["name"] in known.versions else Node("ModelVersion", initial["name"])),
                     training, "begun with")  # fmt: skip
    made.connect(_data(made, known, lineage), training, "trained on")


def _training(job: Object | None, name: str) -> Node:
    if job is None:
        return Node("TrainingJob", name, notes=("it does not exist any more",))
    trainer = job["spec"].get("trainer") or {}
    return Node("TrainingJob", name, notes=tuple(filter(None, (trainer.get("recipe") or trainer.get("image"),))))


def _data(made: Graph, known: Known, lineage: Object) -> str:
    uri, digest = str(lineage.get("dataUri", "")), str(lineage.get("datasetDigest", ""))
    name = str((lineage.get("datasetRef") or {}).get("name", ""))
    if not name:
        return made.add(Node("Data", uri or "unknown", digest))
    spec = (known.datasets.get(name) or {}).get("spec") or {}
    source = made.add(Node("Data", str((spec.get("source") or {}).get("uri") or "its parts")))
    dataset = made.add(Node("Dataset", name, digest))
    made.connect(source, dataset, "prepared")
    return dataset


async def run(name: str, svg: str | None, where: Where) -> str:
    """Draws the lineage of `name` for the terminal, and as SVG into the file `svg`. Raises Refused."""
    async with connected(where) as (client, namespace):
        kinds = (MODELVERSIONS, TRAININGJOBS, DATASETS, INFERENCESERVICES)
        lists = [await client.list(one, namespace) for one in kinds]
    known = Known(*({one["metadata"]["name"]: one for one in found} for found in lists))
    made = graph(known, known.asked(name))
    told = drawing.text(*plain(made))
    if svg is None:
        return told
    try:
        Path(svg).write_text(drawing.svg(*plain(made)))
    except OSError as wrong:
        raise Refused(f"--svg {svg}: {wrong.strerror}; name a file that can be written") from wrong
    return f"{told}\n\ndrawn in {svg}"


def plain(made: Graph) -> tuple[dict[str, Sequence[str]], list[tuple[str, str, str]]]:
    """For the drawing: the lines of each node, and the edges."""
    lines: dict[str, Sequence[str]] = {
        title: (title, *((node.digest[:19] + "…",) if node.digest else ()), *node.notes)
        for title, node in made.nodes.items()
    }
    return lines, made.edges
