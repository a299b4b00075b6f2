"""A program that drives real processes as VMs: what the tests of the kind `command` have in [command.NAME].

Each VM is a process of its own that answers HTTP if its VM has an address and a port. It outlives everything; `pause`
stops it by SIGSTOP; `suspend` ends it and leaves a file, from which the next `start` knows that it is restored. A file
`fail-ACTION` beside them makes that action fail, `hang-ACTION` makes it hang, `late-start` delays the process.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCRIPT = r"""#!/bin/sh
# machine DIRECTORY ACTION NAME
cd "$1" || exit 9
action=$2 name=$3
echo "$action $name" >> calls
if [ -e "hang-$action" ]; then echo "waiting for godot" >&2; sleep 600; fi
if [ -e "fail-$action" ]; then echo "some words" >&2; echo "Not enough free memory" >&2; exit 7; fi
pid=$(cat "$name.pid" 2>/dev/null)
letter=""
if [ -n "$pid" ] && read -r line 2>/dev/null < "/proc/$pid/stat"; then letter=${line##*) }; letter=${letter%% *}; fi
case "$letter" in
  "" | Z | X) now=off; [ -e "$name.saved" ] && now=suspended; [ -e "$name.crash" ] && now="crashed the guest is gone" ;;
  T) now=paused ;;
  *) now=running ;;
esac
case "$action" in
  state) echo "$now" ;;
  states)
    for file in *.pid *.saved; do
      [ -e "$file" ] || continue
      echo "${file%.*} $("$0" "$1" state "${file%.*}")"
    done ;;
  start)
    rm -f "$name.saved" "$name.crash"
    [ "$now" = running ] && exit 0
    setsid "$0.guest" "$1" "$name" "$JITSU_ADDRESS" < /dev/null > /dev/null 2>&1 &
    echo $! > "$name.pid" ;;
  resume)
    if [ "$now" = suspended ]; then exec "$0" "$1" start "$name"; fi
    kill -CONT "$pid" ;;
  stop) [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null; [ ! -e discards ] || rm -f "$name.saved"; exit 0 ;;
  discard) rm -f "$name.saved"; [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null; exit 0 ;;
  shutdown) kill -TERM "$pid" ;;
  pause) kill -STOP "$pid" ;;
  suspend) touch "$name.saved"; kill -KILL "$pid" ;;
  watch) exec tail -n +1 -F "$1/changes" 2>/dev/null ;;
esac
"""
_GUEST = r"""#!/usr/bin/env -S python3 -I -S
import os, signal, socket, sys, time
directory, name, address = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
port = int(open(f"{directory}/port").read()) if os.path.exists(f"{directory}/port") else 0
if not port:
    while True:
        signal.pause()
if os.path.exists(f"{directory}/late-start"):
    time.sleep(float(open(f"{directory}/late-start").read()))
listener = socket.create_server((address, port), backlog=64)
while True:
    client, _ = listener.accept()
    client.recv(65536)
    client.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(name) + 1}\r\n\r\n{name}\n".encode())
    client.close()
"""
SAVING = ("pause", "suspend", "resume", "shutdown", "discard")


class CommandMachines:
    """The directory in which the program keeps its VMs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.program = directory / "machine"
        self._write(self.program, _SCRIPT)
        self._write(Path(f"{self.program}.guest"), _GUEST)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def section(self, *more: str, **settings: str | float) -> Mapping[str, object]:
        """Return what stands in [command.NAME] to use it, with these commands beside the required ones."""
        actions = ("start", "stop", "state", *(more or SAVING))
        of_all = ("states", "watch")
        commands = {
            each: [str(self.program), str(self.directory), each, *([] if each in of_all else ["{name}"])]
            for each in actions
        }
        return {**commands, "interval": 0.5, **settings}

    def toml(self, name: str, *more: str, **settings: str | float) -> str:
        """Return the same as a section of jitsu.toml."""
        lines = [f"{key} = {value!r}" for key, value in self.section(*more, **settings).items()]
        return "\n".join([f"[command.{name}]", *lines, ""])

    def pid(self, name: str) -> int:
        """Return the process of a VM."""
        return int((self.directory / f"{name}.pid").read_text())

    def calls(self, action: str) -> int:
        """Return how often an action was called."""
        log = self.directory / "calls"
        return sum(line.split()[0] == action for line in log.read_text().splitlines()) if log.exists() else 0

    def on(self, what: str, text: str = "") -> None:
        """Make a file such as fail-start."""
        (self.directory / what).write_text(text)

    def off(self, what: str) -> None:
        """Remove it."""
        (self.directory / what).unlink()

    def crash(self, name: str) -> None:
        """End a VM's process as a crash does."""
        self.on(f"{name}.crash")
        os.kill(self.pid(name), signal.SIGKILL)

    def end(self) -> None:
        """End all processes."""
        for file in self.directory.glob("*.pid"):
            with suppress(ProcessLookupError, ValueError):
                os.kill(int(file.read_text()), signal.SIGKILL)
