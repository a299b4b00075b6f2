"""The list of scratch branches on the disk (rules/scratch.py has the states)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import Unavailable
from jitsu_store.rules.scratch import ScratchBranches, decode, encode, must_be_written

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from jitsu_store.wires.storage import FileStore

SCRATCH_LIST = "jitsu-scratch-branches"
LOOK_S = 30.0
"""Between two looks for scratch branches that nobody has asked for lately."""

log = structlog.get_logger("store")


class ScratchList:
    """The scratch branches of a repository. `save` blocks: it is for the store's disk thread."""

    def __init__(self, files: FileStore, there: Collection[str]) -> None:
        """Read the list; `there` are the branches of the repository. A list that is damaged counts as empty."""
        self._files = files
        since: dict[str, float] = {}
        try:
            since = decode(files.read(SCRATCH_LIST))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning(
                "cannot read the list of scratch branches; they stay", path=files.path(SCRATCH_LIST), reason=str(error)
            )
        self._written = frozenset(since)
        self.branches = ScratchBranches({name: at for name, at in since.items() if name in there})

    def save(self, wanted: Mapping[str, float], there: Collection[str]) -> None:
        """Bring the list to the disk if branches may not be made without that; raises Unavailable.

        `there` are the branches that there will be.
        """
        if not must_be_written(self._written, wanted, there):
            return
        try:
            self._files.replace(SCRATCH_LIST, encode(wanted))
        except OSError as error:
            raise Unavailable(
                f"cannot write {self._files.path(SCRATCH_LIST)}: {error}", hint="is the disk full or read-only?"
            ) from None
        self._written = frozenset(wanted)
