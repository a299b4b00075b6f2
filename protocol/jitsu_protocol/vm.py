"""The VM model: what is configured of one VM, from its text forms and back; invalid ones cannot be built.

A VM is written down in three ways, and this module is where they meet: as keys and values (a `[vm.NAME]`
table of jitsu.toml, or the original's `key=value,key=value`), as leaves of the state tree below
`jitsu/vm/<uuid>/` (FACTS: the original's paths), and as the frozen `VM` that all code works with.
"""

from __future__ import annotations

import difflib
import re
import uuid as uuid_module
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VM_ROOT = "jitsu/vm"
STATS_ROOT = "jitsu/stats"
REPLICA_ROOT = "jitsu/replica"
"""Below it, for each dns replica: `lease_s`, and `address`, where it serves."""

MAX_WAIT_LIMIT_S = 4.0  # a stub resolver asks again after 5 s (resolv.conf(5), `timeout`)
MAX_TTL_S = 2**31 - 1  # RFC 2181, section 8
MAX_SECONDS = 10 * 365 * 86400.0  # longer than that is a typing error
UUID_NAMESPACE = uuid_module.UUID("6d0f4f2a-6a69-5473-8175-76302e320000")
"""A VM without a configured uuid gets uuid5(this, its name): the same at every start."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def dns_name(text: str) -> str:
    """Return a host name in lower case without its final dot (RFC 1035, 2.3.1; RFC 2181, 11).

    Raises ValueError with the reason if it is none. Underscores are allowed, as in service names.
    """
    if not text.isascii():
        raise ValueError(f"{text!r} is not ASCII: write its xn-- form")
    name = text.lower().removesuffix(".")
    if not name:
        raise ValueError("the name is empty")
    if len(name) > 253:
        raise ValueError(f"the name is {len(name)} characters long, 253 are allowed")
    for label in name.split("."):
        if not label:
            raise ValueError(f"{text!r} is no DNS name: it has an empty label")
        if len(label) > 63:
            raise ValueError(f"{text!r} is no DNS name: the label {label!r} exceeds 63 characters")
        if not _LABEL.fullmatch(label):
            raise ValueError(f"{text!r} is no DNS name: {label!r} may hold letters, digits and inner hyphens")
    return name


def owner_name(text: str) -> str:
    """Return a name that a record may have: a host name, or one whose first label is * (RFC 4592)."""
    if text.startswith("*.") and text.count(".") > 1:
        return "*." + dns_name(text[2:])
    return dns_name(text)


def _address(value: object) -> IPv4Address | IPv6Address:
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    text = str(value)
    try:
        address = IPv6Address(text) if ":" in text else IPv4Address(text)
    except ValueError:
        raise ValueError(f"{text!r} is no IP address") from None
    if address.is_multicast or address.is_unspecified:
        raise ValueError(f"{text!r} cannot be the address of a VM")
    return address


def _uuid(value: object) -> str:
    try:
        return str(uuid_module.UUID(str(value)))
    except ValueError:
        raise ValueError(f"{str(value)!r} is no UUID") from None


def _vm_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.+-]{0,127}", text):
        raise ValueError(f"{text!r} is no VM name: letters, digits and . _ + - are allowed")
    return text


def host_name(text: str) -> str:
    """Check the name of a host with a vmd of its own: it is part of a file's name; raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}", text):
        raise ValueError(f"{text!r} is no name of a host: letters, digits and - are allowed, 32 at most")
    return text


def mac_address(text: str) -> str:
    """Check a MAC address of one interface and return it in lower case; raises ValueError."""
    if not re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", text) or int(text[1], 16) & 1:
        raise ValueError(f"{text!r} is no MAC address of an interface, as 02:00:5e:00:53:01 is one")
    return text.lower()


class StopMode(StrEnum):
    """How an idle VM is stopped."""

    DESTROY = "destroy"
    SUSPEND = "suspend"
    SHUTDOWN = "shutdown"


class OnTimeout(StrEnum):
    """What dns says when `max_wait` is over and the VM is not ready."""

    ANSWER = "answer"
    SERVFAIL = "servfail"


class SummonMode(StrEnum):
    """How many of the VMs that share a name a cold query summons."""

    ONE = "one"
    ALL = "all"


