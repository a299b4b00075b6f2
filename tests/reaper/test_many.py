"""Many VMs: what an event costs, and how many are drained at once."""

from __future__ import annotations

from jitsu_protocol.messages import Report, Use, VmStatus
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.drain import RETRY_S, AskDrain, AskStop
from jitsu_reaper.rules.idle import MAX_DRAINS
from jitsu_reaper.rules.reporters import Obstacles
from jitsu_reaper.rules.usage import Usage
from tests.support.reaper import HearingPolicy
from tests.support.vms import make_vm

MANY, READY = 2_000, 760


class CountingUsage(Usage):
    """Counts the VMs that are looked at."""

    looks = 0

    def last_use(self, vm: str, host: str) -> float:
        self.looks += 1
        return super().last_use(vm, host)


class Suite:
    """A policy that knows many VMs, each idle after 20 s; one replica reports."""

    def __init__(self, vms: int, ready: int, **keys: str) -> None:
        self.usage = CountingUsage(floor=0.0)
        self.policy = HearingPolicy(self.usage)
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
        """Look each second, as a reaper does that is not suspended; nothing is due."""
        for now in range(int(end)):
            self.report(float(now))
            assert self.policy.tick(float(now)) == []


def test_an_event_does_not_look_at_all_vms() -> None:
    suite = Suite(MANY, READY)
    suite.policy.tick(0.1)
    suite.usage.looks, events = 0, 200
    for n in range(events):
        now = 0.2 + n / 100
        suite.report(now, n)
        suite.policy.state(suite.status(n, VmState.READY), now)
        suite.policy.tick(now)
        suite.policy.deadline()
    assert suite.usage.looks < 10 * events, "VMs looked at"


def test_an_event_does_not_look_at_all_vms_while_one_waits_for_room() -> None:
    suite = Suite(MANY, READY, evict="true", idle_timeout="1000")
    suite.policy.state(suite.status(MANY - 1, VmState.OFF, wants=True), 0.1)
    suite.policy.tick(0.2)
    suite.usage.looks, events = 0, 200
    for n in range(events):
        now = 0.3 + n / 100
        suite.report(now, n)
        suite.policy.tick(now)
        suite.policy.deadline()
    assert suite.usage.looks < 10 * events, "VMs looked at"


def test_all_that_are_idle_are_stopped_a_bounded_number_at_a_time_and_each_once() -> None:
    suite = Suite(1000, 500)
    suite.report(5.0, 7, 8)
    suite.tick_until(20.0)
    now, stopped = 20.0, list[str]()
    while len(stopped) < 498:
        asked = [action.vm for action in suite.policy.tick(now) if isinstance(action, AskDrain)]
        assert 0 < len(asked) <= MAX_DRAINS
        for vm in asked:
            suite.policy.begun(vm, f"drain-{vm}", now)
        numbers = {vm.uuid: n for n, vm in enumerate(suite.vms)}
        for vm in asked:
            suite.policy.state(suite.status(numbers[vm], VmState.DRAINING, f"drain-{vm}"), now)
        assert suite.policy.tick(now) == [], "no more than that at once"
        now += 0.05
        suite.report(now, drains=tuple(f"drain-{vm}" for vm in asked))
        stops = [action.vm for action in suite.policy.tick(now) if isinstance(action, AskStop)]
        assert sorted(stops) == sorted(asked)
        for vm in stops:
            suite.policy.state(suite.status(numbers[vm], VmState.STOPPING), now)
            suite.policy.ended(vm, now)
        stopped += stops
    assert len(set(stopped)) == 498, "those that were used last are still up"
    assert suite.policy.deadline() == 25.0


def test_the_one_that_has_been_idle_for_longest_is_drained_first() -> None:
    suite = Suite(MAX_DRAINS + 2, MAX_DRAINS + 2)
    suite.report(1.0, 0)
    suite.policy.obstacles = Obstacles("the store is silent")
    suite.tick_until(30.0)
    suite.policy.obstacles = Obstacles()
    suite.report(30.0)
    first = [action.vm for action in suite.policy.tick(30.0) if isinstance(action, AskDrain)]
    assert len(first) == MAX_DRAINS
    assert suite.vms[0].uuid not in first
    assert suite.policy.deadline() is None, "nothing is done until one of these is over"
    suite.policy.ended(first[0], 30.1)
    suite.policy.ended(first[1], 30.1)
    assert suite.vms[0].uuid in [action.vm for action in suite.policy.tick(30.1) if isinstance(action, AskDrain)]
    assert suite.policy.tick(30.1 + RETRY_S - 0.1) == []


def test_a_lowered_idle_timeout_counts_at_once() -> None:
    suite = Suite(3, 3)
    suite.tick_until(15.0)
    assert suite.policy.deadline() == 20.0
    old = suite.vms[1]
    suite.policy.configure([VmChanged(old, old.model_copy(update={"idle_timeout": 12.0}))])
    suite.report(15.0)
    assert suite.policy.tick(15.0) == [AskDrain(old.uuid)]
