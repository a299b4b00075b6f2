"""The section [events] of jitsu.toml: who is told what happens, and the values that only it has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from jitsu_protocol.model.vm_keys import Limit, Seconds
from jitsu_runtime.settings.section import Section
from jitsu_runtime.settings.values import read_with, split_lines

SECRET_FILE = "Only jitsu-web's user may be able to read it; a name without a slash is a credential of systemd."
KIND = re.compile(r"[a-z]+\.[a-z-]+")
PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class WebhookTarget:
    """A webhook."""

    name: str
    url: str
    secret_file: str
    kinds: frozenset[str] = frozenset()
    """The kinds of events that it is sent; empty: all."""

    def wants(self, kind: str) -> bool:
        """Say whether it is sent this kind of event."""
        return not self.kinds or kind in self.kinds

    def __str__(self) -> str:
        """Return `NAME URL SECRET-FILE [KIND+KIND...]`."""
        return " ".join(filter(None, (self.name, self.url, self.secret_file, "+".join(sorted(self.kinds)))))


@dataclass(frozen=True)
class MqttBroker:
    """Where an MQTT broker is; it is false if there is none."""

    host: str = ""
    port: int = 0
    is_tls: bool = False

    def __bool__(self) -> bool:
        """Return whether there is one."""
        return bool(self.host)

    def __str__(self) -> str:
        """Return the URL, or nothing."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.is_tls else 'mqtt'}://{host}:{self.port}" if self else ""


def webhook_target(text: str) -> WebhookTarget:
    """Read `NAME URL SECRET-FILE [KIND+KIND...]`."""
    parts = text.split()
    if len(parts) not in (3, 4):
        raise ValueError(f"{text[:100]!r} is not `NAME URL SECRET-FILE` with, if you like, the kinds of events behind")
    name, url, secret_file = parts[:3]
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
        raise ValueError(f"{name[:50]!r} is not a name: letters, digits, - and _ only")
    _check_url(url, ("http", "https"))
    kinds = frozenset(parts[3].split("+")) if len(parts) == 4 else frozenset[str]()
    if wrong := sorted(kind for kind in kinds if not KIND.fullmatch(kind)):
        raise ValueError(f"{wrong[0][:50]!r} is not a kind of event; expected something like vm.failed+vm.ready")
    return WebhookTarget(name, url, secret_file, kinds)


def mqtt_broker(text: str) -> MqttBroker:
    """Read `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`."""
    if not text:
        return MqttBroker()
    parts = _check_url(text, tuple(PORTS))
    if parts[3]:
        raise ValueError(f"{text[:100]!r}: nothing may follow the port")
    scheme, host, port, _ = parts
    return MqttBroker(host, port or PORTS[scheme], scheme == "mqtts")


def _check_url(text: str, schemes: tuple[str, ...]) -> tuple[str, str, int | None, str]:
    """Return the scheme, the host, the port and the path of a URL; raises ValueError."""
    try:
        url = urlsplit(text)
        port, host = url.port, url.hostname or ""
    except ValueError:
        raise ValueError("this URL cannot be read") from None
    if url.scheme not in schemes or not host:
        raise ValueError(f"this URL does not begin with {' or '.join(f'{each}://HOST' for each in schemes)}")
    if url.username is not None or url.password is not None:
        raise ValueError("a URL may not hold a password, because settings are shown; use a secret file")
    return url.scheme, host, port, url.path.strip("/") + url.query + url.fragment


def _each_has_a_name(targets: list[WebhookTarget]) -> list[WebhookTarget]:
    names = ["mqtt", "notify", "otlp", *(each.name for each in targets)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"the name {twice} is taken: each webhook needs its own, and not mqtt, notify or otlp")
    return targets


def _collector(text: str) -> str:
    if text:
        _check_url(text, ("http", "https"))
    return text


_AS_TEXT = PlainSerializer(str, when_used="json")
Webhooks = Annotated[
    list[Annotated[WebhookTarget, read_with(webhook_target), _AS_TEXT]],
    BeforeValidator(split_lines),
    AfterValidator(_each_has_a_name),
]
Broker = Annotated[MqttBroker, read_with(mqtt_broker), _AS_TEXT]
Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=100)]


class EventsSettings(Section):
    """Events for other systems, which jitsu-web sends: webhooks, MQTT, and notifications for people."""

    webhooks: Webhooks = Field(
        default_factory=list,
        description="Webhooks, each as `NAME URL SECRET-FILE`, or with the kinds of events behind: "
        f"`ops https://ops.example/jitsu /etc/jitsu/ops.secret vm.failed+vm.ready`. Of the secret file: {SECRET_FILE}",
    )
    mqtt: Broker = Field(
        default_factory=MqttBroker, description="The MQTT broker: mqtt://HOST:PORT or mqtts://HOST:PORT; empty: none."
    )
    mqtt_user: str = Field("", description="The user that logs in at the broker; empty: none.")
    mqtt_password_file: str = Field("", description=f"File with that user's password. {SECRET_FILE}")
    mqtt_ca_file: str = Field("", description="Certificates that vouch for the broker's; empty: the system's.")
    mqtt_topic: Topic = Field("jitsu", description="The topic below which all topics are.")
    mqtt_discovery: Topic | Annotated[str, Field(pattern="^$")] = Field(
        "homeassistant", description="The topic below which Home Assistant looks for devices; empty: nothing is there."
    )
    mqtt_commands: bool = Field(
        False, description="Let whoever may publish at the broker start and stop VMs (PREFIX/vm/ID/set)."
    )
    notify_file: str = Field(
        "", description=f"File with URLs of Apprise, one a line, for notifications; empty: none. {SECRET_FILE}"
    )
    otlp: Annotated[str, AfterValidator(_collector)] = Field(
        "", description="A collector of OpenTelemetry that gets a trace of each summon: http://HOST:4318; empty: none."
    )
    up_longer_than: Seconds = Field(
        0.0,
        description="A VM that is up for that long is an event (vm.up-long); 0: it is none.",
        json_schema_extra={"unit": "s"},
    )
    queue: int = Field(
        8192,
        ge=64,
        le=1_048_576,
        description="Size of the file of events that are to be delivered; when half of that is needed, the oldest go.",
        json_schema_extra={"unit": "KiB"},
    )
    retry_for: Limit = Field(
        86_400.0,
        description="An event is tried again for that long; after that it is a dead letter.",
        json_schema_extra={"unit": "s"},
    )
