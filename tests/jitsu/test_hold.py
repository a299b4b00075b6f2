"""`jitsu hold`: what it writes, and what it shows."""

from __future__ import annotations

from typing import Any

import pytest

from jitsu.hold import changes_for, hold_lines, until_of
from jitsu.status_lines import status_lines
from jitsu_protocol.messages import Change
from jitsu_protocol.model.errors import BadRequest
from jitsu_protocol.model.holds import ALL, KEEP_ROOT, Hold, path_of
from jitsu_protocol.vm_names import NamedVm, VmNames

KNOWN = VmNames([NamedVm("u-www", "www"), NamedVm("u-api", "api")])
ANNA = Hold(0.0, "operator:anna", "new disk")


@pytest.mark.parametrize(("duration", "until"), [("", 0.0), ("2h", 8200.0), ("90", 1090.0), ("1.5m", 1090.0)])
def test_a_hold_has_an_end_if_one_is_given(duration: str, until: float) -> None:
    assert until_of(duration, 1000.0) == until


@pytest.mark.parametrize("duration", ["soon", "-5", "0", "2 fortnights", "nan", "9999d"])
def test_what_is_not_a_duration_is_refused(duration: str) -> None:
    with pytest.raises(BadRequest, match="is not a duration; use seconds or a unit"):
        until_of(duration, 1000.0)


def test_a_hold_and_its_release_are_one_leaf() -> None:
    path = path_of("u-www")
    assert changes_for({}, KNOWN, "u-www", ANNA, 5.0) == [Change(path=path, value="0 operator:anna new disk")]
    leaves = {path: "0 operator:anna new disk"}
    assert changes_for(leaves, KNOWN, "u-www", ANNA, 5.0) == []
    assert changes_for(leaves, KNOWN, "u-www", None, 5.0) == [Change(path=path, value=None, old=leaves[path])]


def test_holds_that_are_over_or_of_no_vm_are_cleared_away_with_the_next_change() -> None:
    leaves = {path_of("u-api"): "4 operator:bert", path_of("u-gone"): "0 operator:bert", path_of("u-www"): "0 x"}
    changes = changes_for(leaves, KNOWN, ALL, ANNA, 5.0)
    assert {change.path: change.value for change in changes} == {
        path_of("u-api"): None,
        path_of("u-gone"): None,
        path_of(ALL): "0 operator:anna new disk",
    }


def test_holds_are_listed_with_who_asked_why_and_for_how_long() -> None:
    assert hold_lines({"u-www": Hold(600.0), ALL: ANNA}, {"u-www": "www"}, 0.0) == [
        "all VMs: held until it is released, by operator:anna: new disk",
        "www: held for 10 min more",
    ]


def test_status_says_that_a_vm_is_held() -> None:
    row: dict[str, Any] = {"name": "www", "state": "off", "host": "", "names": ["www.test"], "address": "192.0.2.1"}
    row |= {"uptime_s": None, "starts": 1, "queries": 1, "idle_s": None, "last_error": "", "retry_after_s": None}
    row |= {"waits_for": "", "hold": "held by operator:anna", "kept": "", "asleep": ""}
    assert status_lines([row], None)[1].endswith("held by operator:anna")
    row["last_error"] = "boot failed"
    assert status_lines([row], None)[1].endswith("held by operator:anna; boot failed")


def test_a_keep_is_a_leaf_of_its_own_that_clears_away_those_that_are_over() -> None:
    path, other = path_of("u-www", KEEP_ROOT), path_of("u-api", KEEP_ROOT)
    keep = Hold(9000.0, "operator:anna", "demo")
    changes = changes_for({other: "4 operator:bert"}, KNOWN, "u-www", keep, 5.0, KEEP_ROOT)
    assert {change.path: change.value for change in changes} == {other: None, path: "9000 operator:anna demo"}
    assert path != path_of("u-www")
    assert hold_lines({"u-www": keep}, {"u-www": "www"}, 0.0, "kept up") == [
        "www: kept up for 150 min more, by operator:anna: demo"
    ]


def test_status_says_that_a_vm_is_kept_up() -> None:
    row: dict[str, Any] = {"name": "www", "state": "ready", "host": "", "names": ["www.test"], "address": "192.0.2.1"}
    row |= {"uptime_s": 1, "starts": 1, "queries": 1, "idle_s": 900, "last_error": "", "retry_after_s": None}
    row |= {"waits_for": "", "hold": "", "kept": "kept up by operator:anna", "asleep": ""}
    assert status_lines([row], None)[1].endswith("kept up by operator:anna")
