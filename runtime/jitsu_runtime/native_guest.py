"""Where the guest in C is, if it has been built (guests/README.md): vmd's mock runs it, and the tool offers it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PROGRAM = "jitsu-guest"
IN_CHECKOUT = Path(__file__).parents[2] / "build" / "guests" / PROGRAM


def native_guest() -> str:
    """Return the path of the program: that of this checkout, or one on PATH; "" if there is none.

    The environment variable MOCK_GUEST names another program; if it is empty, guests are in Python.
    """
    if (chosen := os.environ.get("MOCK_GUEST")) is not None:
        return chosen
    if os.access(IN_CHECKOUT, os.X_OK):
        return str(IN_CHECKOUT)
    return shutil.which(PROGRAM) or ""
