"""The resources that the operator reads and writes, and where the API server serves them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

# An object as it is on the wire. It lives between the client and a projection or a pydantic model, no longer.
Object = dict[str, Any]

API_GROUP = "modelwright.dev"
API_VERSION = "v1alpha1"


# Exact values of labels, or None where only the label's presence is asked for.
Selector = Mapping[str, str | None]


class Key(NamedTuple):
    """Names an object among those of its resource; `namespace` is empty for a cluster-scoped one."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclasses.dataclass(frozen=True, slots=True)
class Resource:
    """One resource of the API. `by_name_only` forbids LIST and WATCH: the operator's role does not hold them."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    by_name_only: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, *, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The path on the server; without a namespace, of the collection over all namespaces.

        Raises ValueError where a name is asked for without its namespace, since such a path would name something else.
        """
        if self.namespaced and name is not None and not namespace:
            raise ValueError(f"{self.plural} {name!r}: a namespaced object needs its namespace")
        parts = ["", "apis", self.group, self.version] if self.group else ["", "api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)


PODS = Resource("", "v1", "pods", "Pod")
CONFIGMAPS = Resource("", "v1", "configmaps", "ConfigMap")
SERVICES = Resource("", "v1", "services", "Service")
SECRETS = Resource("", "v1", "secrets", "Secret", by_name_only=True)
JOBS = Resource("batch", "v1", "jobs", "Job")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
ENDPOINTSLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False, by_name_only=True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")

DATASETS = Resource(API_GROUP, API_VERSION, "datasets", "Dataset")
TRAININGJOBS = Resource(API_GROUP, API_VERSION, "trainingjobs", "TrainingJob")
MODELS = Resource(API_GROUP, API_VERSION, "models", "Model")
MODELVERSIONS = Resource(API_GROUP, API_VERSION, "modelversions", "ModelVersion")
INFERENCESERVICES = Resource(API_GROUP, API_VERSION, "inferenceservices", "InferenceService")


def key_of(obj: Object) -> Key:
    metadata = obj["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def resource_version_of(obj: Object) -> int:
    """The version as a number. KEP-5504 makes versions of one resource comparable as integers (stable since 1.35;
    etcd revisions, and so true, long before)."""
    return int(obj["metadata"]["resourceVersion"])


def controller_uid_of(obj: Object) -> str | None:
    """The uid of the owner that controls the object."""
    for owner in obj["metadata"].get("ownerReferences", ()):
        if owner.get("controller"):
            return str(owner["uid"])
    return None


def owner_reference(resource: Resource, obj: Object) -> Object:
    """The reference that makes `obj` the controller of a child. Deletion of the owner does not wait for the child."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": obj["metadata"]["name"],
        "uid": obj["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }


def ended_by(answer: Object, *, by_delete: bool) -> str | None:
    """The uid of the object that a write has ended, where it has: by a deletion that nothing held up (the answer is a
    Status, or for some resources the object as it was), or by taking the last finalizer from one under deletion."""
    if answer.get("kind") == "Status":
        uid = (answer.get("details") or {}).get("uid")
        return str(uid) if uid else None
    metadata = answer["metadata"]
    deleting = "deletionTimestamp" in metadata
    held = bool(metadata.get("finalizers")) or bool(metadata.get("deletionGracePeriodSeconds"))
    return str(metadata["uid"]) if not (deleting and held) and (by_delete or deleting) else None


def selector_text(selector: Selector) -> str:
    return ",".join(key if value is None else f"{key}={value}" for key, value in selector.items())


def selects(selector: Selector, obj: Object) -> bool:
    labels = obj["metadata"].get("labels") or {}
    return all(key in labels and value in (None, labels[key]) for key, value in selector.items())
