"""What Home Assistant is told so that it shows each VM as a device: MQTT discovery, one message for each entity.

https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery. A device has a switch if commands are allowed, or else
a binary sensor that says whether the VM is up, and sensors for the state, the queries and the starts.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from jitsu_protocol import __version__
from jitsu_web.outbound.rules.notices import UP

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SLUG = 64
ON, OFF = "ON", "OFF"
ONLINE, OFFLINE = "online", "offline"


class Topics:
    """The topics below one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.status = f"{prefix}/status"
        self.events = f"{prefix}/events"
        self.every_command = f"{prefix}/vm/+/set"

    def of_vm(self, slug: str, leaf: str) -> str:
        """Return a topic of one VM: `state`, `set`."""
        return f"{self._prefix}/vm/{slug}/{leaf}"

    def commanded(self, topic: str) -> str:
        """Return the slug of the VM that a command is for, "" if it is not a command."""
        slug = topic.removeprefix(f"{self._prefix}/vm/").removesuffix("/set")
        return slug if self.of_vm(slug, "set") == topic and "/" not in slug else ""


def slug_of(uuid: str) -> str:
    """Return what stands for a VM in topics: MQTT gives /, + and # a meaning, and Home Assistant allows few others."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", uuid)[:MAX_SLUG]


def state_payload(vm: Mapping[str, Any]) -> bytes:
    """Return what is published about a VM, as JSON."""
    shown = {
        "name": vm["name"],
        "state": vm["state"],
        "power": ON if vm["state"] in UP | {"starting", "booting"} else OFF,
        "queries": vm.get("queries", 0),
        "starts": vm.get("starts", 0),
        "address": vm.get("address", ""),
        "host": vm.get("host", ""),
        "last_error": str(vm.get("last_error", ""))[:500],
    }
    return json.dumps(shown, separators=(",", ":")).encode()


def discovery(vm: Mapping[str, Any], topics: Topics, prefix: str, *, has_commands: bool) -> list[tuple[str, bytes]]:
    """Return the topics and messages that describe a VM to Home Assistant; they are to be retained."""
    slug = slug_of(str(vm["uuid"]))
    common: dict[str, Any] = {
        "state_topic": topics.of_vm(slug, "state"),
        "availability_topic": topics.status,
        "device": {"identifiers": [f"jitsu_{slug}"], "name": vm["name"], "manufacturer": "Jitsu", "model": "VM"},
        "origin": {"name": "Jitsu", "sw_version": __version__},
    }
    power = {"name": "Power", "value_template": "{{ value_json.power }}", "icon": "mdi:server"}
    if has_commands:
        power |= {"command_topic": topics.of_vm(slug, "set"), "state_on": ON, "state_off": OFF}
    entities = {
        ("switch" if has_commands else "binary_sensor", "power"): power,
        ("sensor", "state"): {"name": "State", "value_template": "{{ value_json.state }}"},
        ("sensor", "queries"): {
            "name": "Queries",
            "value_template": "{{ value_json.queries }}",
            "state_class": "total_increasing",
        },
        ("sensor", "starts"): {
            "name": "Starts",
            "value_template": "{{ value_json.starts }}",
            "state_class": "total_increasing",
        },
    }
    return [
        (
            _discovery_topic(prefix, component, slug, entity),
            json.dumps({**common, **own, "unique_id": f"jitsu_{slug}_{entity}"}, separators=(",", ":")).encode(),
        )
        for (component, entity), own in entities.items()
    ]


def removal(uuid: str, topics: Topics, prefix: str) -> list[tuple[str, bytes]]:
    """Return the messages that make a broker and Home Assistant forget a VM: an empty one for each retained one."""
    slug = slug_of(uuid)
    entities = [
        ("switch", "power"),
        ("binary_sensor", "power"),
        *(("sensor", each) for each in ("state", "queries", "starts")),
    ]
    described = [_discovery_topic(prefix, component, slug, entity) for component, entity in entities] if prefix else []
    return [(topic, b"") for topic in (*described, topics.of_vm(slug, "state"))]


def _discovery_topic(prefix: str, component: str, slug: str, entity: str) -> str:
    return f"{prefix}/{component}/jitsu_{slug}/{entity}/config"
