"""Which VMs the labels of machines describe (docs/explanation/labels.md). vmd proposes; the store decides.

Whoever may start a container writes its labels, so nothing in them is believed: neither what a machine is called, nor
the address that it claims. A machine whose labels cannot be used is refused with the reason; the others go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import JitsuError, Refused
from jitsu_protocol.model.labels import LABEL_KEYS, MAX_KEPT, MAX_LABELLED, is_below, values_of
from jitsu_protocol.model.vm import VM_ROOT, InvalidVm, from_config, nearest, to_tree, uuid_for
from jitsu_protocol.model.vm_keys import KEYS, MAX_TEXT_CHARACTERS
from jitsu_vmd.rules.interfaces import check_addresses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ipaddress import IPv4Network, IPv6Network

    from jitsu_protocol.messages import DiscoveredMachine
    from jitsu_protocol.model.vm import VM

    Answers = Mapping[str, Sequence[DiscoveredMachine] | JitsuError]
    """Connection -> its machines, or why it has not answered."""

MAX_LABELS = 64
"""Of one machine: three times as many as there are keys."""
MAX_VALUES = 100
"""Of one key of a machine. An operator's VM may have more names."""
MAX_SHOWN = 100
"""Characters of what a machine says, in a reason."""


@dataclass(frozen=True)
class LabelRules:
    """What the settings allow."""

    zones: Mapping[str, Sequence[str]]
    """Connection -> the zones below which its labels may name VMs; labels of a connection without any do not count."""
    networks: Sequence[IPv4Network | IPv6Network] = ()
    """In which a label may give an address of which the hypervisor does not know."""
    host: str = ""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """Values of [defaults]."""
    stop_modes: Mapping[str, str] = field(default_factory=dict)
    """Connection -> how its machines are stopped if nobody says anything."""

    @property
    def connections(self) -> tuple[str, ...]:
        """The connections whose labels count."""
        return tuple(name for name, zones in self.zones.items() if zones)


@dataclass(frozen=True)
class LabelReading:
    """What labels say now, on one host."""

    vms: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """VMs that labels describe: the leaves below `jitsu/vm/<uuid>/`, by UUID."""
    kept: tuple[str, ...] = ()
    """VMs that are to be left as they are."""
    silent: tuple[str, ...] = ()
    """Connections that have not answered."""

    def __bool__(self) -> bool:
        """Return whether labels say anything."""
        return bool(self.vms or self.kept or self.silent)


@dataclass(frozen=True)
class LabelFault:
    """A machine whose labels are not used, and why."""

    machine: str
    connection: str
    reason: str


def read(answers: Answers, rules: LabelRules, known: Mapping[str, VM]) -> tuple[LabelReading, dict[str, LabelFault]]:
    """Return what the labels of all machines say, and what cannot be used of it, by the UUID of the VM.

    `known` are the VMs of this host, by UUID.
    """
    vms: dict[str, Mapping[str, str]] = {}
    kept: set[str] = set()
    faults: dict[str, LabelFault] = {}
    chosen = _by_vm(answers, rules, known)
    for vm, (machine, *others) in chosen.items():
        if not machine.keys or not machine.is_read:
            kept.add(vm)
            continue
        try:
            if len(vms) >= MAX_LABELLED:
                raise Refused(f"labels may describe at most {MAX_LABELLED} VMs of a host")
            made = _vm(machine, rules, known.get(vm))
        except (Refused, InvalidVm) as error:
            kept.add(vm)
            faults[vm] = LabelFault(machine.name, machine.hypervisor, str(error))
            continue
        start = f"{VM_ROOT}/{vm}/"
        vms[vm] = {path.removeprefix(start): value for path, value in to_tree(made).items()}
        if others:
            reason = f"{len(others)} other machines of that name are not used: {_places(others)}"
            faults[vm] = LabelFault(machine.name, machine.hypervisor, reason)
    silent = tuple(sorted(name for name, answer in answers.items() if isinstance(answer, JitsuError)))
    if len(kept) > MAX_KEPT:  # no message can name them all: every VM that is not described stays as it is
        return LabelReading(vms, (), tuple(sorted(rules.connections))), faults
    return LabelReading(vms, tuple(sorted(kept)), silent), faults


