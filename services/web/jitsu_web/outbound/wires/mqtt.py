"""MQTT: the state of each VM as retained messages, every event on one topic, and commands if the settings allow them.

    PREFIX/status           `online`, or `offline` when this process is gone (the broker says that: last will)
    PREFIX/vm/SLUG/state    JSON about a VM, retained
    PREFIX/vm/SLUG/set      `ON` or `OFF`: start or stop the VM
    PREFIX/events           each event as a CloudEvent, with QoS 1

States are not queued: a broker that was away gets the latest of each VM when it is back. Events are.
A command that the broker has retained is ignored, because it would be carried out again at each connection.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiomqtt
import structlog

from jitsu_protocol.model.errors import JitsuError
from jitsu_runtime.clock import sleep
from jitsu_runtime.credentials import file_named, read_secret
from jitsu_web.outbound.rules.delivery import Delivered, Failed
from jitsu_web.outbound.rules.home_assistant import (
    OFF,
    OFFLINE,
    ON,
    ONLINE,
    Topics,
    discovery,
    removal,
    slug_of,
    state_payload,
)
from jitsu_web.outbound.wires.sender import LIMIT_S
from jitsu_web.rules.events import GoneEvent, VmEvent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from jitsu_runtime.clock import Clock
    from jitsu_runtime.settings.events import EventsSettings
    from jitsu_web.outbound.rules.notices import Notice
    from jitsu_web.rules.events import WebEvent

NAME = "mqtt"
AGAIN_S = 5.0
LEAVING_S = 0.5
KEEPALIVE_S = 20
"""A connection that is silently dead is noticed, and made again, in less than two of these."""
MAX_PAYLOAD_BYTES = 16
"""A command is `ON` or `OFF`; whatever is longer is nothing that we know."""
MAX_COMMANDS = 100
"""Commands that wait to be carried out; the client drops those beyond."""

log = structlog.get_logger("web")


class MqttSender:
    """One broker."""

    name = NAME

    def __init__(
        self,
        settings: EventsSettings,
        clock: Clock,
        vms: Callable[[], Iterable[Mapping[str, Any]]],
        command: Callable[[str, bool], Awaitable[None]],
    ) -> None:
        """`vms` returns all VMs as they are now, and `command` starts or stops one by its uuid; raises SetupFault."""
        self._settings = settings
        self._clock = clock
        self._vms = vms
        self._command = command
        self._topics = Topics(settings.mqtt_topic)
        password = settings.mqtt_password_file
        self._password = read_secret(password, "events.mqtt_password_file") if password else None
        self._client: aiomqtt.Client | None = None
        self._is_lost = False
        """It is known that the broker does not answer."""
        self._changed: dict[str, Mapping[str, Any] | None] = {}
        """VMs to publish, by uuid; None for one that is gone. At most one entry for each VM."""
        self._is_changed = asyncio.Event()
        self._uuids: dict[str, str] = {}
        """The uuid of each slug that was published."""

    def wants(self, kind: str) -> bool:
        """Say whether it is sent this kind of event: all of them."""
        return bool(kind)

    def note(self, event: WebEvent) -> None:
        """Have a VM's new state published, when the broker is there."""
        match event:
            case VmEvent():
                self._changed[str(event.vm["uuid"])] = event.vm
                self._is_changed.set()
            case GoneEvent(uuid):
                self._changed[uuid] = None
                self._is_changed.set()
            case _:
                pass

    async def send(self, notice: Notice) -> Delivered | Failed:
        """Publish an event, and wait until the broker has it."""
        if self._client is None:
            return Failed("the broker is not connected")
        try:
            await self._client.publish(self._topics.events, notice.body(), qos=1, timeout=LIMIT_S)
        except (aiomqtt.MqttError, ValueError) as error:
            return Failed(str(error))
        return Delivered()

    async def run(self) -> None:
        """Stay connected, until cancelled."""
        while True:
            try:
                await self._connected()
            except (aiomqtt.MqttError, OSError) as error:
                (log.debug if self._is_lost else log.warning)("MQTT broker not connected", reason=str(error))
                self._is_lost = True
            await sleep(self._clock, AGAIN_S)

    def _new_client(self) -> aiomqtt.Client:
        settings = self._settings
        context = None
        if settings.mqtt.is_tls:
            ca = settings.mqtt_ca_file
            context = ssl.create_default_context(cafile=str(file_named(ca, "events.mqtt_ca_file")) if ca else None)
        return aiomqtt.Client(
            settings.mqtt.host,
            settings.mqtt.port,
            username=settings.mqtt_user or None,
            password=self._password,
            tls_context=context,
            will=aiomqtt.Will(self._topics.status, OFFLINE, qos=1, retain=True),
            max_queued_incoming_messages=MAX_COMMANDS,
            timeout=LIMIT_S,
            keepalive=KEEPALIVE_S,
        )

    async def _connected(self) -> None:
        """Connect, publish everything, then what changes; returns when the connection is lost."""
        async with self._new_client() as client:
            self._is_lost = False
            log.info("MQTT broker connected", broker=str(self._settings.mqtt))
            self._changed |= {str(vm["uuid"]): vm for vm in self._vms()}
            self._is_changed.set()
            self._uuids.clear()
            await client.publish(self._topics.status, ONLINE, qos=1, retain=True)
            if self._settings.mqtt_commands:
                await client.subscribe(self._topics.every_command, qos=1)
            self._client = client
            publishing = asyncio.ensure_future(self._publish_changes(client))
            reading = asyncio.ensure_future(self._read_commands(client))
            try:
                ended, _ = await asyncio.wait((publishing, reading), return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()  # raises why the connection was lost
            except asyncio.CancelledError:  # this process stops in an orderly way, so the broker sends no last will
                with suppress(aiomqtt.MqttError):
                    await client.publish(self._topics.status, OFFLINE, qos=1, retain=True, timeout=LEAVING_S)
                raise
            finally:
                self._client = None
                for task in (publishing, reading):
                    task.cancel()
                await asyncio.gather(publishing, reading, return_exceptions=True)

    async def _publish_changes(self, client: aiomqtt.Client) -> None:
        while True:
            await self._is_changed.wait()
            self._is_changed.clear()
            while self._changed:
                uuid = next(iter(self._changed))
                vm = self._changed.pop(uuid)
                try:
                    await self._publish(client, uuid, vm)
                except aiomqtt.MqttError:
                    self._changed.setdefault(uuid, vm)
                    raise

    async def _publish(self, client: aiomqtt.Client, uuid: str, vm: Mapping[str, Any] | None) -> None:
        slug, prefix = slug_of(uuid), self._settings.mqtt_discovery
        if vm is None:
            self._uuids.pop(slug, None)
            for topic, payload in removal(uuid, self._topics, prefix):
                await client.publish(topic, payload, qos=1, retain=True)
            return
        if slug not in self._uuids and prefix:
            for topic, payload in discovery(vm, self._topics, prefix, has_commands=self._settings.mqtt_commands):
                await client.publish(topic, payload, qos=1, retain=True)
        self._uuids[slug] = uuid
        await client.publish(self._topics.of_vm(slug, "state"), state_payload(vm), qos=1, retain=True)

    async def _read_commands(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = message.payload if isinstance(message.payload, bytes) else b""
            uuid = self._uuids.get(self._topics.commanded(str(message.topic)), "")
            wanted = payload.decode("ascii", "replace") if len(payload) <= MAX_PAYLOAD_BYTES else ""
            is_allowed = self._settings.mqtt_commands  # a broker can send what nobody has subscribed to
            if not is_allowed or message.retain or not uuid or wanted not in (ON, OFF):
                log.warning("MQTT command ignored", topic=str(message.topic)[:200], retained=message.retain)
                continue
            log.info("MQTT command", vm=uuid, wanted=wanted)
            try:
                await self._command(uuid, wanted == ON)
            except JitsuError as error:
                log.warning("MQTT command failed", vm=uuid, reason=str(error))
