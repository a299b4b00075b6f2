"""A whole suite that is asked why its VMs run: with real queries, a real file, and a reaper that is killed."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.dns import ask
from tests.support.suite import RunningSuite, vm_toml, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.suite


async def test_who_woke_a_vm_and_who_stopped_it_outlives_a_reaper_that_is_killed(tmp_path: Path) -> None:
    quick = {"ttl": 1, "idle_timeout": 2, "response_delay": 0}
    toml = vm_toml("www", "127.4.21.1", **quick) + vm_toml("api", "127.4.21.2", **quick)
    with RunningSuite(tmp_path, toml=toml) as suite:

        def why(name: str) -> dict[str, Any]:
            found: dict[str, Any] = json.loads(suite.jitsu("why", name, "--json"))
            return found

        def events(name: str) -> list[tuple[str, str, str]]:
            return [(each["what"], each["cause"], each["outcome"]) for each in why(name)["events"]]

        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.4.21.1"]
        woken = "because a client in 127.0.0.0/24 asked for www.jitsu.test A (dns-0)"
        wait_for(lambda: woken in why("www")["why_booted"], 10, "the replica has reported who asked")
        assert suite.jitsu("--as", "operator:anna", "start", "api") == "api is ready\n"
        wait_for(lambda: events("www") == [("stop", "idle", "stopped"), ("boot", "query", "ready")], 20, "it is idle")
        assert why("www")["events"][0]["decided_by"] == "the reaper"
        assert why("api")["events"][-1]["decided_by"] == "operator:anna"
        file = tmp_path / "run" / "reaper.why"
        wait_for(file.exists, 10, "the record is written")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

        pid = suite.kill("reaper")
        wait_for(lambda: suite.pid("reaper") not in (None, pid), 20, "the reaper is started again")
        wait_for(lambda: woken in suite.jitsu("why", "www", check=False), 20, "it knows what it recorded before")
        assert events("www") == [("stop", "idle", "stopped"), ("boot", "query", "ready")]
        text = suite.jitsu("why", "www")
        assert "The reaper stopped it because it was idle: unused for" in text
        assert "It does not run. The next query for its name starts it." in text

        assert suite.jitsu("forget-clients") == "the recorded clients, boots and stops of all VMs are deleted\n"
        assert "127.0.0.0/24" not in suite.jitsu("why", "www") + file.read_text()
        history = suite.jitsu("log", "--json") + suite.jitsu("tree")
        assert "127.0.0.0" not in history
        assert not [line for line in suite.output if "127.0.0.0" in line]
