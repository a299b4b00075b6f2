"""Which VM a frame belongs to, by its MAC address.

Two VMs may be configured with the same MAC address by mistake. Then the one that came last has it. When that one goes,
the one before has its address back, so that a VM that is configured wrongly does not make another one unseen for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterator

T = TypeVar("T")


class Macs(Generic[T]):
    """MAC address -> who has it."""

    def __init__(self) -> None:
        self._owner: dict[bytes, T] = {}
        self._before: dict[bytes, list[T]] = {}
        """Those that had it before and still do, for addresses that more than one has."""

    def __contains__(self, mac: bytes) -> bool:
        """Say whether anybody has an address."""
        return mac in self._owner

    def __iter__(self) -> Iterator[bytes]:
        """Go over all addresses."""
        return iter(self._owner)

    def items(self) -> ItemsView[bytes, T]:
        """Return all addresses, each with who has it."""
        return self._owner.items()

    def shared(self) -> dict[bytes, list[T]]:
        """Return the addresses that more than one has, each with all of them; who has it now is last."""
        return {mac: [*before, self._owner[mac]] for mac, before in self._before.items()}

    def get(self, mac: bytes) -> T | None:
        """Return who has an address."""
        return self._owner.get(mac)

    def put(self, mac: bytes, owner: T) -> None:
        """Give an address to somebody."""
        known = self._owner.get(mac)
        if known is not None and known is not owner:
            before = self._before.setdefault(mac, [])
            before[:] = [each for each in before if each is not owner]
            before.append(known)
        self._owner[mac] = owner

    def drop(self, mac: bytes, owner: T) -> bool:
        """Take an address away from somebody; return whether nobody has it now."""
        before = self._before.get(mac, [])
        if self._owner.get(mac) is owner:
            del self._owner[mac]
            if before:
                self._owner[mac] = before.pop()
        else:
            before[:] = [each for each in before if each is not owner]
        if not before:
            self._before.pop(mac, None)
        return mac not in self._owner
