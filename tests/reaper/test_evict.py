"""Whom the reaper drains because another VM waits for room."""

from __future__ import annotations

import pytest

from jitsu_protocol.messages import Report, Use, VmStatus
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.drain import RETRY_S, AskDrain, AskStop, TakeBackDrain
from jitsu_reaper.rules.reporters import Obstacles
from tests.support.reaper import SteadyPolicy
from tests.support.vms import make_vm

TTL, IDLE = 10.0, 1000.0


class Host:
    """A policy that knows some VMs of 10 s TTL; one replica reports."""

    def __init__(self, **keys: dict[str, str]) -> None:
        """Each is `name=its keys`; all are ready and were used last at 0."""
        self.vms = {
            name: make_vm(name, f"127.0.2.{n + 1}", ttl="10", idle_timeout="1000", **{"evict": "true"} | extra)
            for n, (name, extra) in enumerate(keys.items())
        }
        self.policy = SteadyPolicy()
        self.policy.configure([VmChanged(None, vm) for vm in self.vms.values()])
        self._batch = 0
        for name in keys:
            self.say(name, "ready")
        self.report(0.0)

    def say(self, name: str, state: str, now: float = 0.0, drain: str = "", *, wants: bool = False) -> None:
        vm = self.vms[name]
        status = VmStatus(uuid=vm.uuid, name=name, state=VmState(state), drain=drain, wants_room=wants)
        self.policy.state(status, now)

    def report(self, now: float, *used: str, drains: tuple[str, ...] = ()) -> None:
        self._batch += 1
        uses = [Use(vm=self.vms[name].uuid, name=name, count=1, age_s=0.0) for name in used]
        self.policy.report(
            Report(replica="a", instance="i", batch=self._batch, lease_s=300, uses=uses, drains=list(drains)), now, now
        )

    def drained(self, now: float) -> list[str]:
        """Return whom the policy drains now; nothing else is wanted."""
        self.report(now)
        actions = self.policy.tick(now)
        assert all(isinstance(action, AskDrain) for action in actions)
        return [next(name for name, vm in self.vms.items() if vm.uuid == action.vm) for action in actions]


def test_who_waits_for_room_has_the_longest_idle_one_drained_once_no_answer_is_in_use() -> None:
    host = Host(a={}, b={}, c={"evict": "false"}, w={})
    host.say("w", "off")
    host.report(1.0, "a")
    assert host.drained(50.0) == [], "nobody waits"
    host.report(60.0, "a", "b", "c")
    host.report(61.0, "a")
    host.say("w", "off", 62.0, wants=True)
    assert host.drained(62.0) == []
    assert host.policy.deadline() == 60.0 + TTL, "b's answer is past its TTL then"
    assert host.drained(69.9) == []
    assert host.drained(70.0) == ["b"]
    assert host.drained(72.0) == [], "one for each that waits"


def test_what_drains_or_stops_already_is_enough() -> None:
    host = Host(a={}, b={}, w={})
    host.say("a", "draining", drain="d")
    host.say("w", "off", 50.0, wants=True)
    assert host.drained(50.0) == []
    host.say("a", "stopping")
    assert host.drained(51.0) == []
    host.say("a", "off")
    assert host.drained(52.0) == ["b"], "it was not enough: w wants more memory than a had"


def test_as_many_are_drained_as_wait() -> None:
    host = Host(a={}, b={}, c={}, w={}, x={})
    for name in ("w", "x"):
        host.say(name, "off", 50.0, wants=True)
    assert len(host.drained(50.0)) == 2


@pytest.mark.parametrize(
    ("a", "b", "w", "drained"),
    [
        ("0", "0", "0", ["a"]),
        ("1", "0", "1", ["b"]),
        ("1", "1", "0", []),
        ("2", "1", "1", ["b"]),
        ("5", "5", "5", ["a"]),
    ],
)
def test_the_least_important_goes_and_none_for_one_that_is_less_so(a: str, b: str, w: str, drained: list[str]) -> None:
    host = Host(a={"priority": a}, b={"priority": b}, w={"priority": w})
    host.report(1.0, "b")
    host.say("w", "off", 50.0, wants=True)
    assert host.drained(50.0) == drained


def test_g3_a_query_saves_one_that_drains_for_another() -> None:
    host = Host(a={}, w={})
    host.say("w", "off", 50.0, wants=True)
    assert host.drained(50.0) == ["a"]
    vm = host.vms["a"].uuid
    host.policy.begun(vm, "d", 50.0)
    host.say("a", "draining", 50.0, "d")
    host.report(50.1, "a", drains=("d",))
    assert host.policy.tick(50.1) == [TakeBackDrain(vm, "d")]
    host.say("a", "ready", 50.1)
    assert host.drained(50.1 + RETRY_S) == []
    assert host.drained(50.1 + TTL) == ["a"]
    host.policy.begun(vm, "e", 60.2)
    host.say("a", "draining", 60.2, "e")
    host.report(60.3, drains=("e",))
    assert host.policy.tick(60.3) == [AskStop(vm, "e")]


def test_a_drain_is_taken_back_when_nobody_waits_any_more() -> None:
    host = Host(a={}, w={})
    host.say("w", "off", 50.0, wants=True)
    assert host.drained(50.0) == ["a"]
    host.policy.begun(host.vms["a"].uuid, "d", 50.0)
    host.say("a", "draining", 50.0, "d")
    host.say("w", "starting", 50.1)
    assert host.policy.tick(50.1) == [TakeBackDrain(host.vms["a"].uuid, "d")]


def test_g8_who_is_not_heard_has_nothing_evicted() -> None:
    host = Host(a={}, w={})
    host.say("w", "off", 50.0, wants=True)
    host.report(50.0)
    host.policy.obstacles = Obstacles("the store is silent")
    assert host.policy.tick(50.0) == []
    host.policy.obstacles = Obstacles("", {"": "its vmd is silent"})
    assert host.policy.tick(50.0) == []
