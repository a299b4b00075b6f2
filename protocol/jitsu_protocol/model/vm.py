"""The VM model: what is configured of one VM, from its text forms and back; invalid ones cannot be built.

A VM is written down in three ways, and this module is where they meet: as keys and values (a `[vm.NAME]`
table of jitsu.toml, or the original's `key=value,key=value`), as leaves of the state tree below
`jitsu/vm/<uuid>/` (with the original's paths), and as the frozen `VM` that all code works with.
"""

from __future__ import annotations

import difflib
import re
import uuid as uuid_module
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from jitsu_protocol.model.units import UNITS, plain, refusal
from jitsu_protocol.model.vm_keys import (
    KEYS,
    Address,
    AnswerTime,
    DnsName,
    HandoverKind,
    HostName,
    Limit,
    MaxWait,
    OnTimeout,
    OwnerName,
    Port,
    Priority,
    ReadySign,
    Seconds,
    StopMode,
    SummonMode,
    Ttl,
    VmId,
    VmName,
    XenstoreKey,
    default_of_key,
    mac_address,
    name_ttl,
    owner_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VM_ROOT = "jitsu/vm"
STATS_ROOT = "jitsu/stats"
REPLICA_ROOT = "jitsu/replica"
"""Below it, for each dns replica: `lease_s`, and `address`, where it serves."""

UUID_NAMESPACE = uuid_module.UUID("6d0f4f2a-6a69-5473-8175-76302e320000")
"""A VM without a configured uuid gets uuid5(this, its name): the same at every start."""

MAX_ADDRESSES = 64
"""Of one VM: its answer stays far below the 65,535 octets of a DNS message."""
MAX_NAMES = 1000
"""Of one VM, aliases among them."""

MAX_FAULTS = 20
MAX_FAULT_CHARACTERS = 400
"""Of one VM's faults that many are reported, each so long: what is wrong is shown, whatever its size."""

MAX_SHOWN_CHARACTERS = 80
"""Of a value in a message."""

MIN_IDLE_S = 1.0
"""A VM whose answers may not be kept at all is used for that long."""

_SYNONYMS = {"mode": "stop_mode"}  # the original's flag is called so

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
        faults = faults[:MAX_FAULTS]
        super().__init__("; ".join(f"{fault.key}: {fault.message}"[:MAX_FAULT_CHARACTERS] for fault in faults))
        self.faults = tuple(faults)


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


VALUES_KEPT = 4096
"""MAC addresses, and values of keys, that are kept: each start asks for some of them a dozen times."""


class VM(BaseModel):
    """One VM as configured. `KEYS` says what each field means, and what its default is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uuid: VmId
    name: VmName
    names: dict[OwnerName, Ttl] = Field(min_length=1, max_length=MAX_NAMES)
    aliases: Annotated[tuple[DnsName, ...], Field(max_length=MAX_NAMES), AfterValidator(_each_once)] = ()
    addresses: Annotated[tuple[Address, ...], Field(min_length=1, max_length=MAX_ADDRESSES), AfterValidator(_each_once)]
    stop_mode: StopMode = default_of_key("stop_mode")
    response_delay: Seconds = default_of_key("response_delay")
    wait_for_key: XenstoreKey = ""
    wait_for_port: Port | None = None
    ready: ReadySign | None = None
    use_synjitsu: bool = default_of_key("use_synjitsu")
    answer: AnswerTime = default_of_key("answer")
    handover: HandoverKind = default_of_key("handover")
    wake_on_traffic: bool = default_of_key("wake_on_traffic")
    wake_on_lan: bool = default_of_key("wake_on_lan")
    max_idle_connection: Limit = default_of_key("max_idle_connection")
    idle_timeout: Limit = 120.0
    max_wait: MaxWait = default_of_key("max_wait")
    on_timeout: OnTimeout = default_of_key("on_timeout")
    boot_limit: Limit = default_of_key("boot_limit")
    evict: bool = default_of_key("evict")
    priority: Priority = default_of_key("priority")
    summon: SummonMode | None = None
    host: HostName | Literal[""] = ""
    config: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Each configured value, as it was written."""

    @property
    def mac(self) -> str:
        """The MAC address of its first interface: as configured, else a locally administered one from its UUID."""
        return _mac(self.uuid, self.config.get("mac", ("",))[0])

    @property
    def is_armed(self) -> bool:
        """Whether Synjitsu holds its addresses while it boots."""
        return self.use_synjitsu or self.wake_on_traffic or self.ready is ReadySign.FIRST_FRAME

    @property
    def bridge(self) -> str:
        """The bridge of its first interface; empty if none is configured."""
        return self.config.get("nic", ("",))[0]

    def key(self, key: str) -> str:
        """Return the first value of a key as it is configured, else its default."""
        return self.config.get(key, (KEYS[key].default,))[0]

    def value(self, key: str) -> Any:
        """Return the first value of a key as its type has it: a number of its unit, True or False, a member of an enum.

        Where the key is silent this is its default. Keys whose default is only described in words have no such value.
        """
        return _value(key, self.key(key))

    def flag(self, key: str) -> bool:
        """Return whether a key of type bool is on, however that is written: true, yes, on, 1."""
        return bool(self.value(key))

    @property
    def ttl(self) -> int:
        """The longest TTL of its names, in seconds."""
        return max(self.names.values())

    @property
    def evict_timeout(self) -> float:
        """How long it must have been without activity to be stopped for another, in seconds; by G3 at least its TTL."""
        return min(max(float(self.ttl), MIN_IDLE_S), self.idle_timeout)


@lru_cache(maxsize=VALUES_KEPT)
def _mac(uuid: str, configured: str) -> str:
    if configured:
        return mac_address(configured)
    return ":".join(f"{byte:02x}" for byte in (2, *uuid_module.UUID(uuid).bytes[-5:]))


@lru_cache(maxsize=VALUES_KEPT)
def _value(key: str, text: str) -> Any:
    return _checker(key).validate_python(text)


_COMPOSED = ("uuid", "name", "names", "aliases", "addresses", "config")
_PLAIN = tuple(field for field in VM.model_fields if field not in _COMPOSED)
"""Fields that are a leaf of the same name below `jitsu/vm/<uuid>/`."""
_DEFAULTS = {field: VM.model_fields[field].default for field in _PLAIN}
PLACES_KEPT = 1024
"""Paths of leaves that have been taken apart. VMs have the same keys, so most come again."""

_IN_THE_MODEL = frozenset({"dns", "alias", "ip", "name", "uuid", "ttl", *_PLAIN})
"""Keys whose values `VM` checks; those of the others are checked where a VM is built."""


def uuid_for(name: str) -> str:
    """Return the UUID of a VM that was given none."""
    return str(uuid_module.uuid5(UUID_NAMESPACE, name))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` for the known word most like this one, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def from_config(config: Mapping[str, Sequence[str]], defaults: Mapping[str, str]) -> VM:
    """Build a VM from its keys, each with its values as text; raises InvalidVm with all faults.

    Durations and sizes may have a unit; the VM holds them as plain numbers. `defaults` are the values of
    `[defaults]`, as text, for keys on which the VM is silent.
    """
    faults: list[Fault] = []
    known: dict[str, tuple[str, ...]] = {}
    for written, values in config.items():
        key = _SYNONYMS.get(written, written)
        if key not in KEYS:
            faults.append(Fault(written, f"unknown key{nearest(written, KEYS) if len(faults) < MAX_FAULTS else ''}"))
        elif len(values) > 1 and not KEYS[key].repeats:
            faults.append(Fault(written, f"given {len(values)} times, may be given once"))
        else:
            faults += [Fault(written, text) for text in _reasons(key, values)]
            known[key] = tuple(plain_value(key, value) for value in values)
    faults += [Fault(key, "is required") for key in ("dns", "ip") if not known.get(key) and key not in config]
    if faults:
        raise InvalidVm(faults)
    single = {key: values[0] for key, values in known.items() if values}
    for key, about in KEYS.items():
        if about.default_from and defaults.get(about.default_from):
            single.setdefault(key, defaults[about.default_from])
    name = single.get("name", _named_after(known["dns"][0]))
    ttl = single.get("ttl", KEYS["ttl"].default)
    fields: dict[str, Any] = {key: single[key] for key in _PLAIN if key in single}
    fields |= {
        "uuid": single.get("uuid", uuid_for(name)),
        "name": name,
        "names": _ttls(map(owner_name, known["dns"]), ttl, known.get("name_ttl", ())),
        "aliases": known.get("alias", ()),
        "addresses": known["ip"],
        "config": known,
    }
    return _build(fields)


def from_tree(uuid: str, leaves: Mapping[str, str]) -> VM:
    """Build a VM from the leaves below `jitsu/vm/<uuid>/`; raises InvalidVm with all faults.

    Units are refused: the tree holds plain numbers, which older releases read too.
    A leaf of its own (`response_delay`) counts before the value once configured
    (`config/response_delay/0`), so that a single `jitsu set` changes it.
    """
    config: dict[str, list[tuple[int, str]]] = {}
    names: dict[str, str] = {}
    faults: list[Fault] = []
    plain: dict[str, str] = {}
    for path, value in leaves.items():
        match _place(path):
            case "config", key, index:
                config.setdefault(key, []).append((index, value))
            case "dns", name, _:
                names[name] = value
            case "plain", leaf, _:
                plain[leaf] = value
            case _:
                meant = nearest(path, (*_PLAIN, "ip")) if len(faults) < MAX_FAULTS else ""
                faults.append(Fault(path, f"no such key of a VM{meant}"))
    configured = {key: tuple(value for _, value in sorted(pairs)) for key, pairs in config.items()}
    for key in configured.keys() & KEYS.keys() - _IN_THE_MODEL:
        faults += [Fault(f"config/{key}", text) for text in _reasons(key, configured[key], in_tree=True)]
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
        "name": configured["name"][0]
        if configured.get("name")
        else _named_after((configured.get("dns") or sorted(names))[0]),
        "aliases": configured.get("alias", ()),
        "names": names or _ttls(configured["dns"], ttl, configured.get("name_ttl", ())),
        "addresses": plain["ip"].split() if "ip" in plain else configured.get("ip", ()),
        "config": configured,
    }
    vm = _build(fields)
    if vm.uuid != uuid:
        raise InvalidVm([Fault("uuid", f"{uuid[:100]!r} must be written {vm.uuid}")])
    return vm


@lru_cache(PLACES_KEPT)
def _place(path: str) -> tuple[str, str, int] | None:
    """Return what a leaf is ("config", "dns" or "plain"), its key or name, and which of the values of a key."""
    match path.split("/"):
        case ["config", key, index] if index.isdecimal() and len(index) < 7:
            return "config", key, int(index)
        case ["dns", name, "ttl"]:
            return "dns", name, 0
        case [leaf] if leaf in _PLAIN or leaf == "ip":
            return "plain", leaf, 0
        case _:
            return None


def _named_after(dns: str) -> str:
    """Return the name of a VM that has only this DNS name; what is not a DNS name is refused later."""
    with suppress(ValueError):
        dns = owner_name(dns)
    return dns.removeprefix("*.")


def _ttls(names: Iterable[str], ttl: str, of_names: Iterable[str]) -> dict[str, str]:
    """Return the TTL of each name; raises InvalidVm if one is given for a name that the VM does not have."""
    ttls = dict.fromkeys(names, ttl)
    for name, own in map(name_ttl, of_names):
        if name not in ttls:
            raise InvalidVm([Fault("name_ttl", f"{name} is not one of its DNS names{nearest(name, ttls)}")])
        ttls[name] = own
    return ttls


def key_of_leaf(path: str) -> str:
    """Return the key that a leaf sets, "" if none; `path` is relative to `jitsu/vm/<uuid>/`."""
    match path.split("/"):
        case ["config", key, index] if key in KEYS and index.isdecimal():
            return key
        case ["dns", _, "ttl"]:
            return "ttl"
        case [leaf] if leaf in _PLAIN or leaf == "ip":
            return leaf
        case _:
            return ""


def to_tree(vm: VM) -> dict[str, str]:
    """Return the VM's leaves: full path -> text."""
    leaves = {f"dns/{name}/ttl": str(ttl) for name, ttl in vm.names.items()}
    leaves["ip"] = " ".join(map(str, vm.addresses))
    for key, values in vm.config.items():
        leaves |= {f"config/{key}/{index}": value for index, value in enumerate(values)}
    values_of_fields = vars(vm)
    for field, default in _DEFAULTS.items():
        value = values_of_fields[field]
        if field in _ALWAYS_WRITTEN or value != default:
            leaves[field] = as_text(value)
    if vm.idle_timeout == 2 * vm.ttl and "idle_timeout" not in vm.config:
        leaves.pop("idle_timeout", None)  # follows the TTL for as long as nobody sets it
    return {f"{VM_ROOT}/{vm.uuid}/{path}": value for path, value in leaves.items()}


def as_text(value: object) -> str:
    """Return a value as the tree holds it: `true`, `0.1`, `60`. A number is read back as exactly the same."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


@cache
def _checker(key: str) -> TypeAdapter[Any]:
    """Return what checks a key's values; pydantic takes a fraction of a millisecond to compile one."""
    return TypeAdapter(KEYS[key].type)


def plain_value(key: str, value: str) -> str:
    """Return a key's value as the state tree holds it: a duration or a size without its unit, anything else as it is.

    A value that is wrong stays as it is.
    """
    if key == "name_ttl":
        name, space, ttl = value.strip().partition(" ")
        return f"{name} {plain(ttl, 's')}" if space else value
    return plain(value, KEYS[key].unit)


def value_reasons(key: str, value: str) -> list[str]:
    """Return why a key cannot have a value that somebody has written, with or without a unit; nothing if it can."""
    return _reasons(key, [value])


def _reasons(key: str, values: Sequence[str], *, in_tree: bool = False) -> list[str]:
    checker = _checker(key)
    reasons = []
    for value in values:
        try:
            checker.validate_python(value if in_tree else plain_value(key, value))
        except ValidationError as error:
            reasons += [reason(detail, KEYS[key].unit, value, in_tree=in_tree) for detail in error.errors()[:1]]
    return reasons


def reason(detail: Any, unit: str = "", written: object = None, *, in_tree: bool = False) -> str:
    """Return one of pydantic's errors as a sentence that shows the value, as it was written if that is given."""
    if unit in UNITS:
        return refusal(detail["input"] if written is None else written, unit, detail, in_tree=in_tree)
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return message
    value = repr(detail["input"])
    value = value if len(value) <= MAX_SHOWN_CHARACTERS else f"{value[:MAX_SHOWN_CHARACTERS]}..."
    limits = detail.get("ctx", {})
    match detail["type"]:
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return f"{value} is not a whole number"
        case "float_parsing" | "float_type" | "finite_number":
            return f"{value} is not a number"
        case "bool_parsing" | "bool_type":
            return f"{value} is neither true nor false"
        case "less_than_equal":
            return f"{value} is too large: at most {limits['le']:g} is allowed"
        case "greater_than_equal":
            return f"{value} is too small: it must be at least {limits['ge']:g}"
        case "string_type":
            return f"{value} is not text; are quotes missing?"
        case "enum" | "literal_error":
            known = re.findall("'([^']+)'", str(limits["expected"]))
            return f"{value} is not allowed; use {' or '.join(filter(None, (', '.join(known[:-1]), *known[-1:])))}"
        case "string_pattern_mismatch":
            return f"{value} has a character that is not allowed here; it must match {limits['pattern']}"
    return f"{message[0].lower()}{message[1:].removesuffix('.')}, but is {value}"


def _build(fields: dict[str, Any]) -> VM:
    try:
        vm = VM(**fields)
    except ValidationError as error:
        found = error.errors()
        wrong = {detail["loc"][0] for detail in found if detail["type"] != "too_short"}
        # pydantic counts the right ones of a list: that there are too few is no news when one is wrong.
        found = [detail for detail in found if detail["type"] != "too_short" or detail["loc"][0] not in wrong]
        raise InvalidVm([_leaf_fault(detail) for detail in found[:MAX_FAULTS]]) from None
    if both := set(vm.names) & set(vm.aliases):
        raise InvalidVm([Fault("alias", f"{min(both)} is a name of this VM already")])
    if "idle_timeout" not in fields:
        return vm.model_copy(update={"idle_timeout": max(2.0 * vm.ttl, MIN_IDLE_S)})
    if vm.idle_timeout < vm.ttl:
        # Guarantee G3: no VM is stopped while an answer for it is still within its TTL.
        raise InvalidVm([Fault("idle_timeout", f"{vm.idle_timeout:g} s is less than the TTL of {vm.ttl} s")])
    return vm


def _leaf_fault(detail: Any) -> Fault:
    """Return one of pydantic's errors about a VM as a fault of a leaf of the tree."""
    leaf = _leaf(detail["loc"])
    key = key_of_leaf(leaf)
    unit = KEYS[key].unit if key and detail["loc"][-1] != "[key]" else ""
    return Fault(leaf, reason(detail, unit, in_tree=True))


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