class HandoverKind(StrEnum):
    """How Synjitsu passes on what it kept."""

    REPLAY = "replay"
    XENSTORE = "xenstore"


class BootFailure(StrEnum):
    """How a guest of the mock hypervisor fails."""

    NEVER = "never"
    START = "start"
    CRASH = "crash"
    HANG = "hang"


DnsName = Annotated[str, AfterValidator(dns_name)]
OwnerName = Annotated[str, AfterValidator(owner_name)]
Address = Annotated[IPv4Address | IPv6Address, BeforeValidator(_address)]
HostName = Annotated[str, AfterValidator(host_name)]
Mac = Annotated[str, AfterValidator(mac_address)]
VmId = Annotated[str, BeforeValidator(_uuid)]
VmName = Annotated[str, AfterValidator(_vm_name)]
Ttl = Annotated[int, Field(ge=0, le=MAX_TTL_S)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Limit = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]
MaxWait = Annotated[float, Field(gt=0, le=MAX_WAIT_LIMIT_S, allow_inf_nan=False)]
Memory = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Key:
    """One key of a VM, as it may stand in jitsu.toml or in the original's strings."""

    type: Any
    """What its text must parse as."""
    doc: str
    default: str = ""
    unit: str = ""
    repeats: bool = False
    default_from: str = ""
    """The key of `[defaults]` that supplies it where the VM is silent."""


KEYS: dict[str, Key] = {
    "dns": Key(OwnerName, "A DNS name of the VM; `*.NAME` stands for all below it. Required.", repeats=True),
    "alias": Key(DnsName, "Another name, answered with a CNAME to the VM's first.", repeats=True),
    "ip": Key(Address, "The VM's address. Required.", repeats=True),
    "name": Key(VmName, "The VM's name, on the hypervisor too.", "the first `dns` name"),
    "uuid": Key(VmId, "The VM's UUID.", "made from the name"),
    "host": Key(HostName, "The host whose vmd runs it, one of bus.hosts.", "the vmd of bus.vmd_rpc"),
    "ttl": Key(Ttl, "TTL of the answers.", "60", "s", default_from="ttl"),
    "stop_mode": Key(
        StopMode,
        "How it is stopped when idle: destroy, suspend or shutdown.",
        "destroy",
        default_from="stop_mode",
    ),
    "response_delay": Key(
        Seconds,
        "How long the answer is held back once the VM has started (or its key or port is there).",
        "0.1",
        "s",
        default_from="response_delay",
    ),
    "wait_for_key": Key(str, "The answer waits for this Xenstore key, relative to /local/domain/<domid>/."),
    "wait_for_port": Key(Port, "The answer waits until the VM accepts TCP connections here."),
    "use_synjitsu": Key(bool, "Answer as soon as the start is accepted; Synjitsu keeps the first packets.", "false"),
    "handover": Key(
        HandoverKind,
        "How Synjitsu passes connections on: replay for any guest, xenstore for those with the original's TCP stack.",
        "replay",
    ),
    "wake_on_traffic": Key(
        bool, "A TCP connection or a UDP datagram to the VM while it is off starts it, as a query does.", "false"
    ),
    "max_idle_connection": Key(
        Limit,
        "An open connection without traffic keeps the VM up that long; its client may have vanished.",
        "7200",
        "s",
        default_from="max_idle_connection",
    ),
    "idle_timeout": Key(
        Limit,
        "Stopped after that long without activity; at least the TTL.",
        "2 x TTL",
        "s",
        default_from="idle_timeout",
    ),
    "max_wait": Key(
        MaxWait,
        "A query waits at most that long; never above 4.",
        "1.2",
        "s",
        default_from="max_wait",
    ),
    "on_timeout": Key(
        OnTimeout,
        "What is said when max_wait is over: answer or servfail.",
        "answer",
        default_from="on_timeout",
    ),
    "summon": Key(
        SummonMode,
        "Lets VMs share a name, if all of them say it; a query while none is ready starts one or all of them.",
    ),
    "boot_limit": Key(Limit, "A boot that takes longer has failed.", "60", "s", default_from="boot_limit"),
    # The original's keys for libxl; kept for the hypervisor, which gives them their meaning.
    "kernel": Key(str, "Kernel image of the domain."),
    "memory": Key(Memory, "Memory of the domain.", unit="KiB"),
    "cmdline": Key(str, "Command line of the kernel."),
    "nic": Key(str, "Bridge of a network interface.", repeats=True),
    "mac": Key(Mac, "MAC address of its first interface.", "made from the UUID"),
    "script": Key(str, "Script of a network interface, reused in turn.", repeats=True),
    "disk": Key(str, "device-or-file@xvda.", repeats=True),
    "rumprun_config": Key(str, "JSON file with the configuration of a Rumprun unikernel."),
    # Keys of the mock hypervisor.
    "port": Key(Port, "Mock: TCP port on which the guest answers HTTP.", "8080"),
    "start_time": Key(Seconds, "Mock: how long the hypervisor's start call takes.", "0", "s"),
    "boot_time": Key(Seconds, "Mock: from the start to the guest's first answer.", "0.05", "s"),
    "boot_jitter": Key(Seconds, "Mock: up to that much is added to each boot.", "0", "s"),
    "shutdown_time": Key(Seconds, "Mock: how long a clean shutdown takes.", "0.05", "s"),
    "listen_after": Key(Seconds, "Mock bridge: how long after its link is up the guest listens.", "0", "s"),
    "announces": Key(bool, "Mock bridge: whether the guest announces its addresses.", "true"),
    "boot_mac": Key(Mac, "Mock bridge: the guest has this MAC address, whatever `mac` says."),
    "boot_failure": Key(
        BootFailure,
        "Mock: never; start (the start call fails); crash (the guest dies while booting); hang (it never answers).",
        "never",
    ),
}

