"""Keeping processes running, with supervisord: its configuration, and a client of its control socket.

supervisord is PID 1 of a PID namespace. When it ends, however it ends, the kernel ends everything that it started, at
any depth: nothing of a cluster or of a node can outlive it.
"""

from __future__ import annotations

import configparser
import io
import shlex
import xmlrpc.client
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from devcluster.components import Component

RUNNING = "RUNNING"


def configuration(folder: Path, components: Sequence[Component], *, log: Path, marker: str) -> str:
    """supervisord's ini file. `folder` gets its socket; `marker` stands in each process's environment as
    MODELWRIGHT_DEVCLUSTER, and the component's name as MODELWRIGHT_COMPONENT, by which they are found from outside."""
    config = configparser.RawConfigParser()
    config.optionxform = str  # type: ignore[assignment,method-assign]
    config["unix_http_server"] = {"file": str(socket_path(folder)), "chmod": "0700"}
    config["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
    }
    config["supervisord"] = {
        "nodaemon": "true",
        "user": "root",
        "logfile": _escape(str(log / "supervisord.log")),
        "logfile_maxbytes": "5MB",
        "logfile_backups": "1",
        "pidfile": _escape(str(folder / "supervisord.pid")),
        "silent": "true",
    }
    for priority, component in enumerate(components):
        environment = {
            **component.environment,
            "MODELWRIGHT_DEVCLUSTER": marker,
            "MODELWRIGHT_COMPONENT": component.name,
        }
        config[f"program:{component.name}"] = {
            "command": _escape(shlex.join(component.command)),
            "environment": ",".join(f'{key}="{_escape(value)}"' for key, value in environment.items()),
            "priority": str(priority),
            "autostart": str(component.autostart).lower(),
            "autorestart": "true",
            "startsecs": "1",
            # supervisord waits one second more before each further try; it should never give up.
            "startretries": "1000000",
            "stopsignal": component.stop_signal,
            "stopwaitsecs": "5",
            "redirect_stderr": "true",
            "stdout_logfile": _escape(str(log / f"{component.name}.log")),
            "stdout_logfile_maxbytes": "50MB",
            "stdout_logfile_backups": "1",
        }
    text = io.StringIO()
    config.write(text)
    return text.getvalue()


def _escape(value: str) -> str:
    return value.replace("%", "%%")


def socket_path(folder: Path) -> Path:
    return folder / "supervisor.sock"


class Supervisor:
    """A client of the supervisord whose socket is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._url = f"unix://{socket_path(folder)}"

    @property
    def _proxy(self) -> Any:
        # A transport of its own for each call: one whose connection failed once never works again.
        transport = SupervisorTransport(None, None, serverurl=self._url)
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def answers(self) -> bool:
        try:
            return bool(self._proxy.getState()["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Error):
            return False

    def states(self) -> dict[str, str]:
        """Each component's state: RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL."""
        return {process["name"]: process["statename"] for process in self._proxy.getAllProcessInfo()}

    def start(self, name: str) -> None:
        if self.states().get(name) not in {RUNNING, "STARTING", "BACKOFF"}:
            self._proxy.startProcess(name, False)

    def stop(self, name: str) -> None:
        if self.states().get(name) in {RUNNING, "STARTING", "BACKOFF"}:
            self._proxy.stopProcess(name, True)

    def update(self) -> None:
        """Takes up the components that its configuration file has gained, lost or changed."""
        added, changed, removed = self._proxy.reloadConfig()[0]
        for name in [*changed, *removed]:
            self._proxy.stopProcessGroup(name, True)
            self._proxy.removeProcessGroup(name)
        for name in [*added, *changed]:
            self._proxy.addProcessGroup(name)
