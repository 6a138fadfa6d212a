"""In a pod: the service account's token, and the next one when the kubelet has written it."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from modelwright.kube import credentials, errors
from modelwright.kube.client import Client
from modelwright.kube.resources import CONFIGMAPS

from devcluster.light import LightCluster


@pytest.fixture
def token_file(light: LightCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    url = urlsplit(light.url)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(url.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(url.port))
    cluster = json.loads(light.kubeconfig.read_text())["clusters"][0]["cluster"]
    (tmp_path / "ca.crt").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    module = "kubernetes.aio.config.incluster_config"
    monkeypatch.setattr(f"{module}.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(f"{module}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    return tmp_path / "token"


def _token(light: LightCluster, name: str) -> str:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    light.kubectl("apply", "--filename", "-", stdin=json.dumps(account))
    return light.kubectl("create", "token", name).strip()


async def _who(client: Client) -> str:
    """The API server's name for us, from its refusal."""
    with pytest.raises(errors.Forbidden) as refusal:
        await client.list(CONFIGMAPS, "default")
    return refusal.value.message.split('"')[1]


def test_a_rotated_token_is_used_within_a_minute(
    light: LightCluster, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_file.write_text(_token(light, "one") + "\n")

    async def story() -> None:
        async with await Client.connect() as client:
            assert await _who(client) == "system:serviceaccount:default:one"
            token_file.write_text(_token(light, "two"))
            assert await _who(client) == "system:serviceaccount:default:one"
            monkeypatch.setattr(credentials, "_REFRESH_SECONDS", 0.0)
            assert await _who(client) == "system:serviceaccount:default:two"

    asyncio.run(story())


def test_a_token_that_is_refused_is_read_again_at_once(
    light: LightCluster, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_file.write_text("revoked")
    monkeypatch.setattr(credentials, "_REFRESH_AT_ONCE_SECONDS", 0.0)

    async def story() -> None:
        async with await Client.connect() as client:
            with pytest.raises(errors.Unauthorized):
                await client.list(CONFIGMAPS, "default")
            token_file.write_text(_token(light, "one"))
            assert await _who(client) == "system:serviceaccount:default:one"

    asyncio.run(story())
