"""What a command over MQTT asks of vmd."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiomqtt
import pytest

from jitsu_protocol.messages import Done, OperatorStop, Summon, Summoned, VmStatus
from jitsu_protocol.model.errors import NotFound
from jitsu_protocol.model.states import VmState
from jitsu_runtime.settings.events import EventsSettings
from jitsu_web.outbound.wires import mqtt as mqtt_module
from jitsu_web.outbound.wires.compose import BY_MQTT, commands_to
from jitsu_web.wires.live import Live
from tests.support.clock import VirtualClock
from tests.support.world import PlayedWorld

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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


@dataclass
class Told:
    """A message of a broker."""

    topic: str
    payload: bytes
    retain: bool = False


class HostileBroker:
    """A connection to a broker that sends a command, whoever has subscribed to what."""

    def __init__(self) -> None:
        self.is_published = asyncio.Event()
        self.is_handled = asyncio.Event()

    async def subscribe(self, *_: Any, **__: Any) -> None:
        """Note nothing."""

    async def publish(self, topic: str, *_: Any, **__: Any) -> None:
        if topic.endswith("/state"):
            self.is_published.set()

    @property
    async def messages(self) -> AsyncIterator[Told]:
        await self.is_published.wait()
        yield Told("jitsu/vm/u-1/set", b"ON")
        self.is_handled.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("is_allowed", [True, False])
async def test_a_broker_commands_nothing_unless_the_settings_allow_it(
    is_allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = HostileBroker()

    @asynccontextmanager
    async def connect(*_: Any, **__: Any) -> AsyncIterator[HostileBroker]:
        yield broker

    monkeypatch.setattr(aiomqtt, "Client", connect)
    commands: list[tuple[str, bool]] = []

    async def command(uuid: str, is_on: bool) -> None:
        commands.append((uuid, is_on))

    settings = EventsSettings.model_validate({"mqtt": "mqtt://127.0.0.1:1", "mqtt_commands": is_allowed})
    vm = {"uuid": "u-1", "name": "www", "state": "off"}
    sender = mqtt_module.MqttSender(settings, VirtualClock(), lambda: [vm], command)
    running = asyncio.create_task(sender.run())
    await broker.is_handled.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert commands == ([("u-1", True)] if is_allowed else [])
