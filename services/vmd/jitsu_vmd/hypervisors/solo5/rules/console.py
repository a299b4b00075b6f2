"""Why a tender has ended: how, and what its unikernel printed last."""

from __future__ import annotations

from jitsu_vmd.hypervisors.shared.rules.console import signal_name, tail


def reason(status: int | None, printed: bytes) -> str:
    """Return why a tender has ended: how (negative: by that signal; None: nobody knows), and what was printed last."""
    if status is None:
        how = "the tender has ended"
    elif status < 0:
        how = f"the tender was ended by {signal_name(-status)}"
    else:
        how = f"the tender has ended with status {status}"
    printed_text = tail(printed)
    return f"{how}: {printed_text}" if printed_text else f"{how}, and its console is empty"
