"""Where room is short: who is stopped for whom, who waits, who is refused; and what no hypervisor can run."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.dns import ask
from tests.support.process import running_service
from tests.support.suite import RunningSuite, free_port, http_get, vm_toml, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.suite

TWO_RUN = "[hypervisor]\nmax_running = 2\n"
FOREVER = 3600
TTL_S = 10


async def is_state(suite: RunningSuite, vm: str, state: str, limit_s: float = 10.0) -> None:
    await asyncio.to_thread(wait_for, lambda: suite.state(vm) == state, limit_s, f"{vm} is {state}")


async def test_the_longest_idle_vm_that_may_be_stopped_makes_room_within_the_query(tmp_path: Path) -> None:
    toml = TWO_RUN + "".join(
        vm_toml(name, f"127.2.30.{n}", ttl=1, idle_timeout=FOREVER, evict=evict, max_wait=4)
        for n, (name, evict) in enumerate({"kept": False, "longest": True, "later": True, "new": True}.items(), 1)
    )
    with RunningSuite(tmp_path, toml=toml.replace("max_running = 2", "max_running = 3")) as suite:
        for name in ("kept", "longest", "later"):
            assert (await ask(f"{name}.jitsu.test", suite.port)).rcode == "NOERROR"
        await asyncio.sleep(1.5)  # what was answered is past its TTL
        assert (await ask("new.jitsu.test", suite.port)).addresses == ["127.2.30.4"]
        assert http_get("127.2.30.4") != ""
        states = {name: row["state"] for name, row in suite.status().items()}
        assert states == {"kept": "ready", "longest": "off", "later": "ready", "new": "ready"}


async def test_a_vm_that_is_connected_to_or_more_important_is_left_and_the_important_wait_less(tmp_path: Path) -> None:
    toml = TWO_RUN + "".join(
        vm_toml(name, f"127.2.32.{n}", ttl=1, idle_timeout=FOREVER, evict=evict, priority=priority, max_wait=max_wait)
        for n, (name, evict, priority, max_wait) in enumerate(
            (("a", True, 5, 1), ("b", False, 0, 1), ("low", True, 1, 1), ("high", True, 5, 4)), 1
        )
    )
    with RunningSuite(tmp_path, toml=toml) as suite:
        for name in ("a", "b"):
            assert (await ask(f"{name}.jitsu.test", suite.port)).rcode == "NOERROR"
        await asyncio.sleep(1.5)
        assert (await ask("low.jitsu.test", suite.port)).rcode == "SERVFAIL"
        assert suite.state("a") == "ready", "a matters more than low"
        assert (await ask("high.jitsu.test", suite.port)).rcode == "NOERROR"
        assert {name: row["state"] for name, row in suite.status().items()} == {
            "a": "off",
            "b": "ready",
            "low": "off",
            "high": "ready",
        }


async def test_an_operator_who_stops_one_lets_in_the_one_that_waits(tmp_path: Path) -> None:
    toml = "[hypervisor]\nmax_running = 1\n" + vm_toml("a", "127.2.33.1", ttl=60) + vm_toml("b", "127.2.33.2", ttl=60)
    with RunningSuite(tmp_path, toml=toml) as suite:
        await ask("a.jitsu.test", suite.port)
        started = asyncio.create_task(asyncio.to_thread(suite.jitsu, "start", "b"))
        await asyncio.to_thread(wait_for, lambda: suite.status()["b"]["waits_for"], 10, "b waits")
        suite.jitsu("stop", "a")
        assert "b is ready" in await started


async def test_what_no_hypervisor_can_run_is_refused_when_it_is_applied(tmp_path: Path) -> None:
    toml = "[hypervisor]\nmax_memory = 100000\n" + vm_toml("a", "127.2.34.1", ttl=60)
    with RunningSuite(tmp_path, toml=toml) as suite:
        big = "dns=big.jitsu.test,ip=127.2.34.2,name=big,memory=200000"
        said = suite.jitsu("apply", big, check=False)
        assert "big: memory: 200000 KiB are more than hypervisor.max_memory allows for all VMs together" in said
        assert "--force" in said
        assert set(suite.status()) == {"a"}
        uuid = suite.status()["a"]["uuid"]
        one = f"jitsu/vm/{uuid}/config/memory/0"
        elsewhere = suite.jitsu("set", f"jitsu/vm/{uuid}/host", "beta", check=False)
        assert "a: host: beta is not listed in bus.hosts" in elsewhere
        assert "a: memory: 300000 KiB" in suite.jitsu("set", one, "300000", check=False)
        assert "did you mean" in suite.jitsu("set", f"jitsu/vm/{uuid}/evcit", "true", check=False)
        suite.jitsu("apply", "--force", big)
        assert "max_memory" in suite.status()["big"]["last_error"]
        said = suite.jitsu("set", f"jitsu/vm/{suite.status()['big']['uuid']}/evict", "true")
        assert "warning: big: memory: 200000 KiB" in said
        assert suite.jitsu("get", f"jitsu/vm/{suite.status()['big']['uuid']}/evict").strip() == "true"


def _has(text: Callable[[], str], part: str) -> bool:
    return part in text()


async def test_limits_are_changed_while_it_runs(tmp_path: Path) -> None:
    port = free_port()
    toml = tmp_path / "jitsu.toml"

    def write(max_running: int, summon_for: str) -> None:
        bus = f'[bus]\nruntime_dir = "{tmp_path}/run"\n[dns]\nport = {port}\nsummon_for = ["{summon_for}"]\n'
        vms = "".join(vm_toml(name, f"127.2.35.{n}", ttl=60) for n, name in enumerate("abc", 1))
        toml.write_text(f"{bus}[hypervisor]\nmax_running = {max_running}\n{vms}")

    def jitsu(*words: str) -> str:
        argv = [sys.executable, "-m", "jitsu.main", "--config", str(toml), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout

    write(1, "127.0.0.0/8")
    services = ("store", "vmd", "reaper", "dns")
    with ExitStack() as running:
        processes = {
            service: running.enter_context(running_service([f"jitsu-{service}", "--config", str(toml)], tmp_path))
            for service in services
        }
        await asyncio.to_thread(wait_for, lambda: "dns-0" in jitsu("status"), 20, "the suite is up")
        jitsu("apply", str(toml))
        await asyncio.to_thread(wait_for, lambda: "c.jitsu.test" in jitsu("status"), 10, "the VMs are there")
        assert (await ask("a.jitsu.test", port)).rcode == "NOERROR"
        assert (await ask("b.jitsu.test", port)).rcode == "SERVFAIL"
        write(3, "192.0.2.0/24")
        for service in ("vmd", "dns"):
            processes[service].send_signal(signal.SIGHUP)
            said = partial(Path.read_text, tmp_path / f"jitsu-{service}.log")
            await asyncio.to_thread(wait_for, partial(_has, said, "read again"), 10, "it is read")
        async with asyncio.timeout(10):  # b has its turn, and is told to whoever asks once it is ready
            while (await ask("b.jitsu.test", port)).rcode != "NOERROR":
                await asyncio.sleep(0.1)
        refused = await ask("c.jitsu.test", port)
        assert (refused.rcode, "may not start VMs" in refused.extended_error) == ("REFUSED", True)
