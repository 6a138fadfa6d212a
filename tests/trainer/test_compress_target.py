"""A target in place of steps: the search finds some, or says how far it came."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from modelwright.derivation import Candidate, TargetSearch
from modelwright_trainer.compress import search
from modelwright_trainer.compress.candidates import ladders, words

from tests.trainer.compression import World, published
from tests.trainer.tables import real


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return published(tmp_path_factory.mktemp("digits"), real("digits"), "mlp", hiddenSizes="64,32", epochs="8")


def test_the_best_of_those_that_fit_is_accepted_and_published_with_its_steps(world: World, tmp_path: Path) -> None:
    target = TargetSearch(bytes=5500, max_regression=0.05, epochs=2, candidates=12)
    found = world.run(world.asked(target=target, variant="target"))
    assert found.search is not None
    assert found.after is not None
    assert found.after.bytes <= 5500
    chosen = words(found.search.chosen)
    assert found.search.chosen_words == chosen
    candidate = next(one for one in found.search.front if one.steps == chosen)
    assert (candidate.fits, candidate.bytes) == (True, found.after.bytes)
    assert candidate.regression <= 0.05
    assert candidate.figure == found.after.metrics["accuracy"]
    assert found.search.tried <= 12
    sizes = [one.bytes for one in found.search.front]
    assert sizes == sorted(sizes)

    last = world.run(world.asked(target=target, variant="target", stage=1))
    assert last.after is not None
    assert last.after.bytes == found.after.bytes
    manifest = world.fetched(last, tmp_path)
    assert manifest.lineage.derived is not None
    assert manifest.lineage.derived.steps == tuple(step.to_json() for step in found.search.chosen)
    told = json.loads((tmp_path / "compression.json").read_text())["steps"]
    assert told[0]["search"]["chosenWords"] == chosen


def test_a_search_that_is_killed_goes_on_after_what_it_has_tried(world: World) -> None:
    target = TargetSearch(bytes=9000, max_regression=0.2, epochs=1, candidates=4)
    asked = world.asked(target=target, variant="killed")
    first = world.run(asked)
    # As if it had been killed before it left anything but what it had tried.
    store, folder = world.store, asked.work_folder
    tried = store.read(f"{folder}/{search.TRIED_FILE}")
    store.remove([f"{folder}/{name}" for name in store.names(folder) if not name.endswith(search.TRIED_FILE)])
    again = world.run(asked)
    assert again.search == first.search, "to the bit, and no latency was measured anew"
    assert store.read(f"{folder}/{search.TRIED_FILE}") == tried


def test_what_nothing_reaches_is_infeasible_and_says_how_far_it_came(world: World) -> None:
    target = TargetSearch(bytes=100, max_regression=0.5, epochs=0, candidates=6)
    found = world.run(world.asked(target=target, variant="tiny"))
    assert found.outcome == "Infeasible"
    assert found.failure is not None
    assert found.search is not None
    least = min(one.bytes for one in found.search.front)
    assert found.failure.message.startswith(
        f"spec.source.compress.target: none of 6 candidates fits: the smallest has {least} bytes ("
    )
    assert found.failure.message.endswith(", and 100 are asked for: ask for less")
    assert found.search.chosen == ()


def test_what_fits_and_loses_too_much_is_a_regression(world: World) -> None:
    target = TargetSearch(bytes=3000, max_regression=0.0, epochs=0, candidates=40)
    found = world.run(world.asked(target=target, variant="lossy"))
    assert found.outcome == "Regression"
    assert found.failure is not None
    assert "of accuracy on the validation split, above maxRegression 0: raise that" in found.failure.message


def test_a_metric_that_is_none_of_the_parent_s_is_refused(world: World) -> None:
    target = TargetSearch(bytes=3000, metric="rmse", max_regression=0.0)
    with pytest.raises(Exception, match=r"target\.metric: there is no rmse of digits-v1-0-0; the metrics are accuracy"):
        world.run(world.asked(target=target, variant="strange"))


def candidate(bytes_: int, latency: float, worse: float) -> Candidate:
    return Candidate(steps=f"{bytes_} {latency}", bytes=bytes_, latency_p50_ms=latency, figure=1, regression=worse)


def test_the_front_leaves_out_what_another_is_superior_to() -> None:
    small, fast, poor, twin = candidate(1, 5, 0.1), candidate(5, 1, 0.1), candidate(5, 5, 0.2), candidate(5, 1, 0.1)
    assert search.front((poor, fast, small, twin)) == (small, fast, twin)


@pytest.mark.parametrize("asked", [{"bytes": 1}, {"latency_p50_ms": 1.0}, {"bytes": 1, "latency_p50_ms": 1.0}])
def test_no_candidate_is_tried_twice_and_quantize_comes_last(asked: dict[str, float]) -> None:
    chains = [chain for ladder in ladders(TargetSearch(**asked, max_regression=0)) for chain in ladder]  # type: ignore[arg-type]
    names = [words(chain) for chain in chains]
    assert len(set(names)) == len(names)
    assert all(step.quantize is None for chain in chains for step in chain[:-1])
