"""Files of jitsu-web's own, in a directory that only its user may enter."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import SetupFault
from jitsu_web.rules.sessions import KEY_BYTES

if TYPE_CHECKING:
    from jitsu_runtime.settings.load import Settings


class OwnFiles:
    """The directory."""

    def __init__(self, directory: Path) -> None:
        """Make the directory if there is none; raises SetupFault."""
        self.directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SetupFault(
                f"web.directory: {directory} cannot be made: {error.strerror}", hint="name another directory"
            ) from None

    @classmethod
    def of(cls, settings: Settings) -> OwnFiles:
        """Return that of web.directory, else that of the unit, else one below the runtime directory."""
        of_unit = os.environ.get("STATE_DIRECTORY", "")  # systemd.exec(5)
        return cls(Path(settings.web.directory or of_unit or settings.bus.directory / "web"))

    def session_key(self) -> bytes:
        """Return the key of the sessions, which is made if there is none yet; raises SetupFault."""
        path = self.directory / "session.key"
        try:
            with suppress(FileNotFoundError):
                key = path.read_bytes()
                if len(key) == KEY_BYTES:
                    return key
            key = os.urandom(KEY_BYTES)
            scratch = self.directory / "session.key.new"
            with suppress(FileNotFoundError):
                scratch.unlink()
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(key)
            scratch.rename(path)
        except OSError as error:
            raise SetupFault(
                f"web.directory: {path} cannot be used: {error.strerror}", hint="only jitsu-web's user needs it"
            ) from None
        return key
