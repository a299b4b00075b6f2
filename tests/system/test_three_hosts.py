"""docs/tutorials/three-hosts.md on one machine: its keys, its files, with addresses of the loopback network."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.pages import DOCS
from tests.support.suite import JITSU, RunningSuite, beside, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.suite
TEXT = (DOCS / "tutorials" / "three-hosts.md").read_text()
BUS, HUB, BETA, LONDON = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
SOON_S = 10.0


def here(text: str, directory: Path) -> str:
    """Return a part of the page with the places of this test; the VMs are mock guests that need no Synjitsu."""
    text = text.replace("/tmp/", f"{directory}/").replace("/etc/jitsu/keys", f"{directory}/hub")
    text = text.replace("10.0.0.50", "127.2.71.1").replace("10.0.0.51", "127.2.71.2").replace("10.0.0.", "127.9.77.")
    text = text.replace('kind = "libvirt"\n', "").replace("use_synjitsu = true", "wait_for_port = 8080")
    return text.replace('\nstop_mode = "shutdown"', "")


def asked(name: str, address: str, port: int) -> tuple[str, list[str]]:
    query = dns.message.make_query(f"{name}.jitsu.example.org", "A")
    answer = dns.query.udp(query, address, port=port, timeout=5)
    return dns.rcode.to_text(answer.rcode()), [rdata.to_text() for rrset in answer.answer for rdata in rrset]


@contextmanager
def _no_guests_left(directory: Path) -> Iterator[None]:
    """End the mock hypervisor of a host whose vmd the test runs itself: guests outlive vmd."""
    try:
        yield
    finally:
        pid = int((directory / "mock.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: _has_ended(pid), SOON_S, "the guests of beta have ended")


def _has_ended(pid: int) -> bool:
    """Say whether a process has ended, though nobody may have reaped it: no test is its parent."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_two_dns_servers_answer_for_vms_on_two_hosts_also_while_the_first_is_down(tmp_path: Path) -> None:
    await asyncio.to_thread(_follow, tmp_path)


def _follow(tmp_path: Path) -> None:
    for line in re.findall(r"^    (jitsu keys .*)$", TEXT, re.MULTILINE):
        words = shlex.split(here(line, tmp_path))[1:]
        subprocess.run([*JITSU, *words], check=True, capture_output=True)
    for machine in ("beta", "london"):
        shutil.copytree(tmp_path / "hub" / "public", tmp_path / machine / "public", dirs_exist_ok=True)
        assert not list((tmp_path / machine).glob("store.*")), "it has its own secret keys only"
    bus, port = here(BUS, tmp_path), free_port()
    environments = {}
    for machine, own in (("beta", BETA), ("london", LONDON)):
        text = bus.replace(f"{tmp_path}/hub", f"{tmp_path}/{machine}") + here(own, tmp_path)
        (tmp_path / f"{machine}.toml").write_text(text)
        (tmp_path / f"{machine}-run").mkdir()
        environments[machine] = {
            "JITSU_CONFIG": str(tmp_path / f"{machine}.toml"),
            "JITSU_BUS_RUNTIME_DIR": str(tmp_path / f"{machine}-run"),
        }
    # The unit sets the replica's name; packages have it bind all addresses.
    environments["london"] |= {
        "JITSU_DNS_REPLICA": "london",
        "JITSU_DNS_BIND": "127.9.77.3",
        "JITSU_DNS_PORT": str(port),
    }
    with (
        _no_guests_left(tmp_path / "beta-run"),
        RunningSuite(tmp_path, toml=bus + here(HUB, tmp_path)) as suite,
        beside(suite, "vmd", **environments["beta"]),
        beside(suite, "synjitsu", **environments["beta"]),
        beside(suite, "dns", **environments["london"]),
    ):
        wait_for(lambda: "london " in suite.jitsu("status", check=False), SOON_S, "london is registered")
        for name, number in (("db", 2), ("www", 1)):
            expected = ("NOERROR", [f"127.2.71.{number}"])
            wait_for(lambda: asked(name, "127.9.77.3", port) == expected, SOON_S, f"london answers for {name}")  # noqa: B023
        shown = suite.status()
        assert (shown["db"]["host"], shown["db"]["state"]) == ("beta", "ready")
        assert (shown["www"]["host"], shown["www"]["state"]) == ("", "ready")
        assert "vmd of beta" in suite.jitsu("status")
        suite.stop()
        assert asked("db", "127.9.77.3", port) == ("NOERROR", ["127.2.71.2"])
        assert asked("www", "127.9.77.3", port) == ("NOERROR", ["127.2.71.1"]), (
            "it was ready, and the lease is not over"
        )
