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
from tests.system.test_install import COMMANDS as INSTALL

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
CPU_LIMIT_S = 20.0
"""What `make up` may need before it starts the suite; CPU time, so that other work on the machine does not count."""
SIZE_LIMIT_MB = 100
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
        with started(run, first):
            assert spent_s(run) < CPU_LIMIT_S
            assert int(run("du -sm jitsu/.venv")[1].split()[0]) < SIZE_LIMIT_MB
            said = run("cat said")[1]
            steps = said.partition("jitsu up:")[0].splitlines()
            assert steps
            assert all(step.endswith(" ...") for step in steps), "a line for each step, and nothing else"
            assert set(shape(shown_by_make)) <= set(shape(said))
            follow(run, transcript)
        # What `make dist` builds needs none of that: only Python, and the files.
        install = INSTALL[0].replace("dist/*.whl", "jitsu/dist/*.whl").replace("~/jitsu", "~/installed")
        for command in ("make -C jitsu dist", install):
            status, said = run(command)
            assert status == 0, said
        with started(run, "~/installed/bin/jitsu up"):
            quick = [(command, shown) for command, shown in transcript if "sleep" not in command]
            follow(run, quick, "~/installed/bin/jitsu")
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
def started(run: Callable[..., tuple[int, str]], command: str) -> Iterator[None]:
    """Have a suite that this command starts in the clone, and end it as Ctrl-C does."""
    run(f"cd jitsu && exec setsid sh -c 'echo $$ >~/pid; exec {command} >~/said 2>&1'", detach=True)
    wait_for(lambda: "Ctrl-C stops everything" in run("cat said")[1], UP_LIMIT_S, command)
    yield
    run("kill -INT -$(cat pid)")
    wait_for(lambda: run("grep -las 'jitsu[_]' /proc/[0-9]*/cmdline")[1] == "", 15, "everything is stopped")


def follow(
    run: Callable[..., tuple[int, str]], transcript: list[tuple[str, str]], jitsu: str = ".venv/bin/jitsu"
) -> None:
    """Type the page's commands and compare what they show."""
    for command, shown in transcript:
        time.sleep(TYPING_S)
        status, said = run(f"cd jitsu && {command.replace('.venv/bin/jitsu', jitsu)}")
        assert shape(said) == shape(shown), command
        assert (status == 0) is ("Failed to connect" not in shown)


def spent_s(run: Callable[..., tuple[int, str]]) -> float:
    """Return the CPU seconds of the steps that `make up` has done before the suite (proc(5): cutime, cstime)."""
    fields = run("cat /proc/$(cat pid)/stat")[1].rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


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
