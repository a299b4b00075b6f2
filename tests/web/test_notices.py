"""Which events leave the process, and what they say."""

from __future__ import annotations

import json
from typing import Any

from jitsu_protocol.model.states import VmState
from jitsu_web.outbound.rules.notices import MAX_TEXT, VM_KINDS, Draft, Notice, UpWatch, drafts
from jitsu_web.rules.events import CommitEvent, DrainEvent, GoneEvent, SummonEvent, VmEvent


def vm(state: str, before: str = "off", **more: Any) -> VmEvent:
    return VmEvent({"uuid": "u-1", "name": "www", "state": state, "names": ["www.jitsu.test"], **more}, before)


def test_a_new_state_is_an_event_and_anything_else_about_a_vm_is_none() -> None:
    (draft,) = drafts(vm("failed", "booting", last_error="no kernel", address="10.0.0.7", series=[1, 2, 3]))
    assert (draft.kind, draft.key, draft.subject) == ("vm.failed", "u-1", "www")
    assert draft.data["last_error"] == "no kernel"
    assert "series" not in draft.data
    assert drafts(vm("ready", "ready")) == []
    assert drafts(vm("ready", "")) == [], "what was known before this process started is no news"
    assert drafts(DrainEvent("u-1", "www", "begun")) == []


def test_there_is_a_kind_for_every_state() -> None:
    assert set(VM_KINDS) == {f"vm.{state}" for state in VmState}


def test_what_a_vm_says_is_cut() -> None:
    (draft,) = drafts(vm("failed", "booting", last_error="x" * 10_000, names=[f"n{n}" for n in range(1000)]))
    assert len(draft.data["last_error"]) == MAX_TEXT
    assert len(draft.data["names"]) == 20


def test_a_summon_a_commit_and_a_removal_are_events() -> None:
    stages = [{"name": "summon", "at_s": 0.0}, {"name": "ready", "at_s": 1.5}]
    summon = {"vm": "u-1", "name": "www", "summon": "s1", "trigger": "dns", "outcome": "ready", "stages": stages}
    (booted,) = drafts(SummonEvent(summon))
    assert (booted.kind, booted.data["seconds"], booted.data["trigger"]) == ("vm.booted", 1.5, "dns")
    (commit,) = drafts(CommitEvent("master", "c1", "alice", "ttl 30"))
    assert (commit.kind, commit.key, commit.subject) == ("config.commit", "", "master")
    assert drafts(CommitEvent("work", "")) == []
    assert drafts(GoneEvent("u-1", "www"))[0].kind == "vm.gone"


def test_an_event_on_the_wire_is_a_cloud_event_that_keeps_its_id() -> None:
    notice = Notice("n1", 1_700_000_000.25, "vm.ready", "u-1", "www", {"name": "www"})
    body = json.loads(notice.body())
    assert body == {
        "specversion": "1.0",
        "id": "n1",
        "source": "/jitsu",
        "type": "jitsu.vm.ready",
        "time": "2023-11-14T22:13:20.250Z",
        "subject": "www",
        "datacontenttype": "application/json",
        "data": {"name": "www"},
    }
    assert notice.body() == notice.body()


def test_a_person_reads_a_sentence() -> None:
    def text(kind: str, **data: Any) -> str:
        return Notice("n", 0.0, kind, "u", "www", data).text()

    assert text("vm.failed", last_error="no kernel") == "www does not boot: no kernel"
    assert text("vm.up-long", up_s=43_205.0) == "www has been up for 12 hours"
    assert text("vm.up-long", up_s=605.0) == "www has been up for 10 minutes"
    assert text("vm.up-long", up_s=10.2) == "www has been up for 10 seconds"
    assert text("vm.booted", trigger="dns", outcome="ready", seconds=1.25) == "www was woken by dns: ready after 1.2 s"
    assert text("vm.suspended") == "www is suspended"
    assert text("vm.gone") == "www is no longer configured"
    assert text("events.lost", count=3) == "3 events were dropped, because the queue was full"
    assert text("config.commit", author="alice", message="ttl") == "alice changed www: ttl"


def test_a_vm_that_is_up_for_long_is_noticed_once_for_each_time_that_it_is_up() -> None:
    watch = UpWatch(100.0)
    watch.handle(vm("ready"), 0.0)
    watch.handle(vm("draining", "ready"), 50.0)
    watch.handle(vm("ready", "draining"), 60.0)
    assert watch.deadline() == 100.0
    assert watch.tick(99.0) == []
    data = {"uuid": "u-1", "name": "www", "up_s": 100.0, "limit_s": 100.0}
    assert watch.tick(100.0) == [Draft("vm.up-long", "u-1", "www", data)]
    assert watch.tick(1000.0) == []
    watch.handle(vm("off", "stopping"), 1000.0)
    watch.handle(vm("ready"), 1001.0)
    assert watch.deadline() == 1101.0


def test_a_vm_that_was_up_already_counts_from_when_it_started_and_one_that_is_removed_no_longer() -> None:
    watch = UpWatch(100.0)
    watch.handle(vm("ready", "", uptime_s=70.0), 1000.0)
    assert watch.deadline() == 1030.0
    watch.handle(GoneEvent("u-1", "www"), 1001.0)
    assert watch.deadline() is None
    assert watch.tick(2000.0) == []


def test_nobody_is_told_if_nobody_wants_to_know() -> None:
    watch = UpWatch(0.0)
    watch.handle(vm("ready"), 0.0)
    assert watch.deadline() is None
