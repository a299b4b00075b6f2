"""As root, `jitsu up` without arguments offers a guest that boots in milliseconds, and leaves the network as it was."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import dns.message
import dns.query
import pytest

from jitsu import demo
from tests.support.lan import made_lan
from tests.support.suite import RunningSuite, wait_for
from tests.support.unikernel import unikernel_programs
from tests.system.test_first_packets import LIMIT_S, http

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.lan import Lan

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and taps"),
]


@pytest.fixture
def machine() -> Iterator[Lan]:
    """A machine of its own, as far as the network goes."""
    unikernel_programs()
    with made_lan(0) as lan:
        yield lan


def interfaces(machine: Lan) -> list[str]:
    shown = subprocess.run(["ip", "-n", machine.host, "-o", "link"], capture_output=True, text=True, check=True)
    return [line.split()[1].rstrip(":").partition("@")[0] for line in shown.stdout.splitlines()]


def started(machine: Lan, directory: Path) -> RunningSuite:
    directory.mkdir(exist_ok=True)
    return RunningSuite(directory, inside=["ip", "netns", "exec", machine.host])


def test_a_name_wakes_the_guest_in_c_and_its_bridge_is_removed_at_the_end(machine: Lan, tmp_path: Path) -> None:
    before = interfaces(machine)
    with started(machine, tmp_path) as suite:
        wait_for(lambda: demo.BRIDGES[0] in interfaces(machine), LIMIT_S, "its bridge is made")
        (shown,) = [line for line in suite.output if "time curl" in line]
        assert f"-p {suite.port} spark.jitsu.test" in shown

        def fetch() -> str:
            reply = dns.query.udp(dns.message.make_query("spark.jitsu.test", "A"), "127.0.0.1", LIMIT_S, suite.port)
            return http(reply.answer[0][0].to_text())

        assert "This is the VM <b>spark</b>" in machine.run_on_host(fetch)
        assert suite.state("spark") == "ready"
    wait_for(lambda: interfaces(machine) == before, 5, "nothing is left")


def test_what_kill_9_has_left_is_removed_by_the_next_demonstration(machine: Lan, tmp_path: Path) -> None:
    before = interfaces(machine)
    with started(machine, tmp_path / "first") as suite:
        wait_for(lambda: demo.BRIDGES[0] in interfaces(machine), LIMIT_S, "its bridge is made")
        suite.jitsu("start", "spark")
        assert len(interfaces(machine)) == len(before) + 2
        for pid in suite.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        suite.process.kill()
        suite.process.wait()
    wait_for(lambda: len(interfaces(machine)) == len(before) + 1, 5, "the tap is gone with its guest")
    assert demo.BRIDGES[0] in interfaces(machine)
    with started(machine, tmp_path / "second") as suite:
        suite.jitsu("start", "spark")
        assert suite.state("spark") == "ready"
    wait_for(lambda: interfaces(machine) == before, 5, "nothing is left")
