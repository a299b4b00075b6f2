"""README.md's two commands and the first tutorial, in a bare Debian, by somebody who is not root and has no network."""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.bases import ROOT
from tests.support.compose import UP_LIMIT_S, requirements, running_docker
from tests.support.pages import DOCS, shape, typed
from tests.support.suite import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.newcomer,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: dockerd"),
]
FIRST_MINUTE = DOCS / "tutorials" / "first-minute.md"
LEFT_OUT = ROOT / ".cache" / "left-out"
"""Tests that need root or programs that a bare Debian has not, a line each: `make test-left-out` runs them."""
TYPING_S = 2.0
"""What is counted is shown within a second."""


def test_a_newcomer_is_there_with_two_commands() -> None:
    """With python3, venv, git, make, curl and dig."""
    page = (ROOT / "README.md").read_text().partition("## Try it")[2].partition("\n## ")[0]
    first, second = re.findall(r"^    (make \w+) ", page, re.MULTILINE)
    shown_by_make = re.findall(r"^```\n(jitsu up: .*?)^```", FIRST_MINUTE.read_text(), re.MULTILINE | re.DOTALL)[0]
    transcript = [*typed(ROOT / "README.md"), *typed(FIRST_MINUTE)]
    assert len(transcript) >= 14
    with newcomer() as run:
        assert run("git clone -q /src/.git jitsu && echo no-progress-meter >.curlrc") == (0, "")
        run(f"cd jitsu && exec setsid sh -c 'echo $$ >~/pid; exec {first} >~/said 2>&1'", detach=True)
        wait_for(lambda: "Ctrl-C stops everything" in run("cat said")[1], UP_LIMIT_S, "make up")
        assert set(shape(shown_by_make)) <= set(shape(run("cat said")[1]))
        for command, shown in transcript:
            time.sleep(TYPING_S)
            status, said = run(f"cd jitsu && {command}")
            assert shape(said) == shape(shown), command
            assert (status == 0) is ("Failed to connect" not in shown)
        run("kill -INT -$(cat pid)")  # as Ctrl-C does
        wait_for(lambda: run("grep -las 'jitsu[_]' /proc/[0-9]*/cmdline")[1] == "", 15, "everything is stopped")
        begun = time.monotonic()
        status, said = run(f"cd jitsu && {second}")
        print(f"\n{said}\n{second}: {time.monotonic() - begun:.0f} s")
        assert status == 0
        tiers = re.findall(r"^left out: (test-.*): they need root$", said, re.MULTILINE)
        assert tiers == re.findall(r"^ROOT_TIERS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        tests = re.findall(r"^left out: (tests/.*): \('", said, re.MULTILINE)
        assert tests
        LEFT_OUT.write_text("".join(f"{test}\n" for test in tests))


@contextmanager
def newcomer() -> Iterator[Callable[..., tuple[int, str]]]:
    with running_docker("newcomer") as docker:
        container = docker.daemon.containers.run(
            "newcomer",
            ["sleep", "infinity"],
            detach=True,
            network_mode="none",
            sysctls={"net.ipv6.conf.all.disable_ipv6": "0"},
            environment={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"},
            volumes={str(ROOT): {"bind": "/src", "mode": "ro"}, str(requirements()): {"bind": "/wheels", "mode": "ro"}},
        )

        def run(command: str, **options: Any) -> tuple[int, str]:
            done = container.exec_run(["sh", "-c", command], user="new", workdir="/home/new", **options)
            return done.exit_code, (done.output or b"").decode()

        try:
            for command in ("useradd -m new", "git config --system --add safe.directory *"):
                assert container.exec_run(command.split()).exit_code == 0
            yield run
        finally:
            container.remove(force=True)
