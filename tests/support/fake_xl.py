"""Plays xl(1) with a file of domains, for tests without Xen; prints and fails as xl of Xen 4.17 does.

FAKE_XL is the directory of its file; a file `fail-COMMAND` in it makes the next such command fail. A domain is
introduced to xenstored (XENSTORED_PATH), and released, as by Xen: FAKEXEN_DIR is where xenstored/fakexen.c plays the
hypervisor.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pyxs

if TYPE_CHECKING:
    import pytest

    from tests.support.xenstored import Xenstored

HEAD = "Name                     ID   Mem VCPUs\tState\tTime(s)   UUID          Reason-Code\tSecurity Label"
NO_UUID = "00000000-0000-0000-0000-000000000000"
DAEMON_LIMIT_S = 600.0
Domains = dict[str, dict[str, Any]]


def install(directory: Path, daemon: Xenstored, patch: pytest.MonkeyPatch) -> None:
    """Have `xl` mean this, beside this xenstored; its files are in a directory that is made."""
    directory.mkdir()
    patch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    patch.setenv("FAKE_XL", str(directory))
    patch.setenv("FAKEXEN_DIR", str(daemon.hypervisor))
    patch.setenv("XENSTORED_PATH", str(daemon.socket))
    script = directory / "xl"
    root = Path(__file__).parents[2]
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        "from tests.support.fake_xl import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)


def wrap_real(directory: Path, patch: pytest.MonkeyPatch) -> None:
    """Have `xl` mean the real one, which fails when a file `fail-COMMAND` is in a directory that is made."""
    real = shutil.which("xl")
    directory.mkdir()
    patch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    patch.setenv("FAKE_XL", str(directory))
    script = directory / "xl"
    fails = f'{directory}/fail-"$1"'
    script.write_text(
        f"#!/bin/sh\nif [ -e {fails} ]; then rm {fails}; echo 'libxl: error: Not enough free memory' >&2; exit 3; fi\n"
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)


def main() -> int:
    home = Path(os.environ["FAKE_XL"])
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = home / "domains.json"
        domains: Domains = json.loads(known.read_text()) if known.exists() else {}
        before = set(domains)
        status = run(sys.argv[1:], domains, home)
        known.write_text(json.dumps(domains))
    for number in set(domains) - before:
        if os.fork() == 0:
            attend(int(number))
    return status


def run(arguments: list[str], domains: Domains, home: Path) -> int:
    command, *rest = arguments
    if (fails := home / f"fail-{command}").exists():
        fails.unlink()
        print("libxl: error: libxl_mem.c:1:f: Not enough free memory", file=sys.stderr)
        return 3
    words = [word for word in rest if not word.startswith("-")]
    match command:
        case "list":
            print(HEAD)
            row("Domain-0", "0", "r-----", NO_UUID)
            for number, domain in domains.items():
                row(domain["name"], number, "--p---" if domain["paused"] else "-b----", domain["uuid"])
            return 0
        case "create":
            return create(Path(words[0]).read_text(), domains, home, paused="-p" in rest)
        case "restore":
            return introduce(json.loads(Path(words[0]).read_text()) | {"paused": "-p" in rest}, domains, home)
    words[:1] = [number for number, domain in domains.items() if domain["name"] == words[0]] or words[:1]
    if words[0] not in domains:
        print(f"{words[0]} is an invalid domain identifier (rc=-6)", file=sys.stderr)
        return 1
    match command:
        case "pause" | "unpause":
            domains[words[0]]["paused"] = command == "pause"
        case "save":
            Path(words[1]).write_text(json.dumps(domains[words[0]]))
            if "-p" in rest:
                domains[words[0]]["paused"] = True
            else:
                release(words[0], domains)
        case "destroy" | "shutdown":
            release(words[0], domains)
            if (races := home / "race-destroy").exists():  # the xl that created it removes it at the same time
                races.unlink()
                print("libxl: error: /etc/xen/scripts/vif-bridge offline exited with error status 1", file=sys.stderr)
                return 1
        case _:
            print(f"xl: no such command {command}", file=sys.stderr)
            return 1
    return 0


def row(name: str, number: str, state: str, uuid: str) -> None:
    print(f"{name:<40} {number:>5} {64:>5} {1:>5}     {state}  {1.5:>8.1f} {uuid} {'-':>8} {'-':>16}")


def create(text: str, domains: Domains, home: Path, *, paused: bool) -> int:
    keys = dict(re.findall(r'^(\w+) = "?([^"\n]*)"?$', text, re.MULTILINE))
    if any(each["name"] == keys["name"] for each in domains.values()):
        said = f'libxl_domain.c:81:libxl__domain_rename: Domain 7:Domain with name "{keys["name"]}" already exists.'
        then = "libxl_domain.c:1064:domain_destroy_cb: Domain 7:Destruction of domain failed"
        print(f"libxl: error: {said}\nlibxl: error: {then}", file=sys.stderr)
        return 3
    return introduce({"name": keys["name"], "uuid": keys["uuid"], "paused": paused}, domains, home)


def introduce(domain: dict[str, Any], domains: Domains, home: Path) -> int:
    counter = home / "last"
    number = int(counter.read_text() if counter.exists() else 0) + 1
    counter.write_text(str(number))
    domains[str(number)] = domain
    page(number).write_bytes(bytes(4096))
    with pyxs.Client(unix_socket_path=os.environ["XENSTORED_PATH"]) as store:
        store.introduce_domain(number, 1, 1)
        store.write(f"/local/domain/{number}/name".encode(), domain["name"].encode())
    return 0


def attend(number: int) -> NoReturn:
    """Stay until the domain is gone, with all descriptors that were inherited, and a log instead of what is printed."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for printed in (0, 1, 2):
        os.dup2(nothing, printed)
    ends = time.monotonic() + DAEMON_LIMIT_S
    while page(number).exists() and time.monotonic() < ends:
        time.sleep(0.1)
    os._exit(0)


def release(number: str, domains: Domains) -> None:
    del domains[number]
    page(int(number)).unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hypervisor:
        hypervisor.sendto(b"virq", str(page(0).with_name("evtchn.sock")))
    with pyxs.Client(unix_socket_path=os.environ["XENSTORED_PATH"]) as store:
        store.delete(f"/local/domain/{number}".encode())


def page(number: int) -> Path:
    return Path(os.environ["FAKEXEN_DIR"]) / f"dom{number}.page"
