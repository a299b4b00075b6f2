"""What `make bench-engines` needs of each kind: machines that its engine starts, and that Jitsu can have as VMs.

A module of tests/support gives a kind's row with a function `bench_engine(lan, directory)`, a context manager that
yields an `EngineBench`. It is listed in bench/engines.py.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.lan import BRIDGE, ip
from tests.support.unikernel import add_tap, unikernel_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.lan import Lan

FIRST_ADDRESS = 120
"""Of the machines, in 10.77.0.0/24; the client is 10.77.0.100."""
MACHINES = 3
"""One that the engine starts by itself, one for Jitsu without Synjitsu, one for Jitsu with it."""


@dataclass(frozen=True)
class BenchMachine:
    """A machine that serves HTTP on port 80 of its address on the Lan."""

    name: str
    address: str
    keys: str
    """The keys of its VM, as lines of jitsu.toml, without `dns`, `ip` and those that say how the boot is hidden."""
    start: Callable[[], object]
    """The engine's own call. It is called in the host's network namespace, for the first machine only."""
    stop: Callable[[], object]
    """The engine's own stop; returns when the machine is off."""


@dataclass(frozen=True)
class EngineBench:
    """One engine that is ready to start machines."""

    toml: str
    """The sections of jitsu.toml with which vmd drives it."""
    machines: Sequence[BenchMachine]
    """`MACHINES` of them."""


def address_of(number: int) -> str:
    """Return the address of a machine."""
    return f"10.77.0.{FIRST_ADDRESS + number}"


def mac_of(number: int) -> str:
    """Return the MAC address of a machine."""
    return f"02:00:5e:00:54:{number:02x}"


_SCRIPT = """#!/bin/sh
# guest ACTION NAME ADDRESS: a unikernel of the tests as a process, on a tap that is there.
cd {directory} || exit 9
state=off
if read -r pid 2>/dev/null < "$2.pid" && read -r line 2>/dev/null < "/proc/$pid/stat"; then
  case "${{line##*) }}" in Z* | X*) ;; *) state=running ;; esac
fi
case "$1" in
  start)
    [ "$state" = off ] || exit 0
    setsid {tender} --mem=16 --net:service="tap-$2" --net-mac:service="$(cat "$2.mac")" -- {image} \\
      --name="$2" --ipv4="$3/24" > "$2.log" 2>&1 < /dev/null &
    echo $! > "$2.pid" ;;
  stop) [ "$state" = off ] || kill -9 "$pid" ;;
  state) echo "$state" ;;
esac
"""


@contextmanager
def command_bench(lan: Lan, directory: Path) -> Iterator[EngineBench]:
    """Yield unikernels that a shell script starts."""
    programs = unikernel_programs()
    script = directory / "guest"
    script.write_text(_SCRIPT.format(directory=directory, tender=programs / "solo5-spt", image=programs / "web.spt"))
    script.chmod(0o755)
    commands = "\n".join(
        f'{each} = ["{script}", "{each}", "{{name}}", "{{address}}"]' for each in ("start", "stop", "state")
    )
    machines = []
    for number in range(MACHINES):
        name, address = f"m{number}", address_of(number)
        add_tap(lan, f"tap-{name}")
        (directory / f"{name}.mac").write_text(mac_of(number))

        def run(action: str, name: str = name, address: str = address) -> None:
            subprocess.run([script, action, name, address], check=True)

        def stop(name: str = name, run: Callable[[str], None] = run) -> None:
            run("stop")
            if (directory / f"{name}.pid").exists():
                _until_gone(int((directory / f"{name}.pid").read_text()))

        keys = f'command = "guest"\nmac = "{mac_of(number)}"\nnic = "{BRIDGE}"'
        machines.append(BenchMachine(name, address, keys, lambda run=run: run("start"), stop))  # type: ignore[misc]
    try:
        yield EngineBench(f'[hypervisor]\nkind = "command"\n[command.guest]\n{commands}\ninterval = 1\n', machines)
    finally:
        for machine in machines:
            with suppress(OSError):
                machine.stop()
            ip("-n", lan.host, "link", "delete", f"tap-{machine.name}")


def _until_gone(pid: int) -> None:
    """Wait until a process has ended; it may be a zombie whose parent reaps it late."""
    with suppress(OSError):
        while True:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state in "ZX":
                return
            os.sched_yield()


@contextmanager
def solo5_bench(lan: Lan, directory: Path) -> Iterator[EngineBench]:
    """Yield unikernels under the tests' stand-in for solo5-spt; alone, the tender is started on a tap that is there."""
    programs = unikernel_programs()
    tender, image = programs / "solo5-spt", programs / "web.spt"
    add_tap(lan, "tap-m0")
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        options = ["--mem=16", "--net:service=tap-m0", f"--net-mac:service={mac_of(0)}"]
        command = [str(tender), *options, "--", str(image), "--name=m0", f"--ipv4={address_of(0)}/24"]
        with (directory / "m0.log").open("wb") as log:
            running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def stop() -> None:
        while running:
            process = running.pop()
            process.kill()
            process.wait()

    machines = [
        BenchMachine(
            f"m{number}",
            address_of(number),
            f'kernel = "{image}"\nmemory = 16384\ncmdline = "--name={{name}} --ipv4={{ip}}/{{prefix}}"',
            start,
            stop,
        )
        for number in range(MACHINES)
    ]
    toml = f'[hypervisor]\nkind = "solo5"\nbridge = "{BRIDGE}"\ntender = "{tender}"\n'
    try:
        yield EngineBench(toml, machines)
    finally:
        stop()
        ip("-n", lan.host, "link", "delete", "tap-m0")
