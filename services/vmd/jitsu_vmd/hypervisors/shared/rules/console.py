"""What a guest printed: the end of it is why it failed."""

from __future__ import annotations

import signal

MAX_REASON_CHARACTERS = 300
LINES = 3
"""MirageOS prints an error, and the tender's bindings two lines after that."""


def tail(printed: bytes, lines: int = LINES) -> str:
    """Return the last lines of a console as one line of text that may be shown anywhere."""
    text = printed.decode("utf-8", "replace")
    shown = [" ".join("".join(c if c.isprintable() else " " for c in line).split()) for line in text.splitlines()]
    printed_text = "; ".join([line for line in shown if line][-lines:])
    return printed_text if len(printed_text) <= MAX_REASON_CHARACTERS else f"...{printed_text[-MAX_REASON_CHARACTERS:]}"


def signal_name(number: int) -> str:
    """Return the name of a signal, for example SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
