"""The machines of hypervisors, as `jitsu discover` shows them, and the VM that `jitsu add` makes of one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jitsu.printable import printable
from jitsu_protocol.model.errors import BadRequest, NotFound, Refused
from jitsu_protocol.model.hypervisors import HypervisorKind
from jitsu_protocol.model.labels import LABEL_KEYS, values_of
from jitsu_protocol.model.vm import InvalidVm, from_config, nearest
from jitsu_protocol.model.vm_keys import StopMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jitsu_protocol.messages import AskedHypervisor, DiscoveredMachine, Discoveries
    from jitsu_protocol.model.vm import VM

MAX_SHOWN = 4
"""Addresses of one machine in a line."""
MAX_CHARACTERS = 60
"""Of the labels of one machine in a line."""
FAVOURITE_PORTS = (80, 443, 8080, 22)
"""Of the ports that a machine listens on, the one to wait for: the first of these, else the smallest."""


@dataclass(frozen=True)
class FoundMachines:
    """What the vmds of all hosts have found."""

    machines: Sequence[tuple[str, DiscoveredMachine]] = ()
    """Each with the host whose vmd has found it."""
    hypervisors: Sequence[tuple[str, AskedHypervisor]] = ()
    silent: Mapping[str, str] = field(default_factory=dict)
    """Host whose vmd does not answer -> why."""
    left_out: int = 0
    zones: Sequence[str] = ()
    """Of dns.zones, as the vmds have it."""

    @classmethod
    def of(cls, answers: Mapping[str, Discoveries], silent: Mapping[str, str]) -> FoundMachines:
        """Return what was found; `answers` are by host."""
        return cls(
            [(host, each) for host, answer in answers.items() for each in answer.machines],
            [(host, each) for host, answer in answers.items() for each in answer.hypervisors],
            silent,
            sum(answer.left_out for answer in answers.values()),
            list(dict.fromkeys(zone for answer in answers.values() for zone in answer.zones)),
        )

    @property
    def is_complete(self) -> bool:
        """Whether everybody has answered."""
        return not (self.silent or self.left_out or any(each.trouble for _, each in self.hypervisors))

    def kind(self, host: str, machine: DiscoveredMachine) -> HypervisorKind | None:
        """Return the kind of a machine's hypervisor, None for one that this release does not know."""
        kinds = {kind.value: kind for kind in HypervisorKind}
        asked = {(where, each.connection): each.kind for where, each in self.hypervisors}
        return kinds.get(asked.get((host, machine.hypervisor), ""))

    def troubles(self) -> list[str]:
        """Return a line for each that could not be asked."""
        lines = [f"the vmd{_of(host)} does not answer: {why}" for host, why in self.silent.items()]
        lines += [
            f"{each.name}{_of(host)} does not answer: {each.trouble}" for host, each in self.hypervisors if each.trouble
        ]
        if self.left_out:
            lines.append(f"{self.left_out} machines are left out: there are more than one reply may have")
        return lines

    def cannot_list(self) -> list[str]:
        """Return a line for each hypervisor that has no list of machines."""
        return [
            f"{each.name}{_of(host)} cannot list its machines" for host, each in self.hypervisors if not each.can_list
        ]


def _of(host: str) -> str:
    return f" of {host}" if host else ""


def machine_lines(found: FoundMachines, *, everything: bool) -> list[str]:
    """Return a table for people; without `everything`, machines for which a VM is configured are left out."""
    shown = [(host, each) for host, each in found.machines if everything or not each.vm]
    if not shown:
        what = "have no machines" if everything or not found.machines else "have no machine that is not configured"
        return [f"the hypervisors {what}"]
    has_hosts = any(host for host, _ in found.machines)
    has_names = any(each.hypervisor for _, each in found.machines)
    header = [*(["HOST"] if has_hosts else []), *(["HYPERVISOR"] if has_names else []), "MACHINE", "STATE", "ADDRESSES"]
    header += [*(["VM"] if everything else []), "LABELS"]
    rows = [header]
    for host, each in shown:
        row = [*([host or "-"] if has_hosts else []), *([each.hypervisor or "-"] if has_names else [])]
        row += [each.name, "running" if each.is_running else "off", _some(each.addresses)]
        rows.append([*row, *(["yes" if each.vm else "no"] if everything else []), _labels(each.keys)])
    texts = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts]


def _some(addresses: Sequence[str]) -> str:
    more = len(addresses) - MAX_SHOWN
    return " ".join(addresses[:MAX_SHOWN]) + (f" and {more} more" if more > 0 else "") or "unknown"


def _labels(keys: Mapping[str, str]) -> str:
    text = " ".join(f"{key}={value}" for key, value in keys.items())
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


def chosen(
    found: FoundMachines, name: str, hypervisor: str | None = None, host: str | None = None
) -> tuple[str, DiscoveredMachine]:
    """Return the machine that somebody means by its name or its uuid, and its host.

    Raises NotFound if there is none, BadRequest if there are several, Refused if a VM is configured for it.
    """
    places = [
        (where, each)
        for where, each in found.machines
        if hypervisor in (None, each.hypervisor) and host in (None, where)
    ]
    meant = [(where, each) for where, each in places if name in (each.name, each.uuid)]
    if not meant:
        close = nearest(name, (each.name for _, each in places))
        missing = found.troubles()
        may_have = f"; it may be at one that does not answer: {'; '.join(missing)}" if missing else ""
        raise NotFound(
            f"no hypervisor has a machine called {name[:100]!r}{close}{may_have}",
            hint="`jitsu discover --all` lists them",
        )
    if len(meant) > 1:
        where = ", ".join(_place(*each) for each in meant[:10])
        raise BadRequest(
            f"{len(meant)} machines are called {name}: {where}",
            hint="say which with --hypervisor or --host, or give its uuid",
        )
    if meant[0][1].vm:
        raise Refused(f"{name} is configured already", hint="`jitsu status` shows its VM, `jitsu set` changes it")
    return meant[0]


