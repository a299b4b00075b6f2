"""The keys of a VM: the type, unit, default and meaning of each, and what their values may be."""

from __future__ import annotations

import re
import unicodedata
import uuid as uuid_module
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter

from jitsu_protocol.model.schedules import holiday_place, time_zone, window_text

MAX_WAIT_LIMIT_S = 4.0  # a stub resolver asks again after 5 s (resolv.conf(5), `timeout`)
MAX_TTL_S = 2**31 - 1  # RFC 2181, section 8
MAX_SECONDS = 10 * 365 * 86400.0  # longer than that is a typing error
MAX_TEXT_CHARACTERS = 4096  # PATH_MAX of Linux; a kernel's command line has at most half of that
MAX_MEMORY_KIB = 2**34  # 16 TiB; it still fits into every hypervisor's integers
MAX_NAME_CHARACTERS = 253  # 255 octets on the wire (RFC 1035, section 2.3.4)

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def dns_name(text: str) -> str:
    """Return a host name in lower case without its final dot (RFC 1035, 2.3.1; RFC 2181, 11).

    Raises ValueError with the reason if it is not one. Underscores are allowed, as in service names.
    """
    shown = repr(text[:100])
    if not text.isascii():
        raise ValueError(f"{shown} is not ASCII: write its xn-- form")
    name = text.lower().removesuffix(".")
    if not name:
        raise ValueError("the name is empty")
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(f"the name is {len(name)} characters long, {MAX_NAME_CHARACTERS} are allowed")
    for label in name.split("."):
        if not label:
            raise ValueError(f"{shown} is not a DNS name: it has an empty label")
        if len(label) > 63:
            raise ValueError(f"{shown} is not a DNS name: the label {label[:100]!r} exceeds 63 characters")
        if not _LABEL.fullmatch(label):
            raise ValueError(f"{shown} is not a DNS name: {label[:100]!r} may hold letters, digits and inner hyphens")
    return name


def owner_name(text: str) -> str:
    """Return a name that a record may have: a host name, or one whose first label is * (RFC 4592)."""
    if not (text.startswith("*.") and text.count(".") > 1):
        return dns_name(text)
    name = "*." + dns_name(text[2:])
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(f"the name is {len(name)} characters long, {MAX_NAME_CHARACTERS} are allowed")
    return name


def _address(value: object) -> IPv4Address | IPv6Address:
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    text = str(value)
    shown = repr(text[:100])
    if "%" in text:
        raise ValueError(f"{shown} has a scope, which means nothing to other hosts; write the address without %...")
    if "/" in text:
        raise ValueError(f"{shown} is a network; write the address without its prefix: {text.partition('/')[0][:50]}")
    try:
        address = IPv6Address(text) if ":" in text else IPv4Address(text)
    except ValueError:
        raise ValueError(f"{shown} is not an IP address") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise ValueError(f"{shown} is an IPv4 address in IPv6 form; write {address.ipv4_mapped}")
    if address.is_multicast or address.is_unspecified or _no_host_has(address):
        raise ValueError(f"{shown} cannot be the address of a VM")
    return address


def _no_host_has(address: IPv4Address | IPv6Address) -> bool:
    """Return whether no interface can have this address: 0.0.0.0/8 and the broadcast address (RFC 1122, 3.2.1.3)."""
    return isinstance(address, IPv4Address) and (int(address) >> 24 == 0 or int(address) == 2**32 - 1)


def _uuid(value: object) -> str:
    try:
        return str(uuid_module.UUID(str(value)))
    except ValueError:
        raise ValueError(f"{str(value)[:100]!r} is not a UUID") from None


def _vm_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.+-]{0,127}", text):
        raise ValueError(f"{text[:200]!r} is not a VM name: letters, digits and . _ + - are allowed, 128 at most")
    if text in (".", "..", "Domain-0"):
        raise ValueError(f"{text!r} cannot be the name of a VM: it means something else in files or in Xen")
    return text


