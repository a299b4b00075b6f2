"""Which user each VM's process runs as: one of a range, which no other VM has for as long as this one is configured."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

USERS = "users"
"""The file, in the directory of a hypervisor, that says which VM has which user."""


class UsersFault(ValueError):
    """The range is used up."""


@dataclass
class Users:
    """Which VM has which user id.

    The first choice follows from the VM's UUID, so that a VM has the same user after a reboot, when this table is
    empty, unless two VMs have the same first choice. It follows from `whose` too, so that two suites on one host that
    have VMs of the same name give them different users.
    """

    ids: range
    taken: dict[str, int] = field(default_factory=dict)
    """UUID of a VM -> its user id."""
    whose: str = ""
    setting: str = "hypervisor.uids"
    """Where the range comes from."""

    def user(self, uuid: str) -> int:
        """Return a VM's user id, and give it one if it has none; raises UsersFault if all are taken."""
        if uuid not in self.taken or self.taken[uuid] not in self.ids:
            self.taken.pop(uuid, None)
            self.taken[uuid] = self._free(zlib.crc32(f"{self.whose} {uuid}".encode()) % len(self.ids))
        return self.taken[uuid]

    def _free(self, first: int) -> int:
        others = set(self.taken.values())
        for n in range(len(self.ids)):
            candidate = self.ids[(first + n) % len(self.ids)]
            if candidate not in others:
                return candidate
        raise UsersFault(f"all {len(self.ids)} user ids of {self.setting} are taken; give it a larger range")

    def forget(self, uuid: str) -> None:
        """Let another VM have its user id."""
        self.taken.pop(uuid, None)
