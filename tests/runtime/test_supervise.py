"""Child processes that are kept running, although they die while they start."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest

from jitsu_runtime import supervise as children
from jitsu_runtime.supervise import Child, Children

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.wires

DIES = """\
import os, pathlib, signal, socket
counted = pathlib.Path(os.environ["COUNTED"])
counted.write_text(counted.read_text() + "x" if counted.exists() else "x")
if len(counted.read_text()) <= 3:
    raise SystemExit(1)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
    sender.sendto(b"READY=1", chr(0) + os.environ["NOTIFY_SOCKET"][1:])
signal.pause()
"""


def child(tmp_path: Path, program: str) -> Child:
    package = tmp_path / "jitsu_pretended"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "main.py").write_text(program)
    return Child("one", "pretended", environment={"PYTHONPATH": str(tmp_path), "COUNTED": str(tmp_path / "counted")})


async def run_until_ready(kept: Children) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(kept.keep(kept.children[0]))
        async with asyncio.timeout(60):
            await kept.children[0].ready.wait()
        kept.stop.set()
        await kept.terminate(kept.children, 5)
        task.cancel()
    assert await kept.let_go(5)


async def test_a_child_that_dies_while_it_starts_is_started_again_until_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "FIRST_BACKOFF_S", 0.0)
    said: list[str] = []
    await run_until_ready(Children([child(tmp_path, DIES)], said.append))
    assert (tmp_path / "counted").read_text() == "xxxx"
    assert [line.split()[:3] for line in said] == [["one", "died", "(status"]] * 3 + [
        ["one", "ready", said[-1].split()[2]]
    ]


async def test_a_child_inherits_settings_that_are_too_large_for_an_environment(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, jitsu_runtime.settings.command_line as s\n"
        "read = s.load_service('dns', [], os.environ)\n"
        "pathlib.Path(os.environ['COUNTED']).write_text(str(len(read.dns.records)))\n"
        "assert all(len(value) < 4096 for key, value in os.environ.items() if key.startswith('JITSU_'))\n"
    )
    records = [f"n{number}.example.org. 300 IN A 192.0.2.1" for number in range(20_000)]
    one = child(tmp_path, program + "\n".join(DIES.splitlines()[:1] + DIES.splitlines()[5:]))
    one.settings = {"dns.records": [*records]}
    await run_until_ready(Children([one], lambda _: None))
    assert (tmp_path / "counted").read_text() == "20000"


async def test_a_child_that_cannot_be_started_for_a_while_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "FIRST_BACKOFF_S", 0.0)
    real, refused = asyncio.create_subprocess_exec, [OSError(11, os.strerror(11)), OSError(12, os.strerror(12))]

    async def start(*arguments: str, **options: object) -> asyncio.subprocess.Process:
        if refused:
            raise refused.pop(0)
        return await real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    said: list[str] = []
    await run_until_ready(Children([child(tmp_path, DIES.replace("<= 3", "<= 0"))], said.append))
    assert [line.strip() for line in said if "cannot" in line] == [
        "one       cannot be started: Resource temporarily unavailable",
        "one       cannot be started: Cannot allocate memory",
    ]


BEGINS = """\
import os, pathlib, signal, socket
from jitsu_runtime.service_manager import notify, wait_to_begin
counted = pathlib.Path(os.environ["COUNTED"])
wait_to_begin()
counted.write_text("begun")
notify("READY=1")
signal.pause()
"""


async def test_a_child_loads_its_program_and_begins_only_when_it_may(tmp_path: Path) -> None:
    one = child(tmp_path, BEGINS)
    one.may_begin.clear()
    kept = Children([one], lambda _: None)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(kept.keep(one))
        async with asyncio.timeout(60):
            await one.loaded.wait()
            assert not (tmp_path / "counted").exists()
            assert not one.ready.is_set()
            one.may_begin.set()
            await one.ready.wait()
        kept.stop.set()
        await kept.terminate(kept.children, 5)
        task.cancel()
    assert (tmp_path / "counted").read_text() == "begun"
    assert await kept.let_go(5)


async def test_a_child_that_may_not_begin_yet_ends_with_its_supervisor(tmp_path: Path) -> None:
    child(tmp_path, BEGINS)
    supervisor = (
        "import asyncio, os, sys\n"
        "from jitsu_runtime.supervise import Child, Children\n"
        "async def main():\n"
        "    one = Child('one', 'pretended')\n"
        "    one.may_begin.clear()\n"
        "    kept = Children([one], print)\n"
        "    task = asyncio.create_task(kept.keep(one))\n"
        "    await one.loaded.wait()\n"
        "    os.write(int(sys.argv[1]), b'%d' % one.process.pid)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    read, write = os.pipe()
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "COUNTED": str(tmp_path / "counted")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", supervisor, str(write), env=environment, pass_fds=(write,)
    )
    os.close(write)
    await process.wait()
    pidfd = os.pidfd_open(int(os.read(read, 20)))
    os.close(read)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)  # readable when the process has ended (pidfd_open(2))
    async with asyncio.timeout(30):
        await ended.wait()
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)
    assert not (tmp_path / "counted").exists()
