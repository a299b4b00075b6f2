"""`make setup-libvirt` waits while another apt holds a lock (deploy/apt-get-waiting), with a pretended apt-get."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.wires

SCRIPT = Path(__file__).parents[1] / "deploy" / "apt-get-waiting"
LOCKED = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 77 (apt-get)"
APT_GET = """\
#!/bin/sh
echo "$*" >>"$SEEN"
if [ "$(wc -l <"$SEEN")" -le "$FAILURES" ]; then echo "$SAYS" >&2; exit 100; fi
"""


def run(tmp_path: Path, failures: int, says: str, wait_s: str) -> tuple[int, list[str], str]:
    for name, text in (("apt-get", APT_GET), ("sleep", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SEEN": str(tmp_path / "seen"),
        "FAILURES": str(failures),
        "SAYS": says,
        "APT_WAIT_S": wait_s,
    }
    done = subprocess.run([SCRIPT, "update"], env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, (tmp_path / "seen").read_text().splitlines(), done.stderr


@pytest.mark.parametrize("says", [LOCKED, "E: Unable to lock directory /var/lib/apt/lists/"])
def test_a_lock_that_another_apt_holds_is_waited_for(tmp_path: Path, says: str) -> None:
    status, calls, _ = run(tmp_path, 3, says, "600")
    assert status == 0
    assert len(calls) == 4
    assert calls[0].endswith("-o DPkg::Lock::Timeout=600 -o APT::Install-Recommends=false update")


def test_it_is_not_waited_for_ever(tmp_path: Path) -> None:
    status, calls, said = run(tmp_path, 3, LOCKED, "0")
    assert (status, len(calls)) == (100, 1)
    assert "another apt has held the lock for 0 s" in said


def test_another_failure_is_not_waited_for(tmp_path: Path) -> None:
    status, calls, said = run(tmp_path, 3, "E: Unable to locate package nonsense", "600")
    assert (status, len(calls)) == (100, 1)
    assert "Unable to locate package" in said
