"""A process as services have one, in a test's own event loop; and services that run alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu_runtime.service import RealWorld
from jitsu_runtime.settings.load import load
from tests.support.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence


@asynccontextmanager
async def running_process(service: str, directory: Path, **settings: str) -> AsyncIterator[RealWorld]:
    """Run one; `settings` are as hypervisor__connect="test:///default", and `toml` names a jitsu.toml."""
    file = settings.pop("toml", "")
    flags = {key.replace("__", "."): value for key, value in settings.items()}
    loaded = load(Path(file) if file else None, {}, {"bus.runtime_dir": str(directory)} | flags)
    async with task_group() as group:
        process = RealWorld(service, loaded, group)
        try:
            yield process
        finally:
            process.close()


@contextmanager
def running_service(argv: Sequence[str], directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service's own command in a directory; it must still run at the end.

    What it logs is COMMAND.log there. A mock host that it leaves behind in `run`, where guests outlive vmd, is stopped.
    """
    log = directory / f"{argv[0]}.log"
    program = Path(sys.executable).with_name(argv[0])
    with log.open("ab") as said:
        process = subprocess.Popen(
            [program, *argv[1:]],
            cwd=directory,
            stdout=said,
            stderr=said,
            env={**os.environ, "JITSU_DNS_FORWARD": "off"},
        )
    try:
        yield process
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(20)
        host = directory / "run" / "mock.pid"
        if argv[0] == "jitsu-vmd" and host.exists():
            os.kill(int(host.read_text()), signal.SIGKILL)
