"""What the processes of the suite load."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.wires


@pytest.mark.parametrize(
    "program", ["jitsu_store", "jitsu_vmd", "jitsu_dns", "jitsu_synjitsu", "jitsu_reaper", "jitsu"]
)
def test_no_process_loads_the_library_for_colours_before_it_shows_any(program: str) -> None:
    shown = f"import sys, {program}.main; print('rich' in sys.modules, 'structlog' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
