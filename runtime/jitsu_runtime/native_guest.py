"""Finds the mock hypervisor's guest program in C, if it has been built (guests/README.md)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PROGRAM = "jitsu-guest"
IN_CHECKOUT = Path(__file__).parents[2] / "build" / "guests" / PROGRAM


def native_guest() -> str:
    """Return the path of the program in this checkout or on PATH; "" if there is none, and guests run in Python.

    The environment variable MOCK_GUEST names another program. If it is set but empty, guests run in Python.
    """
    if (chosen := os.environ.get("MOCK_GUEST")) is not None:
        return chosen
    if os.access(IN_CHECKOUT, os.X_OK):
        return str(IN_CHECKOUT)
    return shutil.which(PROGRAM) or ""
