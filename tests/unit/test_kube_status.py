"""The patch of a status holds what changed, and nothing where nothing did."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from modelwright.kube.status import compact, merge_patch

_LEAVES = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "x", "y"])
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner), max_leaves=8
)
_STATUS = st.dictionaries(st.sampled_from("abcd"), _VALUES)


def _apply(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _apply(merged.get(name), value)
    return merged


@given(current=_STATUS, wanted=_STATUS)
def test_the_patch_turns_one_into_the_other(current: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert compact(_apply(compact(current), merge_patch(current, wanted))) == compact(wanted)


@given(_STATUS)
def test_the_same_said_twice_is_no_patch(status: dict[str, Any]) -> None:
    assert merge_patch(status, compact(status)) == {}


def test_what_is_no_longer_said_is_taken_away() -> None:
    current = {"phase": "Running", "workers": {"ready": 1, "failed": 2}, "conditions": [1]}
    assert merge_patch(current, {"phase": "Running", "workers": {"ready": 1}, "conditions": [1, 2]}) == {
        "workers": {"failed": None},
        "conditions": [1, 2],
    }
