"""Makes the outbox with the targets that the settings name; a library is loaded only for a target that needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitsu_protocol.messages import Done, OperatorStop, Summon, Summoned
from jitsu_protocol.model.errors import NotFound, SetupFault
from jitsu_web.outbound.wires.outbox import EventOutbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from jitsu_runtime.world import World
    from jitsu_web.outbound.wires.mqtt import MqttSender
    from jitsu_web.outbound.wires.sender import Sender
    from jitsu_web.wires.live import Live

COMMAND_TIMEOUT_S = 30.0
BY_MQTT = "operator:mqtt via web"
"""The name in `jitsu why` for whoever starts or stops a VM by MQTT: the broker does not name its users."""


def make_outbox(world: World, live: Live, directory: Path) -> EventOutbox:
    """Return the outbox; raises SetupFault."""
    settings = world.settings.events
    senders: list[Sender] = []
    if settings.webhooks:
        from jitsu_web.outbound.wires.webhook import WebhookSender

        senders += [WebhookSender(each, world.clock) for each in settings.webhooks]
    if settings.mqtt:
        senders.append(_mqtt(world, live))
    if settings.notify_file:
        from jitsu_web.outbound.wires.notifier import NotificationSender

        senders.append(NotificationSender(settings.notify_file))
    if settings.otlp:
        from jitsu_web.outbound.wires.otlp import TraceSender

        senders.append(TraceSender(settings.otlp))
    return EventOutbox(world, directory, senders, lambda: every_vm(live))


def every_vm(live: Live) -> list[dict[str, Any]]:
    """Return all VMs as they are now."""
    return [live.vm(uuid) for _, uuid in live.board.by_name()]


def _mqtt(world: World, live: Live) -> MqttSender:
    try:
        from jitsu_web.outbound.wires.mqtt import MqttSender
    except ImportError:
        raise SetupFault("events.mqtt needs the package aiomqtt", hint='pip install "jitsu-web[mqtt]"') from None

    return MqttSender(world.settings.events, world.clock, lambda: every_vm(live), commands_to(live))


def commands_to(live: Live) -> Callable[[str, bool], Awaitable[None]]:
    """Return what starts or stops a VM for whoever may publish at the broker; it raises JitsuError."""

    async def command(uuid: str, is_on: bool) -> None:
        status = live.board.status(uuid)
        caller = live.vmds.get("" if status is None else status.host)
        if status is None or caller is None:
            raise NotFound("no vmd knows this VM")
        if is_on:
            await caller.call(Summon(vm=uuid, trigger="operator", by=BY_MQTT), Summoned, COMMAND_TIMEOUT_S)
        else:
            await caller.call(OperatorStop(vm=uuid, by=BY_MQTT), Done, COMMAND_TIMEOUT_S)

    return command
