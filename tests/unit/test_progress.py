"""Progress and failures, as a person reads them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devcluster.progress import Durations, Hopeless, StepFailed, Steps, human, run, telling_line, wait_for


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("Reading lists\nE: Unable to locate package x\nDone", "E: Unable to locate package x"),
        ("Traceback\n  File x\nValueError: no\n", "ValueError: no"),
        (
            "W1 warn\nlisten tcp :5000: bind: address already in use\nbye",
            "listen tcp :5000: bind: address already in use",
        ),
        ("first\nlast\n\n", "last"),
        ("", "(it printed nothing)"),
        ("Error: a\nfailed b", "Error: a"),
    ],
)
def test_the_line_that_matters_is_told(output: str, line: str) -> None:
    assert telling_line(output) == line


@given(st.text())
def test_some_line_is_always_told(output: str) -> None:
    assert telling_line(output)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert human(seconds) == text


def test_the_usual_duration_is_the_median_of_the_last_runs(tmp_path: Path) -> None:
    durations = Durations(tmp_path / "d.json")
    assert durations.usual("x") is None
    for seconds in (100, 100, 1, 2, 30, 4, 5):
        durations.record("x", seconds)
    assert durations.usual("x") == 4
    assert json.loads((tmp_path / "d.json").read_text()) == {"x": [1, 2, 30, 4, 5]}


def test_damaged_durations_cost_nothing(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text("[1")
    durations = Durations(tmp_path / "d.json")
    durations.record("x", 1)
    assert durations.usual("x") == 1


def test_a_failed_step_is_not_remembered(tmp_path: Path) -> None:
    steps = Steps(durations=Durations(tmp_path / "d.json"), quiet=True)
    with pytest.raises(StepFailed), steps.step("x"):
        raise StepFailed("no")
    assert steps.durations.usual("x") is None


def test_a_failed_command_tells_its_line_and_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log" / "x.log"
    script = "import sys; print('fine'); print('error: no such thing', file=sys.stderr); sys.exit(3)"
    with pytest.raises(StepFailed) as failure:
        run([sys.executable, "-c", script], log=log, remedy="try again")
    assert "failed (3): error: no such thing" in failure.value.reason
    assert str(failure.value).splitlines()[1:] == ["  to do: try again", f"  log:   {log}"]
    assert "fine\n" in log.read_text()


def test_a_missing_command_is_named() -> None:
    with pytest.raises(StepFailed, match="no-such-command: no such command"):
        run(["no-such-command"])


def test_a_command_that_hangs_is_ended() -> None:
    with pytest.raises(StepFailed, match=r"did not end within 0\.3 s"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.3)


def test_waiting_tells_why_it_is_not_yet() -> None:
    def check() -> bool:
        raise OSError("connection refused")

    with pytest.raises(StepFailed, match=r"the server: not within 0\.1 s \(connection refused\)"):
        wait_for("the server", check, seconds=0.1, every=0.01)


def test_waiting_ends_at_once_where_there_is_no_hope() -> None:
    calls = []

    def check() -> bool:
        calls.append(1)
        raise Hopeless("it died")

    with pytest.raises(Hopeless, match="it died"):
        wait_for("the server", check, seconds=60)
    assert len(calls) == 1
