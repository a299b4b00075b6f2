"""Replicas seen by the operator: each asked by itself, queries logged while they serve."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.dns import ask
from tests.support.suite import RunningSuite, beside, free_port, vm_toml, wait_for

pytestmark = pytest.mark.suite


async def test_dig_asks_each_replica_and_starts_nothing_unless_told(tmp_path: Path) -> None:
    toml = vm_toml("www", "127.8.1.1", ttl=60, boot_time=0, response_delay=0)
    with RunningSuite(tmp_path, ["--replicas", "3"], toml) as suite:
        where = f"at 127.0.0.1:{suite.port}"
        cold = suite.jitsu("dig", "www.jitsu.test").splitlines()
        assert cold == [f"dns-{n} {where}: www off; not asked: it might start www (--summon)" for n in range(3)]
        assert suite.state("www") == "off"
        warm = suite.jitsu("dig", "www.jitsu.test", "--summon").splitlines()
        assert all(line.endswith("NOERROR A 127.8.1.1") for line in warm)
        told = json.loads(suite.jitsu("dig", "www.jitsu.test", "--json"))
        assert {replica: (each["states"], each["answer"]) for replica, each in told.items()} == {
            f"dns-{n}": (["www ready"], ["NOERROR", "A 127.8.1.1"]) for n in range(3)
        }
        nobody = suite.jitsu("dig", "nobody.jitsu.test").splitlines()
        assert nobody[0] == f"dns-0 {where}: no VM has this name; NXDOMAIN"


async def test_g7_a_suite_that_was_held_up_judges_nobody_by_that(tmp_path: Path) -> None:
    """As when the host swaps, or a container is paused: everything that came in the meantime is still to be read."""
    toml = vm_toml("www", "127.8.7.1", start_time=30, boot_limit=60)
    with RunningSuite(tmp_path, toml=toml) as suite:
        asking = asyncio.create_task(ask("www.jitsu.test", suite.port))
        await asyncio.to_thread(wait_for, lambda: suite.state("www") == "starting", 5, "it starts")
        held_up = suite.processes()
        for pid in held_up:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(3)
        for pid in held_up:
            os.kill(pid, signal.SIGCONT)
        assert (await asking).addresses == ["127.8.7.1"]


async def test_one_jitsu_dns_may_be_several_processes(tmp_path: Path) -> None:
    toml = vm_toml("www", "127.8.4.1", ttl=60, boot_time=0, response_delay=0)
    with RunningSuite(tmp_path, toml=toml) as suite:
        port = free_port()
        own = {"JITSU_DNS_WORKERS": "3", "JITSU_DNS_REPLICA": "w", "JITSU_DNS_PORT": str(port)}
        with beside(suite, "dns", **own) as process:
            for _ in range(20):
                assert (await ask("www.jitsu.test", port)).addresses == ["127.8.4.1"]
            assert suite.status()["www"]["starts"] == 1
            told = json.loads(suite.jitsu("dig", "www.jitsu.test", "--json"))
            assert set(told) == {"dns-0", "w", "w-1", "w-2"}
            workers = _children(process.pid)
            os.kill(min(workers), signal.SIGKILL)
            wait_for(lambda: len(_children(process.pid) - {min(workers)}) == 3, 10, "another one runs")
            workers |= _children(process.pid)
            process.kill()
            process.wait()
            wait_for(lambda: not any(_runs(pid) for pid in workers), 5, "workers end with who keeps them")


def _children(pid: int) -> set[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in listed}


def _runs(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].startswith(" Z")
    except OSError:
        return False


async def test_queries_are_logged_from_one_signal_to_the_next(tmp_path: Path) -> None:
    toml = vm_toml("www", "127.8.2.1", ttl=60, boot_time=0, response_delay=0)
    with RunningSuite(tmp_path, toml=toml) as suite:
        pid = suite.pid("dns")
        assert pid is not None
        await ask("www.jitsu.test", suite.port)
        os.kill(pid, signal.SIGUSR2)
        wait_for(lambda: any("queries are logged" in line for line in suite.output), 5, "the log is on")
        await ask("www.jitsu.test", suite.port)
        await ask("x\\032y.jitsu.test", suite.port, rdtype="TXT")
        os.kill(pid, signal.SIGUSR2)
        wait_for(lambda: any("no longer logged" in line for line in suite.output), 5, "the log is off")
        await ask("www.jitsu.test", suite.port)
        logged = [json.loads(line) for line in suite.output if '"event": "query"' in line]
        assert [(each["name"], each["type"], each["answer"], each["client"]) for each in logged] == [
            ("www.jitsu.test", "A", "NOERROR", "127.0.0.1"),
            ("x\\032y.jitsu.test", "TXT", "NXDOMAIN", "127.0.0.1"),
        ]


async def test_a_log_that_nobody_reads_holds_no_query_up(tmp_path: Path) -> None:
    queries = 1000  # a line of each is more than a pipe takes
    toml = vm_toml("www", "127.8.8.1", ttl=60, boot_time=0, response_delay=0)
    with RunningSuite(tmp_path, toml=toml) as suite:
        reads, writes = os.pipe()
        port = free_port()
        own = {"JITSU_DNS_REPLICA": "unread", "JITSU_DNS_PORT": str(port), "JITSU_DNS_LOG_QUERIES": "true"}
        with beside(suite, "dns", (), (), writes, **own) as process, os.fdopen(reads) as log:
            os.close(writes)
            for _ in range(queries):
                assert (await ask("www.jitsu.test", port)).addresses == ["127.8.8.1"]
            process.terminate()
            assert log.read().count('"query"') == queries, "what was kept came later"
