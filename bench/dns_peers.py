"""The DNS servers that Jitsu is measured against, each as its makers would have it for speed, on one core.

Debian packages: bind9, knot, nsd, pdns-server, pdns-backend-bind, dnsmasq-base. One that is not installed is left out.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ZONE = "bench.test"
START_LIMIT_S = 20.0
QUERY = b"\0\1\0\0\0\1\0\0\0\0\0\0\5bench\4test\0\0\6\0\1"  # SOA of the zone


def zone_file(names: Mapping[str, str]) -> str:
    """Return the zone with these names: name -> address."""
    lines = [f"$ORIGIN {ZONE}.", "$TTL 60", "@ 10 IN SOA ns hostmaster 1 3600 600 86400 10", "@ IN NS ns"]
    lines += ["ns IN A 127.0.0.1", *(f"{name}. IN A {address}" for name, address in names.items())]
    return "\n".join(lines) + "\n"


def knot(directory: Path, port: int) -> tuple[str, list[str]]:
    """Return Knot's configuration and command."""
    text = f"""
server:
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    rundir: "{directory}"
database:
    storage: "{directory}"
log:
  - target: "{directory}/log"
    any: error
zone:
  - domain: {ZONE}
    file: "{directory}/zone"
    zonefile-load: whole
    journal-content: none
"""
    return text, ["knotd", "-c", f"{directory}/conf"]


def nsd(directory: Path, port: int) -> tuple[str, list[str]]:
    """Return NSD's configuration and command."""
    text = f"""
server:
    ip-address: 127.0.0.1@{port}
    server-count: 1
    username: ""
    zonesdir: "{directory}"
    pidfile: "{directory}/pid"
    xfrdfile: "{directory}/xfrd"
    zonelistfile: "{directory}/zonelist"
    xfrdir: "{directory}"
    logfile: "{directory}/log"
    rrl-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: {ZONE}
    zonefile: "{directory}/zone"
"""
    return text, ["nsd", "-d", "-c", f"{directory}/conf"]


def bind(directory: Path, port: int) -> tuple[str, list[str]]:
    """Return BIND's configuration and command."""
    text = f"""
options {{
    directory "{directory}";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    minimal-responses yes;
    pid-file "{directory}/pid";
    session-keyfile "{directory}/session.key";
    dnssec-validation no;
}};
controls {{}};
zone "{ZONE}" {{ type primary; file "{directory}/zone"; }};
"""
    return text, ["named", "-f", "-n", "1", "-c", f"{directory}/conf"]


def powerdns(directory: Path, port: int) -> tuple[str, list[str]]:
    """Return PowerDNS's configuration and command."""
    (directory / "named.conf").write_text(f'zone "{ZONE}" {{ type master; file "{directory}/zone"; }};\n')
    text = f"""
launch=bind
bind-config={directory}/named.conf
local-address=127.0.0.1
local-port={port}
socket-dir={directory}
daemon=no
guardian=no
receiver-threads=1
distributor-threads=1
loglevel=3
log-dns-queries=no
cache-ttl=60
negquery-cache-ttl=60
"""
    return text, ["pdns_server", f"--config-dir={directory}"]


def dnsmasq(directory: Path, port: int) -> tuple[str, list[str]]:
    """Return dnsmasq's configuration and command; it takes hosts instead of a zone file."""
    text = f"""
no-daemon
no-resolv
no-hosts
user=root
port={port}
listen-address=127.0.0.1
bind-interfaces
local-ttl=60
dns-forward-max=10000
auth-ttl=60
local=/{ZONE}/
addn-hosts={directory}/hosts
pid-file={directory}/pid
"""
    return text, ["dnsmasq", "-C", f"{directory}/conf"]


PEERS = {
    "BIND 9": (bind, "named"),
    "PowerDNS": (powerdns, "pdns_server"),
    "Knot": (knot, "knotd"),
    "NSD": (nsd, "nsd"),
    "dnsmasq": (dnsmasq, "dnsmasq"),
}


@contextlib.contextmanager
def running(peer: str, names: Mapping[str, str], directory: Path, port: int, core: int) -> Iterator[bool]:
    """Run a server on a core; yields whether it is installed and answers."""
    make, program = PEERS[peer]
    if shutil.which(program) is None and not Path(f"/usr/sbin/{program}").exists():
        yield False
        return
    directory.mkdir()
    (directory / "zone").write_text(zone_file(names))
    (directory / "hosts").write_text("".join(f"{address} {name}\n" for name, address in names.items()))
    text, command = make(directory, port)
    (directory / ("pdns.conf" if peer == "PowerDNS" else "conf")).write_text(text)
    with (directory / "out").open("wb") as out:
        process = subprocess.Popen(["taskset", "-c", str(core), *command], stdout=out, stderr=out, cwd=directory)
    try:
        yield _answers(process, port)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_LIMIT_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("127.0.0.1", port))
        asking.settimeout(0.3)
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                asking.send(QUERY)
                asking.recv(4096)
                time.sleep(1.0)  # some answer before all names are read
                return True
            time.sleep(0.1)
    return False
