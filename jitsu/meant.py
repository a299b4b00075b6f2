"""Which paths of the state tree an operator means, and which values may stand there.

    has a /                         a path, with a VM's name in place of its UUID if one likes: jitsu/vm/www/ip
    a VM's UUID, name or DNS name   all of that VM
    VM.KEY, split at the last dot   a key of that VM: www.ttl, www.jitsu.test.ttl, www.memory

A path that nothing reads is refused, with the nearest one that something does.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import BadRequest, Invalid, NotFound
from jitsu_protocol.model.holds import HOLD_ROOT, KEEP_ROOT
from jitsu_protocol.model.vm import REPLICA_ROOT, STATS_ROOT, VM_ROOT, key_of_leaf, plain_value, value_reasons
from jitsu_protocol.model.vm_keys import KEYS
from jitsu_protocol.rows import below
from jitsu_protocol.vm_names import VmNames

if TYPE_CHECKING:
    from collections.abc import Mapping

DNS_ROOT = "jitsu/dns"
"""A change below it makes a new version of the zones (docs/explanation/dns.md)."""
ROOTS = (VM_ROOT, STATS_ROOT, REPLICA_ROOT, DNS_ROOT, HOLD_ROOT, KEEP_ROOT)
OF_NAMES = frozenset({"dns", "name", "uuid", "alias"})
"""Keys that identify or name a VM: only `jitsu apply` changes these."""
LEAVES = frozenset(key for key in KEYS if key_of_leaf(key) == key)
"""Keys that have a leaf of their own, which overrides the one below config/."""
STATISTICS = {
    "start_ts": float,
    "total_starts": int,
    "last_request_ts": float,
    "last_ttl": int,
    "total_requests": int,
}


def meant_path(word: str, leaves: Mapping[str, str]) -> str:
    """Return the one path that an operator means; `leaves` are those below jitsu/vm. Raises BadRequest or NotFound."""
    if "/" in word or word.strip("/") in ("", "jitsu"):
        return _with_uuid(word.strip("/"), leaves)
    names = VmNames.in_leaves(leaves)
    if names.knows(word):
        return names.find(word).path
    paths = _paths_of_key(word, names, leaves)
    if not paths:
        raise NotFound(f"{word}: the VM has no name", hint="`jitsu apply` a file in which it has one")
    if len(paths) > 1:
        raise BadRequest(f"{word} stands for several paths: {', '.join(paths)}", hint="give one of these")
    return paths[0]


def paths_to_remove(word: str, leaves: Mapping[str, str]) -> list[str]:
    """Return the paths that an operator means to remove, each with all that is below it.

    A key is removed wherever it is written, because otherwise the value below config/ would apply again. Raises
    BadRequest for what a VM cannot be without, and NotFound.
    """
    names = VmNames.in_leaves(leaves)
    if "/" in word or names.knows(word) or word in ("", "jitsu"):
        return [meant_path(word, leaves)]
    name, _, key = word.rpartition(".")
    if key == "ttl":
        raise BadRequest(f"{word}: a name has a TTL", hint=f"set another one, for example `jitsu set {word} 60`")
    if key == "ip":
        raise BadRequest(f"{word}: a VM has an address", hint=f"set another one with `jitsu set {word} ADDRESS`")
    meant_path(word, leaves)
    vm = names.find(name)
    return [f"{vm.path}/{key}", f"{vm.path}/config/{key}"]


def meant_paths(word: str, value: str, leaves: Mapping[str, str]) -> dict[str, str]:
    """Return the paths that get a value, each with the value as the tree holds it, without a unit.

    Raises BadRequest, NotFound, or Invalid if the value cannot stand there.
    """
    if "/" in word:
        paths = [_with_uuid(word.strip("/"), leaves)]
    else:
        paths = _paths_of_key(word, VmNames.in_leaves(leaves), leaves)
    for path in paths:
        if fault := path_fault(path, leaves):
            raise Invalid(fault)
        if fault := value_fault(path, value):
            raise Invalid(f"{path}: {fault}")
        if fault := _unit_fault(path, value):
            raise Invalid(f"{word}: {fault}")
    return {path: plain_text(path, value) for path in paths}


def plain_text(path: str, value: str) -> str:
    """Return a value that was written for a path as the tree holds it there."""
    key = _key(path)
    return plain_value(key, value) if key else value


def _unit_fault(path: str, value: str) -> str:
    """Return why a duration or a size cannot be used; the store checks all other keys with the VM as a whole."""
    key = _key(path)
    if not key or not KEYS[key].unit or value == "":
        return ""
    return next(iter(value_reasons(key, value)), "")


def _key(path: str) -> str:
    """Return the key of a VM that a path sets, "" if it sets none."""
    return key_of_leaf(path.removeprefix(VM_ROOT + "/").partition("/")[2]) if path.startswith(VM_ROOT + "/") else ""


def _with_uuid(path: str, leaves: Mapping[str, str]) -> str:
    """Return a path with a VM's UUID in place of its name."""
    for root in (VM_ROOT, STATS_ROOT):
        if path.startswith(root + "/"):
            word, slash, rest = path[len(root) + 1 :].partition("/")
            names = VmNames.in_leaves(leaves)
            if names.knows(word):
                return f"{root}/{names.find(word).uuid}{slash}{rest}"
    return path


