"""What is shown of a change before it is made, and when somebody has to agree to it."""

from __future__ import annotations

import pytest

from jitsu.consent import after
from jitsu.summary import ChangedVm, RemovedVm, Summary, consent, question, summarize, summary_lines
from jitsu_protocol.changes import changes_for, expectations
from jitsu_protocol.messages import Change
from jitsu_protocol.model.vm import to_tree
from tests.support.vms import make_vm

WWW = make_vm("www", "10.0.0.1")
WIKI = make_vm("wiki", "10.0.0.2")
API = make_vm("api", "10.0.0.3")
BOTH = to_tree(WWW) | to_tree(WIKI)


@pytest.mark.parametrize(
    ("vms", "states", "lines"),
    [
        ([WWW, WIKI], {}, []),
        ([WWW, WIKI, API], {}, ["added    api"]),
        ([WWW], {WIKI.uuid: "off"}, ["removed  wiki"]),
        ([WWW], {WIKI.uuid: "failed"}, ["removed  wiki"]),
        ([WWW], {WIKI.uuid: "ready"}, ["REMOVED  wiki: is ready and will be stopped"]),
        ([WWW], {WIKI.uuid: "suspended"}, ["removed  wiki: what is suspended of it stays"]),
        ([WWW], {WIKI.uuid: None}, ["REMOVED  wiki: is stopped if it runs: its vmd does not answer"]),
        ([], {WWW.uuid: "booting"}, ["removed  wiki", "REMOVED  www: is booting and will be stopped"]),
        ([make_vm("www", "10.0.0.1", ttl="30"), WIKI], {}, ["changed  www: ttl 60 -> 30"]),
        (
            [make_vm("www", "10.0.0.9", memory="131072", stop_mode="pause"), WIKI],
            {WWW.uuid: "ready"},
            [
                "changed  www (ready): ip 10.0.0.1 -> 10.0.0.9; memory 65536 -> 131072; stop_mode destroy -> pause;"
                " it is stopped for",
                "         that",
            ],
        ),
        (
            [make_vm("www", "10.0.0.1", dns="new.test"), WIKI],
            {},
            ["changed  www: dns +new.test; dns -www.jitsu.test"],
        ),
    ],
)
def test_a_change_is_shown_by_name(vms: list, states: dict[str, str | None], lines: list[str]) -> None:  # type: ignore[type-arg]
    changes = changes_for(vms, BOTH, exact=True)
    summary = summarize(BOTH, after(BOTH, changes), states)
    assert summary_lines(summary, 120) == lines
    assert bool(summary) == bool(lines)


def test_a_summary_fits_the_terminal_and_does_not_hide_what_is_dangerous_above_it() -> None:
    many = tuple(f"n{number}" for number in range(1000))
    long = ChangedVm("www", tuple(f"key{n} a -> b" for n in range(30)))
    summary = Summary(many, (long,), (RemovedVm("api", "off"), RemovedVm("wiki", "ready\x1b[8m")), other=2)
    lines = summary_lines(summary, 80)
    assert max(map(len, lines)) <= 80
    assert len(lines) < 60
    assert lines[40] == "added    960 more"
    assert lines[-1] == "REMOVED  wiki: is ready\\x1b[8m and will be stopped"
    assert "changed  2 values outside of VMs" in lines


REMOVES = Summary(removed=(RemovedVm("www", "ready"), RemovedVm("api", "off")))
ADDS = Summary(added=("www",))


@pytest.mark.parametrize(
    ("summary", "yes", "is_terminal", "is_running_branch", "given"),
    [
        (REMOVES, False, False, True, "refused"),
        (REMOVES, False, True, True, "ask"),
        (REMOVES, True, False, True, "given"),
        (REMOVES, True, True, True, "given"),
        (REMOVES, False, False, False, "given"),
        (ADDS, False, False, True, "given"),
        (ADDS, False, True, True, "ask"),
        (Summary(), False, True, True, "given"),
        (Summary(), False, False, True, "given"),
    ],
)
def test_who_removes_vms_from_what_runs_has_to_say_so(
    summary: Summary, yes: bool, is_terminal: bool, is_running_branch: bool, given: str
) -> None:
    assert consent(summary, yes=yes, is_terminal=is_terminal, is_running_branch=is_running_branch) == given


def test_the_question_says_how_many_are_removed_and_stopped() -> None:
    assert question(REMOVES) == "Remove 2 VMs, and stop 1 of them now?"
    assert question(Summary(removed=(RemovedVm("api", "off"),))) == "Remove 1 VM?"
    assert question(ADDS) == "Make this change?"


def test_a_change_depends_only_on_what_it_was_made_from() -> None:
    changes = changes_for([make_vm("www", "10.0.0.1", ttl="30"), API], BOTH)
    expected = expectations(changes)
    assert expected[f"jitsu/vm/{WWW.uuid}/dns/www.jitsu.test/ttl"] == "60"
    assert expected[f"jitsu/vm/{API.uuid}/ip"] is None
    assert all(path.startswith("jitsu/vm/") for path in expected)
    assert expectations([Change(path="jitsu/dns/changed", value="x")]) == {}
