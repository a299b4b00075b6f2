"""jitsu: the operator's tool."""

from __future__ import annotations

import jitsu.changing
import jitsu.keys
import jitsu.running
import jitsu.state
import jitsu.status  # noqa: F401  they register their commands
from jitsu.cli import app


def main() -> None:
    """Run jitsu."""
    app(prog_name="jitsu")


if __name__ == "__main__":
    main()
