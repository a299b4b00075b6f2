"""What a unikernel printed: the end of it is why it failed."""

from __future__ import annotations

import signal

MAX_REASON_CHARACTERS = 300
LINES = 3
"""MirageOS prints an error, and the tender's bindings two lines after that."""


def tail(printed: bytes) -> str:
    """Return the last lines of a console as one line of text that may be shown anywhere."""
    text = printed.decode("utf-8", "replace")
    lines = [" ".join("".join(c if c.isprintable() else " " for c in line).split()) for line in text.splitlines()]
    printed_text = "; ".join([line for line in lines if line][-LINES:])
    return printed_text if len(printed_text) <= MAX_REASON_CHARACTERS else f"...{printed_text[-MAX_REASON_CHARACTERS:]}"


def reason(status: int | None, printed: bytes) -> str:
    """Return why a tender has ended: how (negative: by that signal; None: nobody knows), and what was printed last."""
    if status is None:
        how = "the tender has ended"
    elif status < 0:
        how = f"the tender was ended by {_signal(-status)}"
    else:
        how = f"the tender has ended with status {status}"
    printed_text = tail(printed)
    return f"{how}: {printed_text}" if printed_text else f"{how}, and its console is empty"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
