"""What becomes of versions that are not kept, told so that it can be told again with a kill at any write of the
operator. Each run has artifacts of its own, since they go from the store."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelwright import artifact, versions
from modelwright.api.versions import model_version_name
from modelwright.controllers.modelversion.observed import MADE_BY, MADE_LABEL
from modelwright.kube.resources import JOBS, MODELS, MODELVERSIONS, PODS, SECRETS

from dev.demo import BUCKET
from dev.releases import artifact_store
from tests.e2e.crash import operator
from tests.e2e.crash.conftest import World
from tests.faults.proxy import Request
from tests.faults.scenario import Run, Scenario
from tests.server import artifacts

NAME = "iris"
OLD, NEW = ("1.0.0", "1.1.0"), "1.2.0"
# The Job is named after a hash of its owner's uid, and one of when the store was looked through last.
_JOB = re.compile(r"-[0-9a-f]{5}-collect-[0-9a-f]{8}")


def retention(world: World, folder: Path) -> Scenario:
    def label(request: Request) -> str | None:
        name = operator.label(request)
        return None if name is None else _JOB.sub("-<uid>-collect", name)

    return Scenario(
        name="retention",
        command=lambda run: operator.command(world, run.kubeconfig, run.namespace),
        act=lambda run: keep_one(run),
        settled=settled,
        resources=(MODELS, MODELVERSIONS, JOBS, PODS),
        ignore=_uninteresting,
        state=_state,
        setting=lambda run: _published(world, run, folder),
        label=label,
        recurring=operator.recurring,
        patience=180,
        every=0.2,
    )


@contextlib.contextmanager
def _published(world: World, run: Run, folder: Path) -> Iterator[list[str]]:
    """Three versions, as of trainings that have published them and are deleted. At the end the store holds what it
    should."""
    violations: list[str] = []
    run.create(SECRETS, {"metadata": {"name": operator.SECRET}, "stringData": world.store.environment()})
    uris, digests = {}, {}
    for seed, version in enumerate((*OLD, NEW)):
        here = artifacts.publish(folder / run.namespace, version=version, seed=seed)
        uri = artifact.manifest_uri(f"s3://{BUCKET}/crash-retention", run.namespace, NAME, version)
        uris[version] = uri
        digests[version] = versions.publish(artifact_store(world.store, uri), uri, here.manifest, here.folder)
        name = model_version_name(NAME, version, None)
        source = {"trainingJobRef": {"name": "elsewhere"}}
        metadata = {"name": name, "labels": {MADE_LABEL: MADE_BY}}
        run.create(MODELVERSIONS, {"metadata": metadata, "spec": {"model": NAME, "version": version, "source": source}})
        status = {"status": {"artifact": {"uri": uri, "digest": digests[version]}}}
        run.proxy.ask("PATCH", f"{MODELVERSIONS.path(namespace=run.namespace, name=name)}/status", status)
    # Without a channel: one that is `latest` would have pointed at each, and kept it.
    run.create(MODELS, {"metadata": {"name": NAME}, "spec": {}})
    run.wait("all are known", lambda: (_model(run).get("status") or {}).get("latest") == NEW)
    run.wait("at rest", lambda: run.proxy.quiet_for() >= run.scenario.quiet)
    yield violations
    store = artifact_store(world.store, uris[NEW])
    violations += [f"{version} is still in the store" for version in OLD if versions.standing(store, uris[version])]
    try:
        versions.fetch(store, uris[NEW], digests[NEW], folder / f"{run.namespace}-fetched")
    except versions.Damaged as damaged:
        violations.append(f"{NEW}: {damaged}")


def keep_one(run: Run) -> None:
    """The user's deed."""
    run.patch(MODELS, NAME, {"spec": {"retention": {"keepLast": 1}}})


def _model(run: Run) -> dict[str, Any]:
    return run.get(MODELS, NAME) or {}


def settled(run: Run) -> bool:
    retention = (_model(run).get("status") or {}).get("retention") or {}
    return (
        retention.get("retired") == len(OLD)
        and not retention.get("retiring")
        and len(run.objects(MODELVERSIONS)) == 1
        and not run.objects(JOBS)
        and not run.objects(PODS)
    )


def _uninteresting(obj: dict[str, Any]) -> bool:
    return obj["metadata"]["name"] == "kube-root-ca.crt" or "deletionTimestamp" in obj["metadata"]


def _state(obj: dict[str, Any]) -> str:
    """Of the Model also how many versions went; what that freed may have been counted in two goes."""
    retention = (obj.get("status") or {}).get("retention") or {}
    told = f"; retired {retention.get('retired')}, message {retention.get('message')}" if retention else ""
    return operator.state(obj) + told
