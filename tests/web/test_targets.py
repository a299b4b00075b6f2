"""The senders with real receivers: an HTTP server, a mosquitto of Debian, and Apprise."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiomqtt
import pytest
from aiohttp import web

from jitsu_protocol.model.errors import NotFound, SetupFault
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.settings.events import EventsSettings, WebhookTarget
from jitsu_web.outbound.rules.delivery import Delivered, Failed
from jitsu_web.outbound.rules.notices import Notice
from jitsu_web.outbound.wires import mqtt as mqtt_module
from jitsu_web.outbound.wires.mqtt import MqttSender
from jitsu_web.outbound.wires.notifier import NotificationSender
from jitsu_web.outbound.wires.otlp import TraceSender
from jitsu_web.outbound.wires.posting import outcome_of
from jitsu_web.outbound.wires.webhook import WebhookSender, secret_of, signature
from jitsu_web.rules.events import GoneEvent, VmEvent
from tests.support.debian import program
from tests.support.suite import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from jitsu_web.outbound.wires.sender import Sender

pytestmark = pytest.mark.wires

SECRET = "a secret of more than 24 bytes"
NOTICE = Notice("0a1b", 1_700_000_000.0, "vm.failed", "u-1", "www", {"name": "www", "last_error": "no kernel"})
WWW = {"uuid": "u-1", "name": "www", "state": "off", "queries": 3, "starts": 1, "address": "10.0.0.7"}


class Receiver:
    """An HTTP server that notes what it gets, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.waits = False
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.got.append((request.path, dict(request.headers), await request.read()))
        if self.waits:
            await asyncio.Event().wait()
        return web.Response(status=self.status, headers=self.headers)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver, application, port = Receiver(), web.Application(), free_port()
    application.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    receiver.url = f"http://127.0.0.1:{port}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@asynccontextmanager
async def open_sender(sender: Sender) -> AsyncIterator[None]:
    task = asyncio.create_task(sender.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def webhook(tmp_path: Path, url: str) -> WebhookSender:
    secret = tmp_path / "hook.secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    return WebhookSender(WebhookTarget("hook", url, str(secret)), SYSTEM_CLOCK)


async def test_a_webhook_gets_a_signed_cloud_event(tmp_path: Path) -> None:
    async with receiving() as receiver:
        sender = webhook(tmp_path, receiver.url + "/in?x=1")
        async with open_sender(sender):
            assert await sender.send(NOTICE) == Delivered()
        ((path, headers, body),) = receiver.got
        assert path == "/in"
        assert json.loads(body)["type"] == "jitsu.vm.failed"
        assert headers["Content-Type"] == "application/cloudevents+json"
        assert headers["webhook-id"] == NOTICE.id
        at = int(headers["webhook-timestamp"])
        assert abs(SYSTEM_CLOCK.wall() - at) < 60
        assert headers["webhook-signature"] == signature(SECRET.encode(), NOTICE.id, at, body)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    # The example of the specification's libraries: github.com/standard-webhooks/standard-webhooks.
    secret = secret_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "hook")
    given = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert given == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    async with receiving() as receiver, receiving() as elsewhere:
        receiver.status, receiver.headers = 307, {"Location": elsewhere.url + "/stolen"}
        sender = webhook(tmp_path, receiver.url)
        async with open_sender(sender):
            outcome = await sender.send(NOTICE)
        assert isinstance(outcome, Failed)
        assert "not followed" in outcome.reason
        assert elsewhere.got == []


async def test_a_webhook_that_is_slow_or_gone_has_failed_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jitsu_web.outbound.wires.posting.LIMIT_S", 0.2)
    async with receiving() as receiver:
        receiver.waits = True
        sender = webhook(tmp_path, receiver.url)
        async with open_sender(sender):
            assert await sender.send(NOTICE) == Failed("no answer within 0.2 s")
    async with open_sender(sender):
        outcome = await sender.send(NOTICE)
    assert isinstance(outcome, Failed)
    assert "Cannot connect" in outcome.reason
    assert await sender.send(NOTICE) == Failed("this process has just started or is about to end")


@pytest.mark.parametrize(
    ("status", "retry_after", "is_final", "pause_s"),
    [(503, "", False, 0.0), (429, "17", False, 17.0), (429, "Wed, 21 Oct", False, 0.0), (410, "", True, 0.0)],
)
def test_a_status_says_whether_and_when_to_try_again(
    status: int, retry_after: str, is_final: bool, pause_s: float
) -> None:
    outcome = outcome_of(status, retry_after)
    assert isinstance(outcome, Failed)
    assert (outcome.is_final, outcome.retry_after_s) == (is_final, pause_s)
    assert outcome_of(204, "") == Delivered()


