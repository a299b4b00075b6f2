"""guests/README.md describes exactly the arguments that the guest in C takes."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_describes_every_argument_of_the_guest_and_no_other() -> None:
    code = set(re.findall(r'"(--[a-z0-9-]+)=?"', (ROOT / "guests/unikernel/options.c").read_text()))
    rows = [line for line in (ROOT / "guests/README.md").read_text().splitlines() if line.startswith("| `--")]
    page = {word for row in rows for word in re.findall(r"(--[a-z0-9-]+)", row.split("|")[1])}
    assert len(code) >= 20
    assert page == code
