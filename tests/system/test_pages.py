"""Every command line in the pages is run, as it is written but for names, ports and directories.

The line with Xen is run below; that with Docker, in test_docker.py.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from jitsu_protocol.model.vm import uuid_for
from tests.support.dns import ask
from tests.support.pages import DOCS, ROOT, shape, typed
from tests.support.process import running_service
from tests.support.suite import RunningSuite, free_port, wait_for
from tests.test_readmes import SERVICES, documented, only_named, readme

UP = "jitsu up"
FIRST_MINUTE = DOCS / "tutorials" / "first-minute.md"
TRANSCRIPT = [*typed(ROOT / "README.md"), *typed(FIRST_MINUTE)]
"""What a newcomer types, in turn, and sees."""
HOLDS = ("jitsu hold", "jitsu hold www", "jitsu hold --for 2h", "jitsu hold --release", "jitsu hold www --release")
"""These would keep the other lines from starting VMs; test_hold.py runs them."""
LABELLED = "jitsu tree --branch labels"
"""Only labels make that branch; test_lxd_labels.py runs it."""
OF_CONTAINERS = {command for command, _ in typed(DOCS / "how-to" / "docker.md")}
"""test_docker.py runs them."""
OF_TEMPLATE = ("jitsu start base", "jitsu stop base")
"""Of a VM whose guest has an agent; test_qemu_clones.py does the same."""
NAMED_ONLY = {*OF_CONTAINERS, "jitsu top", "jitsu watch", "jitsu status --watch", UP, LABELLED, *HOLDS, *OF_TEMPLATE}
"""These do not end by themselves, or are run elsewhere."""
COUNTED_S = 1.5
"""`jitsu status` shows a query within a second."""
IN_TURN = (
    *("jitsu --as vm:UUID branch", "jitsu --as vm:UUID set", "jitsu --as vm:UUID merge"),
    *("jitsu branch", "jitsu set", "jitsu diff", "jitsu merge", "jitsu push", "jitsu pull"),
    *("jitsu keys init", "jitsu keys add", "jitsu keys rotate", "jitsu keys drop"),
    *("jitsu token create", "jitsu token list", "jitsu token revoke"),
    *("jitsu start NAME --discard-saved-state", "jitsu start", "jitsu is-ready", "jitsu trace", "jitsu stop"),
    *("jitsu keep www 2h", "jitsu keep"),
)


def turn(line: str) -> int:
    return next((n for n, begin in enumerate(IN_TURN) if line.startswith(begin)), len(IN_TURN))


def tutorials_toml() -> str:
    """Return the jitsu.toml of the first tutorial."""
    found = re.search(r"^```toml\n(.*?)^```", FIRST_MINUTE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.suite
@pytest.mark.alone  # the addresses are those of the pages
def test_the_tools_commands_work(tmp_path: Path) -> None:
    places = {
        "/etc/jitsu/keys": tmp_path / "keys",
        "/etc/jitsu/jitsu.toml": tmp_path / "machine.toml",
        "/tmp/beta": tmp_path / "beta",
        "/tmp/london": tmp_path / "london",
        "DIRECTORY": tmp_path / "more-keys",
        "REMOTE": tmp_path / "remote.git",
        "ssh://git@backup.example.org/srv/jitsu.git": tmp_path / "remote.git",  # test_machine.py has an sshd
        "UUID": uuid_for("www"),
        "NAME": "www",
        "www.example.org": "www.jitsu.test",
    }
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "remote.git"], check=True)
    (tmp_path / "machine.toml").write_text(tutorials_toml())
    with RunningSuite(tmp_path, toml=tutorials_toml()) as suite:
        environment = {
            **os.environ,
            "JITSU_BUS_RUNTIME_DIR": str(suite.bus().directory),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        shown_in_turn = {command.removeprefix(".venv/bin/") for command, _ in TRANSCRIPT}
        lines = sorted(set(documented()) - NAMED_ONLY - shown_in_turn, key=turn)
        assert len(lines) >= 20
        for line in lines:
            # The mock hypervisor has no machine that could be added: test_lxd_labels.py adds one.
            if line.startswith((UP, "jitsu add")) or only_named(line):
                continue
            shown = line
            for written, meant in places.items():
                shown = shown.replace(written, str(meant))
            done = subprocess.run(
                ["sh", "-c", shown],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
            notes = "note: mock (loopback) cannot list its machines\n" if line.startswith("jitsu discover") else ""
            assert done.stderr == notes, line


@pytest.mark.suite
@pytest.mark.alone
def test_the_transcripts_show_what_the_demonstration_prints(tmp_path: Path) -> None:
    """All but what takes longer: test_newcomer.py waits until the VM is off."""
    assert len(TRANSCRIPT) >= 14
    with RunningSuite(tmp_path) as suite:
        environment = {
            **os.environ,
            "JITSU_BUS_RUNTIME_DIR": str(suite.bus().directory),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        for command, shown in TRANSCRIPT:
            if command.startswith("sleep"):
                continue
            if "status" in command:
                time.sleep(COUNTED_S)
            line = command.replace(".venv/bin/", "").replace("5300", str(suite.port)).replace("curl ", "curl -s ")
            done = subprocess.run(
                ["sh", "-c", line], env=environment, capture_output=True, text=True, timeout=60, check=True
            )
            told = done.stdout.replace(str(suite.bus().directory), "/tmp/jitsu-1001")
            assert shape(told) == shape(shown), command


@pytest.mark.suite
@pytest.mark.alone
@pytest.mark.parametrize(
    "line",
    [
        line
        for line in documented()
        if line.startswith(f"{UP} ") and not any(each in line for each in ("xen:", "docker"))
    ],
)
async def test_a_suite_comes_up_as_it_is_written(tmp_path: Path, line: str) -> None:
    arguments = shlex.split(line)[2:]
    is_file = arguments == ["--config", "jitsu.toml"]
    with RunningSuite(tmp_path, [] if is_file else arguments, tutorials_toml() if is_file else "") as suite:
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.0.1.1"]


@pytest.mark.suite
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: Synjitsu's raw sockets")
async def test_services_run_as_their_readmes_say(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as running:
        for service in ("store", *(each for each in SERVICES if each != "store")):
            for line in re.findall(rf"^    (jitsu-{service} .+)$", readme(service), re.MULTILINE):
                running.enter_context(running_service(shlex.split(line.replace("5300", str(port))), tmp_path))

        def jitsu(*arguments: str) -> str:
            command = [sys.executable, "-m", "jitsu.main", "--runtime-dir", "run", *arguments]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
            return done.stdout

        def all_are_up() -> bool:
            said = jitsu("status")
            return all(re.search(rf"^{each} +up", said, re.MULTILINE) for each in SERVICES if each != "dns")

        wait_for(all_are_up, 30, "all services answer")
        wait_for(lambda: "dns-1" in jitsu("status"), 30, "both replicas report")
        jitsu("apply", "dns=www.jitsu.test,ip=127.2.50.1,name=www")
        wait_for(lambda: "www" in jitsu("status"), 10, "the VM is configured")
        assert (await ask("www.jitsu.test", port)).addresses == ["127.2.50.1"]
        (look,) = re.findall(r"`(git -C state.git [^`]+)`", readme("store"))
        shown = await asyncio.to_thread(subprocess.check_output, shlex.split(look), cwd=tmp_path, text=True)
        assert "Apply www" in shown


@pytest.mark.libvirt
def test_the_originals_command_line_waits_for_xen(tmp_path: Path) -> None:
    (line,) = [line for line in documented() if "xen:///" in line]
    with RunningSuite(tmp_path, shlex.split(line)[2:]) as suite:
        said = suite.jitsu("status")
        assert re.search(r"mirage-www +unknown +www\.openmirage\.org +192\.168\.0\.22", said)
        assert "hypervisor libvirt (xen:///) does not answer" in said
