"""Which VM an operator means: by UUID, by name, or by DNS name; and what `www.ttl` stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import BadRequest, NotFound
from jitsu_protocol.model.vm import VM_ROOT, nearest
from jitsu_protocol.rows import below, configured_name, dns_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jitsu_protocol.messages import VmStatus


@dataclass(frozen=True)
class NamedVm:
    """What a VM is called."""

    uuid: str
    name: str
    dns: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    host: str = ""

    @property
    def path(self) -> str:
        """Where its configuration is in the tree."""
        return f"{VM_ROOT}/{self.uuid}"


class VmNames:
    """All VMs, to be found by what somebody calls them."""

    def __init__(self, vms: Iterable[NamedVm]) -> None:
        self._by_word: dict[str, list[NamedVm]] = {}
        self.vms = list(vms)
        for vm in self.vms:
            for word in {vm.uuid, vm.name.lower(), *vm.dns, *vm.aliases}:
                self._by_word.setdefault(word, []).append(vm)

    @classmethod
    def in_leaves(cls, leaves: Mapping[str, str]) -> VmNames:
        """Return those that leaves below jitsu/vm describe, usable or not."""
        return cls(_named(uuid, own) for uuid, own in below(leaves, VM_ROOT).items())

    @classmethod
    def of_statuses(cls, statuses: Iterable[VmStatus]) -> VmNames:
        """Return those that a vmd knows, without their DNS names."""
        return cls(NamedVm(each.uuid, each.name, host=each.host) for each in statuses)

    def find(self, word: str) -> NamedVm:
        """Return the VM that a word means; raises NotFound, or BadRequest if several have that name."""
        clean = word.lower().removesuffix(".")
        found = self._by_word.get(clean, [])
        if not found:
            raise NotFound(f"no VM is called {word!r}{nearest(clean, self._by_word)}")
        if len(found) > 1:
            candidates = ", ".join(sorted(f"{vm.name} ({vm.uuid})" for vm in found))
            raise BadRequest(f"several VMs are called {word}: {candidates}", hint="give one of these names or UUIDs")
        return found[0]

    def knows(self, word: str) -> bool:
        """Return whether a VM has that name."""
        return word.lower().removesuffix(".") in self._by_word

    def words(self) -> Iterable[str]:
        """Return all that VMs are called."""
        return self._by_word


def _named(uuid: str, own: Mapping[str, str]) -> NamedVm:
    aliases = tuple(value.lower() for path, value in own.items() if path.startswith("config/alias/"))
    host = own.get("host", own.get("config/host/0", ""))
    return NamedVm(uuid, configured_name(own) or uuid, tuple(dns_names(own)), aliases, host)
