"""`modelwright approve`: lets a channel move to a version, in one's own name.

The word is an annotation on the Model; the admission policy of the chart takes it only from those who may `approve`
models, and only in the name that the API server knows them by.
"""

from __future__ import annotations

from modelwright.api.model import Model
from modelwright.api.model_approval import APPROVED, Word
from modelwright.api.model_version import ModelVersion
from modelwright.api.versions import model_version_name
from modelwright.cli.cluster import Refused, Where, connected
from modelwright.kube import errors
from modelwright.kube.client import Client
from modelwright.kube.resources import MODELS, MODELVERSIONS, Resource

_REVIEWS = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)


def word(model: Model, channel: str, version: ModelVersion, by: str, reason: str) -> Word:
    """What is written down. Raises Refused where it would have no effect."""
    name, approval = model.metadata.name, model.spec.approval
    if channel not in (model.spec.channels or {}):
        known = ", ".join(sorted(model.spec.channels or {})) or "none"
        raise Refused(f"Model {name} has no channel {channel}; it has {known}")
    if approval is None or approval.by != "Manual" or channel not in approval.channels:
        raise Refused(f"channel {channel} of Model {name} waits for no approval; spec.approval names those that do")
    if version.spec.retracted is not None:
        raise Refused(f"ModelVersion {version.metadata.name} is retracted: {version.spec.retracted.reason}")
    if version.status.artifact is None:
        raise Refused(f"ModelVersion {version.metadata.name} is not Ready: there is no artifact to approve")
    if not reason.strip():
        raise Refused("--reason: say why, for those who read it later")
    return Word(version.metadata.name, version.status.artifact.digest, by, reason.strip())


async def run(name: str, channel: str, number: str, variant: str | None, reason: str, where: Where) -> str:
    """Approves the version for the channel; returns what to tell. Raises Refused."""
    version_name = model_version_name(name, number, variant)
    async with connected(where) as (client, namespace):
        try:
            found = await client.get(MODELS, name, namespace)
            version = ModelVersion.model_validate(await client.get(MODELVERSIONS, version_name, namespace))
        except errors.NotFound as missing:
            raise Refused(f"{missing.message} (namespace {namespace})") from missing
        model = Model.model_validate(found)
        said = word(model, channel, version, await _myself(client), reason)
        metadata = {
            "resourceVersion": model.metadata.resource_version,
            "annotations": {f"{APPROVED}{channel}": said.to_text()},
        }
        try:
            await client.patch(MODELS, name, {"metadata": metadata}, namespace)
        except errors.Conflict as changed:
            raise Refused(f"Model {name} changed meanwhile; look again, and repeat it") from changed
    told = f"{version_name} ({said.digest[:19]}…) is approved for channel {channel} of {name} by {said.by}"
    wanted = (model.spec.channels or {})[channel].version
    if wanted not in (None, number):
        told += f"; the channel names {wanted} now, and moves when it names {number}"
    return told


async def _myself(client: Client) -> str:
    """The name that the API server knows the user by."""
    review = await client.create(_REVIEWS, {"metadata": {}})
    return str(review["status"]["userInfo"]["username"])
