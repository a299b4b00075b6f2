"""A whole suite in which VMs are held: nothing starts or stops them but an operator."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.dns import ask
from tests.support.suite import RunningSuite, vm_toml, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.suite


async def test_a_held_vm_is_neither_started_nor_stopped_and_a_hold_outlives_vmd(tmp_path: Path) -> None:
    quick = {"ttl": 1, "idle_timeout": 1, "response_delay": 0}
    toml = vm_toml("www", "127.4.20.1", **quick) + vm_toml("api", "127.4.20.2", **quick)
    with RunningSuite(tmp_path, toml=toml) as suite:

        def states() -> dict[str, str]:
            return {name: row["state"] for name, row in suite.status().items()}

        said = suite.jitsu("--as", "operator:anna", "hold", "www", "--reason", "new disk")
        assert said == "www: held until it is released, by operator:anna: new disk\n"
        answer = await ask("www.jitsu.test", suite.port)
        assert (answer.rcode, answer.addresses) == ("SERVFAIL", [])
        assert "www is held by operator:anna: new disk" in answer.extended_error
        assert (await ask("api.jitsu.test", suite.port)).addresses == ["127.4.20.2"]

        pid = suite.pid("vmd")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: suite.pid("vmd") not in (None, pid), 20, "vmd is started again")
        wait_for(lambda: states().get("www") == "off", 20, "vmd knows its VMs")
        assert (await ask("www.jitsu.test", suite.port)).rcode == "SERVFAIL"

        suite.jitsu("start", "www")
        wait_for(lambda: states() == {"www": "ready", "api": "off"}, 20, "the other one is idle")
        assert states()["www"] == "ready", "the held one is not"
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.4.20.1"]
        assert "held by operator:anna: new disk" in suite.jitsu("status")
        assert suite.jitsu("hold", "www", "--release") == "www is released\n"
        wait_for(lambda: states()["www"] == "off", 20, "idle VMs stop again")

        suite.jitsu("hold", "--for", "3s")
        assert (await ask("api.jitsu.test", suite.port)).rcode == "SERVFAIL"
        assert json.loads(suite.jitsu("hold", "--list", "--json"))["all"]["until"] > 0
        wait_for(lambda: not any(row["hold"] for row in suite.status().values()), 20, "the hold is over")
        assert (await ask("api.jitsu.test", suite.port)).addresses == ["127.4.20.2"]
        assert suite.jitsu("hold", "--list") == "nothing is held\n"
        assert "is not held" in suite.jitsu("hold", "www", "--release", check=False)


async def test_a_vm_that_is_kept_up_outlives_its_idle_timeout_and_the_services(tmp_path: Path) -> None:
    quick = {"ttl": 1, "idle_timeout": 1, "response_delay": 0}
    toml = vm_toml("www", "127.4.20.3", **quick) + vm_toml("api", "127.4.20.4", **quick)
    with RunningSuite(tmp_path, toml=toml) as suite:

        def states() -> dict[str, str]:
            return {name: row["state"] for name, row in suite.status().items()}

        said = suite.jitsu("--as", "operator:anna", "keep", "www", "2h", "--reason", "demo")
        assert said == "www: kept up for 120 min more, by operator:anna: demo\n"
        assert states() == {"www": "ready", "api": "off"}, "it was started"
        assert (await ask("api.jitsu.test", suite.port)).addresses == ["127.4.20.4"]
        for service in ("vmd", "reaper"):
            pid = suite.pid(service)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: suite.pid(service) not in (None, pid), 20, f"{service} is started again")  # noqa: B023
        wait_for(lambda: states() == {"www": "ready", "api": "off"}, 20, "the other one is idle")
        assert "kept up until" in suite.jitsu("status")
        assert suite.jitsu("keep", "www", "--release") == "www is released\n"
        wait_for(lambda: states()["www"] == "off", 20, "it is idle as any other")
        assert suite.jitsu("keep", "--list") == "no VM is kept up\n"
        assert "is not kept up by an operator" in suite.jitsu("keep", "www", "--release", check=False)
        assert suite.jitsu("keep", "www", "1h", "--no-start").startswith("www: kept up for 60 min more, by ")
        assert states()["www"] == "off"
        assert "is not a duration" in suite.jitsu("keep", "www", "soon", check=False)


async def test_a_schedule_starts_a_vm_keeps_it_up_and_refuses_to_start_another(tmp_path: Path) -> None:
    quick = {"ttl": 1, "idle_timeout": 1, "response_delay": 0}
    toml = vm_toml("www", "127.4.20.5", awake="00:00-24:00", **quick)
    toml += vm_toml("api", "127.4.20.6", asleep="00:00-24:00", **quick)
    with RunningSuite(tmp_path, toml=toml) as suite:

        def states() -> dict[str, str]:
            return {name: row["state"] for name, row in suite.status().items()}

        wait_for(lambda: states() == {"www": "ready", "api": "off"}, 20, "one is started without a query")
        answer = await ask("api.jitsu.test", suite.port)
        assert (answer.rcode, answer.addresses) == ("SERVFAIL", [])
        assert "api is asleep, by its schedule" in answer.extended_error
        suite.jitsu("start", "api")
        wait_for(lambda: states() == {"www": "ready", "api": "off"}, 20, "the one that is asleep is idle")
        status = suite.jitsu("status")
        assert "awake, by its schedule" in status
        assert "asleep, by its schedule" in status
        suite.jitsu("set", "www.awake", "Hol 00:00-00:01")
        wait_for(lambda: states()["www"] == "off", 20, "it is idle as any other")
        refused = suite.jitsu("set", "www.awake", "all day", check=False)
        assert "'all day' is not a time of day; expected something like 'Mon-Fri 08:00-18:00'" in refused
