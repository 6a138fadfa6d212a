"""The main job, whole: a model is trained, served, upgraded under real requests, and defended against bad versions.

What a team keeps in Git is kept in a repository here, too: each promotion is a commit of `model.yaml`, each way back a
`git revert`, and all that reaches the cluster is `kubectl apply`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tritonclient.http as triton
import yaml
from sklearn.datasets import load_digits

from dev import digits, examples, releases
from dev.releases import Release
from dev.target import Store, Target, forwarded
from dev.traffic import CLIENTS, Result, Traffic, table
from devcluster.progress import Step, Steps, human, wait_for

SERVICE = "digits"
MODEL = "digits"


@dataclasses.dataclass
class Told:
    """What the story came to, for the summary. Times are in seconds."""

    accuracy: dict[str, float] = dataclasses.field(default_factory=dict)
    upgrade: float = 0.0
    refusal: str = ""
    rollback: str = ""
    revert: float = 0.0
    results: dict[str, Result] = dataclasses.field(default_factory=dict)


class Repository:
    """The team's repository, with `model.yaml` in it."""

    def __init__(self, folder: Path, target: Target, namespace: str) -> None:
        self._folder, self._target, self._namespace = folder, target, namespace
        self._git("init", "--quiet")
        self.commit("stable: 1.0.0", yaml.safe_load((examples.DIGITS / "model.yaml").read_text()))

    def _git(self, *words: str) -> str:
        who = ["-c", "user.name=demo", "-c", "user.email=demo@localhost", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *who, *words], cwd=self._folder, check=True, capture_output=True, text=True)
        return done.stdout

    def commit(self, message: str, model: dict[str, Any]) -> None:
        (self._folder / "model.yaml").write_text(yaml.safe_dump(model, sort_keys=False))
        self._git("add", "model.yaml")
        self._git("commit", "--quiet", "--allow-empty", "--message", message)

    def promote(self, version: str) -> None:
        """One line in Git, and `kubectl apply`."""
        model = yaml.safe_load((self._folder / "model.yaml").read_text())
        model["spec"]["channels"]["stable"] = {"version": version}
        self.commit(f"stable: {version}", model)
        self.apply()

    def revert(self) -> None:
        """Of the last promotion that still stands."""
        log = self._git("log", "--format=%H %s").splitlines()
        reverted = {line.split('"')[1] for line in log if " Revert " in line}
        commit = next(line.split()[0] for line in log if " stable: " in line and line.partition(" ")[2] not in reverted)
        self._git("revert", "--no-edit", commit)
        self.apply()

    def apply(self) -> None:
        where = str(self._folder / "model.yaml")
        self._target.kubectl("apply", "--namespace", self._namespace, "--filename", where)


@dataclasses.dataclass(frozen=True)
class Stage:
    """Where the story plays."""

    target: Target
    server: Store
    image: str
    namespace: str
    steps: Steps
    s3: Any

    def status(self) -> dict[str, Any]:
        return digits.status_of(self.target, "inferenceservice", SERVICE, self.namespace)

    def until(self, what: str, step: Step, check: Callable[[dict[str, Any]], object], seconds: float = 240) -> None:
        def done() -> bool:
            seen = self.status()
            step.note(next((c["message"] for c in seen.get("conditions") or () if c["type"] == "Ready"), ""))
            return bool(check(seen))

        wait_for(what, done, seconds=seconds, every=0.5)
        step.note("")

    def release(self, version: str, change: releases.Change) -> Release:
        made = releases.release(self.target, self.server, self.namespace, version, of="digits-v1-1-0", change=change)
        obj = made.model_version()
        releases.apply(self.target, self.namespace, obj)
        name = obj["metadata"]["name"]
        wait_for(
            f"ModelVersion {name} is Ready",
            lambda: digits.status_of(self.target, "modelversion", name, self.namespace).get("phase") == "Ready",
            seconds=90,
        )
        return made


def serves(version: str) -> Callable[[dict[str, Any]], bool]:
    return lambda seen: seen.get("version") == version and seen.get("phase") == "Ready" and not seen.get("rollout")


