"""Which VM is idle, and how it is drained: the reaper's policy as events, a clock and actions."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu_protocol.messages import Report, Use, VmStatus
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.drain import RETRY_S, AskDrain, AskStop, DrainAction, TakeBackDrain
from jitsu_reaper.rules.events import UsageReported
from jitsu_reaper.rules.idle import MAX_DRAINS
from jitsu_reaper.rules.reporters import SILENT_S, Obstacles
from jitsu_reaper.rules.usage import Usage
from tests.support.examples import examples
from tests.support.reaper import HearingPolicy, SteadyPolicy
from tests.support.vms import make_vm

VM_WWW = make_vm(ttl="10")  # idle after 20 s
V = VM_WWW.uuid
WALL = 1_000_000.0


class Reaper:
    """A policy, and one replica that reports when a test asks it to."""

    def __init__(self) -> None:
        self.policy: HearingPolicy = SteadyPolicy()
        self.policy.configure([VmChanged(None, VM_WWW)])
        self.batch = 0
        self.say_state(VmState.READY, 0.0)

    def say_state(self, state: VmState, now: float, drain: str = "") -> None:
        self.policy.state(VmStatus(uuid=V, name="www", state=state, drain=drain), now)

    def report(
        self,
        now: float,
        *,
        used: bool = False,
        drains: tuple[str, ...] = (),
        replica: str = "dns-0",
        leaving: bool = False,
        lease: float = 300.0,
    ) -> None:
        self.batch += 1
        uses = [Use(vm=V, name="www.jitsu.test", count=1, age_s=0.0)] if used else []
        report = Report(
            replica=replica,
            instance="i",
            batch=self.batch,
            lease_s=lease,
            uses=uses,
            drains=list(drains),
            leaving=leaving,
        )
        self.policy.report(report, now, WALL + now)

    def quiet_until(self, end: float, begin: float = 0.0) -> list[tuple[float, DrainAction]]:
        """Report emptily each second and return what the policy wanted, and when."""
        wanted, now = [], begin
        while now <= end:
            self.report(now)
            wanted += [(now, action) for action in self.policy.tick(now)]
            now += 1.0
        return wanted


def test_a_vm_is_drained_when_its_idle_timeout_is_over_and_not_before() -> None:
    reaper = Reaper()
    reaper.report(5.0, used=True)
    assert reaper.policy.deadline() == 25.0
    assert reaper.quiet_until(30.0, 6.0) == [(25.0, AskDrain(V))]


def test_g3_it_stops_only_when_every_replica_acknowledges_the_drain() -> None:
    reaper = Reaper()
    reaper.quiet_until(19.0)
    reaper.report(19.5, replica="dns-1")
    assert reaper.policy.tick(20.0) == [AskDrain(V)]
    reaper.policy.begun(V, "d", 20.0)
    reaper.say_state(VmState.DRAINING, 20.0, "d")
    reaper.report(20.1, drains=("d",))
    assert reaper.policy.tick(20.1) == []
    reaper.report(20.2, replica="dns-2")  # one more appears meanwhile
    reaper.report(20.3, drains=("d",), replica="dns-1")
    assert reaper.policy.tick(20.3) == []
    reaper.report(20.4, drains=("d",), replica="dns-2")
    assert reaper.policy.tick(20.4) == [AskStop(V, "d")]
    assert reaper.policy.tick(20.5) == []


def test_g3_activity_that_comes_with_the_acknowledgement_saves_the_vm() -> None:
    reaper = Reaper()
    reaper.quiet_until(20.0)
    reaper.policy.begun(V, "d", 20.0)
    reaper.say_state(VmState.DRAINING, 20.0, "d")
    reaper.report(20.1, used=True, drains=("d",))
    assert reaper.policy.tick(20.1) == [TakeBackDrain(V, "d")]
    reaper.say_state(VmState.READY, 20.2)
    assert reaper.policy.deadline() == 40.1


def test_a_query_that_saved_the_vm_at_vmd_ends_the_drain() -> None:
    reaper = Reaper()
    reaper.quiet_until(20.0)
    reaper.policy.begun(V, "d", 20.0)
    reaper.say_state(VmState.DRAINING, 20.0, "d")
    reaper.say_state(VmState.READY, 20.1)
    reaper.report(20.2, drains=("d",))
    assert AskStop(V, "d") not in reaper.policy.tick(20.2)


def test_g8_a_replica_that_does_not_acknowledge_keeps_the_vm_running() -> None:
    reaper = Reaper()
    reaper.quiet_until(20.0)
    reaper.policy.begun(V, "d", 20.0)
    reaper.say_state(VmState.DRAINING, 20.0, "d")
    assert reaper.policy.tick(22.9) == []
    assert reaper.policy.tick(23.0) == [TakeBackDrain(V, "d")]
    reaper.say_state(VmState.READY, 23.0)
    assert reaper.policy.deadline() == 23.0 + RETRY_S


def test_g3_a_silent_replica_counts_as_use_until_its_lease_and_its_ttl_are_over() -> None:
    reaper = Reaper()
    reaper.report(0.0, replica="lost", lease=50.0)
    wanted = reaper.quiet_until(100.0)
    assert wanted == [(70.0, AskDrain(V))]  # lease of 50 s, then the idle timeout of 20 s
    assert reaper.policy.usage.reporters.silent(30.0) == {}


def test_g3_what_a_replica_answered_in_its_last_second_counts_when_it_is_back() -> None:
    reaper = Reaper()
    reaper.quiet_until(15.0)
    back = Report(replica="dns-0", instance="another", batch=1, lease_s=300.0, uses=[], drains=[])
    reaper.policy.report(back, 16.0, WALL)
    assert reaper.policy.deadline() == 36.0, "as if it was used when the replica came back"


def test_replicas_whose_lease_ran_out_are_gone_and_hold_nothing_up() -> None:
    reaper = Reaper()
    reaper.report(0.0, replica="lost", lease=10.0)
    assert reaper.quiet_until(35.0) == [(30.0, AskDrain(V))]
    assert reaper.policy.gone == ["lost"]
    assert list(reaper.policy.usage.reporters.known) == ["dns-0"]


@pytest.mark.parametrize("away", [2.5, 500.0])
def test_g3_a_reaper_that_was_held_up_listens_before_it_judges(away: float) -> None:
    """It was stopped during a drain; the replica has answered in the meantime, and its report waits to be read."""
    reaper = Reaper()
    reaper.policy = held_up = HearingPolicy()
    held_up.configure([VmChanged(None, VM_WWW)])
    reaper.say_state(VmState.READY, 0.0)
    assert reaper.quiet_until(20.0) == [(20.0, AskDrain(V))]
    held_up.begun(V, "d", 20.0)
    reaper.report(20.1, drains=("d",))
    reaper.say_state(VmState.DRAINING, 20.1, "d")
    now = 20.1 + away
    assert held_up.tick(now) == [TakeBackDrain(V, "d")], "who was heard before may have answered since"
    assert list(held_up.usage.reporters.known) == ["dns-0"], "nor is it gone, lease or not: nobody listened"
    reaper.say_state(VmState.READY, now)
    reaper.report(now + 0.1, used=True)
    assert reaper.quiet_until(now + 25.0, now + 1.0) == [(now + 21.0, AskDrain(V))]


def test_a_replica_that_left_is_not_waited_for() -> None:
    reaper = Reaper()
    reaper.report(0.0, replica="other")
    reaper.report(1.0, replica="other", leaving=True)
    assert reaper.quiet_until(25.0, 2.0)[0] == (20.0, AskDrain(V))


def test_g8_without_any_replica_or_while_blind_nothing_is_stopped() -> None:
    reaper = Reaper()
    assert reaper.policy.tick(1000.0) == []
    reaper.report(1000.0)
    reaper.policy.obstacles = Obstacles("vmd is silent")
    assert reaper.policy.tick(2000.0) == []
    assert reaper.policy.deadline() is None


def test_g8_a_reaper_that_returns_counts_everything_as_used_when_it_came() -> None:
    usage = Usage(floor=500.0)
    usage.reporters.remember("dns-0", 300.0, 500.0)
    assert usage.reporters.silent(500.0 + SILENT_S).keys() == {"dns-0"}
    last_uses = {}
    for now in range(501, 1000):
        gone = [each.name for each in usage.tick(now)]
        assert gone == (["dns-0"] if now == 800 else [])
        last_uses[now] = usage.last_use("any", "")
    assert [last_uses[now] for now in (501, 600, 799, 800, 999)] == [500.0, 600.0, 799.0, 800.0, 800.0]


def test_a_batch_that_comes_twice_is_counted_once() -> None:
    usage = Usage(floor=0.0)
    report = Report(replica="r", instance="i", batch=1, lease_s=1, uses=[Use(vm=V, name="n", count=3, age_s=2.0)])
    for now in (10.0, 11.0):
        usage.handle(UsageReported(report, WALL + now), now)
    assert usage.statistics.totals[V, "n"].requests == 3
    assert usage.statistics.totals[V, "n"].last_ts == WALL + 8.0
    usage.handle(UsageReported(report.model_copy(update={"instance": "j"}), WALL), 12.0)
    assert usage.statistics.totals[V, "n"].requests == 6


def test_a_vm_started_by_hand_or_found_running_gets_its_time_too() -> None:
    reaper = Reaper()
    reaper.say_state(VmState.OFF, 0.0)
    reaper.quiet_until(100.0)
    reaper.say_state(VmState.READY, 100.0)
    assert reaper.policy.deadline() == 120.0


@settings(max_examples=examples(600))
@given(st.integers(0, 2**32), st.booleans())
def test_g3_no_stop_within_the_ttl_of_any_answer_whatever_is_lost(seed: int, is_evicted: bool) -> None:
    """Two replicas that lose reports, see drains late, die and come back; a stop is approved when no TTL runs.

    The TTL is changed now and then, and each replica hears of that when it does.
    """
    chance = random.Random(seed)
    reaper = Reaper()
    configured = VM_WWW
    ttls, given = {"a": 10, "b": 10}, {"a": 0, "b": 0}
    if is_evicted:
        other = make_vm("other", "127.0.1.2")
        configured = make_vm(ttl="10", evict="true")
        reaper.policy.configure([VmChanged(VM_WWW, configured), VmChanged(None, other)])
        reaper.policy.state(VmStatus(uuid=other.uuid, name="other", state=VmState.OFF, wants_room=True), 0.0)
    now, drain, batches = 0.0, "", {"a": 0, "b": 0}
    honours: dict[str, str] = {"a": "", "b": ""}
    unreported: dict[str, float | None] = {"a": None, "b": None}
    lease, dead, starts = 15.0, set[str](), {"a": 0, "b": 0}
    heard, valid_until = {"a": -lease, "b": -lease}, -100.0
    for _ in range(400):
        now += 0.25
        if chance.random() < 0.01:
            keys = {"evict": "true"} if is_evicted else {}
            before, configured = configured, make_vm(ttl=chance.choice(["1", "10", "20"]), **keys)
            reaper.policy.configure([VmChanged(before, configured)])
        for name in ("a", "b"):
            if drain and chance.random() < 0.3:
                honours[name] = drain
            if chance.random() < 0.1:
                ttls[name] = configured.ttl
            if name not in dead and chance.random() < 0.02 and not honours[name] and now < heard[name] + lease:
                unreported[name] = now  # a warm answer
                valid_until, given[name] = max(valid_until, now + ttls[name]), max(given[name], ttls[name])
            if chance.random() < 0.004:
                dead ^= {name}
                starts[name] += 1
                unreported[name], heard[name], honours[name] = None, -lease, ""  # cold until a report is acknowledged
            if name not in dead and chance.random() < 0.5:
                batches[name] += 1
                used_at = unreported[name]
                uses = [] if used_at is None else [Use(vm=V, name="n", count=1, age_s=now - used_at)]
                report = Report(
                    replica=name,
                    instance=f"i{starts[name] // 2}",
                    batch=1000 + batches[name],
                    lease_s=lease,
                    uses=uses,
                    ttls=[given[name]] * len(uses),
                    drains=[honours[name]] if honours[name] else [],
                )
                reaper.policy.report(report, now, WALL)
                unreported[name], heard[name], given[name] = None, now, 0
        for action in reaper.policy.tick(now):
            match action:
                case AskDrain():
                    drain = f"d{now}"
                    reaper.policy.begun(V, drain, now)
                    reaper.say_state(VmState.DRAINING, now, drain)
                case TakeBackDrain():
                    drain = ""
                    honours = {"a": "", "b": ""}
                    reaper.say_state(VmState.READY, now)
                case AskStop():
                    assert now >= valid_until
                    return


def answers(batch: int, age: float, *ttls: int) -> Report:
    """Return a report of one answer; without a TTL it is that of a replica of protocol 1.1."""
    uses = [Use(vm=V, name="www.jitsu.test", count=1, age_s=age)]
    return Report(replica="dns-0", instance="i", batch=batch, lease_s=300.0, uses=uses, ttls=list(ttls))


LONG, SHORT = make_vm(ttl="30"), make_vm(ttl="1")
"""Idle after 60 s, and after 2 s."""


@pytest.mark.parametrize("ttls", [(30,), ()], ids=["told", "not told, by protocol 1.1"])
@pytest.mark.parametrize("is_evicted", [False, True])
def test_g3_an_answer_is_waited_for_with_the_ttl_that_it_had(ttls: tuple[int, ...], is_evicted: bool) -> None:
    reaper = Reaper()
    long, short = LONG, SHORT
    if is_evicted:
        other = make_vm("other", "127.0.1.2")
        long, short = (make_vm(ttl=ttl, evict="true", idle_timeout="1000") for ttl in ("30", "1"))
        reaper.policy.configure([VmChanged(None, other)])
        reaper.policy.state(VmStatus(uuid=other.uuid, name="other", state=VmState.OFF, wants_room=True), 0.0)
    reaper.policy.configure([VmChanged(VM_WWW, long)])
    reaper.policy.report(answers(1, 0.0, *ttls), 100.0, WALL)
    reaper.batch = 1
    reaper.policy.configure([VmChanged(long, short)])
    assert reaper.quiet_until(140.0, 101.0) == [(130.0, AskDrain(V))]


def test_g3_a_replica_that_has_not_heard_of_the_lower_ttl_is_believed() -> None:
    reaper = Reaper()
    reaper.policy.configure([VmChanged(VM_WWW, LONG)])
    reaper.policy.configure([VmChanged(LONG, SHORT)])
    reaper.policy.report(answers(1, 0.5, 30), 100.0, WALL)
    reaper.batch = 1
    assert reaper.quiet_until(140.0, 100.0) == [(130.0, AskDrain(V))]


def test_g3_a_replica_that_was_lost_may_have_given_the_ttl_of_before() -> None:
    reaper = Reaper()
    reaper.policy.configure([VmChanged(VM_WWW, LONG)])
    reaper.report(1.0, replica="lost", lease=50.0)
    reaper.policy.configure([VmChanged(LONG, SHORT)])
    assert reaper.quiet_until(100.0, 2.0) == [(81.0, AskDrain(V))], "its lease of 50 s, and a TTL of 30 s"


def test_g3_a_reaper_that_returns_knows_the_ttl_that_was_given_out() -> None:
    usage = Usage(floor=500.0)
    usage.answered_before({(V, "www.jitsu.test"): 30})
    policy = SteadyPolicy(usage)
    policy.configure([VmChanged(None, SHORT)])
    policy.state(VmStatus(uuid=V, name="www", state=VmState.READY), 500.0)
    policy.report(Report(replica="a", instance="i", batch=1, lease_s=300.0), 500.0, WALL)
    assert policy.deadline() == 530.0


def test_g8_nothing_is_stopped_on_a_host_whose_vmd_is_not_heard() -> None:
    reaper = Reaper()
    reaper.report(99.0)
    reaper.policy.obstacles = Obstacles("", {"": "silent"})
    assert reaper.policy.tick(100.0) == []
    reaper.policy.obstacles = Obstacles("", {"beta": "silent"})
    assert reaper.policy.tick(100.0) == [AskDrain(V)]
    reaper.policy.begun(V, "d", 100.0)
    reaper.say_state(VmState.DRAINING, 100.0, "d")
    reaper.policy.obstacles = Obstacles("", {"": "silent"})
    assert [type(action) for action in reaper.policy.tick(100.1)] == [TakeBackDrain]


def synjitsu(now_batch: int, *, host: str = "", age: float | None = None, drains: tuple[str, ...] = ()) -> Report:
    uses = [] if age is None else [Use(vm=V, name="", count=0, age_s=age)]
    return Report(
        replica="synjitsu",
        service="synjitsu",
        host=host,
        instance="s",
        batch=now_batch,
        lease_s=100.0,
        uses=uses,
        drains=list(drains),
    )


def test_g3_traffic_is_use_and_no_query() -> None:
    reaper = Reaper()
    reaper.report(15.5)
    reaper.policy.report(synjitsu(1, age=1.0), 16.0, WALL)
    assert reaper.policy.deadline() == 35.0
    assert reaper.policy.usage.statistics.totals == {}


def test_g8_traffic_alone_says_nothing_of_queries() -> None:
    policy = SteadyPolicy()
    policy.report(synjitsu(1), 1.0, WALL)
    assert not policy.usage.reporters.informed
    policy.usage.reporters.remember("synjitsu", 100.0, 1.0, "synjitsu", "")
    assert not policy.usage.reporters.informed


def test_g3_synjitsu_acknowledges_drains_of_its_own_host_only() -> None:
    for host, stops in (("", False), ("other", True)):
        reaper = Reaper()
        reaper.policy.report(synjitsu(1, host=host), 19.0, WALL)
        reaper.report(19.5)
        assert reaper.policy.tick(20.0) == [AskDrain(V)]
        reaper.policy.begun(V, "d", 20.0)
        reaper.report(20.5, drains=("d",))
        reaper.say_state(VmState.DRAINING, 20.5, "d")
        assert bool(reaper.policy.tick(20.5)) is stops
        reaper.policy.report(synjitsu(2, host=host, drains=("d",)), 20.6, WALL)
        assert bool(reaper.policy.tick(20.6)) is not stops


def test_g3_while_synjitsu_is_silent_somebody_may_be_connected() -> None:
    for host, wanted in (("", 120.0), ("other", 20.0)):
        reaper = Reaper()
        reaper.policy.report(synjitsu(1, host=host), 0.0, WALL)
        assert reaper.quiet_until(130.0) == [(wanted, AskDrain(V))]


def test_a_drain_ends_when_the_snapshot_of_its_host_no_longer_has_the_vm() -> None:
    reaper = Reaper()
    reaper.report(0.0)
    assert reaper.quiet_until(25.0, 1.0)[-1][1] == AskDrain(V)
    reaper.policy.begun(V, "d1", 25.0)
    reaper.policy.all_states([], 26.0)
    assert [action for _, action in reaper.quiet_until(40.0, 26.0)] == []
    reaper.policy.ended(V, 40.0)
    others = [make_vm(f"v{n}", f"10.1.0.{n}", ttl="10") for n in range(MAX_DRAINS)]
    reaper.policy.configure([VmChanged(None, vm) for vm in others])
    ready = [VmStatus(uuid=vm.uuid, name=vm.name, state=VmState.READY) for vm in others]
    reaper.policy.all_states(ready, 41.0)
    asked = {action for _, action in reaper.quiet_until(80.0, 41.0)}
    assert asked == {AskDrain(vm.uuid) for vm in others}, "a drain that is not counted off is never free"


@pytest.mark.parametrize("order", [{"hold": "held by operator:anna"}, {"kept": "kept up by operator:anna"}])
def test_a_vm_that_is_held_or_kept_up_is_not_drained_however_long_it_is_idle(order: dict[str, str]) -> None:
    reaper = Reaper()
    reaper.report(0.1, used=True)
    reaper.policy.state(VmStatus(uuid=V, name="www", state=VmState.READY, **order), 1.0)
    for second in range(2, 200):
        reaper.report(float(second))
        assert reaper.policy.tick(float(second)) == []
    reaper.say_state(VmState.READY, 200.0)
    assert AskDrain(V) in reaper.policy.tick(200.1)


def test_a_vm_that_is_held_does_not_give_way() -> None:
    reaper = Reaper()
    evicted = make_vm(ttl="10", evict="true")
    reaper.policy.configure([VmChanged(VM_WWW, evicted)])
    reaper.say_state(VmState.READY, 1.0)
    assert reaper.policy.vms.evictable_at(V) is not None
    reaper.policy.state(VmStatus(uuid=V, name="www", state=VmState.READY, hold="held"), 2.0)
    assert reaper.policy.vms.evictable_at(V) is None


def test_a_vm_that_is_kept_up_still_gives_way() -> None:
    reaper = Reaper()
    reaper.policy.configure([VmChanged(VM_WWW, make_vm(ttl="10", evict="true"))])
    reaper.policy.state(VmStatus(uuid=V, name="www", state=VmState.READY, kept="kept up"), 2.0)
    assert reaper.policy.vms.evictable_at(V) is not None
    assert reaper.policy.vms.idle_at(V) == float("inf"), "its drain for room is not taken for one of idleness"
