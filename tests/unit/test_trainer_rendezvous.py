"""How the fabric check's ranks find rank 0, and what it says in the end."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "trainer_image"))

from modelwright_trainer import outcome, rendezvous
from modelwright_trainer.__main__ import main


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def meeting(rank: int) -> rendezvous.Rendezvous:
    return rendezvous.Rendezvous("job-0.job", 29500, rank, 2, timeout=10)


def test_a_name_that_appears_late_is_waited_for_and_then_the_port() -> None:
    clock = Clock()

    def resolve(host: str, port: int) -> str:
        if clock.seconds < 3:
            raise socket.gaierror(-2, "Name or service not known")
        return "10.0.0.7"

    def connect(address: str, port: int) -> None:
        if clock.seconds < 6:
            raise ConnectionRefusedError(111, "Connection refused")

    found = rendezvous.await_master(meeting(1), resolve=resolve, connect=connect, now=clock.now, sleep=clock.sleep)
    assert (found, clock.seconds) == ("10.0.0.7", 6)


def test_rank_0_does_not_wait_for_itself_to_listen() -> None:
    def connect(address: str, port: int) -> None:
        raise AssertionError("rank 0 connects to nobody")

    assert rendezvous.await_master(meeting(0), resolve=lambda *_: "10.0.0.7", connect=connect) == "10.0.0.7"


@pytest.mark.parametrize(("resolves", "reason"), [(False, "MasterNotFound"), (True, "MasterNotListening")])
def test_the_wait_ends_with_what_was_missing(resolves: bool, reason: str) -> None:
    clock = Clock()

    def refuse(*_: object) -> str:
        raise OSError("no")

    with pytest.raises(outcome.Failed, match=r"rank 1: job-0\.job .* in 10 s") as failed:
        rendezvous.await_master(
            meeting(1),
            resolve=(lambda *_: "10.0.0.7") if resolves else refuse,
            connect=refuse,  # type: ignore[arg-type]
            now=clock.now,
            sleep=clock.sleep,
        )
    assert failed.value.reason == reason


def test_the_loopbacks_interface_is_found_by_its_address() -> None:
    assert rendezvous.interface_of("127.0.0.1") == "lo"
    assert rendezvous.interface_of("192.0.2.1") is None


@given(st.lists(st.text(max_size=300), max_size=400), st.text(max_size=9000))
def test_a_summary_fits_the_termination_message_and_is_json(hosts: list[str], message: str) -> None:
    text = outcome.summary({"hosts": hosts, "message": message, "worldSize": len(hosts)})
    assert len(text.encode()) <= outcome.SUMMARY_BYTES
    assert json.loads(text)["worldSize"] == len(hosts)


def test_a_short_summary_is_whole() -> None:
    assert json.loads(outcome.summary({"sum": 3, "hosts": ["a", "b"]})) == {"sum": 3, "hosts": ["a", "b"]}


@pytest.mark.parametrize(
    ("url", "place"),
    [("s3://bucket/a/b.json", ("s3", "bucket", "a/b.json")), ("file:///out/a.json", ("file", "", "/out/a.json"))],
)
def test_an_output_is_a_place_in_a_bucket_or_a_file(url: str, place: tuple[str, str, str]) -> None:
    assert outcome.output_place(url) == place


@pytest.mark.parametrize("url", ["ftp://x/y", "s3://bucket", "s3:///key", "file://host/x", "/plain", "file:///folder/"])
def test_another_output_is_refused_with_how_to_write_it(url: str) -> None:
    with pytest.raises(outcome.Failed, match="write it like s3://bucket/key or file:///path"):
        outcome.output_place(url)


def test_a_file_output_is_written_with_its_folder(tmp_path: Path) -> None:
    outcome.write_output(f"file://{tmp_path}/new/result.json", b"{}")
    assert (tmp_path / "new" / "result.json").read_bytes() == b"{}"


def test_no_command_is_a_usage_error_that_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "allreduce" in capsys.readouterr().err


def test_a_rank_outside_the_world_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["allreduce", "--master-addr", "x", "--rank", "2", "--world-size", "2"]) == 2
    assert "--rank 2: with --world-size 2 it is 0 to 1" in capsys.readouterr().err
