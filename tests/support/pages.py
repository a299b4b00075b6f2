"""The pages that people read, found once for all tests of them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OPERATE = DOCS / "how-to" / "operate.md"


def pages() -> list[Path]:
    """Return every page that a user or an operator reads."""
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("services/*/README.md"))]
