"""Why a QEMU process has ended, in words for an operator."""

from __future__ import annotations

from jitsu_vmd.hypervisors.shared.rules.console import signal_name, tail

LINES = 5
PANIC = b"Kernel panic - not syncing"
"""What Linux prints when it cannot go on. The lines before it say why, and those after it are a trace of calls."""


def reason(status: int | None, cause: str, errors: bytes, printed: bytes) -> str:
    """Return why a process has ended.

    `status` is its exit status (negative: a signal; None: nobody knows), `cause` the reason in QEMU's own event of a
    shutdown, `errors` what QEMU has said, and `printed` the end of what the guest has printed.
    """
    said, shown = tail(errors, LINES), tail(_up_to_panic(printed), LINES)
    if cause == "guest-panic":
        how = "the guest has panicked"
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


def has_panicked(printed: bytes | bytearray) -> bool:
    """Say whether Linux has printed that it cannot go on."""
    return PANIC in printed