_SYNONYMS = {"mode": "stop_mode"}  # the original's flag is called so

_PLAIN = (
    "stop_mode",
    "response_delay",
    "use_synjitsu",
    "handover",
    "wake_on_traffic",
    "max_idle_connection",
    "wait_for_key",
    "wait_for_port",
    "idle_timeout",
    "max_wait",
    "on_timeout",
    "boot_limit",
    "summon",
    "host",
)
"""Fields that are a leaf of the same name below `jitsu/vm/<uuid>/`."""

_ALWAYS_WRITTEN = frozenset({"stop_mode", "response_delay", "use_synjitsu"})
"""Leaves that the original writes for each VM, configured or not."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a configuration, and where."""

    key: str
    """The key, or the path below the VM, that it is about."""
    message: str


class InvalidVm(ValueError):
    """A VM could not be built; `faults` holds every reason."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.key}: {fault.message}" for fault in faults))
        self.faults = tuple(faults)


class VM(BaseModel):
    """One VM as configured; see `KEYS` for the meaning of each field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uuid: VmId
    name: VmName
    names: dict[OwnerName, Ttl] = Field(min_length=1)
    aliases: tuple[DnsName, ...] = ()
    addresses: tuple[Address, ...] = Field(min_length=1)
    stop_mode: StopMode = StopMode.DESTROY
    response_delay: Seconds = 0.1
    wait_for_key: str = ""
    wait_for_port: Port | None = None
    use_synjitsu: bool = False
    handover: HandoverKind = HandoverKind.REPLAY
    wake_on_traffic: bool = False
    max_idle_connection: Limit = 7200.0
    idle_timeout: Limit = 120.0
    max_wait: MaxWait = 1.2
    on_timeout: OnTimeout = OnTimeout.ANSWER
    boot_limit: Limit = 60.0
    summon: SummonMode | None = None
    host: HostName | Literal[""] = ""
    config: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Each configured value, as it was written."""

    @property
    def mac(self) -> str:
        """The MAC address of its first interface: as configured, else a locally administered one from its UUID."""
        configured = self.config.get("mac")
        if configured:
            return mac_address(configured[0])
        return ":".join(f"{byte:02x}" for byte in (2, *uuid_module.UUID(self.uuid).bytes[-5:]))

    @property
    def is_armed(self) -> bool:
        """Whether Synjitsu holds its addresses while it boots."""
        return self.use_synjitsu or self.wake_on_traffic

    @property
    def bridge(self) -> str:
        """The bridge of its first interface; empty if none is configured."""
        return self.config.get("nic", ("",))[0]

    @property
    def ttl(self) -> int:
        """The longest TTL of its names, in seconds."""
        return max(self.names.values())


def uuid_for(name: str) -> str:
    """Return the UUID of a VM that was given none."""
    return str(uuid_module.uuid5(UUID_NAMESPACE, name))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` for the known word most like this one, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def from_config(config: Mapping[str, Sequence[str]], defaults: Mapping[str, str]) -> VM:
    """Build a VM from its keys, each with its values as text; raises InvalidVm with all faults.

    `defaults` are the values of `[defaults]`, as text, for keys on which the VM is silent.
    """
    faults: list[Fault] = []
    known: dict[str, tuple[str, ...]] = {}
    for written, values in config.items():
        key = _SYNONYMS.get(written, written)
        if key not in KEYS:
            faults.append(Fault(written, f"unknown key{nearest(written, KEYS)}"))
        elif len(values) > 1 and not KEYS[key].repeats:
            faults.append(Fault(written, f"given {len(values)} times, may be given once"))
        else:
            faults += [Fault(written, text) for text in _reasons(key, values)]
            known[key] = tuple(values)
    faults += [Fault(key, "is required") for key in ("dns", "ip") if not known.get(key) and key not in config]
    if faults:
        raise InvalidVm(faults)
    single = {key: values[0] for key, values in known.items() if values}
    for key, about in KEYS.items():
        if about.default_from and defaults.get(about.default_from):
            single.setdefault(key, defaults[about.default_from])
    name = single.get("name", owner_name(known["dns"][0]).removeprefix("*."))
    ttl = single.get("ttl", KEYS["ttl"].default)
    fields: dict[str, Any] = {key: single[key] for key in _PLAIN if key in single}
    fields |= {
        "uuid": single.get("uuid", uuid_for(name)),
        "name": name,
        "names": dict.fromkeys(map(owner_name, known["dns"]), ttl),
        "aliases": known.get("alias", ()),
        "addresses": known["ip"],
        "config": known,
    }
    return _build(fields)


def from_tree(uuid: str, leaves: Mapping[str, str]) -> VM:
    """Build a VM from the leaves below `jitsu/vm/<uuid>/`; raises InvalidVm with all faults.

    A leaf of its own (`response_delay`) counts before the value once configured
    (`config/response_delay/0`), so that a single `jitsu set` changes it.
    """
    config: dict[str, list[tuple[int, str]]] = {}
    names: dict[str, str] = {}
    faults: list[Fault] = []
    plain: dict[str, str] = {}
    for path, value in leaves.items():
        match path.split("/"):
            case ["config", key, index] if index.isdecimal() and len(index) < 7:
                config.setdefault(key, []).append((int(index), value))
            case ["dns", name, "ttl"]:
                names[name] = value
            case [leaf] if leaf in _PLAIN or leaf == "ip":
                plain[leaf] = value
            case _:
                faults.append(Fault(path, f"no such key of a VM{nearest(path, (*_PLAIN, 'ip'))}"))
    configured = {key: tuple(value for _, value in sorted(pairs)) for key, pairs in config.items()}
    if not names and not configured.get("dns"):
        faults.append(Fault("dns", "the VM has no DNS name"))
    if faults:
        raise InvalidVm(faults)
    fields: dict[str, Any] = {key: configured[key][0] for key in _PLAIN if key in configured}
    fields |= {key: value for key, value in plain.items() if key != "ip"}
    fields = {key: value for key, value in fields.items() if value != ""}
    ttl = configured.get("ttl", (KEYS["ttl"].default,))[0]
    fields |= {
        "uuid": uuid,
        "name": configured.get("name", configured.get("dns") or (min(names),))[0].removeprefix("*."),
        "aliases": configured.get("alias", ()),
        "names": names or dict.fromkeys(configured["dns"], ttl),
        "addresses": plain["ip"].split() if "ip" in plain else configured.get("ip", ()),
        "config": configured,
    }
    return _build(fields)


def to_tree(vm: VM) -> dict[str, str]:
    """Return the VM's leaves: full path -> text."""
    leaves = {f"dns/{name}/ttl": str(ttl) for name, ttl in vm.names.items()}
    leaves["ip"] = " ".join(map(str, vm.addresses))
    for key, values in vm.config.items():
        leaves |= {f"config/{key}/{index}": value for index, value in enumerate(values)}
    for field in _PLAIN:
        value = getattr(vm, field)
        if field in _ALWAYS_WRITTEN or value != VM.model_fields[field].default:
            leaves[field] = as_text(value)
    if vm.idle_timeout == 2 * vm.ttl and "idle_timeout" not in vm.config:
        leaves.pop("idle_timeout", None)  # follows the TTL for as long as nobody sets it
    return {f"{VM_ROOT}/{vm.uuid}/{path}": value for path, value in leaves.items()}


