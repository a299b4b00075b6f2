"""A fuzz of peers: each role's key sends every kind of request, right and wrong, to every service of a suite that runs,
and subscribes to whatever it likes (G9). Nobody else may notice:

    the attackers (hostile_peers.py)    each kind that a role may send is really carried out, each other one is refused;
                                        no request meets an error that was not foreseen
    honest callers (honest_callers.py)  every request to each of the five services succeeds, pings within half a second
    all processes                       are still there, and have not grown by more than 100 MB

FUZZ_SECONDS and FUZZ_SEED make it longer, or another one (`make fuzz-peers`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jitsu.keys import init
from jitsu_protocol.wire.permissions import ROLES
from tests.support.hostile_bodies import CLASSES, names_person
from tests.support.hostile_peers import CARRIED_OUT, TORN, may, owner_of
from tests.support.lan import Lan, guest_toml, lan_suite
from tests.support.suite import SLOWER, RunningSuite, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = float(os.environ.get("FUZZ_SECONDS", "15"))
SEED = os.environ.get("FUZZ_SEED", "1")
OWNERS = ("store", "vmd", "synjitsu", "reaper")
"""Those that answer requests; dns answers queries."""
PING_LIMIT_S = 0.5 * SLOWER
GROWTH_LIMIT_MB = 100
HONEST = ("www", "spare")
STABLE, CLAY = ("a0", "a1", "a2"), ("b0", "b1")

pytestmark = [
    pytest.mark.net,
    pytest.mark.alone,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: Synjitsu arms nothing without a bridge"),
]


def peak_mb(pid: int) -> int:
    """Return the most memory that a process has had, in MB; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines.get("VmHWM", "0 kB").split()[0]) // 1000


def toml_of(keys: Path) -> str:
    """Return a suite on tcp with keys, the honest VMs and those of the attackers, which are idle at once."""
    names = ("store_rpc", "store_feed", "vmd_rpc", "vmd_feed", "synjitsu_rpc", "reaper_rpc")
    lines = ["[bus]", f'keys = "{keys}"', *(f'{name} = "tcp://127.0.0.1:{free_port()}"' for name in names), ""]
    lines += [guest_toml(name, 10 + 2 * n, boot_time=0.05) for n, name in enumerate(HONEST)]
    soon = {"ttl": 0, "idle_timeout": 0.2, "boot_time": 0.02, "use_synjitsu": "false", "response_delay": 0.02}
    lines += [guest_toml(name, 30 + n, **soon) for n, name in enumerate((*STABLE, *CLAY))]
    return "\n".join(lines)


def write_plan(directory: Path, suite: RunningSuite, keys: Path) -> None:
    """Write down for the other processes where the services are, and whose VM is which."""
    uuids = {row["name"]: row["uuid"] for row in json.loads(suite.jitsu("status", "--json"))["vms"]}
    remote = directory / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", str(remote)], check=True)
    suite.jitsu("push", str(remote))
    plan = {
        "keys": str(keys),
        "owners": {owner: str(suite.bus().endpoint(owner, "rpc")) for owner in OWNERS},
        "feeds": {owner: str(suite.bus().endpoint(owner, "feed")) for owner in ("store", "vmd")},
        "remote": str(remote),
        "honest": [uuids[name] for name in HONEST],
        "stable": [uuids[name] for name in STABLE],
        "clay": [uuids[name] for name in CLAY],
    }
    (directory / "plan.json").write_text(json.dumps(plan))


@contextmanager
def running(lan: Lan, module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process of tests/support on the host of the suite; it is over when its standard input ends."""
    command = ["ip", "netns", "exec", lan.host, sys.executable, "-m", f"tests.support.{module}", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def attacked(directory: Path, lan: Lan, suite: RunningSuite) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    """Return what the attackers and the honest callers found, and how many MB each process has grown by."""
    before: dict[int, int] = {}
    grown: dict[str, int] = {}
    with (
        running(lan, "honest_callers", str(directory), str(suite.port)) as honest,
        running(lan, "hostile_peers", str(directory), str(SECONDS), SEED) as attackers,
    ):
        while attackers.poll() is None:
            for pid in suite.processes():
                peak = peak_mb(pid)
                before.setdefault(pid, peak)
                name = name_of(pid)
                grown[name] = max(grown.get(name, 0), peak - before[pid])
            assert honest.poll() is None
            time.sleep(0.2)
        assert attackers.returncode == 0, f"the attackers ended with {attackers.returncode}"
        found = json.loads(attackers.communicate()[0])
        return found, json.loads(honest.communicate("")[0]), grown


def name_of(pid: int) -> str:
    """Return which program a process runs, with its pid."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        words = []
    return f"{next((word for word in words if word.startswith('jitsu')), 'jitsu')} {pid}"


def faults_of(outcomes: Counter[tuple[str, str, str, str]]) -> list[str]:
    """Return where a request met something else than it should have."""
    faults = []
    for role in ROLES:
        for owner in OWNERS:
            for kind in CLASSES:
                met = {outcome for each in outcomes for *where, outcome in [each] if where == [role, owner, kind]}
                if not may(role, kind):
                    is_right = met == {"forbidden"}
                elif owner_of(kind) not in ("", owner):
                    is_right = met == {"unknown-kind"}
                else:
                    forged = {"forbidden"} if names_person(kind) else set()
                    is_right = CARRIED_OUT in met and not (met - forged) & {"forbidden", "unknown-kind", "bug"}
                if not is_right:
                    faults.append(f"{kind} of {role} to {owner}: {sorted(met)}")
    return faults


@pytest.mark.timeout(0 if SECONDS > 60 else 120)
def test_g9_no_key_can_make_a_service_grow_or_keep_it_from_others(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    init(keys)
    with lan_suite(tmp_path, toml_of(keys), clients=0) as (lan, suite):
        pids = {service: suite.pid(service) for service in (*OWNERS, "dns")}
        write_plan(tmp_path, suite, keys)
        attack, honest, grown = attacked(tmp_path, lan, suite)
        outcomes = Counter({tuple(where): count for *where, count in attack["outcomes"]})
        print(f"{attack['sent']} requests; outcomes: {Counter(key[-1] for key in outcomes.elements())}")
        print(f"slowest: {honest['slowest_ping']}, {honest['slowest_call']}; calls: {honest['calls']}")
        print(f"MB of growth: {grown}")
        assert attack["bugs"] == {}
        faults = faults_of(outcomes)
        assert faults == [], "\n".join(faults)
        assert sum(count for key, count in outcomes.items() if key[2] == TORN) > 10
        assert honest["failures"] == []
        assert max(honest["slowest_ping"].values()) <= PING_LIMIT_S
        assert {each: mb for each, mb in grown.items() if mb > GROWTH_LIMIT_MB} == {}
        assert {service: suite.pid(service) for service in pids} == pids
