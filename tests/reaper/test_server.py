"""The reaper's wires, in a world whose other services the test plays."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.messages import (
    Applied,
    Apply,
    CancelDrain,
    Done,
    Drain,
    Draining,
    Leaves,
    List,
    ListVms,
    Record,
    Register,
    Report,
    StopDrained,
    Use,
    VmList,
    VmStatus,
)
from jitsu_protocol.model.errors import Refused, Unavailable, UnknownKind
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import REPLICA_ROOT, STATS_ROOT, to_tree
from jitsu_reaper.main import start
from jitsu_reaper.rules.idle import Policy
from jitsu_reaper.rules.reporters import MAX_WARNINGS
from jitsu_reaper.wires import server
from jitsu_store.rules.access import record_refusal
from tests.support.odd_vms import GOOD, told_of
from tests.support.vms import make_vm
from tests.support.world import PlayedWorld, played_world, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from jitsu_protocol.messages import Message
    from jitsu_protocol.model.vm import VM
    from jitsu_reaper.rules.drain import DrainAction

WWW = make_vm(ttl="10")  # idle after 20 s
NAME = next(iter(WWW.names))
PLACE = f"{STATS_ROOT}/{WWW.uuid}/dns/{NAME}"


class OtherServices:
    """A store and a vmd with one VM that is ready."""

    def __init__(self, world: PlayedWorld) -> None:
        self.world = world
        self.tree: dict[str, str] = to_tree(WWW)
        self.status = VmStatus(uuid=WWW.uuid, name="www", state=VmState.READY)
        self.batch = 0
        world.answers |= {
            List: self.listed,
            ListVms: lambda _: VmList(vms=[self.status], epoch="e", number=0),
            Register: self.registered,
            Record: self.recorded,
            Drain: lambda _: Draining(drain="d1"),
            StopDrained: lambda _: Done(),
            CancelDrain: lambda _: Done(),
        }

    def listed(self, request: List) -> Message:
        leaves = {path: value for path, value in self.tree.items() if path.startswith(request.prefix)}
        return Leaves(leaves=leaves, commit="", epoch="e", number=0)

    def registered(self, request: Register) -> Message:
        for leaf, value in request.leaves.items():
            if value is None:
                self.tree.pop(f"{REPLICA_ROOT}/{request.replica}/{leaf}", None)
            else:
                self.tree[f"{REPLICA_ROOT}/{request.replica}/{leaf}"] = value
        return Applied(commit="", changed=len(request.leaves))

    def recorded(self, request: Record) -> Message:
        if reason := record_refusal(request.service, request.values):
            raise Refused(reason)
        self.tree |= request.values
        return Done()

    def asked(self, *kinds: type) -> list[Any]:
        """Return what vmd was asked."""
        return [request for request in self.world.peers["vmd"].asked if isinstance(request, kinds)]

    async def report(self, uses: list[Use] | None = None, **more: object) -> None:
        self.batch += 1
        report = {"replica": "r", "instance": "i", "batch": self.batch, "lease_s": 9.0, "uses": uses or [], **more}
        assert await self.world.handlers[Report](Report.model_validate(report)) == Done()  # type: ignore[misc]

    async def seconds(self, count: float, *drains: str) -> None:
        """Let time pass in which the replica reports every second."""
        for _ in range(int(count)):
            await self.report(drains=list(drains))
            await self.world.pass_time(1.0)


@asynccontextmanager
async def reaper(tree: dict[str, str] | None = None) -> AsyncIterator[OtherServices]:
    """Run a reaper."""
    async with played_world("reaper") as world:
        others = OtherServices(world)
        others.tree |= tree or {}
        await start(world)
        await settled()
        yield others


async def test_an_idle_vm_is_drained_and_stopped_once_the_replica_has_acknowledged() -> None:
    async with reaper() as others:
        await others.seconds(19)
        assert others.asked(Drain) == []
        await others.seconds(2)
        assert others.asked(Drain) == [Drain(vm=WWW.uuid)]
        assert others.asked(StopDrained) == []
        await others.seconds(1, "d1")
        assert others.asked(StopDrained) == [StopDrained(vm=WWW.uuid, drain="d1")]


async def test_g3_a_use_that_comes_with_the_acknowledgement_has_the_drain_taken_back() -> None:
    async with reaper() as others:
        await others.seconds(21)
        await others.report([Use(WWW.uuid, NAME, 1, 0.0)], drains=["d1"])
        await others.seconds(1)
        assert others.asked(CancelDrain, StopDrained) == [CancelDrain(vm=WWW.uuid, drain="d1")]


async def test_a_drain_that_vmd_refuses_is_asked_for_again_later() -> None:
    async with reaper() as others:
        others.world.answers[Drain] = refusing(Refused("somebody has just summoned it"))
        await others.seconds(24)
        assert len(others.asked(Drain)) == 1
        await others.seconds(3)
        assert len(others.asked(Drain)) == 2


async def test_a_stop_that_vmd_refuses_leaves_the_vm_to_a_later_drain() -> None:
    async with reaper() as others:
        others.world.answers[StopDrained] = refusing(Refused("a query came"))
        await others.seconds(21)
        await others.seconds(7, "d1")
        assert [type(request) for request in others.asked(Drain, StopDrained)] == [Drain, StopDrained] * 2


async def test_a_drain_is_taken_back_when_the_replica_does_not_acknowledge_even_if_vmd_is_away() -> None:
    async with reaper() as others:
        others.world.answers[CancelDrain] = refusing(Unavailable("away"))
        await others.seconds(25)
        assert len(others.asked(CancelDrain)) == 1


@pytest.mark.parametrize("feed", ["store vm", "vmd vm"])
async def test_g8_nothing_is_drained_while_the_store_or_vmd_is_not_heard(feed: str) -> None:
    async with reaper() as others:
        others.world.followed[feed].live = False
        await others.seconds(30)
        assert others.asked(Drain) == []
        assert any(note.startswith("stops nothing") for note in others.world.notes())
        others.world.followed[feed].live = True
        await others.seconds(2)
        assert others.asked(Drain) == [Drain(vm=WWW.uuid)]


async def test_g8_nothing_is_drained_before_a_replica_has_reported() -> None:
    async with reaper() as others:
        await others.world.pass_time(30.0)
        assert others.asked(Drain) == []
        assert "stops nothing: no dns replica has reported yet" in others.world.notes()


async def test_what_many_reports_change_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    look = Policy.tick

    def counted(policy: Policy, now: float) -> list[DrainAction]:
        looks.append(now)
        return look(policy, now)

    async with reaper() as others:
        await others.seconds(1)
        monkeypatch.setattr(Policy, "tick", counted)
        for _ in range(300):
            await others.report()
        assert len(looks) == 0, "not while they are read"
        others.world.time.advance(0.021)
        assert len(looks) == 1


async def test_totals_and_ttls_are_saved_for_the_reaper_that_comes_after() -> None:
    async with reaper() as others:
        await others.report([Use(WWW.uuid, NAME, 3, 0.0)], ttls=[30])
        await others.seconds(2)
        assert {leaf: others.tree[f"{PLACE}/{leaf}"] for leaf in ("total_requests", "last_ttl")} == {
            "total_requests": "3",
            "last_ttl": "30",
        }
        others.tree.pop(f"{PLACE}/last_ttl")
        await others.report([Use(WWW.uuid, NAME, 1, 0.0)], ttls=[30])
        await others.seconds(2)
        assert f"{PLACE}/last_ttl" not in others.tree, "it has not changed"
        assert others.tree[f"{PLACE}/total_requests"] == "4"
        tree = others.tree | {f"{PLACE}/last_ttl": "30"}
    async with reaper(tree) as others:
        await others.seconds(29)
        assert others.asked(Drain) == [], "an answer may still be within the TTL of 30 s"
        await others.report([Use(WWW.uuid, NAME, 1, 0.0)], ttls=[10])
        await others.seconds(2)
        assert others.tree[f"{PLACE}/total_requests"] == "5"


async def test_g9_a_name_that_the_store_refuses_keeps_no_other_from_being_saved() -> None:
    async with reaper() as others:
        uses = [Use(WWW.uuid, NAME, 3, 0.0), Use(WWW.uuid, "a/b", 1, 0.0), Use("../..", "..", 1, 0.0)]
        await others.report(uses, warnings=["x" * 1000] * 1000)
        assert others.world.on_stop is not None
        await others.world.on_stop()
        assert sum(map(len, others.world.notes())) < MAX_WARNINGS * 300
        assert others.tree[f"{PLACE}/total_requests"] == "3"


async def test_what_the_store_does_not_take_is_saved_when_it_answers_again() -> None:
    async with reaper() as others:
        record = others.world.answers.pop(Record)
        await others.report([Use(WWW.uuid, NAME, 3, 0.0)], ttls=[30])
        await others.seconds(2)
        assert f"{PLACE}/total_requests" not in others.tree
        others.world.answers[Record] = record
        await others.seconds(2)
        assert others.tree[f"{PLACE}/total_requests"] == "3"
        assert others.tree[f"{PLACE}/last_ttl"] == "30"


async def test_a_store_that_returns_is_sent_everything_again() -> None:
    async with reaper() as others:
        await others.report([Use(WWW.uuid, NAME, 3, 0.0)])
        await others.seconds(2)
        del others.tree[f"{PLACE}/total_requests"]
        await others.seconds(2)
        assert f"{PLACE}/total_requests" not in others.tree
        await others.world.followed["store vm"].snapshot()
        await others.seconds(2)
        assert others.tree[f"{PLACE}/total_requests"] == "3"


async def test_the_reaper_leaves_out_a_vm_with_which_it_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[Callable[[VM], object]] = []

    async def follow(*_: object, check: Callable[[VM], object], **__: object) -> tuple[None, None]:
        checks.append(check)
        return None, None

    monkeypatch.setattr(server, "follow_vms", follow)
    async with reaper():
        inventory, _ = told_of(checks[0], GOOD.model_copy(update={"idle_timeout": math.nan}))
    (note,) = inventory.notes(inventory.refused)
    assert note.endswith("is left out: idle_timeout: nan is not a duration; use seconds from 0 to 315360000")


async def test_a_replica_is_registered_before_its_report_is_acknowledged_and_removed_when_it_leaves() -> None:
    async with reaper() as others:
        await others.report(address="127.0.0.1:53")
        place = f"{REPLICA_ROOT}/r"
        assert {others.tree[f"{place}/lease_s"], others.tree[f"{place}/address"]} == {"9", "127.0.0.1:53"}
        await others.report(leaving=True)
        assert not any(path.startswith(place) for path in others.tree)


async def test_a_report_is_not_acknowledged_while_the_store_does_not_take_the_registration() -> None:
    async with reaper() as others:
        others.world.answers[Register] = refusing(Unavailable("away"))
        with pytest.raises(Unavailable):
            await others.report()
        assert others.world.notes()[0] == "dns replicas: none"


async def test_a_store_of_protocol_1_0_is_asked_to_apply_a_registration() -> None:
    async with reaper() as others:
        others.world.answers[Register] = refusing(UnknownKind("nobody here answers it"))
        applied: list[Apply] = []

        def apply(request: Apply) -> Applied:
            applied.append(request)
            return Applied(commit="", changed=1)

        others.world.answers[Apply] = apply
        await others.report()
        assert [change.path for change in applied[0].changes] == [
            f"{REPLICA_ROOT}/r/lease_s",
            f"{REPLICA_ROOT}/r/address",
        ]


async def test_one_that_an_earlier_reaper_knew_is_removed_when_its_lease_has_run_out() -> None:
    old = {
        f"{REPLICA_ROOT}/old/lease_s": "5",
        f"{REPLICA_ROOT}/old/service": "synjitsu",
        f"{REPLICA_ROOT}/old/host": "",
    }
    async with reaper(old) as others:
        assert "traffic: old (heard 0.0 s ago)" in others.world.notes()
        await others.seconds(4)
        register = others.world.answers.pop(Register, None)
        others.world.answers[Register] = refusing(Unavailable("away"))
        await others.seconds(3)
        assert f"{REPLICA_ROOT}/old/lease_s" in others.tree
        assert register is not None
        others.world.answers[Register] = register
        await others.seconds(2)
        assert not any(path.startswith(f"{REPLICA_ROOT}/old") for path in others.tree)


async def test_a_vm_whose_host_is_no_longer_configured_is_not_drained() -> None:
    async with reaper() as others:
        await others.seconds(10)
        others.status = others.status.model_copy(update={"host": "gone"})
        await others.world.followed["vmd vm"].snapshot()
        await others.seconds(12)
        assert others.asked(Drain) == []


async def test_a_drain_limit_that_is_reloaded_counts_for_later_drains() -> None:
    async with reaper() as others:
        others.world.on_reload(others.world.settings)
        settings = others.world.settings
        longer = settings.model_copy(update={"reaper": settings.reaper.model_copy(update={"drain_limit": 6.0})})
        others.world.on_reload(longer)
        await others.seconds(25)
        assert others.asked(CancelDrain) == []
        await others.seconds(3)
        assert len(others.asked(CancelDrain)) == 1


def refusing(error: Exception) -> Callable[[Any], Message]:
    """Return what answers with an error."""

    def answer(_: Any) -> Message:
        raise error

    return answer
