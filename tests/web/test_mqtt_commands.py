"""What a command over MQTT asks of vmd."""

from __future__ import annotations

import asyncio

import pytest

from jitsu_protocol.messages import Done, OperatorStop, Summon, Summoned, VmStatus
from jitsu_protocol.model.errors import NotFound
from jitsu_protocol.model.states import VmState
from jitsu_web.outbound.wires.compose import BY_MQTT, commands_to
from jitsu_web.wires.live import Live
from tests.support.world import PlayedWorld


async def test_a_command_starts_or_stops_the_vm_at_its_vmd_and_says_that_it_came_by_mqtt() -> None:
    async with asyncio.TaskGroup() as group:
        world = PlayedWorld("web", group)
        world.answers |= {Summon: lambda _: Summoned(), OperatorStop: lambda _: Done()}
        live = Live(world, epoch="e")
        live.board.changed(VmStatus(uuid="u-1", name="www", state=VmState.OFF), gone=False, now=0.0)
        command = commands_to(live)
        await command("u-1", True)
        await command("u-1", False)
        asked = world.peers["vmd"].asked
        assert asked == [
            Summon(vm="u-1", trigger="operator", by=BY_MQTT),
            OperatorStop(vm="u-1", by=BY_MQTT),
        ]
        with pytest.raises(NotFound):
            await command("u-2", True)
        assert len(asked) == 2
