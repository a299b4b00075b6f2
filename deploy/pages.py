"""Write the pages of docs/reference/ that are made from the code: python -m deploy.pages.

They are made from the settings models, from what `jitsu --help` is made from, from the tables of the state machines,
and from the metrics' tables in the services' READMEs, which a test compares with what the services expose.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jitsu.main  # noqa: F401  all commands
from deploy import machines
from jitsu import reference as tool
from jitsu.cli import app
from jitsu_runtime.settings import reference as settings
from jitsu_runtime.settings.schema import SECTION_OF

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"


def metrics() -> str:
    """Return docs/reference/metrics.md."""
    lines = [
        "# Metrics",
        "",
        'With `metrics = "HOST:PORT"` in its section of jitsu.toml, a service serves `/metrics` for Prometheus, and',
        "`/healthz`, which answers 200 while its event loop turns. This page is made from the services' READMEs by",
        "`make docs`.",
    ]
    lines += ["", "## Every service", "", *_metrics_of(ROOT / "runtime")]
    for service in SECTION_OF:
        lines += ["", f"## jitsu-{service}", "", *_metrics_of(ROOT / "services" / service)]
    return "\n".join([*lines, ""])


def _metrics_of(folder: Path) -> list[str]:
    """Return the table of metrics in a folder's README."""
    text = (folder / "README.md").read_text()
    return re.findall(r"^\|.*\|$", text.partition("\n## Metrics\n")[2].partition("\n## ")[0], re.MULTILINE)


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": settings.reference,
    "commands.md": lambda: tool.reference(app),
    "metrics.md": metrics,
    "machines.md": machines.page,
}


def main() -> int:
    """Write them."""
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
