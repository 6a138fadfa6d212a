"""What the Job of a stage is, and what it is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright import derivation
from modelwright.api.version_steps import Step
from modelwright.controllers.modelversion.derive_job import derivation_run, stage_job, stage_job_name
from modelwright.controllers.modelversion.derive_observed import stage_job_view
from modelwright.controllers.modelversion.derive_steps import step

from tests.unit.derived_world import DIGEST, URI, after, planned, version, view

OWNER = {"apiVersion": "v1", "kind": "ModelVersion", "name": "x", "uid": "u", "controller": True}


def pinned(source: dict[str, Any] | None = None, **spec: Any) -> Any:
    made = version(source, **spec)
    known = {name: view(name) for name in ("digits-v1-0-0", "digits-v1-1-0")}
    return after(made, planned(made, versions=known))


def told(job: dict[str, Any]) -> dict[str, str]:
    container = job["spec"]["template"]["spec"]["containers"][0]
    return {one["name"]: one["value"] for one in container["env"]}


def test_a_stage_is_told_what_was_pinned() -> None:
    job = stage_job(pinned(), 1, "registry/trainer:1", OWNER)
    run = derivation.CompressRun.model_validate_json(told(job)[derivation.DERIVATION_VARIABLE])
    assert (run.stage, [one.kind for one in run.steps]) == (1, ["prune", "cluster", "quantize"])
    assert run.parent == derivation.Origin(name="digits-v1-0-0", uri=URI, digest=DIGEST)
    assert run.publish == derivation.Target(model="digits", version="1.0.0", variant="small")
    assert run.store.uri == "s3://bucket"


def test_all_stages_of_a_version_share_a_fingerprint_and_have_names_of_their_own() -> None:
    made = pinned()
    runs = [derivation_run(made, stage) for stage in range(4)]
    assert len({run.fingerprint() for run in runs}) == 1
    names = [stage_job_name(made, stage) for stage in range(4)]
    assert len(set(names)) == 4
    assert all(len(name) <= 63 for name in names)


def test_a_job_is_restricted_and_ends_at_what_another_try_cannot_change() -> None:
    job = stage_job(pinned(), 0, "registry/trainer:1", OWNER)
    spec = job["spec"]
    pod = spec["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["containers"][0]["args"] == ["compress"]
    ignored, final = spec["podFailurePolicy"]["rules"]
    assert ignored["action"] == "Ignore"
    assert {12, 13, 16}.issubset(final["onExitCodes"]["values"])
    assert not {0, 20, 22, 24}.intersection(final["onExitCodes"]["values"])
    assert stage_job_view({**job, "metadata": {**job["metadata"], "uid": "j"}}).stage == 0


def test_resources_and_template_are_the_user_s() -> None:
    source = {
        "combine": {
            "members": [{"version": "1.0.0", "weight": "2.5"}, {"version": "1.1.0"}], "method": "Weighted", "seed": 7,
            "resources": {"requests": {"cpu": "2"}},
            "podTemplate": {"spec": {"nodeSelector": {"a": "b"}}},
        }
    }  # fmt: skip
    job = stage_job(pinned(source), 0, "registry/trainer:1", OWNER)
    pod = job["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"a": "b"}
    assert pod["containers"][0]["resources"] == {"requests": {"cpu": "2"}}
    assert pod["containers"][0]["args"] == ["combine"]
    run = derivation.CombineRun.model_validate_json(told(job)[derivation.DERIVATION_VARIABLE])
    assert [(one.name, one.weight) for one in run.members] == [("digits-v1-0-0", 2.5), ("digits-v1-1-0", 1.0)]
    assert (run.method, run.seed) == ("Weighted", 7)


def test_a_gate_is_told_with_the_version_that_it_compares_with() -> None:
    gates = [
        {"metric": "accuracy", "maxRegression": "0.01", "against": {"version": "1.1.0"}},
        {"metric": "log_loss", "max": "0.5", "maxRegression": "0.1"},
    ]
    run = derivation_run(pinned(evaluation={"split": "validation", "gates": gates}), 3)
    assert run.evaluation.split == "validation"
    against, parent = run.evaluation.gates
    assert against.against == derivation.Origin(name="digits-v1-1-0", uri=URI, digest=DIGEST)
    assert (parent.max, parent.max_regression, parent.against) == (0.5, 0.1, None)


INSIDE = st.decimals("0.000001", "0.999999", places=6).map(str)
SHARES = st.one_of(INSIDE, st.sampled_from(["0", "1"]))
FINETUNE = st.fixed_dictionaries(
    {"epochs": st.integers(1, 1000)},
    optional={"learningRate": INSIDE, "batchSize": st.integers(1, 65536), "distillation": SHARES},
)
TUNED = {"finetune": FINETUNE}
STEPS = st.one_of(
    st.fixed_dictionaries({
        "prune": st.one_of(
            st.fixed_dictionaries(
                {"sparsity": INSIDE, "granularity": st.sampled_from(["Unstructured", "Structured"]), **TUNED},
                optional={
                    "method": st.sampled_from(["Magnitude", "Gradient", "Movement"]), "rounds": st.integers(1, 100)
                },
            ),
            st.fixed_dictionaries({
                "granularity": st.just("NofM"),
                "pattern": st.tuples(st.integers(1, 98), st.integers(1, 98)).map(
                    lambda pair: f"{min(pair)}:{max(pair) + 1}"
                ),
            }),
        )
    }),
    st.fixed_dictionaries({"merge": st.fixed_dictionaries({}, optional={"threshold": INSIDE, **TUNED})}),
    st.fixed_dictionaries({"cluster": st.fixed_dictionaries({}, optional={"bits": st.integers(1, 8), **TUNED})}),
    st.fixed_dictionaries({"lowRank": st.fixed_dictionaries({}, optional={"energy": INSIDE, **TUNED})}),
    st.fixed_dictionaries({
        "distill": st.fixed_dictionaries(
            {"recipe": st.sampled_from(["mlp", "linear"])},
            optional={"temperature": INSIDE, "distillation": SHARES, "hyperparameters": st.just({"epochs": "3"})},
        )
    }),
    st.fixed_dictionaries({
        "quantize": st.fixed_dictionaries({"scheme": st.sampled_from(["Int8Dynamic", "Int8Static", "Int4Weight"])})
    }),
)  # fmt: skip


@given(STEPS)
def test_each_step_that_the_api_takes_can_be_told_and_means_the_same(stated: dict[str, Any]) -> None:
    made = step(Step.model_validate(stated))
    (kind, fields), = stated.items()  # fmt: skip
    assert made.kind == kind
    # A Job reads it from JSON, with all its bounds.
    again = derivation.Step.model_validate_json(made.to_json())
    assert again == made
    part = getattr(made, "low_rank" if kind == "lowRank" else kind)
    for name in ("sparsity", "threshold", "energy", "temperature"):
        if name in fields:
            assert getattr(part, name) == float(fields[name])
    assert not hasattr(part, "finetune") or part.finetune.epochs == fields.get("finetune", {}).get("epochs", 0)


def test_a_pattern_says_how_many_stay() -> None:
    made = step(Step.model_validate({"prune": {"granularity": "NofM", "pattern": "1:4"}})).prune
    assert made is not None
    assert (made.keep, made.of, made.sparsity) == (1, 4, 0.75)


@pytest.mark.parametrize("kind", ["prune", "merge", "cluster", "lowRank", "quantize"])
def test_a_step_s_kind_is_called_as_it_is_written(kind: str) -> None:
    given_ = {"prune": {"sparsity": "0.5"}, "quantize": {"scheme": "Int8Dynamic"}}
    assert Step.model_validate({kind: given_.get(kind, {})}).kind == kind


@pytest.mark.parametrize(
    ("stated", "bytes_", "latency"),
    [
        ({"bytes": "20Ki"}, 20480, None),
        ({"bytes": "20480", "latencyP50": "0.25ms"}, 20480, 0.25),
        ({"bytes": "2k"}, 2000, None),
        ({"latencyP50": "1ms"}, None, 1.0),
    ],
)
def test_a_target_is_told_in_bytes_and_milliseconds(
    stated: dict[str, str], bytes_: int | None, latency: float | None
) -> None:
    source = {"compress": {"from": {"version": "1.0.0"}, "target": {**stated, "maxRegression": "0.01", "epochs": 2}}}
    run = derivation_run(pinned(source), 0)
    assert isinstance(run, derivation.CompressRun)
    assert run.target is not None
    assert (run.target.bytes, run.target.latency_p50_ms) == (bytes_, latency)
    assert (run.target.max_regression, run.target.epochs, run.target.metric) == (0.01, 2, None)
    assert (run.publishes, derivation_run(pinned(source), 1).publishes) == (False, True)  # type: ignore[union-attr]