@pytest.mark.parametrize(("text", "reason"), [("short", "24 at least"), ("whsec_***", "not base64")])
def test_a_secret_that_protects_nothing_is_refused_and_not_shown(text: str, reason: str) -> None:
    with pytest.raises(SetupFault, match=reason) as refusal:
        secret_of(text, "hook")
    assert text not in str(refusal.value)


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "hook.secret"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    with pytest.raises(SetupFault, match="others may read"):
        WebhookSender(WebhookTarget("hook", "http://127.0.0.1/", str(secret)), SYSTEM_CLOCK)


async def test_a_collector_gets_the_trace_of_a_summon() -> None:
    stages = [["query", 0.0], ["summon", 0.2], ["ready", 1.0]]
    data = {"summon": "0123456789ab", "name": "www", "trigger": "dns", "outcome": "ready", "joined": 0, "uuid": "u-1"}
    booted = Notice("1", 1_700_000_001.0, "vm.booted", "u-1", "www", {**data, "ts": 1_700_000_000.2, "stages": stages})
    async with receiving() as receiver:
        sender = TraceSender(receiver.url)
        assert sender.wants("vm.booted")
        assert not sender.wants("vm.ready")
        async with open_sender(sender):
            assert await sender.send(booted) == Delivered()
        ((path, headers, body),) = receiver.got
    assert (path, headers["Content-Type"]) == ("/v1/traces", "application/json")
    assert len(json.loads(body)["resourceSpans"]) == 2


# --- MQTT ---


