"""What a VM is, given what its QEMU process says and what is saved of it; and what may be done next.

A vmd that returns knows nothing but these two things: it finds the process by its record (id and start time), asks it
by QMP, and reads the name of the file that the state of its devices is saved in. So everything that vmd reports or does
follows from this table, whether or not vmd has been there the whole time.

    process      save       the VM is     the next start
    none         none       off           boots
    none         saving     off           boots: that save was cut short, and its process is gone
    none         saved      suspended     loads the save, marks it as used, and continues
    none         used       off           is refused until the save is discarded: the guest may have run since
    unborn       none       off           ends the process, and boots: no instruction of the guest was executed
    unborn       saving     off           ends the process, and boots
    unborn       saved      suspended     ends the process, which has not loaded the save, and loads it again
    unborn       used       off           is refused until the save is discarded
    stopped      none       paused        continues
    stopped      saving     paused        continues: vmd died while it saved the guest, whose memory is in the process
    stopped      saved      suspended     marks the save as used, and continues: the process is on standby
    stopped      used       paused        continues: vmd died between the mark and the call, or right after the call
    running      any        running       does nothing, and deletes the save, which is older than the guest
    broken       none       crashed       ends the process, and boots
    broken       saving     crashed       ends the process, and boots
    broken       saved      suspended     ends the process, which has not run, and loads the save again
    broken       used       crashed       is refused until the save is discarded

A save is marked as used before the guest runs, by a rename that is on the disk before vmd goes on. So a save is
restored at most once, whatever dies at which moment; and a save that is not yet marked has not been used. Only
`discard` deletes a save of which the guest has not been seen to run since.

    halves of suspending     stop; write `saving`, and have it on the disk; rename it to `saved`; end the process
    halves of resuming       start a process; load `saved`; rename it to `used`; continue; delete `used`
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jitsu_vmd.rules.events import GuestState


class Process(StrEnum):
    """What a QEMU process says about itself."""

    NONE = "none"
    UNBORN = "unborn"
    """Started, but neither a boot has begun nor a save was loaded."""
    STOPPED = "stopped"
    """The guest does not run, and its memory is in the process."""
    RUNNING = "running"
    BROKEN = "broken"
    """The guest, or QEMU itself, cannot go on."""


class SaveState(StrEnum):
    """What there is of a save."""

    NONE = "none"
    SAVING = "saving"
    SAVED = "saved"
    USED = "used"


class Start(StrEnum):
    """What the next start does."""

    BOOT = "boot"
    LOAD = "load"
    CONTINUE = "continue"
    MARK_AND_CONTINUE = "mark and continue"
    NOTHING = "nothing"
    REFUSED = "refused"


@dataclass(frozen=True)
class Life:
    """One row of the table."""

    state: GuestState
    start: Start


_P, _S, _G = Process, SaveState, GuestState
_BOOTS = Life(_G.OFF, Start.BOOT)
_LOADS = Life(_G.SUSPENDED, Start.LOAD)
_REFUSED = Life(_G.OFF, Start.REFUSED)
_CONTINUES = Life(_G.PAUSED, Start.CONTINUE)
_RUNS = Life(_G.RUNNING, Start.NOTHING)
_CRASHED = Life(_G.CRASHED, Start.BOOT)

LIVES: dict[tuple[Process, SaveState], Life] = {
    (_P.NONE, _S.NONE): _BOOTS,
    (_P.NONE, _S.SAVING): _BOOTS,
    (_P.NONE, _S.SAVED): _LOADS,
    (_P.NONE, _S.USED): _REFUSED,
    (_P.UNBORN, _S.NONE): _BOOTS,
    (_P.UNBORN, _S.SAVING): _BOOTS,
    (_P.UNBORN, _S.SAVED): _LOADS,
    (_P.UNBORN, _S.USED): _REFUSED,
    (_P.STOPPED, _S.NONE): _CONTINUES,
    (_P.STOPPED, _S.SAVING): _CONTINUES,
    (_P.STOPPED, _S.SAVED): Life(_G.SUSPENDED, Start.MARK_AND_CONTINUE),
    (_P.STOPPED, _S.USED): _CONTINUES,
    **{(_P.RUNNING, save): _RUNS for save in SaveState},
    (_P.BROKEN, _S.NONE): _CRASHED,
    (_P.BROKEN, _S.SAVING): _CRASHED,
    (_P.BROKEN, _S.SAVED): _LOADS,
    (_P.BROKEN, _S.USED): Life(_G.CRASHED, Start.REFUSED),
}
"""The table above."""

_STATUSES = {
    "prelaunch": Process.UNBORN,
    "preconfig": Process.UNBORN,
    "inmigrate": Process.UNBORN,
    "running": Process.RUNNING,
    "debug": Process.STOPPED,
    "paused": Process.STOPPED,
    "suspended": Process.STOPPED,
    "finish-migrate": Process.STOPPED,
    "postmigrate": Process.STOPPED,
    "save-vm": Process.STOPPED,
    "restore-vm": Process.STOPPED,
    "colo": Process.STOPPED,
    "io-error": Process.STOPPED,
    "watchdog": Process.BROKEN,
    "shutdown": Process.BROKEN,
    "guest-panicked": Process.BROKEN,
    "internal-error": Process.BROKEN,
}
"""QEMU's RunState (qapi/run-state.json) -> what it means here. With io-error, the guest waits until its disk works."""


def process_of(status: str) -> Process:
    """Return what a status of `query-status` means; one that is not known is of a guest that does not run."""
    return _STATUSES.get(status, Process.STOPPED)


def life(process: Process, save: SaveState) -> Life:
    """Return the row of the table."""
    return LIVES[process, save]


def is_kept(process: Process, save: SaveState) -> bool:
    """Say whether a VM has saved state, in memory or on disk, which only `discard` may delete."""
    return save in (SaveState.SAVED, SaveState.USED) or process is Process.STOPPED