def as_text(value: object) -> str:
    """Return a value as the tree holds it: `true`, `0.1`, `60`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value)


class Holdings:
    """Who holds which name and address: what VMs may not have in common."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, str], list[VM]] = {}

    def add(self, vm: VM) -> None:
        """Note what a VM holds."""
        for held in self._held(vm):
            self._owners.setdefault(held, []).append(vm)

    def remove(self, vm: VM) -> None:
        """Forget what a VM held."""
        for held in self._held(vm):
            self._owners[held].remove(vm)
            if not self._owners[held]:
                del self._owners[held]

    def clashes(self, vm: VM) -> list[Fault]:
        """Return what others hold that this VM has too."""
        found = []
        for key, value in self._held(vm):
            others = [
                owner
                for owner in self._owners.get((key, value), ())
                if owner is not vm and not (key == "dns" and _share(value, vm, owner))
            ]
            if others:
                may = "; to share it, both need summon" if key == "dns" and value in vm.names else ""
                found.append(Fault(key, f"{value} belongs to the VM {others[0].name} already{may}"))
        return found

    @staticmethod
    def _held(vm: VM) -> list[tuple[str, str]]:
        held = [("dns", name) for name in vm.names]
        held += [("dns", name) for name in vm.aliases]
        held += [("ip", str(address)) for address in vm.addresses]
        return [*held, ("name", vm.name), ("uuid", vm.uuid)]


