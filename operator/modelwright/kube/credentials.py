"""Where the API server is and how to prove who we are, read by the official `kubernetes` package.

Its configuration is all that is used of it: kubeconfig with exec plugins and OIDC, or the pod's service account. A
session made here asks for the credentials at each request, so that a rotated token reaches Kopf's session too.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from modelwright import __version__

USER_AGENT = f"modelwright/{__version__}"
# The kubelet rotates a projected token at 80 % of its life, which is at least ten minutes.
_REFRESH_SECONDS = 60.0
# Many requests are refused together; one of them reads the credentials again.
_REFRESH_AT_ONCE_SECONDS = 1.0

log = logging.getLogger(__name__)

_Load = Callable[[], Awaitable[None]]
# The package is not typed; one name without types keeps the rest of this file strict.
_config: Any = config


class Credentials:
    """The server's address, TLS and the Authorization header of one configuration."""

    def __init__(self, configuration: Any, load: _Load) -> None:
        self._configuration = configuration
        self._load = load
        self._loaded_at = time.monotonic()
        self._tls_files: tuple[object, ...] = ()
        self.server: str = configuration.host.rstrip("/")
        self.tls = self._tls_context() if self.server.startswith("https") else None

    @classmethod
    async def load(cls, kubeconfig: Path | None = None, context: str | None = None) -> Credentials:
        """From the kubeconfig named, or else from the pod's service account, or else from kubectl's own configuration.

        Raises `kubernetes.aio.config.ConfigException` where there is none or it cannot be read.
        """
        configuration: Any = Configuration()
        if kubeconfig is None and context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):

            async def load() -> None:
                _config.load_incluster_config(client_configuration=configuration)

            await load()
            return cls(configuration, load)
        # persist_config would write the file back at once.
        loader = await _config.load_kube_config(
            config_file=None if kubeconfig is None else str(kubeconfig),
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )

        async def reload() -> None:
            await loader.load_and_set(configuration)

        return cls(configuration, reload)

    def _tls_context(self) -> ssl.SSLContext:
        of = self._configuration
        tls = ssl.create_default_context(cafile=of.ssl_ca_cert, cadata=of.ca_cert_data)
        if of.cert_file:
            tls.load_cert_chain(of.cert_file, keyfile=of.key_file)
        if not of.verify_ssl:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        if of.disable_strict_ssl_verification:
            tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._tls_files = self._tls_state()
        return tls

    def _tls_state(self) -> tuple[object, ...]:
        paths = (self._configuration.ssl_ca_cert, self._configuration.cert_file)
        return tuple((path, os.stat(path).st_mtime_ns) if path else None for path in paths)  # noqa: PTH116

    async def refresh(self, *, at_once: bool = False) -> None:
        """Reads the credentials again where they are a minute old, or at once (after a 401).

        Those that cannot be read are logged, and the old ones used on: they may well be valid still.
        """
        if time.monotonic() - self._loaded_at < (_REFRESH_AT_ONCE_SECONDS if at_once else _REFRESH_SECONDS):
            return
        self._loaded_at = time.monotonic()
        try:
            await self._load()
            if self.tls is not None and (state := self._tls_state()) != self._tls_files:
                # New connections use what the context holds by then; open ones go on with what they began with.
                self._tls_files = state
                self.tls.load_verify_locations(cafile=self._configuration.ssl_ca_cert)
                if self._configuration.cert_file:
                    self.tls.load_cert_chain(self._configuration.cert_file, keyfile=self._configuration.key_file)
        except Exception as error:  # an exec plugin or a file may fail in any way
            log.warning("the credentials could not be read again: %s", error)

    def authorization(self) -> str | None:
        token = self._configuration.api_key.get("BearerToken")
        return token.strip() if token else None

    async def _authenticate(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        await self.refresh()
        if self._configuration.tls_server_name:
            request.server_hostname = self._configuration.tls_server_name
        if (header := self.authorization()) is not None:
            request.headers["Authorization"] = header
        response = await handler(request)
        if response.status != 401 or header is None:
            return response
        # The token may have been rotated in this minute. A second refusal is the caller's.
        await self.refresh(at_once=True)
        if (again := self.authorization()) is None or again == header:
            return response
        response.release()
        request.headers["Authorization"] = again
        return await handler(request)

    def session(self, *, limit: int, user_agent: str = USER_AGENT) -> aiohttp.ClientSession:
        """A session with at most `limit` connections (0: any number), which its caller closes.

        Proxies come from the kubeconfig alone: aiohttp's `trust_env` would read the environment and .netrc at every
        request.
        """
        connector = aiohttp.TCPConnector(
            limit=limit, ssl=self.tls if self.tls is not None else True, socket_factory=_keepalive_socket
        )
        return aiohttp.ClientSession(
            connector=connector,
            middlewares=(self._authenticate,),
            proxy=self._configuration.proxy,
            # Bodies are not worth compressing inside a cluster: it is the API server's CPU.
            headers={"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "identity"},
        )


def _keepalive_socket(address: Any) -> socket.socket:
    # A peer that vanished without a word (a lost node, a forgotten NAT entry) is noticed within a minute.
    made = socket.socket(family=address[0], type=address[1], proto=address[2])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return made