def _place(host: str, machine: DiscoveredMachine) -> str:
    at = machine.hypervisor or "the first hypervisor"
    return f"{machine.name} of {at}{_on(host)}{f' ({machine.uuid})' if machine.uuid else ''}"


def _on(host: str) -> str:
    return f" on {host}" if host else ""


@dataclass(frozen=True)
class AskedKeys:
    """What the command line says about a machine that is to be a VM."""

    dns: Sequence[str] = ()
    ip: Sequence[str] = ()
    ttl: str = ""


@dataclass(frozen=True)
class VmDraft:
    """The keys of a VM for a machine, before its hypervisor has looked at them."""

    keys: Mapping[str, list[str]]
    doubtful: tuple[str, ...] = ()
    """Keys that were found rather than asked for: if the hypervisor has no use for one, it is left out."""
    notes: tuple[str, ...] = ()

    def without(self, key: str) -> VmDraft:
        """Return the same without one key."""
        rest = {each: values for each, values in self.keys.items() if each != key}
        return VmDraft(rest, tuple(each for each in self.doubtful if each != key), self.notes)

    def vm(self, defaults: Mapping[str, str]) -> VM:
        """Return the VM; raises BadRequest."""
        try:
            return from_config(self.keys, defaults)
        except InvalidVm as invalid:
            raise BadRequest("; ".join(f"{fault.key}: {fault.message}" for fault in invalid.faults)) from None


def draft(
    found: FoundMachines,
    host: str,
    machine: DiscoveredMachine,
    wanted: AskedKeys,
    zones: Sequence[str],
    taken: Iterable[str] = (),
) -> VmDraft:
    """Return the keys of a VM for a machine: what the command line says, else its labels, else what was found.

    `zones` are those of dns.zones, `taken` the names of the VMs that there are. Raises BadRequest if an address or a
    DNS name is missing.
    """
    labels = {key: values_of(key, text) for key, text in machine.keys.items() if key in LABEL_KEYS}
    name = _vm_name(machine)
    keys: dict[str, list[str]] = {"dns": list(wanted.dns) or labels.pop("dns", []) or [_default_name(name, zones)]}
    keys["ip"] = list(wanted.ip) or labels.pop("ip", []) or list(machine.addresses)
    if not keys["ip"]:
        raise BadRequest(
            f"no address of {machine.name} is known",
            hint="give it with --ip; or start it once, so that its hypervisor learns of one",
        )
    keys["name"] = [name]
    if name != machine.name or name in taken:
        keys["uuid"] = [machine.uuid]
    if machine.hypervisor:
        keys["hypervisor"] = [machine.hypervisor]
    if host:
        keys["host"] = [host]
    kind = found.kind(host, machine)
    if kind is not None and kind.about.can_shut_down:
        keys["stop_mode"] = [StopMode.SHUTDOWN.value]
    doubtful: dict[str, list[str]] = {}
    if machine.mac:
        doubtful["mac"] = [machine.mac]
    if machine.bridge:
        doubtful["nic"] = [machine.bridge]
    if machine.ports:
        doubtful["wait_for_port"] = [str(_port(machine.ports))]
    doubtful = {key: values for key, values in doubtful.items() if key not in labels}
    rest = {key: values for key, values in labels.items() if key not in ("dns", "ip")}
    keys |= doubtful | rest | ({"ttl": [wanted.ttl]} if wanted.ttl else {})
    ignored = sorted(machine.keys.keys() - LABEL_KEYS)
    notes = [f"its label {printable(key)} is not used: only an operator may set that key" for key in ignored]
    return VmDraft(keys, tuple(doubtful), tuple(notes))


def _vm_name(machine: DiscoveredMachine) -> str:
    """Return the name of the VM for a machine; one with another name is found by its uuid. Raises BadRequest."""
    name = re.sub("[^A-Za-z0-9_.+-]+", "-", machine.name).strip("-.")[:128]
    if name != machine.name and not (name and machine.uuid):
        raise BadRequest(
            f"{machine.name[:100]!r} cannot be the name of a VM, and its hypervisor finds it by nothing else",
            hint="rename the machine: letters, digits and . _ + - are allowed",
        )
    return name


def _default_name(name: str, zones: Sequence[str]) -> str:
    if not zones:
        raise BadRequest("no zone is configured in dns.zones, so its DNS name is not known", hint="give it with --dns")
    return f"{name.lower().replace('_', '-')}.{zones[0]}"


def _port(ports: Sequence[int]) -> int:
    return next((port for port in FAVOURITE_PORTS if port in ports), min(ports))


def as_json(found: FoundMachines, *, everything: bool) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "machines": [{"host": host, **each.model_dump()} for host, each in found.machines if everything or not each.vm],
        "hypervisors": [{"host": host, **each.model_dump()} for host, each in found.hypervisors],
        "silent": dict(found.silent),
        "left_out": found.left_out,
    }