def _share(name: str, one: VM, other: VM) -> bool:
    """Say whether two VMs may both have this name."""
    return one.summon is not None and other.summon is not None and name in one.names and name in other.names


def _reasons(key: str, values: Sequence[str]) -> list[str]:
    checker: TypeAdapter[Any] = TypeAdapter(KEYS[key].type)
    reasons = []
    for value in values:
        try:
            checker.validate_python(value)
        except ValidationError as error:
            reasons += [reason(detail) for detail in error.errors()[:1]]
    return reasons


def reason(detail: Any) -> str:
    """Return one of pydantic's errors as a sentence that shows the value."""
    message = str(detail["msg"]).removeprefix("Value error, ")
    value = repr(detail["input"])
    if detail["type"] == "value_error" or len(value) > 80:
        return message
    return f"{message[0].lower()}{message[1:].removesuffix('.')}, but is {value}"


def _build(fields: dict[str, Any]) -> VM:
    try:
        vm = VM(**fields)
    except ValidationError as error:
        raise InvalidVm([Fault(_leaf(e["loc"]), reason(e)) for e in error.errors()]) from None
    if both := set(vm.names) & set(vm.aliases):
        raise InvalidVm([Fault("alias", f"{min(both)} is a name of this VM already")])
    if "idle_timeout" not in fields:
        return vm.model_copy(update={"idle_timeout": max(2.0 * vm.ttl, 1.0)})
    if vm.idle_timeout < vm.ttl:
        # Guarantee G3: no VM is stopped while an answer for it is still within its TTL.
        raise InvalidVm([Fault("idle_timeout", f"{vm.idle_timeout:g} s is less than the TTL of {vm.ttl} s")])
    return vm


def _leaf(location: Sequence[int | str]) -> str:
    match list(location):
        case ["names", str(name), "[key]"]:
            return f"dns/{name}"
        case ["names", str(name), *_]:
            return f"dns/{name}/ttl"
        case ["addresses", *_]:
            return "ip"
        case ["aliases", *_]:
            return "alias"
        case [str(first), *_]:
            return first
        case _:
            return ""