def _line(text: str) -> str:
    """Check a path or another line of text: it goes into files and calls that end at a NUL or at a line's end."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ValueError(f"the value is {len(text)} characters long, {MAX_TEXT_CHARACTERS} are allowed")
    if bad := next((character for character in text if _is_control(character)), ""):
        raise ValueError(f"{text[:100]!r} has the control character {bad!r}")
    return text


def _is_control(character: str) -> bool:
    """Return whether XML or a line of text cannot hold a character: control, surrogate, line end (XML 1.0, 2.2)."""
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in "\ufffe\uffff"


def _bridge_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", text) or text in (".", ".."):
        raise ValueError(f"{text[:100]!r} is not the name of a bridge: use at most 15 letters, digits and . _ -")
    return text


def _hypervisor_name(text: str) -> str:
    return host_name(text) if text else text


def command_name(text: str) -> str:
    """Check the name of a section [command.NAME], which can hold no command; raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}", text):
        raise ValueError(
            f"{text[:100]!r} is not the name of a section [command.NAME]: letters, digits and - are allowed, 32 at most"
        )
    return text


def _xenstore_key(text: str) -> str:
    """Check a path relative to a guest's own part of Xenstore (docs/misc/xenstore.txt of Xen)."""
    if text and not (re.fullmatch(r"[A-Za-z0-9_@-]+(/[A-Za-z0-9_@-]+)*", text) and len(text) <= 1024):
        raise ValueError(f"{text[:100]!r} is not a relative Xenstore path; expected something like data/status")
    return text


def _integer(value: object) -> object:
    """Accept an integer only in the one form that all programs read alike."""
    if isinstance(value, str) and not re.fullmatch(r"0|-?[1-9][0-9]{0,18}", value):
        raise ValueError(f"{value[:100]!r} is not an integer; write it with digits only, for example 60")
    return value


