"""Which VM holds which name and address: two VMs may not have the same, unless both share a name with `summon`."""

from __future__ import annotations

from jitsu_protocol.model.vm import VM, Fault


class Holdings:
    """The names and addresses of all VMs, with the VM that has each."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, str], list[VM]] = {}

    def add(self, vm: VM) -> None:
        """Note the names and addresses of a VM."""
        for held in self._held(vm):
            self._owners.setdefault(held, []).append(vm)

    def remove(self, vm: VM) -> None:
        """Forget the names and addresses of a VM."""
        for held in self._held(vm):
            self._owners[held].remove(vm)
            if not self._owners[held]:
                del self._owners[held]

    def clashes(self, vm: VM) -> list[Fault]:
        """Return a fault for each name or address of a VM that another one has already."""
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
    """Return whether two VMs may share this name."""
    return one.summon is not None and other.summon is not None and name in one.names and name in other.names
