"""A container registry over HTTP: what it has, and what it is given.

The part of the OCI distribution protocol that an incremental push needs, so that a push of a changed layer asks, sends
and names nothing else. https://github.com/opencontainers/distribution-spec
"""

from __future__ import annotations

import dataclasses
import http.client
import ipaddress
import json
import os
import ssl
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dev.oci import MANIFEST, Image, digest_of, encode
from devcluster.progress import StepFailed

# A registry reads a layer of gigabytes once more before it answers that it has it.
_SECONDS = 300
_ACCEPTED = f"{MANIFEST}, application/vnd.docker.distribution.manifest.v2+json"


def is_insecure(address: str, chosen: str | None) -> bool:
    """Whether to speak plain HTTP with the registry at `address` (HOST[:PORT]): as `chosen` says ("1" or "0"), else
    when the host is this machine or has a private address."""
    if chosen:
        return chosen.lower() in ("1", "true", "yes")
    host = urllib.parse.urlsplit(f"//{address}").hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return False
    return parsed.is_loopback or parsed.is_private


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    location: str
    body: bytes


@dataclasses.dataclass(frozen=True)
class Registry:
    """The registry at `address` (HOST[:PORT]). Methods raise `StepFailed` where it cannot be reached or refuses."""

    address: str
    insecure: bool

    @classmethod
    def at(cls, address: str, *, insecure: bool | None = None) -> Registry:
        """`insecure` None: as REGISTRY_INSECURE says, else by the address."""
        if insecure is None:
            insecure = is_insecure(address, os.environ.get("REGISTRY_INSECURE"))
        return cls(address, insecure)

    def _connection(self) -> http.client.HTTPConnection:
        if self.insecure:
            return http.client.HTTPConnection(self.address, timeout=_SECONDS)
        return http.client.HTTPSConnection(self.address, timeout=_SECONDS, context=ssl.create_default_context())

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. `path` may be a whole address, as registries give it for an upload: its host is left out, since
        that is the registry's own idea of it, which may be wrong behind a port forward."""
        whole = urllib.parse.urlsplit(path)
        target = urllib.parse.urlunsplit(("", "", whole.path, whole.query, ""))
        connection = self._connection()
        try:
            streamed = body is not None and not isinstance(body, bytes)
            connection.request(method, target, body=body, headers=dict(headers or {}), encode_chunked=streamed)
            response = connection.getresponse()
            return Answer(response.status, response.getheader("Location") or "", response.read())
        except (OSError, http.client.HTTPException) as error:
            raise StepFailed(
                f"registry {self.address}: {method} {whole.path}: {error or type(error).__name__}",
                remedy="start the registry, or name another with --registry; for plain HTTP set REGISTRY_INSECURE=1",
            ) from error
        finally:
            connection.close()

    def _expect(self, answer: Answer, allowed: tuple[int, ...], what: str) -> Answer:
        if answer.status in allowed:
            return answer
        if answer.status in (401, 403):
            raise StepFailed(
                f"registry {self.address} asks for a login to {what}",
                remedy="push to an open registry, and copy the image on with a tool that logs in",
            )
        raise StepFailed(f"registry {self.address}: {what}: {answer.status} {_message(answer.body)}")

    def has_manifest(self, repository: str, reference: str) -> bool:
        answer = self._ask("HEAD", f"/v2/{repository}/manifests/{reference}", headers={"Accept": _ACCEPTED})
        return self._expect(answer, (200, 404), f"look for {repository}:{reference}").status == 200

    def image(self, repository: str, reference: str) -> Image | None:
        """The image's documents, None where the registry does not have it."""
        answer = self._ask("GET", f"/v2/{repository}/manifests/{reference}", headers={"Accept": _ACCEPTED})
        if self._expect(answer, (200, 404), f"read {repository}:{reference}").status == 404:
            return None
        manifest = json.loads(answer.body)
        config = self._ask("GET", f"/v2/{repository}/blobs/{manifest['config']['digest']}")
        self._expect(config, (200,), f"read the config of {repository}:{reference}")
        return Image(manifest, json.loads(config.body))

    def has_blob(self, repository: str, digest: str) -> bool:
        answer = self._ask("HEAD", f"/v2/{repository}/blobs/{digest}")
        return self._expect(answer, (200, 404), f"look for a layer of {repository}").status == 200

    def give_blob(self, repository: str, content: bytes) -> None:
        """Uploads a blob that the repository does not have yet; one that is there is left alone."""
        if not self.has_blob(repository, digest_of(content)):
            self._end_upload(repository, self._begin_upload(repository), digest_of(content), content)

    def give_stream(self, repository: str, blocks: Iterable[bytes], digest: Callable[[], str]) -> None:
        """Uploads a blob of unknown length; `digest` is asked for when all blocks were sent."""
        place = self._begin_upload(repository)
        headers = {"Content-Type": "application/octet-stream", "Transfer-Encoding": "chunked"}
        sent = self._expect(self._ask("PATCH", place, body=blocks, headers=headers), (202,), f"upload to {repository}")
        self._end_upload(repository, sent.location or place, digest(), b"")

    def _begin_upload(self, repository: str) -> str:
        begun = self._ask("POST", f"/v2/{repository}/blobs/uploads/", body=b"")
        return self._expect(begun, (202,), f"upload to {repository}").location

    def _end_upload(self, repository: str, place: str, digest: str, content: bytes) -> None:
        named = f"{place}{'&' if '?' in place else '?'}digest={urllib.parse.quote(digest)}"
        ended = self._ask("PUT", named, body=content, headers={"Content-Type": "application/octet-stream"})
        self._expect(ended, (201,), f"upload to {repository}")

    def give_image(self, repository: str, tag: str, image: Image) -> None:
        """Uploads the image's documents; its layers must be in the repository. The tag comes last, so that an image
        with a tag is whole."""
        self.give_blob(repository, encode(image.config))
        answer = self._ask(
            "PUT",
            f"/v2/{repository}/manifests/{tag}",
            body=encode(image.manifest),
            headers={"Content-Type": MANIFEST},
        )
        self._expect(answer, (201,), f"name {repository}:{tag}")


def _message(body: bytes) -> str:
    """What a registry's error document says, or its first characters."""
    try:
        errors: list[dict[str, Any]] = json.loads(body)["errors"]
        return "; ".join(f"{error.get('code', '')}: {error.get('message', '')}" for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return body[:200].decode(errors="replace")