def bodies(count: int) -> list[dict[str, Any]]:
    rows, _ = load_digits(return_X_y=True)
    chosen = rows[:: len(rows) // count][:count]
    return [
        {"inputs": [{"name": "features", "shape": [1, 64], "datatype": "FP32", "data": row.tolist()}]} for row in chosen
    ]


def accuracy(stage: Stage) -> float:
    """Of the service, over all rows, as an ordinary client of the protocol measures it."""
    rows, labels = load_digits(return_X_y=True)
    right = 0
    with forwarded(stage.target, f"service/{SERVICE}", stage.namespace, 80) as port:
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        with contextlib.closing(client):
            for at in range(0, len(rows), 100):
                part = rows[at : at + 100].astype(np.float32)
                given = triton.InferInput("features", list(part.shape), "FP32")
                given.set_data_from_numpy(part)
                answer = client.infer(MODEL, [given]).as_numpy("probabilities")
                right += int((answer.argmax(axis=1) == labels[at : at + 100]).sum())
    return right / len(rows)


def tell(stage: Stage) -> Told:
    """From the trained 1.0.0 to the end."""
    told = Told()
    steps = stage.steps
    with steps.step("the InferenceService serves 1.0.0 on 2 pods", usual=15) as step:
        stage.until("1.0.0 is served", step, serves("1.0.0"))
    with steps.step("predictions of all 1,797 rows by a client of the protocol (tritonclient)", usual=3):
        told.accuracy["1.0.0"] = accuracy(stage)
    with steps.step("kubectl apply of examples/digits/v1-1-0: train 1.1.0", usual=20) as step:
        stage.target.kubectl("apply", "--namespace", stage.namespace, "--filename", str(examples.DIGITS / "v1-1-0"))
        digits.await_trained(stage.target, stage.namespace, step, name="digits-v1-1-0")
        step.note("")
    with TemporaryDirectory() as folder, _clients(stage) as traffic:
        repository = Repository(Path(folder), stage.target, stage.namespace)
        _upgrade(stage, repository, told)
        _altered(stage, repository, told)
        _erring(stage, repository, told)
        _revert(stage, repository, told)
        traffic.until_sent(1000)
    told.results = traffic.results
    return told


@contextlib.contextmanager
def _clients(stage: Stage) -> Iterator[Traffic]:
    traffic = Traffic(
        stage.target, stage.namespace, stage.image, url=f"http://{SERVICE}.{stage.namespace}.svc", model=MODEL,
        bodies=bodies(300), clients=CLIENTS, workers=2, pause=0.02,
    )  # fmt: skip
    with stage.steps.step("clients in pods and on the node begin to send, and go on", usual=5):
        traffic.__enter__()
    try:
        yield traffic
    finally:
        with stage.steps.step("clients end and tell what became of each request", usual=5):
            traffic.__exit__(None)


def _upgrade(stage: Stage, repository: Repository, told: Told) -> None:
    began = time.monotonic()
    with stage.steps.step("git commit “stable: 1.1.0”, kubectl apply: blue-green upgrade", usual=50) as step:
        repository.promote("1.1.0")
        stage.until("1.1.0 answers", step, lambda seen: seen.get("version") == "1.1.0")
        told.upgrade = time.monotonic() - began
        stage.until("the upgrade is complete", step, serves("1.1.0"))


def _altered(stage: Stage, repository: Repository, told: Told) -> None:
    with stage.steps.step("1.2.0 is published, then its bytes are altered in the store: refused", usual=25) as step:
        bad = stage.release("1.2.0", releases.remarked("the bytes of this file are altered after its check"))
        releases.alter(stage.s3, bad)
        repository.promote("1.2.0")
        stage.until("1.2.0 is refused", step, lambda seen: seen.get("failed"))
        failed = stage.status()["failed"]
        told.refusal = f"{failed['reason']}: {failed['message']}"
        repository.revert()
        stage.until("1.1.0 is as asked for", step, serves("1.1.0"))


def _erring(stage: Stage, repository: Repository, told: Told) -> None:
    rows, _ = load_digits(return_X_y=True)
    with stage.steps.step(
        "1.3.0 passes its golden samples and errs on real rows: taken back by itself", usual=40
    ) as step:
        stage.release("1.3.0", releases.erring(rows))
        repository.promote("1.3.0")
        stage.until("1.3.0 is taken back", step, lambda seen: seen.get("failed") and not seen.get("rollout"))
        failed = stage.status()["failed"]
        told.rollback = f"{failed['reason']}: {failed['message']}"
        repository.revert()
        stage.until("1.1.0 is as asked for", step, serves("1.1.0"))


def _revert(stage: Stage, repository: Repository, told: Told) -> None:
    began = time.monotonic()
    with stage.steps.step("git revert of “stable: 1.1.0”, kubectl apply: back to 1.0.0", usual=20) as step:
        repository.revert()
        stage.until("1.0.0 answers", step, lambda seen: seen.get("version") == "1.0.0")
        told.revert = time.monotonic() - began


def words(told: Told) -> str:
    """What came of it, for people."""
    results = list(told.results.values())
    sent = sum(one.sent for one in results)
    own = sum(n for one in results for why, n in one.why.items() if why.startswith("1.3.0: status 500"))
    lost = sum(one.failed for one in results) - own
    first = min((at for one in results if (at := one.first("1.3.0"))), default=0.0)
    last = max((at for one in results if (at := one.last("1.3.0"))), default=0.0)
    return f"""\
1.0.0 is served by 2 pods; tritonclient asked it for all rows: {told.accuracy["1.0.0"]:.1%} right.
{len(results)} clients (in pods and on the node, with kept connections and a new one for each request) then sent
{sent} requests through all that follows; lost: {lost}.

{indented(table(told.results))}

git commit “stable: 1.1.0”  1.1.0 got all requests after {human(told.upgrade)}; the old pods stayed for a while
1.2.0, altered in the store refused, and 1.1.0 served on; status says
                            {told.refusal}
1.3.0, errs on real rows    answered for {last - first:.0f} s with {own} errors, then 1.1.0 again; status says
                            {told.rollback}
git revert “stable: 1.1.0”  1.0.0 got all requests after {human(told.revert)}"""


def indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines())
