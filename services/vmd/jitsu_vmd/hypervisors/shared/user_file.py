"""The file that says which VM's process runs as which user; written before anything runs as that user."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import BootFailed
from jitsu_vmd.hypervisors.shared.rules.users import USERS, Users, UsersFault

if TYPE_CHECKING:
    from pathlib import Path


class UserFile:
    """The users of the processes of one hypervisor; `setting` is where their range comes from."""

    def __init__(self, directory: Path, setting: str) -> None:
        self._directory = directory
        self._setting = setting
        self._users = Users(range(1))

    def open(self, ids: range) -> None:
        """Read the file; `ids` are the users that may be taken."""
        self._users = Users(ids, self._read(), str(self._directory), self._setting)

    def known(self, vm: str) -> int | None:
        """Return a VM's user, None if it has none yet."""
        return self._users.taken.get(vm)

    def user(self, vm: str) -> int:
        """Return a VM's user, and give it one if it has none; raises BootFailed if none is left."""
        known = vm in self._users.taken
        try:
            user = self._users.user(vm)
        except UsersFault as fault:
            raise BootFailed(str(fault)) from None
        if not known:
            self._write()
        return user

    def forget(self, vm: str) -> None:
        """Let another VM have a VM's user."""
        self._users.forget(vm)
        self._write()

    def _read(self) -> dict[str, int]:
        try:
            taken = json.loads((self._directory / USERS).read_text())
        except (OSError, ValueError):
            return {}
        return {str(uuid): int(user) for uuid, user in taken.items()}

    def _write(self) -> None:
        new = self._directory / f"{USERS}.new"
        new.write_text(json.dumps(self._users.taken))
        new.rename(self._directory / USERS)
