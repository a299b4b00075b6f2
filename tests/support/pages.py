"""The pages that people read, found once for all tests of them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OPERATE = DOCS / "how-to" / "operate.md"


def pages() -> list[Path]:
    """Return every page that a user or an operator reads."""
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("services/*/README.md"))]


def typed(page: Path) -> list[tuple[str, str]]:
    """Return what the transcripts of a page show: each command after a `$`, and what it prints."""
    return re.findall(r"^\$ (.+)\n((?:[^$`].*\n|\n(?!`))*)", page.read_text(), re.MULTILINE)


def shape(said: str) -> list[str]:
    """Return lines without what differs from one time to the next: numbers, commits, bars and how wide a column is."""
    differs = re.compile(r"\b[0-9a-f]{10}\b|[\d.:]+|[━ ]+|(?<=jitsu-)[0-9a-z]+|\t")
    lines = (differs.sub(" ", line).strip() for line in said.splitlines())
    return [re.sub(r" +", " ", line) for line in lines if line]
