"""A story told undisturbed, and again with a kill before and after every write; what is left must be the same."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from modelwright.kube.resources import Resource

from tests.faults.proxy import KILLS, Label, Moment, Proxy, label_of_write

# What the server or the clock chooses, in the spec of any object.
_CHOSEN_BY_SERVER = {"clusterIP", "clusterIPs", "nodePort", "healthCheckNodePort"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@dataclasses.dataclass(frozen=True, order=True)
class Left:
    """One object that is left, without what differs from run to run. `spec` is a hash of all but metadata and status,
    with labels, annotations and finalizers."""

    kind: str
    name: str
    owner: str
    phase: str
    spec: str

    def __str__(self) -> str:
        of = f" of {self.owner}" if self.owner else ""
        return f"{self.kind}/{self.name}{of}" + (f" ({self.phase})" if self.phase else "") + f" #{self.spec}"


def phase(obj: dict[str, Any]) -> str:
    """What an object's status comes to: its phase, or the conditions that are true."""
    status = obj.get("status") or {}
    true = sorted(one["type"] for one in status.get("conditions") or () if one["status"] == "True")
    return str(status.get("phase") or ",".join(true))


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A story of one process and its user, each run in a namespace of its own.

    `command` starts the process for a run (its kubeconfig and namespace). `act` is what the user does, and waits in
    between by `run.wait`. `settled` says that the process has nothing left to do, as far as the objects tell. All
    objects of `resources` in the namespace are compared, by their content and by what `state` makes of their status;
    `ignore` leaves out raw objects that are no part of the claim. `aliases` are texts that follow from an object's uid,
    such as a hash in a child's name, with what to read in their place. `epilogue` goes on after the comparison, with
    the process still there, and returns violations of its own.

    `setting` is what the story is told in: entered once the process was started, and left when all has settled. It
    gives a list that it may add violations to. Writes count, and befall the process, only from when it was entered.

    Points are the writes that `label` names, of those whose label is in `recurring` the first alone: there may be as
    many of them as there is time for, and any other is as the first.
    """

    name: str
    command: Callable[[Run], Sequence[str | Path]]
    act: Callable[[Run], None]
    settled: Callable[[Run], bool]
    resources: Sequence[Resource]
    ignore: Callable[[dict[str, Any]], bool] = lambda obj: obj["metadata"]["name"] == "kube-root-ca.crt"
    state: Callable[[dict[str, Any]], str] = phase
    aliases: Callable[[dict[str, Any]], dict[str, str]] = lambda _: {}
    epilogue: Callable[[Run], Iterable[str]] = lambda _: ()
    setting: Callable[[Run], contextlib.AbstractContextManager[list[str]]] | None = None
    label: Label = label_of_write
    recurring: Callable[[str], bool] = lambda _: False
    quiet: float = 0.75
    """Seconds without a write after which a settled process counts as done."""
    patience: float = 60.0
    """Seconds for a run to settle."""
    every: float = 0.05
    """Seconds between two looks of a wait."""


class Run:
    """One telling of a story. Its processes are restarted when they die, until the run ends."""

    def __init__(self, scenario: Scenario, proxy: Proxy, namespace: str, log: Path) -> None:
        self.scenario = scenario
        self.proxy = proxy
        self.namespace = namespace
        self.kubeconfig = proxy.kubeconfig
        self.unexpected_exits: list[int] = []
        self._log = log
        self._over = False
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)

    def __enter__(self) -> Run:
        self._supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self.kill()
        self._supervisor.join(30)

    def kill(self) -> None:
        """SIGKILL to the process that runs now."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    def _supervise(self) -> None:
        while not self._over:
            with self._log.open("ab") as log:
                # The kernel ends the process with ours, however ours ends.
                command = ["setpriv", "--pdeathsig", "KILL", *(str(word) for word in self.scenario.command(self))]
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            if self._over:
                self.kill()
            code = self._process.wait()
            if not self._over and code != -signal.SIGKILL:
                self.unexpected_exits.append(code)
                # Not at once: a process that cannot start would fill the machine.
                time.sleep(0.2)

    def objects(self, resource: Resource) -> list[dict[str, Any]]:
        """Of the run's namespace, past the proxy."""
        found = self.proxy.ask("GET", resource.path(namespace=self.namespace))["items"]
        return [obj for obj in found if not self.scenario.ignore(obj)]

    def get(self, resource: Resource, name: str) -> dict[str, Any] | None:
        return next((obj for obj in self.objects(resource) if obj["metadata"]["name"] == name), None)

    def create(self, resource: Resource, obj: dict[str, Any]) -> dict[str, Any]:
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        return self.proxy.ask("POST", resource.path(namespace=self.namespace), whole)

    def patch(self, resource: Resource, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        return self.proxy.ask("PATCH", resource.path(namespace=self.namespace, name=name), patch)

    def delete(self, resource: Resource, name: str) -> None:
        self.proxy.ask("DELETE", resource.path(namespace=self.namespace, name=name))

    def wait(self, what: str, check: Callable[[], object]) -> None:
        """Raises TimeoutError after the scenario's patience."""
        deadline = time.monotonic() + self.scenario.patience
        while not check():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {self.scenario.patience:g} s")
            time.sleep(self.scenario.every)

    def left(self) -> collections.Counter[Left]:
        objects = [(resource, obj) for resource in self.scenario.resources for obj in self.objects(resource)]
        aliases = {text: alias for _, obj in objects for text, alias in self.scenario.aliases(obj).items()}
        reading = _Reading(self.scenario.state, {**aliases, self.namespace: "<namespace>"})
        reading.uids = {obj["metadata"]["uid"]: f"{resource.kind}/{reading.name(obj)}" for resource, obj in objects}
        return collections.Counter(reading.left(resource, obj) for resource, obj in objects)


@dataclasses.dataclass
class _Reading:
    """How the objects of one run are read, so that two runs compare."""

    state: Callable[[dict[str, Any]], str]
    aliases: dict[str, str]
    uids: dict[str, str] = dataclasses.field(default_factory=dict)

    def _plain(self, text: str) -> str:
        for differing, alias in self.aliases.items():
            text = text.replace(differing, alias)
        return text

    def name(self, obj: dict[str, Any]) -> str:
        generated = obj["metadata"].get("generateName")
        return self._plain(f"{generated}*" if generated else str(obj["metadata"]["name"]))

    def left(self, resource: Resource, obj: dict[str, Any]) -> Left:
        metadata = obj["metadata"]
        said: dict[str, Any] = {
            key: value for key, value in obj.items() if key not in ("metadata", "status", "kind", "apiVersion")
        }
        said |= {key: metadata.get(key) for key in ("labels", "annotations", "finalizers")}
        text = json.dumps(_without(said, _CHOSEN_BY_SERVER), sort_keys=True)
        for uid, name in self.uids.items():
            text = text.replace(uid, name)
        text = _TIME.sub("<time>", self._plain(text))
        owners = [
            f"{one['kind']}/{self._plain(one['name'])}" + ("" if one["uid"] in self.uids else " (gone)")
            for one in metadata.get("ownerReferences") or ()
        ]
        state = self._plain(self.state(obj))
        if metadata.get("deletionTimestamp"):
            state = f"{state} deleting".strip()
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return Left(resource.kind, self.name(obj), ", ".join(owners), state, digest)


def _without(value: Any, keys: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(one, keys) for key, one in value.items() if key not in keys}
    return [_without(one, keys) for one in value] if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one run ended. `point` is None for the undisturbed one; `reached` is the write that it was killed at."""

    point: tuple[int, Moment] | None
    reached: bool
    violations: tuple[str, ...]
    left: collections.Counter[Left]
    writes: tuple[tuple[str, int], ...]
    """Label and occurrence of each, in their order."""
    seconds: float
    log: str = dataclasses.field(repr=False, default="")

    @property
    def verdict(self) -> str:
        if self.violations:
            return "; ".join(self.violations)
        return "same" if self.point is None or self.reached else "same (not reached)"


@dataclasses.dataclass(frozen=True)
class Report:
    """A scenario at all its write points."""

    scenario: str
    undisturbed: Outcome
    disturbed: tuple[Outcome, ...]

    @property
    def violations(self) -> list[str]:
        return [
            f"write {one.point[0]} ({self.named(one.point[0])}) {one.point[1].value}: {violation}"
            for one in self.disturbed
            if one.point is not None
            for violation in one.violations
        ]

    @property
    def not_reached(self) -> list[str]:
        return [self.named(one.point[0]) for one in self.disturbed if one.point is not None and not one.reached]

    def named(self, number: int) -> str:
        """A write of the undisturbed run, by its number from 1."""
        label, occurrence = self.undisturbed.writes[number - 1]
        return label if occurrence == 1 else f"{label} (time {occurrence})"

    def table(self) -> str:
        rows = [("write", "befallen by", "end state", "s")]
        for one in self.disturbed:
            assert one.point is not None
            number, moment = one.point
            rows.append((f"{number} {self.named(number)}", moment.value, one.verdict, f"{one.seconds:.1f}"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        count = len(self.violations)
        runs = f"{len(self.disturbed)} disturbances at {len({one.point[0] for one in self.disturbed if one.point})} of"
        runs += f" {len(self.undisturbed.writes)} writes"
        return "\n".join([f"{self.scenario}: {runs}, {count} violations", *lines])


def undisturbed(scenario: Scenario, upstream: Path) -> Outcome:
    """Raises AssertionError where the scenario does not settle even when nothing goes wrong."""
    outcome = _tell(scenario, upstream, None, None)
    assert not outcome.violations, f"{scenario.name}, undisturbed: {outcome.violations}\n{outcome.log}"
    assert outcome.writes, f"{scenario.name}: the process wrote nothing\n{outcome.log}"
    return outcome


def crash_everywhere(
    scenario: Scenario,
    upstream: Path,
    *,
    moments: Sequence[Moment] = KILLS,
    parallel: int = 2,
    only: Iterable[tuple[int | str, Moment]] | None = None,
) -> Report:
    """Runs the scenario once for each of its writes and each of `moments`, `parallel` runs at a time.

    `upstream` is a kubeconfig of an administrator. `only` narrows it to some points: numbers of the undisturbed run's
    writes, from 1, or labels, which stand for the first write of that label.
    """
    first = undisturbed(scenario, upstream)
    points = list(_chosen(first.writes, only) if only else _points(scenario, first.writes, moments))
    print(f"{scenario.name}: undisturbed {first.seconds:.1f} s; {len(points)} disturbances follow", flush=True)

    def disturbed(point: tuple[int, Moment]) -> Outcome:
        outcome = _tell(scenario, upstream, first, point)
        # A whole table takes its time, and whoever waits for it may have to stop it.
        label, occurrence = first.writes[point[0] - 1]
        named = f"{point[0]} {label} (time {occurrence}) {point[1].value}"
        print(f"{named}: {outcome.verdict}, {outcome.seconds:.1f} s", flush=True)
        return outcome

    with ThreadPoolExecutor(parallel) as pool:
        outcomes = list(pool.map(disturbed, points))
    return Report(scenario.name, first, tuple(outcomes))


def _points(
    scenario: Scenario, writes: Sequence[tuple[str, int]], moments: Sequence[Moment]
) -> Iterable[tuple[int, Moment]]:
    for number, (label, occurrence) in enumerate(writes, start=1):
        if occurrence == 1 or not scenario.recurring(label):
            yield from ((number, moment) for moment in moments)


def _chosen(
    writes: Sequence[tuple[str, int]], only: Iterable[tuple[int | str, Moment]]
) -> Iterable[tuple[int, Moment]]:
    for write, moment in only:
        assert isinstance(write, int) or (write, 1) in writes, f"{write}: not among {writes}"
        yield (write if isinstance(write, int) else 1 + writes.index((write, 1))), moment


def _tell(scenario: Scenario, upstream: Path, undisturbed: Outcome | None, point: tuple[int, Moment] | None) -> Outcome:
    began = time.monotonic()
    violations: list[str] = []
    left: collections.Counter[Left] = collections.Counter()
    with (
        tempfile.TemporaryDirectory(prefix="modelwright-faults-") as name,
        Proxy(upstream, Path(name), label=scenario.label) as proxy,
    ):
        made = {"metadata": {"generateName": f"crash-{scenario.name}-"}}
        namespace = str(proxy.ask("POST", "/api/v1/namespaces", made)["metadata"]["name"])
        run = Run(scenario, proxy, namespace, Path(name) / "process.log")
        reached: list[bool] = []

        def count() -> None:
            proxy.writes.clear()
            if point is None or undisturbed is None:
                return
            number, moment = point

            def reach() -> None:
                reached.append(True)
                if moment in KILLS:
                    run.kill()

            proxy.disturb_at(*undisturbed.writes[number - 1], moment, reach)

        if scenario.setting is None:
            count()
        try:
            with run:
                try:
                    with (
                        scenario.setting(run) if scenario.setting else contextlib.nullcontext(violations) as violations
                    ):
                        if scenario.setting is not None:
                            count()
                        scenario.act(run)
                        run.wait("settled", lambda: scenario.settled(run) and proxy.quiet_for() >= scenario.quiet)
                except TimeoutError as late:
                    violations.append(str(late))
                left = run.left()
                writes = tuple((write.label, write.occurrence) for write in proxy.writes)
                if not violations:
                    violations += scenario.epilogue(run)
        finally:
            proxy.ask("DELETE", f"/api/v1/namespaces/{namespace}")
        if run.unexpected_exits:
            violations.append(f"the process ended by itself: {run.unexpected_exits}")
        if undisturbed is not None:
            more, less = left - undisturbed.left, undisturbed.left - left
            violations += [f"too much: {one}" + (f" ×{n}" if n > 1 else "") for one, n in more.items()]
            violations += [f"missing: {one}" for one in less]
        log = (Path(name) / "process.log").read_text(errors="replace")[-4000:]
    seconds = time.monotonic() - began
    return Outcome(point, bool(reached), tuple(violations), left, writes, seconds, log)
