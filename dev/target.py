"""Which cluster the developer's commands use, and its store.

With CONTEXT set it is that context of kubectl's configuration, and images go to REGISTRY; otherwise it is the
devcluster, which is brought up. This is the only place that knows the difference: everything else in the project gets a
`Target`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template

from devcluster.progress import StepFailed, Steps, run, wait_for

MANIFESTS = Path(__file__).parent / "manifests"
STORE_NAMESPACE = "modelwright-store"
_STORE_PORT = 7070


@dataclasses.dataclass(frozen=True)
class Store:
    """An S3 server. `inside` is its address for pods, `outside` the one from here; empty where there is none."""

    inside: str
    outside: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def environment(self) -> dict[str, str]:
        """What pods get: the variables that every S3 client reads."""
        return {
            "AWS_ENDPOINT_URL": self.inside,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_ALLOW_HTTP": "true",
        }


@dataclasses.dataclass(frozen=True)
class Target:
    """A cluster that commands and tests run against."""

    name: str
    kubectl_path: str
    kubeconfig: Path | None
    context: str
    registry: str
    devcluster: bool

    def kubectl_command(self, *words: str) -> list[str]:
        kubeconfig = ["--kubeconfig", str(self.kubeconfig)] if self.kubeconfig else []
        return [self.kubectl_path, *kubeconfig, "--context", self.context, *words]

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Runs kubectl and returns what it printed. Raises `StepFailed` with its error line."""
        # The devcluster's address is this machine's own: no proxy leads there.
        env = {"NO_PROXY": "*", "no_proxy": "*"} if self.devcluster else {}
        return run(self.kubectl_command(*words), stdin=stdin, timeout=timeout, env=env)

    def apply(self, manifest: str, values: Mapping[str, str]) -> None:
        """Applies `manifests/NAME.yaml` with its `$names` filled in."""
        text = Template((MANIFESTS / f"{manifest}.yaml").read_text()).substitute(values)
        self.kubectl("apply", "--filename", "-", stdin=text)


def resolve(steps: Steps, environment: Mapping[str, str] = os.environ) -> Target:
    """The cluster that the environment asks for, up. Raises `StepFailed`."""
    context = environment.get("CONTEXT", "")
    if context:
        return _own(context, environment)
    if environment.get("REGISTRY"):
        raise StepFailed(
            "REGISTRY is set, but not CONTEXT: the devcluster brings its own registry",
            remedy="set CONTEXT=<kube-context> too, or unset REGISTRY",
        )
    return _devcluster(environment.get("NAME") or "dev", steps)


def _own(context: str, environment: Mapping[str, str]) -> Target:
    kubectl = shutil.which("kubectl")
    if not kubectl:
        raise StepFailed("CONTEXT is set, but there is no kubectl on PATH", remedy="install kubectl")
    registry = environment.get("REGISTRY", "")
    if not registry:
        raise StepFailed(
            f"CONTEXT={context} is set, but not REGISTRY: the cluster has to pull our images from somewhere",
            remedy="REGISTRY=<host:port> of a registry that this machine can push to and the cluster can pull from",
        )
    target = Target(context, kubectl, None, context, registry, devcluster=False)
    try:
        target.kubectl("get", "--raw", "/readyz", timeout=20)
    except StepFailed as failed:
        raise StepFailed(
            f"the cluster of context {context} does not answer: {failed.reason}",
            remedy="see `kubectl config get-contexts`",
        ) from failed
    return target


def _devcluster(name: str, steps: Steps) -> Target:
    from devcluster import cluster as life
    from devcluster.__main__ import wanted

    cluster = life.up(wanted(name), steps)
    return Target(
        cluster.name,
        str(cluster.state / "bin" / "kubectl"),
        cluster.kubeconfig,
        cluster.context,
        cluster.registry,
        devcluster=True,
    )


@contextlib.contextmanager
def store(target: Target, steps: Steps, environment: Mapping[str, str] = os.environ) -> Iterator[Store]:
    """The store of the target, for the length of the context: the devcluster's own; one that AWS_ENDPOINT_URL and the
    other AWS_* variables name; else one that is installed in the cluster and reached by a port-forward."""
    if target.devcluster:
        from devcluster import provision
        from devcluster.__main__ import find

        cluster = find(target.name, None)
        credentials = provision.store_credentials(cluster)
        yield Store(cluster.store_url, cluster.store_url, credentials.access_key, credentials.secret_key)
        return
    endpoint = environment.get("AWS_ENDPOINT_URL", "")
    if endpoint:
        try:
            yield Store(
                endpoint,
                endpoint,
                environment["AWS_ACCESS_KEY_ID"],
                environment["AWS_SECRET_ACCESS_KEY"],
                environment.get("AWS_REGION", "us-east-1"),
            )
        except KeyError as missing:
            raise StepFailed(f"AWS_ENDPOINT_URL is set, but not {missing}") from missing
        return
    with _store_in_cluster(target, steps) as installed:
        yield installed


@contextlib.contextmanager
def _store_in_cluster(target: Target, steps: Steps) -> Iterator[Store]:
    from dev.images import push_binary_image
    from devcluster import binaries

    access_key, secret_key = "modelwright", "modelwright-store"
    program = binaries.build(steps, "versitygw")["versitygw"]
    image = push_binary_image(steps, target.registry, "store", program, ["/versitygw"])
    with steps.step("install a store in the cluster", usual=10):
        target.apply(
            "store",
            {"namespace": STORE_NAMESPACE, "image": image, "access_key": access_key, "secret_key": secret_key},
        )
        target.kubectl(
            "rollout", "status", "deployment/store", "--namespace", STORE_NAMESPACE, "--timeout=120s", timeout=130
        )
    with forwarded(target, "service/store", STORE_NAMESPACE, _STORE_PORT) as port:
        inside = f"http://store.{STORE_NAMESPACE}.svc:{_STORE_PORT}"
        yield Store(inside, f"http://127.0.0.1:{port}", access_key, secret_key)


@contextlib.contextmanager
def forwarded(target: Target, what: str, namespace: str, port: int) -> Iterator[int]:
    """A port of this machine that leads to `port` of `what` (service/NAME) while the context lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        here = probe.getsockname()[1]
    forward = subprocess.Popen(
        target.kubectl_command("port-forward", "--namespace", namespace, what, f"{here}:{port}"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **({"NO_PROXY": "*", "no_proxy": "*"} if target.devcluster else {})},
    )
    try:

        def listens() -> bool:
            with socket.create_connection(("127.0.0.1", here), timeout=1):
                return True

        wait_for(f"the port-forward to {what}", listens, seconds=20)
        yield here
    finally:
        forward.kill()
        forward.wait()


def main(arguments: list[str]) -> int:
    """`images`: bring this checkout's images into the target's registry, and print their references."""
    from dev.images import build_and_push

    steps = Steps()
    if arguments != ["images"]:
        print("usage: python -m dev.target images", file=sys.stderr)
        return 2
    try:
        for reference in build_and_push(steps, resolve(steps).registry).values():
            print(reference)
    except StepFailed as failed:
        print(failed, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