def _paths_of_key(word: str, names: VmNames, leaves: Mapping[str, str]) -> list[str]:
    """Return the paths that VM.KEY stands for."""
    name, dot, key = word.rpartition(".")
    if not dot and names.knows(word):
        vm = names.find(word)
        raise BadRequest(f"{word} is a VM", hint=f"say which of its keys is meant, for example {vm.name}.ttl")
    if not dot:
        known = [*names.words(), *ROOTS]
        close = difflib.get_close_matches(word, known, n=1)
        raise NotFound(
            f"{word!r} is neither a path nor a VM" + (f'; did you mean "{close[0]}"?' if close else ""),
            hint="give VM.KEY, for example www.ttl, or a path, for example jitsu/vm/www/ip",
        )
    vm = names.find(name)
    if key not in KEYS:
        close = difflib.get_close_matches(key, KEYS, n=1)
        raise BadRequest(
            f"{key!r} is not a key of a VM" + (f'; did you mean "{vm.name}.{close[0]}"?' if close else ""),
            hint="docs/reference/configuration.md lists them",
        )
    if key in OF_NAMES:
        raise BadRequest(_cannot_be_set(key))
    own = below(leaves, VM_ROOT)[vm.uuid]
    if key == "ttl":
        by_name = name.lower().removesuffix(".")
        called = [by_name] if by_name in vm.dns and by_name != vm.name.lower() else list(vm.dns)
        return [f"{vm.path}/dns/{each}/ttl" for each in called]
    if key in LEAVES:
        return [f"{vm.path}/{key}"]
    written = sorted(path for path in own if path.startswith(f"config/{key}/"))
    return [f"{vm.path}/{path}" for path in written] or [f"{vm.path}/config/{key}/0"]


def _cannot_be_set(key: str) -> str:
    return f"{key} of a VM cannot be set while it is there; `jitsu apply` a file that has it"


def path_fault(path: str, leaves: Mapping[str, str]) -> str:
    """Return why nothing reads a path, with the nearest one that something does; or nothing."""
    for root in ROOTS:
        if path.startswith(root + "/"):
            return _fault_below(root, path, leaves)
    meant = _nearest_of_vm(path.split("/")[-2:], leaves)
    roots = ", ".join(f"{root}/" for root in ROOTS)
    return f"nothing reads {path}" + (f"; did you mean {meant}?" if meant else f"; what is read is below {roots}")


def _fault_below(root: str, path: str, leaves: Mapping[str, str]) -> str:
    uuid, _, rest = path[len(root) + 1 :].partition("/")
    if root == DNS_ROOT:
        return ""
    if root == HOLD_ROOT:
        return f"{path} is written by `jitsu hold` only"
    if root == KEEP_ROOT:
        return f"{path} is written by `jitsu keep` only"
    if root == REPLICA_ROOT:
        return f"{path} is written by the reaper only; `jitsu status` shows the replicas"
    own = below(leaves, VM_ROOT).get(uuid)
    if own is None:
        meant = _nearest_of_vm([uuid, rest], leaves)
        return f"no VM has the UUID {uuid}" + (f"; did you mean {meant}?" if meant else "")
    if root == STATS_ROOT:
        known = {"start_ts", "total_starts"}
        known |= {f"{p.removesuffix('/ttl')}/{n}" for p in own if p.startswith("dns/") for n in _OF_REQUESTS}
        return "" if rest in known else f"nothing reads {path}{_nearest(rest, known, f'{root}/{uuid}')}"
    if key_of_leaf(rest) and not rest.startswith("config/"):
        return ""  # dns/NAME/ttl gives the VM a further name, if it has none such
    if rest in ("config/name/0", "config/uuid/0"):
        return _cannot_be_set(key_of_leaf(rest))
    if rest.startswith("config/") and (key := key_of_leaf(rest)):
        if key in LEAVES and key in own:
            return f"nothing reads {path} while {root}/{uuid}/{key} is there; set that"
        if key == "ttl":
            return f"nothing reads {path}{_nearest(rest, [p for p in own if p.startswith('dns/')], f'{root}/{uuid}')}"
        return ""
    if rest == "ttl" or rest.startswith("dns/"):
        return f"nothing reads {path}{_nearest(rest, [p for p in own if p.startswith('dns/')], f'{root}/{uuid}')}"
    known = {*LEAVES, *(f"config/{key}/0" for key in KEYS if key not in LEAVES)}
    if rest in KEYS and rest not in LEAVES:
        return f"nothing reads {path}; did you mean {root}/{uuid}/config/{rest}/0?"
    return f"nothing reads {path}{_nearest(rest, known, f'{root}/{uuid}')}"


_OF_REQUESTS = ("last_request_ts", "last_ttl", "total_requests")


def _nearest(rest: str, known: set[str] | list[str], above: str) -> str:
    close = difflib.get_close_matches(rest, known, n=1, cutoff=0.0)
    return f"; did you mean {above}/{close[0]}?" if close else ""


def _nearest_of_vm(parts: list[str], leaves: Mapping[str, str]) -> str:
    """Return the path that was meant by vm/www/ttl, or nothing."""
    if len(parts) != 2 or parts[1] not in KEYS:
        return ""
    names = VmNames.in_leaves(leaves)
    return f"{parts[0]}.{parts[1]}" if names.knows(parts[0]) else ""


def value_fault(path: str, value: str) -> str:
    """Return why a statistic cannot have a value; those of a VM's keys are checked with the VM as a whole."""
    if not path.startswith(STATS_ROOT + "/"):
        return ""
    kind = STATISTICS[path.rpartition("/")[2]]
    try:
        number = kind(value)
    except ValueError:
        return f"{value!r} is not a {'whole number' if kind is int else 'number'}"
    return "" if 0 <= number < 1e15 else f"{value} is not a number from 0 to 10^15"
