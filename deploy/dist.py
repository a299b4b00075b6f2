"""Build a wheel and an sdist of every distribution: python -m deploy.dist DIRECTORY."""

from __future__ import annotations

import sys
from pathlib import Path

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
MEMBERS = (
    "protocol",
    "runtime",
    "services/store",
    "services/vmd",
    "services/dns",
    "services/synjitsu",
    "services/reaper",
    "services/web",
    ".",
)


def build(target: Path) -> list[Path]:
    """Build all distributions into a directory and return the files; those of an earlier build there are removed."""
    for earlier in (*target.glob("jitsu_*.whl"), *target.glob("jitsu_*.tar.gz")):
        earlier.unlink()
    found = []
    for member in MEMBERS:
        for builder in (SdistBuilder, WheelBuilder):
            found += [Path(each) for each in builder(str(ROOT / member)).build(directory=str(target))]
    return found


def main() -> int:
    """Build them into the directory that is named on the command line."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    for path in build(Path(sys.argv[1])):
        print(f"  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
