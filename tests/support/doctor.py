"""What the tests of `jitsu doctor` give it, and how they read what it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu.doctor.finding import Finding, Suite
from jitsu_protocol import __version__
from jitsu_protocol.messages import Pong
from jitsu_protocol.model.vm import VM, from_config
from jitsu_runtime.settings.load import load

if TYPE_CHECKING:
    from collections.abc import Sequence


def suite(vms: Sequence[VM] = (), **flags: str) -> Suite:
    return Suite(load(None, {}, {key.replace("__", "."): value for key, value in flags.items()}), tuple(vms))


def vm(**keys: str) -> VM:
    config = {"name": "www", "dns": "www.jitsu.test", "ip": "192.0.2.7"} | keys
    return from_config({key: [value] for key, value in config.items()}, {})


def pong(service: str, version: str = __version__, *notes: str) -> Pong:
    return Pong(service=service, version=version, pid=1, uptime_s=1.0, notes=list(notes))


def faults(found: list[Finding]) -> list[str]:
    return [each.what for each in found if each.is_fault]


def notes(found: list[Finding]) -> list[str]:
    return [each.what for each in found if not each.is_fault]
