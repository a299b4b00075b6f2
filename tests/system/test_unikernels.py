"""A whole suite whose VMs are unikernels under a tender: the stand-in for Solo5's (guests/README.md)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import dns.message
import dns.query
import pytest

from tests.support.lan import BRIDGE, Lan, lan_suite, made_lan
from tests.support.solo5 import open_directory
from tests.support.suite import SLOWER, RunningSuite, wait_for
from tests.support.unikernel import unikernel_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: taps, and a user for each tender"),
]
LIMIT_S = 10.0 * SLOWER
ROOT = Path(__file__).parents[2]
GUEST = """[vm.{name}]
dns = "{name}.jitsu.test"
ip = "10.77.0.{number}"
kernel = "{images}/web.spt"
memory = 16384
ttl = 1
idle_timeout = 3600
use_synjitsu = true
cmdline = "--name={{name}} --ipv4={{ip}}/{{prefix}} --ipv4-gateway={{gateway}} {more}"
"""


@pytest.fixture
def images() -> Iterator[Path]:
    """Have the stand-in and its images where every user may read them."""
    with open_directory() as directory:
        shutil.copytree(unikernel_programs(), directory, dirs_exist_ok=True)
        directory.chmod(0o755)
        yield directory


def page(suite: RunningSuite, name: str) -> str:
    """Ask for a name, and return the page of the guest that this starts."""
    query = dns.message.make_query(f"{name}.jitsu.test", "A")
    answer = dns.query.udp(query, "10.77.0.1", port=suite.port, timeout=LIMIT_S)
    with socket.create_connection((str(answer.answer[0][0]), 80), LIMIT_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        said = b""
        while part := client.recv(4096):
            said += part
    return said.decode()


def tenders(suite: RunningSuite) -> dict[str, int]:
    """Return the process of each tender, by the UUID of its VM."""
    records = (suite.directory / "run" / "solo5").glob("*.json")
    return {record.stem: int(record.read_text().split()[0]) for record in records}


def links(lan: Lan) -> str:
    return subprocess.run(["ip", "-n", lan.host, "-br", "link"], check=True, capture_output=True, text=True).stdout


def test_the_page_on_the_first_unikernel_wakes_one(tmp_path: Path, images: Path) -> None:
    """All of it that comes after the image: its jitsu.toml, with the paths of the tests."""
    text = (ROOT / "docs/tutorials/first-unikernel.md").read_text()
    toml = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0]
    for written, meant in (
        ('"br0"', f'"{BRIDGE}"'),
        ("/usr/local/bin/solo5-spt", f"{images}/solo5-spt"),
        ("/srv/unikernels/www.spt", f"{images}/web.spt"),
        ('[dns]\nbind = "10.77.0.1"\n', ""),  # lan_suite says that
    ):
        assert written in toml
        toml = toml.replace(written, meant)
    with made_lan(1) as lan, lan_suite(tmp_path, toml, lan=lan) as (_, suite):
        assert lan.run(0, lambda: page(suite, "www")).startswith("HTTP/1")
        assert "ready" in suite.jitsu("trace", "www")


def test_a_name_starts_a_unikernel_that_outlives_vmd_and_leaves_nothing_behind(tmp_path: Path, images: Path) -> None:
    toml = f'[hypervisor]\nkind = "solo5"\nbridge = "{BRIDGE}"\ntaps = 2\ntender = "{images}/solo5-spt"\n'
    toml += GUEST.format(name="www", number=9, images=images, more="")
    toml += GUEST.format(name="bad", number=10, images=images, more="--die-after=1")
    with made_lan(1) as lan:
        with lan_suite(tmp_path, toml, lan=lan) as (_, suite):
            assert "www" in lan.run(0, lambda: page(suite, "www"))
            first = tenders(suite)
            (pid,) = first.values()
            for killed in ("vmd", "launcher"):
                if killed == "vmd":
                    suite.kill("vmd")
                else:
                    os.kill(int((tmp_path / "run" / "solo5" / "launcher.pid").read_text()), signal.SIGKILL)
                assert "www" in lan.run(0, lambda: page(suite, "www"))
                wait_for(lambda: suite.state("www") == "ready", LIMIT_S, "it is found running")
                assert tenders(suite) == first, "and not started again"
            assert "js" in links(lan), "its tap"
            suite.jitsu("stop", "www")
            wait_for(lambda: not Path(f"/proc/{pid}").exists(), LIMIT_S, "it has ended")
            assert "www" in lan.run(0, lambda: page(suite, "www"))
            failed = suite.jitsu("start", "bad", check=False)
            wait_for(lambda: "status 255" in suite.status()["bad"]["last_error"], LIMIT_S, f"why it failed: {failed}")
            left = tenders(suite)
        wait_for(lambda: "js" not in links(lan), LIMIT_S, "no tap is left")
        assert not [pid for pid in left.values() if Path(f"/proc/{pid}/exe").exists()]
        assert not (tmp_path / "run" / "solo5").exists()
