"""The client: JSON in, JSON out, typed errors.

It speaks HTTP itself over aiohttp: the official package's typed models take twenty times the CPU to read a list. Reads
are retried here. Writes are not, but for 429, where the server says that it did nothing: whoever asked for a write
observes again and decides anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import aiohttp
import orjson

from modelwright.kube import errors
from modelwright.kube.backoff import Backoff
from modelwright.kube.credentials import USER_AGENT, Credentials
from modelwright.kube.metrics import Metrics
from modelwright.kube.resources import LEASES, SERVICES, Object, Resource, Selector, ended_by, key_of, selector_text

FIELD_MANAGER = "modelwright"
PAGE_SIZE = 500

PatchType = Literal["merge", "json", "strategic", "apply"]
Propagation = Literal["Background", "Foreground", "Orphan"]
# The method `Client.list` hides the builtin from the annotations of the class.
Objects = list[Object]

_CONTENT_TYPES: Mapping[PatchType, str] = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",  # JSON is YAML
}
OnWritten = Callable[[Object], None]
OnGone = Callable[[str], None]

_RETRIES = 4
_BACKOFF = Backoff(first=0.25, most=8.0)
_CONNECT_SECONDS = 10.0
# Over what the server is asked to end a watch after: by then it is dead.
_WATCH_GRACE_SECONDS = 15.0


class Page(NamedTuple):
    """A page of a list. All pages of one list are of one `resource_version`."""

    items: Objects
    resource_version: str


class WatchEvent(NamedTuple):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


class Client:
    """Requests to one API server, at most `pool` at a time; watches and Leases stand outside that bound, so that
    neither waits for the work.

    Every call may raise any `errors.ApiError`; what a method raises beyond the obvious is in its own words. `guard` is
    called right before each write but a Lease's, and stops it by raising (see `lease.Lease.check`). What the server
    answers to a write is told to `on_written`, so that caches need not wait for its echo.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        pool: int = 16,
        request_timeout: float = 30.0,
        user_agent: str = USER_AGENT,
        metrics: Metrics | None = None,
    ) -> None:
        self.credentials = credentials
        self.guard: Callable[[], None] = lambda: None
        self._request_timeout = request_timeout
        self._metrics = metrics or Metrics()
        self._slots = asyncio.Semaphore(pool)
        self._session = credentials.session(limit=pool, user_agent=user_agent)
        self._unbounded = credentials.session(limit=0, user_agent=user_agent)
        self._written: dict[Resource, list[tuple[OnWritten, OnGone]]] = {}

    @classmethod
    async def connect(
        cls,
        kubeconfig: Path | None = None,
        *,
        context: str | None = None,
        pool: int = 16,
        request_timeout: float = 30.0,
        user_agent: str = USER_AGENT,
        metrics: Metrics | None = None,
    ) -> Self:
        """A client by `Credentials.load`. `request_timeout` is in seconds, for one try."""
        credentials = await Credentials.load(kubeconfig, context)
        return cls(credentials, pool=pool, request_timeout=request_timeout, user_agent=user_agent, metrics=metrics)

    async def close(self) -> None:
        await self._session.close()
        await self._unbounded.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def on_written(self, resource: Resource, written: OnWritten, gone: OnGone) -> None:
        """Calls `written` with each object as a write of ours left it, `gone` with the uid of each that it ended."""
        self._written.setdefault(resource, []).append((written, gone))

    # Reads

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """The object as it is now, from a quorum. Raises NotFound."""
        return await self._request("get", resource, resource.path(namespace=namespace, name=name))

    async def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        selector: Selector | None = None,
        limit: int = PAGE_SIZE,
    ) -> AsyncGenerator[Page, None]:
        """A consistent list, page by page. Raises Gone where the list took longer than the server keeps its version."""
        _refuse_by_name_only(resource)
        query = {"limit": str(limit)}
        if selector:
            query["labelSelector"] = selector_text(selector)
        while True:
            found = await self._request("list", resource, resource.path(namespace=namespace), query=query)
            metadata = found["metadata"]
            yield Page(found.get("items") or [], metadata["resourceVersion"])
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    async def list(
        self, resource: Resource, namespace: str | None = None, *, selector: Selector | None = None
    ) -> Objects:
        """All objects at one moment. An item carries neither `kind` nor `apiVersion`."""
        return [item async for page in self.pages(resource, namespace, selector=selector) for item in page.items]

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        selector: Selector | None = None,
        timeout: float = 240.0,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes after `resource_version`, with bookmarks, until the server ends it, which it is asked to do after
        `timeout` seconds.

        Raises Gone where the version is too old, and Unreachable where the connection breaks or the server says nothing
        for 15 seconds beyond `timeout`: a watch that is dead and does not look it.
        """
        _refuse_by_name_only(resource)
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, int(timeout))),
        }
        if selector:
            query["labelSelector"] = selector_text(selector)
        limits = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=timeout + _WATCH_GRACE_SECONDS)
        url = self.credentials.server + resource.path(namespace=namespace)
        code = 0
        try:
            async with self._unbounded.get(url, params=query, timeout=limits) as response:
                code = response.status
                if code != 200:
                    raise errors.from_body(code, await response.read(), response.headers)
                # Counted when it begins: it may end in a day.
                self._metrics.requests.labels("watch", resource.plural, code).inc()
                # Not by `readline`, which refuses lines over 128 KiB; an object may have 1.5 MiB.
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else (rest + chunk,)
                    for line in lines:
                        yield watch_event(orjson.loads(line))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.Unreachable(f"watch {resource.plural}: {_told(error)}") from error
        finally:
            if code != 200:
                self._metrics.requests.labels("watch", resource.plural, code).inc()

    # Writes

    async def create(self, resource: Resource, obj: Object, *, dry_run: bool = False) -> Object:
        """Raises AlreadyExists, Invalid, Forbidden. A dry run passes all admission and stores nothing."""
        path = resource.path(namespace=obj["metadata"].get("namespace"))
        return await self._write("create", resource, "POST", path, _complete(resource, obj), dry_run=dry_run)

    async def replace(self, resource: Resource, obj: Object) -> Object:
        """PUT of the whole object. Raises Conflict where its resourceVersion is no longer the object's."""
        key = key_of(obj)
        path = resource.path(namespace=key.namespace, name=key.name)
        return await self._write("update", resource, "PUT", path, _complete(resource, obj))

    async def apply(self, resource: Resource, obj: Object, *, force: bool = True, dry_run: bool = False) -> Object:
        """Server-side apply: what `obj` says is ours, what it no longer says is given up, what it never said is left.

        Raises Conflict without `force` where a field belongs to another manager. With a `metadata.uid` it raises
        Conflict rather than create the object again.
        """
        key = key_of(obj)
        path = resource.path(namespace=key.namespace, name=key.name)
        query = {"force": "true"} if force else {}
        return await self._write(
            "apply", resource, "PATCH", path, _complete(resource, obj), query, patch="apply", dry_run=dry_run
        )

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Object | Objects,
        namespace: str | None = None,
        *,
        type: PatchType = "merge",
        subresource: str | None = None,
    ) -> Object:
        """Raises Conflict where the patch holds a `metadata.resourceVersion` that is no longer the object's."""
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return await self._write(
            "patch", resource, "PATCH", path, patch, patch=type, fold=subresource in (None, "status")
        )

    async def patch_status(
        self, resource: Resource, name: str, status: Object, namespace: str | None = None, *, resource_version: str
    ) -> Object:
        """Merge patch of the status of the very object that was read: raises Conflict where it has changed since."""
        patch = {"metadata": {"resourceVersion": resource_version}, "status": status}
        return await self.patch(resource, name, patch, namespace, subresource="status")

    async def scale(
        self,
        resource: Resource,
        name: str,
        replicas: int,
        namespace: str | None = None,
        *,
        resource_version: str | None = None,
    ) -> Object:
        """Sets the replicas through `/scale`, and returns the Scale."""
        patch: Object = {"spec": {"replicas": replicas}}
        if resource_version is not None:
            patch["metadata"] = {"resourceVersion": resource_version}
        return await self.patch(resource, name, patch, namespace, subresource="scale")

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: Propagation = "Background",
        grace_seconds: int | None = None,
    ) -> bool:
        """Asks for the deletion, and says whether there was an object. It may live on while finalizers or pods last.

        Raises Conflict where it is no longer the object of that uid or resourceVersion.
        """
        body: Object = {"propagationPolicy": propagation}
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if any(preconditions.values()):
            body["preconditions"] = {name: value for name, value in preconditions.items() if value}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        path = resource.path(namespace=namespace, name=name)
        with contextlib.suppress(errors.NotFound):
            await self._write("delete", resource, "DELETE", path, body)
            return True
        return False

    async def ask_service(self, name: str, namespace: str, port: str, path: str, body: Object) -> Object:
        """What a Service's pod answers to a POST of `body`, by the API server's proxy. Raises ApiError."""
        whole = SERVICES.path(namespace=namespace, name=f"{name}:{port}", subresource="proxy") + path
        return await self._request(
            "proxy", SERVICES, whole, method="POST", body=orjson.dumps(body), content_type="application/json"
        )

    async def _write(
        self,
        verb: str,
        resource: Resource,
        method: str,
        path: str,
        body: Object | Objects,
        query: dict[str, str] | None = None,
        *,
        patch: PatchType | None = None,
        dry_run: bool = False,
        fold: bool = True,
    ) -> Object:
        query = dict(query or {})
        if method != "DELETE":
            query["fieldManager"] = FIELD_MANAGER
        if dry_run:
            query["dryRun"] = "All"
        content_type = "application/json" if patch is None else _CONTENT_TYPES[patch]
        made = await self._request(
            verb, resource, path, method=method, query=query, body=orjson.dumps(body), content_type=content_type
        )
        if fold and not dry_run:
            for written, gone in self._written.get(resource, ()):
                if (uid := ended_by(made, by_delete=method == "DELETE")) is not None:
                    gone(uid)
                elif made.get("kind") != "Status":
                    written(made)
        return made

    async def _request(
        self,
        verb: str,
        resource: Resource,
        path: str,
        *,
        method: str = "GET",
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str | None = None,
    ) -> Object:
        tried = 0
        while True:
            try:
                return await self._try(verb, resource, path, method, query, body, content_type)
            except (errors.TooManyRequests, errors.ServerError, errors.Unreachable) as error:
                tried += 1
                again = tried <= _RETRIES and (method == "GET" or isinstance(error, errors.TooManyRequests))
                # A Lease's holder has a deadline to keep and retries by its own clock.
                if not again or resource == LEASES:
                    raise
                await asyncio.sleep(max(error.retry_after or 0.0, _BACKOFF.delay(tried)))

    async def _try(
        self,
        verb: str,
        resource: Resource,
        path: str,
        method: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str | None,
    ) -> Object:
        lease = resource == LEASES
        session = self._unbounded if lease else self._session
        headers = {"Content-Type": content_type} if content_type else None
        limits = aiohttp.ClientTimeout(total=self._request_timeout, sock_connect=_CONNECT_SECONDS)
        clock = asyncio.get_running_loop().time
        code = 0
        async with contextlib.nullcontext() if lease else self._slots:
            if method != "GET" and not lease:
                # Not earlier: this may have waited for its turn, or been stopped, for longer than the Lease lasts.
                self.guard()
            began = clock()
            try:
                async with session.request(
                    method, self.credentials.server + path, params=query, data=body, headers=headers, timeout=limits
                ) as response:
                    code = response.status
                    answer = await response.read()
                    if code >= 400:
                        raise errors.from_body(code, answer, response.headers)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                code = 0
                raise errors.Unreachable(f"{verb} {resource.plural}: {_told(error)}") from error
            finally:
                self._metrics.requests.labels(verb, resource.plural, code).inc()
                self._metrics.request_duration.labels(verb).observe(clock() - began)
        parsed: Any = orjson.loads(answer)
        return parsed if isinstance(parsed, dict) else {}


def _refuse_by_name_only(resource: Resource) -> None:
    if resource.by_name_only:
        raise ValueError(f"{resource.plural} are read by name only: the operator's role holds neither list nor watch")


def _complete(resource: Resource, obj: Object) -> Object:
    return {"apiVersion": resource.api_version, "kind": resource.kind, **obj}


def watch_event(event: Object) -> WatchEvent:
    """One line of a watch. Raises what an ERROR among them says, which is how most watches learn of a 410."""
    if event["type"] == "ERROR":
        status = event["object"]
        raise errors.from_status(int(status.get("code") or 500), status, {})
    return WatchEvent(event["type"], event["object"])


def _told(error: BaseException) -> str:
    return str(error) or ("timed out" if isinstance(error, TimeoutError) else type(error).__name__)
