"""Why a QEMU process has ended, in words for an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_vmd.hypervisors.shared.rules.console import signal_name, tail

if TYPE_CHECKING:
    from collections.abc import Sequence

LINES = 5
LOOP = "resets"
"""The cause of an end that vmd has brought about, because the guest only reset."""
PANIC = b"Kernel panic - not syncing"
"""What Linux prints when it cannot go on. The lines before it say why, and those after it are a trace of calls."""


RESETS, WITHIN_S = 5, 20.0
"""A guest that resets itself this often in that time does not reboot: it fails before it can print why."""


def reason(status: int | None, cause: str, errors: bytes, printed: bytes) -> str:
    """Return why a process has ended.

    `status` is its exit status (negative: a signal; None: nobody knows), `cause` the reason in QEMU's own event of a
    shutdown, `errors` what QEMU has said, and `printed` the end of what the guest has printed.
    """
    said, shown = tail(errors, LINES), tail(_up_to_panic(printed), LINES)
    if cause == "guest-panic":
        how = "the guest has panicked"
    elif cause == LOOP:
        how = f"the guest has reset {RESETS} times within {WITHIN_S:g} s, for example because its memory is too small"
    elif cause:
        how = f"QEMU has ended ({cause})"
    elif status is not None and status < 0:
        how = f"QEMU was ended by {signal_name(-status)}"
    elif status:
        how = f"QEMU has ended with status {status}"
    else:
        how = "QEMU has ended"
    how = f"{how}: {said}" if said else how
    return f"{how}; its serial port: {shown}" if shown else f"{how}; its serial port printed nothing"


def has_crashed(status: int | None, cause: str) -> bool:
    """Say whether a guest that has ended by itself has failed: it has not shut down, and nobody asked QEMU to end."""
    return cause not in ("guest-shutdown", "guest-reset", "host-qmp-quit", "host-qmp-system-reset") and not (
        status is None and not cause
    )


def _up_to_panic(printed: bytes) -> bytes:
    """Return what was printed up to the line of a panic, or all of it."""
    before, panic, after = printed.partition(PANIC)
    return before + panic + after.partition(b"\n")[0] if panic else printed


def only_resets(resets: Sequence[float]) -> bool:
    """Say whether a guest whose last resets were at these times, in seconds, does nothing else."""
    return len(resets) >= RESETS and resets[-1] - resets[-RESETS] <= WITHIN_S


def has_panicked(printed: bytes | bytearray) -> bool:
    """Say whether Linux has printed that it cannot go on."""
    return PANIC in printed
