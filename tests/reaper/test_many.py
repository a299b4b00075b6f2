"""Ten thousand VMs: what an event costs, and how many are drained at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_protocol.messages import Done, Record, Report, Use, VmStatus
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.activity import Activity
from jitsu_reaper.rules.drain import RETRY_S, Action, AskDrain, AskStop
from jitsu_reaper.rules.idle import MAX_DRAINS, Policy
from jitsu_reaper.wires import server as wires
from jitsu_reaper.wires.server import ReaperServer
from jitsu_store.rules.access import record_refusal
from tests.support.process import running_process
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

MANY, READY = 10_000, 3_800


class CountingActivity(Activity):
    """Counts the VMs that are looked at."""

    looks = 0

    def last_use(self, vm: str, host: str) -> float:
        self.looks += 1
        return super().last_use(vm, host)


class Suite:
    """A policy that knows many VMs, each idle after 20 s; one replica reports."""

    def __init__(self, vms: int, ready: int, **keys: str) -> None:
        self.activity = CountingActivity(floor=0.0)
        self.policy = Policy(self.activity, drain_limit_s=3.0)
        self.policy.blind = ""
        self.vms = [make_vm(f"v{n}", f"10.0.{n // 250}.{n % 250}", ttl="10", **keys) for n in range(vms)]
        self.policy.configure([VmChanged(None, vm) for vm in self.vms])
        self._batch = 0
        states = [VmState.READY if n < ready else VmState.OFF for n in range(vms)]
        self.policy.all_states([self.status(n, state) for n, state in enumerate(states)], 0.0)
        self.report(0.0)

    def status(self, n: int, state: VmState, drain: str = "", *, wants: bool = False) -> VmStatus:
        return VmStatus(uuid=self.vms[n].uuid, name=self.vms[n].name, state=state, drain=drain, wants_room=wants)

    def report(self, now: float, *used: int, drains: tuple[str, ...] = ()) -> None:
        self._batch += 1
        uses = [Use(self.vms[n].uuid, "n", 1, 0.0) for n in used]
        report = Report(replica="a", instance="i", batch=self._batch, lease_s=300.0, uses=uses, drains=list(drains))
        self.policy.report(report, now, now)

    def tick_until(self, end: float) -> None:
        """Look each second, as a reaper does that is not held up; nothing is due."""
        for now in range(int(end)):
            self.report(float(now))
            assert self.policy.passed(float(now)) == []


def test_an_event_does_not_look_at_all_vms() -> None:
    suite = Suite(MANY, READY)
    suite.policy.passed(0.1)
    suite.activity.looks, events = 0, 200
    for n in range(events):
        now = 0.2 + n / 100
        suite.report(now, n)
        suite.policy.state(suite.status(n, VmState.READY), now)
        suite.policy.passed(now)
        suite.policy.next_deadline(now)
    assert suite.activity.looks < 10 * events, "VMs looked at"


def test_an_event_does_not_look_at_all_vms_while_one_waits_for_room() -> None:
    suite = Suite(MANY, READY, evict="true", idle_timeout="1000")
    suite.policy.state(suite.status(MANY - 1, VmState.OFF, wants=True), 0.1)
    suite.policy.passed(0.2)
    suite.activity.looks, events = 0, 200
    for n in range(events):
        now = 0.3 + n / 100
        suite.report(now, n)
        suite.policy.passed(now)
        suite.policy.next_deadline(now)
    assert suite.activity.looks < 10 * events, "VMs looked at"


def test_all_that_are_idle_are_stopped_a_bounded_number_at_a_time_and_each_once() -> None:
    suite = Suite(1000, 500)
    suite.report(5.0, 7, 8)
    suite.tick_until(20.0)
    now, stopped = 20.0, list[str]()
    while len(stopped) < 498:
        asked = [action.vm for action in suite.policy.passed(now) if isinstance(action, AskDrain)]
        assert 0 < len(asked) <= MAX_DRAINS
        for vm in asked:
            suite.policy.begun(vm, f"drain-{vm}", now)
        numbers = {vm.uuid: n for n, vm in enumerate(suite.vms)}
        for vm in asked:
            suite.policy.state(suite.status(numbers[vm], VmState.DRAINING, f"drain-{vm}"), now)
        assert suite.policy.passed(now) == [], "no more than that at once"
        now += 0.05
        suite.report(now, drains=tuple(f"drain-{vm}" for vm in asked))
        stops = [action.vm for action in suite.policy.passed(now) if isinstance(action, AskStop)]
        assert sorted(stops) == sorted(asked)
        for vm in stops:
            suite.policy.state(suite.status(numbers[vm], VmState.STOPPING), now)
            suite.policy.ended(vm, now)
        stopped += stops
    assert len(set(stopped)) == 498, "those that were used last are still up"
    assert suite.policy.next_deadline(now) == 25.0


def test_the_one_that_has_been_idle_for_longest_is_drained_first() -> None:
    suite = Suite(MAX_DRAINS + 2, MAX_DRAINS + 2)
    suite.report(1.0, 0)
    suite.policy.blind = "the store is silent"
    suite.tick_until(30.0)
    suite.policy.blind = ""
    suite.report(30.0)
    first = [action.vm for action in suite.policy.passed(30.0) if isinstance(action, AskDrain)]
    assert len(first) == MAX_DRAINS
    assert suite.vms[0].uuid not in first
    assert suite.policy.next_deadline(30.0) is None, "nothing is done until one of these is over"
    suite.policy.ended(first[0], 30.1)
    suite.policy.ended(first[1], 30.1)
    assert suite.vms[0].uuid in [action.vm for action in suite.policy.passed(30.1) if isinstance(action, AskDrain)]
    assert suite.policy.passed(30.1 + RETRY_S - 0.1) == []


def test_a_lowered_idle_timeout_counts_at_once() -> None:
    suite = Suite(3, 3)
    suite.tick_until(15.0)
    assert suite.policy.next_deadline(15.0) == 20.0
    old = suite.vms[1]
    suite.policy.configure([VmChanged(old, old.model_copy(update={"idle_timeout": 12.0}))])
    suite.report(15.0)
    assert suite.policy.passed(15.0) == [AskDrain(old.uuid)]


async def test_what_many_reports_change_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def passed(_: Policy, now: float) -> list[Action]:
        looks.append(now)
        return []

    monkeypatch.setattr(Policy, "passed", passed)
    monkeypatch.setattr(wires, "LOOK_AFTER_S", 0.0)
    async with running_process("reaper", tmp_path) as process:
        reaper = ReaperServer(process)
        reaper._policy.activity.remember("a", 300.0, 0.0)
        monkeypatch.setattr(reaper, "_register", lambda _: _nothing())
        for batch in range(300):
            assert await reaper.report(Report(replica="a", instance="i", batch=batch, lease_s=300.0)) == Done()
        assert len(looks) == 0, "not while they are read"
        async with asyncio.timeout(5):
            while not looks:
                await asyncio.sleep(0)
        assert len(looks) == 1


async def test_the_ttls_of_answers_are_saved_for_the_reaper_that_comes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = make_vm(ttl="30")
    saved: dict[str, str] = {}

    async def call(request: Record, *_: object) -> Done:
        saved.update(request.values)
        return Done()

    async def told(_: object, prefix: str) -> dict[str, str]:
        return {path: value for path, value in saved.items() if path.startswith(prefix)}

    async def follow_vms(*_: object, **__: object) -> tuple[None, None]:
        return None, None

    monkeypatch.setattr(wires, "told", told)
    monkeypatch.setattr(wires, "follow_vms", follow_vms)
    async with running_process("reaper", tmp_path) as process:
        reaper = ReaperServer(process)
        monkeypatch.setattr(reaper._store, "call", call)
        use = Use(vm.uuid, "www.jitsu.test", 1, 0.0)
        report = Report(replica="a", instance="i", batch=1, lease_s=300.0, uses=[use], ttls=[30])
        reaper._policy.report(report, 100.0, 100.0)
        await reaper._save_ttls()
        path = f"jitsu/stats/{vm.uuid}/dns/www.jitsu.test/last_ttl"
        assert saved == {path: "30"}
        assert record_refusal("reaper", saved) == "", "the store takes it"
        saved.clear()
        reaper._policy.report(report.model_copy(update={"batch": 2}), 101.0, 101.0)
        await reaper._save_ttls()
        assert saved == {}, "it has not changed"
    saved[path] = "30"
    async with running_process("reaper", tmp_path) as process:
        monkeypatch.setattr(process, "serve", lambda _: None)
        after = ReaperServer(process)
        await after.start()
        activity = after._policy.activity
        assert activity.valid_until(vm.uuid, "") == activity.floor + 30


async def _nothing() -> None:
    pass
