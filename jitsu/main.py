"""jitsu: the operator's tool."""

from __future__ import annotations

import jitsu_runtime.lean  # noqa: F401  before all that loads structlog

# isort: split

import jitsu.changing
import jitsu.check
import jitsu.discover
import jitsu.doctor.command
import jitsu.hold
import jitsu.is_ready
import jitsu.keep
import jitsu.keys
import jitsu.running
import jitsu.state
import jitsu.status
import jitsu.token
import jitsu.top
import jitsu.why  # noqa: F401  they register their commands
from jitsu.cli import app
from jitsu.help import run
from jitsu_runtime.service import collect_rarely


def main() -> None:
    """Run jitsu."""
    collect_rarely()
    run(app)


if __name__ == "__main__":
    main()
