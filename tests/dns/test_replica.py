"""A replica as a whole, without sockets, bus and real time: what it does with what comes, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.messages import Done, Report, Summon, Summoned
from jitsu_protocol.model.states import VmState
from tests.support.dns_world import serving, settled
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

WWW = make_vm(ttl="10")


async def test_a_cold_query_is_answered_when_vmd_has_summoned_the_vm(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        assert made.world.is_ready
        made.ask("www.jitsu.test")
        assert made.answered() == []
        summon = await made.world.hosts[""].answer(Summoned())
        assert summon == Summon(vm=WWW.uuid, ttl=10)
        (answer,) = made.answered()
        assert answer.answer[0][0].to_text() == "127.0.1.1"


async def test_g3_it_answers_warm_only_after_the_reaper_has_acknowledged_a_report(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        made.state(WWW, VmState.READY)
        made.ask("www.jitsu.test")
        assert made.answered() == []
        await made.world.hosts[""].answer(Summoned())
        made.answered()
        report = await made.world.reaper.answer(Done())
        assert isinstance(report, Report)
        assert (report.replica, report.address) == ("dns-0", "127.0.0.1:53")
        made.ask("www.jitsu.test", id=2)
        (answer,) = made.answered()
        assert answer.id == 2
        await settled()
        assert made.world.hosts[""].requests == []
