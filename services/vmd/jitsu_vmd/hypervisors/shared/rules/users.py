"""Which user each VM's process runs as: one of a range, which no other VM has for as long as this one is configured."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field

SPECIAL = 65_536
"""Users below are given by the system, and 65,534 and 65,535 mean nobody."""


USERS = "users"
"""The file, in the directory of a hypervisor, that says which VM has which user."""


class UsersFault(ValueError):
    """The range is not usable, or used up; says why."""


def user_range(text: str) -> range:
    """Read FIRST-LAST; raises UsersFault."""
    match = re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", text)
    if match is None or not SPECIAL <= int(match[1]) <= int(match[2]) < 2**32 - 1:
        raise UsersFault(
            f"{text!r} is not a range of user ids; expected FIRST-LAST, both from {SPECIAL} to {2**32 - 2},"
            " for example 1900000000-1900065535"
        )
    return range(int(match[1]), int(match[2]) + 1)


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