def host_name(text: str) -> str:
    """Check the name of a host with a vmd of its own: it is part of a file's name; raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}", text):
        raise ValueError(f"{text[:100]!r} is not the name of a host: letters, digits and - are allowed, 32 at most")
    return text


def mac_address(text: str) -> str:
    """Check a MAC address of one interface and return it in lower case; raises ValueError."""
    is_one = re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", text)
    if not is_one or int(text[1], 16) & 1 or text == "00:00:00:00:00:00":
        raise ValueError(
            f"{text[:100]!r} is not the MAC address of an interface; expected something like 02:00:5e:00:53:01"
        )
    return text.lower()


class StopMode(StrEnum):
    """How an idle VM is stopped."""

    DESTROY = "destroy"
    SUSPEND = "suspend"
    SHUTDOWN = "shutdown"
    PAUSE = "pause"


class AnswerTime(StrEnum):
    """When the queries for a VM that uses Synjitsu are answered."""

    ARMED = "armed"
    STARTED = "started"


class OnTimeout(StrEnum):
    """What dns says when `max_wait` is over and the VM is not ready."""

    ANSWER = "answer"
    SERVFAIL = "servfail"


class SummonMode(StrEnum):
    """How many of the VMs that share a name a cold query summons."""

    ONE = "one"
    ALL = "all"


class ReadySign(StrEnum):
    """The sign by which a guest counts as ready."""

    FIRST_FRAME = "first-frame"


class HandoverKind(StrEnum):
    """How Synjitsu passes the packets that it kept to the guest."""

    REPLAY = "replay"
    XENSTORE = "xenstore"


class BootFailure(StrEnum):
    """How a guest of the mock hypervisor fails."""

    NEVER = "never"
    START = "start"
    CRASH = "crash"
    HANG = "hang"


def name_ttl(text: str) -> tuple[str, str]:
    """Split `NAME TTL` into the name of a record and its TTL in seconds; raises ValueError."""
    name, _, seconds = text.strip().partition(" ")
    if not (seconds.isascii() and seconds.isdecimal()):
        raise ValueError(
            f"{text!r} is not NAME TTL; expected something like 'www.example.org 30' or 'www.example.org 1m'"
        )
    return owner_name(name), seconds


def _name_ttl_text(text: str) -> str:
    return " ".join(name_ttl(text))


DnsName = Annotated[str, AfterValidator(dns_name)]
NameTtl = Annotated[str, AfterValidator(_name_ttl_text)]
OwnerName = Annotated[str, AfterValidator(owner_name)]
Address = Annotated[IPv4Address | IPv6Address, BeforeValidator(_address)]
HostName = Annotated[str, AfterValidator(host_name)]
Mac = Annotated[str, AfterValidator(mac_address)]
VmId = Annotated[str, BeforeValidator(_uuid)]
VmName = Annotated[str, AfterValidator(_vm_name)]
Line = Annotated[str, AfterValidator(_line)]
QemuMachine = Literal["microvm", "q35"]
QemuFirmware = Literal["bios", "uefi"]
GuestType = Literal["pv", "pvh", "hvm"]
BridgeName = Annotated[str, AfterValidator(_bridge_name)]
CommandName = Annotated[str, AfterValidator(command_name)]
HypervisorName = Annotated[str, AfterValidator(_hypervisor_name)]
XenstoreKey = Annotated[str, AfterValidator(_xenstore_key)]
WindowText = Annotated[str, AfterValidator(window_text)]
ZoneName = Annotated[str, AfterValidator(time_zone)]
HolidayPlace = Annotated[str, AfterValidator(holiday_place)]
Integer = Annotated[int, BeforeValidator(_integer)]
Ttl = Annotated[Integer, Field(ge=0, le=MAX_TTL_S)]
Port = Annotated[Integer, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Limit = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]
MaxWait = Annotated[float, Field(gt=0, le=MAX_WAIT_LIMIT_S, allow_inf_nan=False)]
Memory = Annotated[Integer, Field(ge=1, le=MAX_MEMORY_KIB)]
Count = Annotated[Integer, Field(ge=1, le=1024)]
Priority = Annotated[Integer, Field(ge=-1000, le=1000)]


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
    set_by: Literal["operator", "vm"] = "operator"
    """Who may change it: operators only, or also the VM itself, if it was given an identity.

    vmd acts as root on many keys (`script`, `disk`, `kernel`), and names and addresses are taken from a common stock.
    A VM may therefore change only the keys that affect nobody but itself: its TTLs, its delays, how its boot is masked
    and how it is stopped. docs/explanation/security.md has the list.
    """


KEYS: dict[str, Key] = {
    "dns": Key(OwnerName, "A DNS name of the VM; `*.NAME` stands for all below it. Required.", repeats=True),
    "alias": Key(DnsName, "Another name, answered with a CNAME to the VM's first.", repeats=True),
    "ip": Key(Address, "The VM's address. Required.", repeats=True),
    "name": Key(VmName, "The VM's name, on the hypervisor too.", "the first `dns` name"),
    "uuid": Key(VmId, "The VM's UUID.", "made from the name"),
    "hypervisor": Key(
        HypervisorName, "The hypervisor that runs it, one of hypervisor.connections.", "that of hypervisor.kind"
    ),
    "host": Key(HostName, "The host whose vmd runs it, one of bus.hosts.", "the vmd of bus.vmd_rpc"),
    "ttl": Key(Ttl, "TTL of the answers.", "60", "s", default_from="ttl", set_by="vm"),
    "name_ttl": Key(
        NameTtl, "`NAME TTL`: the TTL of one of its DNS names, where that differs from `ttl`.", repeats=True
    ),
    "stop_mode": Key(
        StopMode,
        "How it is stopped when idle: destroy, suspend (to disk), shutdown (by the guest) or pause (in memory). If"
        " neither the VM nor [defaults] says anything, `jitsu apply` writes shutdown for a VM with a writable disk.",
        "destroy",
        default_from="stop_mode",
        set_by="vm",
    ),
    "response_delay": Key(
        Seconds,
        "How long the answer is held back once the VM has started (or its key or port is there).",
        "0.1",
        "s",
        default_from="response_delay",
        set_by="vm",
    ),
    "wait_for_key": Key(
        XenstoreKey, "The answer waits for this Xenstore key, relative to /local/domain/<domid>/.", set_by="vm"
    ),
    "wait_for_port": Key(Port, "The answer waits until the VM accepts TCP connections here.", set_by="vm"),
    "ready": Key(
        ReadySign, "first-frame: the answer waits until Synjitsu has seen a frame of the guest's own.", set_by="vm"
    ),
    "use_synjitsu": Key(
        bool, "Answer before the guest is there; Synjitsu keeps the first packets for it.", "false", set_by="vm"
    ),
    "answer": Key(
        AnswerTime,
        "With use_synjitsu. armed: a query is answered once Synjitsu holds the address, while the start call is still"
        " under way. started: once the hypervisor has accepted the start, so that a refused start is a SERVFAIL.",
        "armed",
        set_by="vm",
    ),
    "handover": Key(
        HandoverKind,
        "How Synjitsu passes connections on: replay for any guest, xenstore for those with the original's TCP stack.",
        "replay",
        set_by="vm",
    ),
    "wake_on_traffic": Key(
        bool, "A TCP connection or a UDP datagram to the VM while it is off starts it, as a query does.", "false"
    ),
    "wake_on_lan": Key(
        bool,
        "A magic packet (Wake-on-LAN) for its MAC address that is seen on its bridge while it is off starts it.",
        "false",
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
        MaxWait, "A query waits at most that long; never above 4.", "1.2", "s", default_from="max_wait", set_by="vm"
    ),
    "on_timeout": Key(
        OnTimeout,
        "What dns sends when max_wait is over: answer or servfail.",
        "answer",
        default_from="on_timeout",
        set_by="vm",
    ),
    "summon": Key(
        SummonMode,
        "Lets VMs share a name, if all of them have this key; a query while none is ready starts one or all of them.",
    ),
    "boot_limit": Key(Limit, "A boot that takes longer has failed.", "60", "s", default_from="boot_limit"),
    "evict": Key(
        bool,
        "It may be stopped before its idle_timeout for another VM that finds no room (hypervisor.max_running, "
        "max_memory): once all answers for it are past their TTL and nobody is connected.",
        "false",
        default_from="evict",
    ),
    "priority": Key(
        Priority, "Where room is short, the higher starts first; a VM is evicted for one of at least its own.", "0"
    ),
    "awake": Key(
        WindowText,
        "When it is kept up, and started ahead of: `Mon-Fri 08:00-18:00`, or from the times of a cron expression on, "
        "`0 8 * * 1-5 for 10h`.",
        repeats=True,
    ),
    "asleep": Key(
        WindowText,
        "When only an operator may start it, in the same forms. One that runs is stopped as soon as it is idle.",
        repeats=True,
    ),
    "time_zone": Key(ZoneName, "Of `awake` and `asleep`.", "that of its host"),
    "holidays": Key(
        HolidayPlace,
        "Country, or a part of one, whose public holidays are the day `Hol` in `awake` and `asleep`: DE, DE-BE, US-CA.",
    ),
    # Of the domain that is made for it; a VM with neither kernel nor domain_xml is one that the hypervisor has already.
    "image": Key(
        Line,
        "lxd, incus: alias or fingerprint of the image that its instance is made from; docker: name of the image of "
        "its container. Without it, the VM is the instance or the container of its name.",
    ),
    "kernel": Key(Line, "Kernel image of the domain; solo5: the image of the unikernel."),
    "initrd": Key(Line, "Initial RAM disk of the domain."),
    "machine": Key(QemuMachine, "qemu: microvm, which needs a kernel and starts faster, or q35.", "q35"),
    "firmware": Key(QemuFirmware, "qemu: with q35, bios, or uefi: the host's firmware, without Secure Boot.", "bios"),
    "guest_agent": Key(bool, "qemu: the guest has a channel for QEMU's guest agent; clones need it.", "false"),
    "template": Key(
        VmName, "qemu: the VM of this name, which is suspended, is what each start of this VM begins with: a clone."
    ),
    "shared_identity": Key(bool, "qemu: a clone may keep the machine-id and the host keys of its template.", "false"),
    "standby": Key(
        bool,
        "qemu: while it is suspended, its process stays, with its memory, so that it continues at once.",
        "false",
    ),
    "guest_type": Key(
        GuestType, "How Xen boots the kernel: pv, pvh or hvm.", "as its ELF notes say; pv if it is not an ELF file"
    ),
    "memory": Key(Memory, "Memory of the domain.", "65536", "KiB"),
    "vcpus": Key(Count, "Processors of the domain.", "1"),
    "shutdown_limit": Key(Limit, "A guest that has not shut down after that long is destroyed.", "60", "s"),
    "domain_xml": Key(Line, "libvirt: file with the domain's XML; its name and uuid are replaced by the VM's."),
    "cmdline": Key(
        Line,
        "Command line of the kernel; mock bridge with `tap`: arguments of the guest in C. solo5: {name}, {ip}, "
        "{prefix}, {gateway} and, of IPv6, {ip6}, {prefix6}, {gateway6} are filled in. docker: its arguments.",
    ),
    "nic": Key(BridgeName, "Bridge of a network interface.", repeats=True),
    "mac": Key(Mac, "MAC address of its first interface.", "made from the UUID"),
    "script": Key(Line, "Script of a network interface, reused in turn.", repeats=True),
    "disk": Key(
        Line,
        "device-or-file@xvda; solo5: file@NAME, with the name that the image gives its block device; docker: "
        "directory-or-volume@PATH in the container.",
        repeats=True,
    ),
    "command": Key(CommandName, "command: the section [command.NAME] of the host's jitsu.toml that drives it."),
    "rumprun_config": Key(Line, "JSON file with the configuration of a Rumprun unikernel."),
    # Keys of containers.
    "container": Key(VmName, "docker: name of its container.", "the VM's name"),
    "publish": Key(
        Line,
        "docker: a port of the container at the VM's address, which is one of the host's: PORT or HOST-PORT:PORT, with "
        "/udp behind it for UDP.",
        repeats=True,
    ),
    # Keys of the mock hypervisor.
    "port": Key(Port, "Mock: TCP port on which the guest answers HTTP.", "8080"),
    "start_time": Key(Seconds, "Mock: how long the hypervisor's start call takes.", "0", "s"),
    "boot_time": Key(Seconds, "Mock: from the start to the guest's first answer.", "0.05", "s"),
    "boot_jitter": Key(Seconds, "Mock: up to this much time is added to each boot.", "0", "s"),
    "shutdown_time": Key(Seconds, "Mock: how long a clean shutdown takes.", "0.05", "s"),
    "listen_after": Key(Seconds, "Mock bridge: how long after its link is up the guest listens.", "0", "s"),
    "announces": Key(bool, "Mock bridge: whether the guest announces its addresses.", "true"),
    "tap": Key(
        bool, "Mock bridge: the guest is on a tap, which has a queue, as QEMU's are.", "if the guest in C is built"
    ),
    "boot_mac": Key(Mac, "Mock bridge: the guest has this MAC address, whatever `mac` says."),
    "boot_failure": Key(
        BootFailure,
        "Mock: never; start (the start call fails); crash (the guest dies while booting); hang (it never answers).",
        "never",
    ),
}


def default_of_key(key: str) -> Any:
    """Return the default of a key as a value of its type."""
    return TypeAdapter(KEYS[key].type).validate_python(KEYS[key].default)
