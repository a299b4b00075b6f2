"""Several hosts with a vmd each, behind the same dns, reaper and store."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.support.dns import ask
from tests.support.suite import RunningSuite, beside, vm_toml, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.suite

BETA = {"JITSU_HYPERVISOR_HOST": "beta", "JITSU_BUS_HOSTS": "beta"}
KEYS = {"ttl": 1, "boot_time": 0, "response_delay": 0}


def toml(net: str) -> str:
    """Return the configuration, with addresses that no other test's guests have."""
    return (
        '[bus]\nhosts = ["beta"]\n'
        + vm_toml("near", f"{net}.1", idle_timeout=2, **KEYS)
        + vm_toml("far", f"{net}.2", host="beta", idle_timeout=4, **KEYS)
        + vm_toml("later", f"{net}.3", host="beta", idle_timeout=60, **KEYS)
    )


async def _until(suite: RunningSuite, name: str, state: str) -> None:
    await asyncio.to_thread(wait_for, lambda: suite.state(name) == state, 15, f"{name} is {state}")


async def test_each_vm_is_summoned_and_stopped_where_it_runs(tmp_path: Path) -> None:
    with RunningSuite(tmp_path, toml=toml("127.8.30")) as suite, beside(suite, "vmd", **BETA):
        for name, address in (("near", "127.8.30.1"), ("far", "127.8.30.2")):
            assert (await ask(f"{name}.jitsu.test", suite.port)).addresses == [address]
        shown = suite.status()
        assert {name: (row["host"], row["starts"]) for name, row in shown.items()} == {
            "near": ("", 1),
            "far": ("beta", 1),
            "later": ("beta", 0),
        }
        assert "vmd of beta" in suite.jitsu("status")
        traced = json.loads(suite.jitsu("trace", "--json"))
        assert {each["name"] for each in traced} == {"near", "far"}
        await _until(suite, "far", "off")
        await _until(suite, "near", "off")
        assert suite.jitsu("start", "later") == "later is ready\n"
        assert suite.jitsu("stop", "later") == "later is stopped\n"


async def test_a_vm_moves_to_another_host(tmp_path: Path) -> None:
    with RunningSuite(tmp_path, toml=toml("127.8.31")) as suite, beside(suite, "vmd", **BETA):
        assert (await ask("later.jitsu.test", suite.port)).addresses == ["127.8.31.3"]
        assert suite.status()["later"]["host"] == "beta"
        uuid = suite.status()["later"]["uuid"]
        suite.jitsu("set", f"jitsu/vm/{uuid}/host", "")
        await asyncio.to_thread(wait_for, lambda: suite.status()["later"]["host"] == "", 10, "it has moved")
        assert (await ask("later.jitsu.test", suite.port)).addresses == ["127.8.31.3"]
        assert suite.state("later") == "ready"


async def test_a_host_that_nobody_knows_is_named(tmp_path: Path) -> None:
    with RunningSuite(tmp_path, toml=toml("127.8.33")) as suite:
        uuid = suite.status()["near"]["uuid"]
        assert "gamma is not listed in bus.hosts" in suite.jitsu("set", f"jitsu/vm/{uuid}/host", "gamma", check=False)
        suite.jitsu("set", "--force", f"jitsu/vm/{uuid}/host", "gamma")
        answer = await ask("near.jitsu.test", suite.port)
        assert (answer.rcode, answer.extended_error) == ("SERVFAIL", "14 its host gamma is not listed in bus.hosts")
