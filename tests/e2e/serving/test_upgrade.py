"""A blue-green upgrade on the whole cluster, while clients send all along: no request is lost."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dev.traffic import GRPC_CLIENTS, Result, table
from tests.e2e.serving.conftest import Serve, Space

# Of each client, through each upgrade; in the one of the daily run fewer, for the sake of its length.
LEAST = {1: 500, 5: 2000}


def nothing_lost(results: Mapping[str, Result]) -> None:
    print(table(results))
    for one in results.values():
        assert one.failed == 0, f"{one.client}: {dict(one.why)}"


def one_after_the_other(results: Mapping[str, Result], versions: list[str]) -> None:
    """Each worker met the versions in their order, and none after its successor: all were switched at once."""
    for one in results.values():
        for met in one.order:
            assert met == versions, f"{one.client}: {met}"


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.long)])
def test_an_upgrade_under_load_loses_no_request(space: Space, serve: Serve, times: int) -> None:
    """Keep-alive connections and a new one for each request, from pods and from the node, through every upgrade."""
    numbers = [f"1.1.{patch}" for patch in range(times)]
    for number in numbers:
        space.release(number)
    service = serve(f"upgraded-{times}")
    before = "1.0.0"
    for number in numbers:
        with service.traffic() as traffic:
            traffic.until_sent(50)
            service.point(number)
            service.until_serves(number)
            traffic.until_sent(LEAST[times])
        nothing_lost(traffic.results)
        one_after_the_other(traffic.results, [before, number])
        for one in traffic.results.values():
            assert one.sent >= LEAST[times]
        # From one moment on nobody gets the old version: the connections of old were closed after an answer.
        lasts = [one.last(before) for one in traffic.results.values()]
        firsts = [one.first(number) for one in traffic.results.values()]
        assert max(filter(None, lasts)) - min(filter(None, firsts)) < 10
        before = number


@pytest.mark.long
def test_an_upgrade_loses_no_call_of_a_grpc_channel_that_lives_on(space: Space, serve: Serve) -> None:
    """One channel for the whole life of the clients, who ask for predictions and metadata through two upgrades."""
    for number in ("1.1.0", "1.1.1"):
        space.release(number)
    service = serve("upgraded-grpc")
    with service.traffic(GRPC_CLIENTS) as traffic:
        for number in ("1.1.0", "1.1.1"):
            traffic.until_sent(50)
            service.point(number)
            service.until_serves(number)
        sent, _ = traffic.sent()
        traffic.until_sent(sent + 200)
    nothing_lost(traffic.results)
    one_after_the_other(traffic.results, ["1.0.0", "1.1.0", "1.1.1"])


@pytest.mark.long
def test_the_response_says_which_version_it_is_of_and_status_which_one_answers(space: Space, serve: Serve) -> None:
    space.release("1.1.0")
    service = serve("told")
    status = service.status
    assert status["url"] == f"http://told.{space_name(space)}.svc"
    assert status["ready"] == "2/2"
    assert status["active"]["digest"].startswith("sha256:")
    service.point("1.1.0")
    seen = service.until_serves("1.1.0")
    assert seen["previous"]["version"] == "1.0.0"
    events = space.kubectl("get", "events", "--field-selector", "involvedObject.name=told")
    for reason in ("RolloutStarted", "Switched", "AnalysisPassed", "RolloutCompleted"):
        assert reason in events


def space_name(space: Space) -> str:
    return str(space.get("inferenceservice", "told")["metadata"]["namespace"])
