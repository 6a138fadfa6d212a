"""The light tier: etcd and the API server alone, on loopback, without root, up in seconds.

It validates, stores, watches, authorizes and audits as any API server does. Nothing else happens: no controller makes
pods of a Job or empties a namespace that is being deleted, and no admission asks for service accounts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from devcluster import binaries, configuration, pki
from devcluster.progress import Hopeless, StepFailed, Steps, run, telling_line, wait_for

CONTEXT = "modelwright-light"
_PREFIX = "modelwright-light-"


@dataclasses.dataclass(frozen=True)
class LightCluster:
    """A running API server. `kubeconfig` is an administrator's."""

    url: str
    kubeconfig: Path
    audit_log: Path
    kubectl_path: Path
    folder: Path

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Runs kubectl and returns what it printed. Raises `StepFailed` with its error line."""
        return run(
            [self.kubectl_path, "kubectl", "--kubeconfig", self.kubeconfig, *words], stdin=stdin, timeout=timeout
        )

    def audit_events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.audit_log.read_text().splitlines()]


def _remove_stale() -> None:
    """Removes the folders of those whose process was killed before it could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _start(name: str, command: Sequence[str | Path], folder: Path) -> subprocess.Popen[bytes]:
    # The kernel ends the process with ours, however ours ends.
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *(str(word) for word in command)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip


@contextlib.contextmanager
def light_cluster(*, flags: Sequence[str] = (), steps: Steps | None = None) -> Iterator[LightCluster]:
    """A light cluster for the length of the context; `flags` are further ones of the API server.

    Raises `StepFailed` with the log's telling line where it does not start.
    """
    kubebox = binaries.build(steps or Steps(quiet=True), "kubebox")["kubebox"]
    _remove_stale()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield _up(folder, kubebox, flags, processes)
    finally:
        for process in reversed(processes):
            process.kill()
        for process in processes:
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _up(folder: Path, kubebox: Path, flags: Sequence[str], processes: list[subprocess.Popen[bytes]]) -> LightCluster:
    etcd_port, peer_port, api_port = _free_ports(3)
    etcd_url, peer_url = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
    authority = pki.Authority(folder)
    private, public = pki.signing_key(folder)
    server = authority.issue("apiserver", "kube-apiserver", hosts=["127.0.0.1", "localhost"])
    admin = authority.issue("admin", "modelwright-admin", organization="system:masters")
    url = f"https://127.0.0.1:{api_port}"
    kubeconfig = pki.write_kubeconfig(
        folder / "kubeconfig",
        context=CONTEXT,
        server=url,
        authority=authority,
        certificate=admin[0],
        key=admin[1],
        user="admin",
    )
    policy = folder / "audit-policy.json"
    policy.write_text(json.dumps(configuration.audit_policy()))
    token = secrets.token_hex(16)
    etcd_flags = {
        "name": "light", "data-dir": folder / "etcd", "listen-client-urls": etcd_url, "advertise-client-urls": etcd_url,
        "listen-peer-urls": peer_url, "initial-advertise-peer-urls": peer_url, "initial-cluster": f"light={peer_url}",
        "initial-cluster-token": token, "unsafe-no-fsync": "true", "log-level": "warn",
    }  # fmt: skip
    processes.append(
        _start("etcd", [kubebox, "etcd", *(f"--{name}={value}" for name, value in etcd_flags.items())], folder)
    )
    api_flags = {
        "etcd-servers": etcd_url, "secure-port": api_port,
        "bind-address": "127.0.0.1", "advertise-address": "127.0.0.1",
        "service-cluster-ip-range": "10.0.0.0/24", "client-ca-file": authority.certificate_path,
        "tls-cert-file": server[0], "tls-private-key-file": server[1],
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": public, "service-account-signing-key-file": private,
        "authorization-mode": "RBAC", "disable-admission-plugins": "ServiceAccount", "allow-privileged": "true",
        "audit-policy-file": policy, "audit-log-path": folder / "audit.log", "endpoint-reconciler-type": "none",
    }  # fmt: skip
    processes.append(
        _start(
            "kube-apiserver", [kubebox, "kube-apiserver", *(f"--{k}={v}" for k, v in api_flags.items()), *flags], folder
        )
    )
    started = LightCluster(url, kubeconfig, folder / "audit.log", kubebox, folder)

    def ready() -> bool:
        for name, process in zip(("etcd", "kube-apiserver"), processes, strict=True):
            if process.poll() is not None:
                raise Hopeless(f"{name} ended: {telling_line((folder / f'{name}.log').read_text())}")
        # The namespaces that every client counts on are made after the server is ready.
        return started.kubectl("get", "--raw", "/readyz", timeout=5) == "ok" and "kube-system" in started.kubectl(
            "get", "namespaces", "--output", "name", timeout=5
        )

    try:
        wait_for("the API server is ready", ready, seconds=60, every=0.1)
    except StepFailed as failed:
        log = folder / "kube-apiserver.log"
        raise StepFailed(f"{failed.reason}; {telling_line(log.read_text())}") from failed
    return started