def _by_vm(answers: Answers, rules: LabelRules, known: Mapping[str, VM]) -> dict[str, list[DiscoveredMachine]]:
    """Return the machines that count, by the UUID of the VM that each would be, in the order of their names.

    Of several machines of one name, the first has the VM: the one that has it already, else the one that runs, else the
    one of the first connection. A machine without labels counts while it runs and has a VM: if it was described until
    now, that stays until the machine has stopped. So does one whose labels cannot be read now.
    """
    order = {name: number for number, name in enumerate(rules.connections)}
    found: dict[str, list[DiscoveredMachine]] = {}
    for connection in rules.connections:
        answer = answers.get(connection, ())
        for machine in () if isinstance(answer, JitsuError) else answer:
            vm = uuid_for(machine.name)
            has_vm = vm in known and _connection(known[vm]) == connection
            if machine.keys or (has_vm and (machine.is_running or not machine.is_read)):
                found.setdefault(vm, []).append(machine)
    for vm, machines in found.items():
        here = _connection(known[vm]) if vm in known else None
        machines.sort(key=lambda each: (each.hypervisor != here, not each.is_running, order[each.hypervisor]))
    return dict(sorted(found.items(), key=lambda each: (each[1][0].name, each[0])))


def _vm(machine: DiscoveredMachine, rules: LabelRules, known: VM | None) -> VM:
    """Return the VM that a machine describes; raises Refused or InvalidVm."""
    config = _labels(machine)
    config["ip"] = _addresses(machine, config.pop("ip", []), rules, known)
    config["name"] = [machine.name]
    if machine.hypervisor:
        config["hypervisor"] = [machine.hypervisor]
    if rules.host:
        config["host"] = [rules.host]
    if mode := rules.stop_modes.get(machine.hypervisor):
        config.setdefault("stop_mode", [mode])
    made = from_config(config, rules.defaults)
    zones = rules.zones[machine.hypervisor]
    for key, names in (("dns", made.names), ("alias", made.aliases)):
        for name in names:
            if not is_below(name.removeprefix("*."), zones):
                raise Refused(f"{key}: {name} is not below {' or '.join(zones)}")
    check_addresses(made)
    return made


def _labels(machine: DiscoveredMachine) -> dict[str, list[str]]:
    """Return the keys that a machine sets; raises Refused."""
    if len(machine.keys) > MAX_LABELS:
        raise Refused(f"it has more than {MAX_LABELS} labels for Jitsu")
    config: dict[str, list[str]] = {}
    for key, text in machine.keys.items():
        if key not in LABEL_KEYS:
            close = "" if key in KEYS else nearest(key[:MAX_SHOWN], LABEL_KEYS)
            what = "only an operator may set it" if key in KEYS else f"there is no such key{close}"
            raise Refused(f"{key[:MAX_SHOWN]}: {what}")
        if len(text) > MAX_TEXT_CHARACTERS:
            raise Refused(f"{key}: the label has more than {MAX_TEXT_CHARACTERS} characters")
        config[key] = values_of(key, text)
        if len(config[key]) > MAX_VALUES:
            raise Refused(f"{key}: the label has more than {MAX_VALUES} values")
    if not config.get("dns"):
        raise Refused("dns: the label is missing")
    return config


def _addresses(machine: DiscoveredMachine, asked: Sequence[str], rules: LabelRules, known: VM | None) -> list[str]:
    """Return the addresses of a machine; raises Refused.

    A running guest keeps the addresses that its VM has. If its hypervisor reports others, they are not fixed, and it
    would have others again after its next start.
    """
    for text in asked:
        if text not in machine.addresses and not _is_in(text, rules):
            raise Refused(
                f"ip: {text[:MAX_SHOWN]} is neither an address that the hypervisor knows of this machine, nor in"
                " hypervisor.label_networks"
            )
    found = list(asked) or list(machine.addresses)
    before = [] if known is None or _connection(known) != machine.hypervisor else list(map(str, known.addresses))
    if not found:
        if before:
            return before
        raise Refused("ip: the hypervisor knows no address of it; give it a fixed one, or the label ip")
    if machine.is_running and before and set(before) != set(found):
        if set(before) & set(found) and not asked:
            return before
        raise Refused(
            f"ip: it has {' and '.join(found)} now, and had {' and '.join(before)}; give it a fixed address, or stop it"
        )
    return found


def _is_in(text: str, rules: LabelRules) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return any(address in network for network in rules.networks)


def _connection(vm: VM) -> str:
    return vm.config.get("hypervisor", ("",))[0]


def _places(machines: Sequence[DiscoveredMachine]) -> str:
    names = [each.hypervisor or "the first hypervisor" for each in machines[:3]]
    return ", ".join(dict.fromkeys(names)) + (" and others" if len(machines) > len(names) else "")
