"""Loads structlog without rich. A program imports this before everything else.

If rich is installed, as it is wherever the operator's tool is, structlog loads it in order to print tracebacks in
colour. Ours are plain (logs.py). In each process that takes 50 ms of processor time and 3.7 MB of memory.
"""

from __future__ import annotations

import sys

if "rich" not in sys.modules and "structlog" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # as if it were not installed
    import structlog  # noqa: F401

    del sys.modules["rich"]