class Broker:
    """A mosquitto."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._configuration = directory / "mosquitto.conf"
        self._configuration.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n" + ("user root\n" if os.geteuid() == 0 else "")
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = program("mosquitto", "mosquitto")
        self.process = subprocess.Popen([binary, "-c", str(self._configuration)], stderr=subprocess.DEVNULL)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(10)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    made.start()
    yield made
    made.stop()


class Listener:
    """A client that keeps the latest message of each topic."""

    def __init__(self, port: int) -> None:
        self.latest: dict[str, bytes] = {}
        self.events: list[dict[str, Any]] = []
        self._port = port
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            with suppress(aiomqtt.MqttError):
                async with aiomqtt.Client("127.0.0.1", self._port) as client:
                    await client.subscribe("#", qos=1)
                    async for message in client.messages:
                        payload = bytes(message.payload)
                        self.latest[str(message.topic)] = payload
                        if str(message.topic) == "jitsu/events":
                            self.events.append(json.loads(payload))
            await asyncio.sleep(0.05)

    async def until(self, is_so: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not is_so():
                await asyncio.sleep(0.02)


@asynccontextmanager
async def connected(
    port: int, vms: dict[str, dict[str, Any]], commands: list[tuple[str, bool]] | None = None, **settings: Any
) -> AsyncIterator[tuple[MqttSender, Listener]]:
    values = {"mqtt": f"mqtt://127.0.0.1:{port}", "mqtt_commands": commands is not None, **settings}

    async def command(uuid: str, is_on: bool) -> None:
        assert commands is not None
        commands.append((uuid, is_on))
        if len(commands) == 1:
            raise NotFound("the first one fails")

    sender = MqttSender(EventsSettings.model_validate(values), SYSTEM_CLOCK, vms.values, command)
    listener = Listener(port)
    listener.start()
    try:
        async with open_sender(sender):
            yield sender, listener
    finally:
        await listener.stop()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_module, "AGAIN_S", 0.1)
    monkeypatch.setattr(mqtt_module, "LIMIT_S", 2.0)


async def test_a_broker_has_the_state_of_each_vm_and_what_home_assistant_needs(broker: Broker) -> None:
    async with connected(broker.port, {"u-1": WWW}) as (sender, listener):
        await listener.until(lambda: "jitsu/vm/u-1/state" in listener.latest)
        assert json.loads(listener.latest["jitsu/vm/u-1/state"])["power"] == "OFF"
        sender.note(VmEvent({**WWW, "state": "ready"}, "booting"))
        await listener.until(lambda: b'"power":"ON"' in listener.latest["jitsu/vm/u-1/state"])
        assert listener.latest["jitsu/status"] == b"online"
        described = {topic: json.loads(text) for topic, text in listener.latest.items() if topic.endswith("/config")}
        assert set(described) == {
            "homeassistant/binary_sensor/jitsu_u-1/power/config",
            *(f"homeassistant/sensor/jitsu_u-1/{each}/config" for each in ("state", "queries", "starts")),
        }
        for each in described.values():
            assert each["state_topic"] == "jitsu/vm/u-1/state"
            assert each["availability_topic"] == "jitsu/status"
            assert each["device"]["name"] == "www"
        sender.note(GoneEvent("u-1", "www"))
        await listener.until(lambda: listener.latest["jitsu/vm/u-1/state"] == b"")
        await listener.until(lambda: listener.latest["homeassistant/sensor/jitsu_u-1/state/config"] == b"")
    fresh = Listener(broker.port)
    fresh.start()
    await fresh.until(lambda: "jitsu/status" in fresh.latest)
    await fresh.stop()
    assert fresh.latest == {"jitsu/status": b"offline"}, "nothing of a VM that is gone is kept, and we have left"


async def test_commands_start_and_stop_vms_only_if_the_settings_allow_them(broker: Broker) -> None:
    commands: list[tuple[str, bool]] = []
    async with connected(broker.port, {"u-1": WWW}, commands=commands) as (_, listener):
        await listener.until(lambda: "homeassistant/switch/jitsu_u-1/power/config" in listener.latest)
        await listener.until(lambda: "jitsu/vm/u-1/state" in listener.latest)
        switch = json.loads(listener.latest["homeassistant/switch/jitsu_u-1/power/config"])
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            for topic, payload in [("other", "ON"), ("u-1", "x" * 1000), ("u-1", "ON"), ("u-1", "OFF"), ("u-1", "ON")]:
                await client.publish(f"jitsu/vm/{topic}/set", payload, qos=1)
            assert switch["command_topic"] == "jitsu/vm/u-1/set"
            await listener.until(lambda: len(commands) == 3)
        assert commands == [("u-1", True), ("u-1", False), ("u-1", True)], "an error ends nothing"
    commands.clear()
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.publish("jitsu/vm/u-1/set", "ON", qos=1, retain=True)
    async with connected(broker.port, {"u-1": WWW}, commands=commands) as (_, listener):
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            await listener.until(lambda: listener.latest.get("jitsu/status") == b"online")
            await listener.until(lambda: "jitsu/vm/u-1/state" in listener.latest)
            await client.publish("jitsu/vm/u-1/set", "OFF", qos=1)
        await listener.until(lambda: commands)
    assert commands == [("u-1", False)], "a retained command is not carried out again at each connection"


async def test_kill_9_of_the_broker_fails_events_and_it_gets_the_latest_states_when_it_is_back(
    broker: Broker,
) -> None:
    vms = {"u-1": WWW}
    async with connected(broker.port, vms) as (sender, listener):
        await listener.until(lambda: "jitsu/vm/u-1/state" in listener.latest)
        assert await sender.send(NOTICE) == Delivered()
        await listener.until(lambda: listener.events)
        await listener.stop()
        broker.stop(signal.SIGKILL)
        outcome: Delivered | Failed = Delivered()
        async with asyncio.timeout(20):
            while isinstance(outcome, Delivered):
                outcome = await sender.send(NOTICE)
                await asyncio.sleep(0.02)
        for state in ("starting", "booting", "ready"):
            vms["u-1"] = {**WWW, "state": state}
            sender.note(VmEvent(vms["u-1"], "off"))
        broker.start()
        listener.start()
        async with asyncio.timeout(30):
            while isinstance(await sender.send(NOTICE), Failed):
                await asyncio.sleep(0.05)
        await listener.until(lambda: b'"state":"ready"' in listener.latest["jitsu/vm/u-1/state"])
        assert {each["id"] for each in listener.events} == {NOTICE.id}


async def test_a_broker_that_is_not_there_fails_every_event_at_once() -> None:
    async with connected(free_port(), {}) as (sender, _):
        assert await sender.send(NOTICE) == Failed("the broker is not connected")


# --- notifications ---


def notify_file(tmp_path: Path, lines: Sequence[str]) -> str:
    file = tmp_path / "notify"
    file.write_text("\n".join(lines) + "\n")
    file.chmod(0o600)
    return str(file)


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # some plugin of Apprise
async def test_people_are_notified_in_a_sentence_and_a_redirect_is_not_followed(tmp_path: Path) -> None:
    async with receiving() as receiver, receiving() as elsewhere:
        url = receiver.url.replace("http:", "json:")
        sender = NotificationSender(notify_file(tmp_path, ["# mine", "", f"{url}/?redirect=yes"]))
        assert sender.wants("vm.failed")
        assert sender.wants("vm.up-long")
        assert not sender.wants("vm.ready")
        assert await sender.send(NOTICE) == Delivered()
        body = json.loads(receiver.got[0][2])
        assert (body["title"], body["message"]) == ("Jitsu: www", "www does not boot: no kernel")
        receiver.status, receiver.headers = 307, {"Location": elsewhere.url}
        assert isinstance(await sender.send(NOTICE), Failed)
        assert elsewhere.got == []


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("lines", "reason"), [(["nonsense://x y"], "line 1"), (["# nothing"], "has no URL")])
def test_a_file_that_apprise_cannot_use_is_refused_without_showing_it(
    tmp_path: Path, lines: list[str], reason: str
) -> None:
    with pytest.raises(SetupFault, match=reason) as refusal:
        NotificationSender(notify_file(tmp_path, lines))
    assert "nonsense" not in str(refusal.value)
