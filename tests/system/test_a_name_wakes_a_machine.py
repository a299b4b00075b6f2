"""The path of a newcomer: the demonstration, exactly as README.md describes it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.dns import ask
from tests.support.suite import RunningSuite, http_get, vm_toml, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.suite


def uuid_of(suite: RunningSuite, vm: str) -> str:
    return str(suite.status()[vm]["uuid"])


async def test_the_demonstration_boots_serves_stops_and_boots_again(tmp_path: Path) -> None:
    with RunningSuite(tmp_path) as suite:
        assert http_get("127.0.1.1") == ""
        first = await ask("www.jitsu.test", suite.port)
        assert first.addresses == ["127.0.1.1"]
        assert first.ttl == 10
        page = http_get("127.0.1.1")
        assert page.startswith("HTTP/1.1 200 OK")
        assert "www" in page
        assert "booted in 3" in page  # boot_time is 0.3 s
        assert suite.state("www") == "ready"
        assert suite.state("api") == "off"

        wait_for(lambda: suite.state("www") == "off", 25, "idle for 2 x TTL of 10 s")
        assert http_get("127.0.1.1") == ""
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.0.1.1"]
        assert http_get("127.0.1.1") != ""
        path = f"jitsu/stats/{uuid_of(suite, 'www')}/total_starts"
        wait_for(lambda: suite.jitsu("get", path) == "2\n", 5, "statistics are seen at once")
        assert suite.stop() < 3.0
        assert suite.processes() == []
        assert not (tmp_path / "run").exists()


async def test_the_originals_strings_and_flags_work(tmp_path: Path) -> None:
    strings = ["dns=www.jitsu.test,ip=127.1.1.1,name=www", "dns=a.jitsu.test,dns=b.jitsu.test,ip=127.1.1.2,name=two"]
    with RunningSuite(tmp_path, ["-x", "mock", "-t", "7", "-d", "0.2", "-m", "suspend", *strings]) as suite:
        answer = await ask("www.jitsu.test", suite.port)
        assert answer.addresses == ["127.1.1.1"]
        assert answer.ttl == 7
        assert answer.seconds >= 0.2
        assert (await ask("B.jitsu.test", suite.port)).addresses == ["127.1.1.2"]
        tree = suite.jitsu("tree", "jitsu/vm")
        assert "/stop_mode" in tree
        assert tree.count('"suspend"') == 2


async def test_a_persistent_store_is_a_git_repository_and_survives(tmp_path: Path) -> None:
    database = tmp_path / "db"
    strings = ["-t", "7", "dns=www.jitsu.test,ip=127.1.2.1,name=www"]
    with RunningSuite(tmp_path, ["--persistdb", str(database), *strings]) as suite:
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.1.2.1"]
        uuid = uuid_of(suite, "www")
        wait_for(
            lambda: "total_starts" in suite.jitsu("tree", "jitsu/stats", check=False),
            5,
            "the first statistics, each second",
        )
        assert "Configuration given to jitsu up" in suite.jitsu("log")
        suite.jitsu("set", f"jitsu/vm/{uuid}/dns/www.jitsu.test/ttl", "5")
        wait_for(lambda: suite.jitsu("log", f"jitsu/vm/{uuid}").count("\n") == 2, 5, "two commits touched the VM")

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", str(database), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr

    assert git("fsck", "--strict") in ("", "notice: HEAD points to an unborn branch (master)\n")
    assert "Set jitsu/vm/" in git("log", "--format=%an %s")
    assert git("show", f"master:jitsu/vm/{uuid}/ip") == "127.1.2.1"
    with RunningSuite(tmp_path, ["--persistdb", str(database)]) as suite:
        answer = await ask("www.jitsu.test", suite.port)
        assert answer.addresses == ["127.1.2.1"]
        assert answer.ttl == 5
        wait_for(lambda: suite.jitsu("get", f"jitsu/stats/{uuid}/total_starts") == "2\n", 5, "the count goes on")


async def test_a_change_in_the_store_is_followed_without_a_restart(tmp_path: Path) -> None:
    with RunningSuite(tmp_path, toml=vm_toml("www", "127.1.3.1", ttl=7)) as suite:
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.1.3.1"]
        root = f"jitsu/vm/{uuid_of(suite, 'www')}"
        suite.jitsu("set", f"{root}/dns/new.jitsu.test/ttl", "9")
        answer = await ask("new.jitsu.test", suite.port)
        assert (answer.addresses, answer.ttl) == (["127.1.3.1"], 9)
        refused = suite.jitsu("set", f"{root}/dns/new.jitsu.test/ttl", "-1", check=False)
        assert '-1 is not a duration; use seconds or a unit, for example 60 or "1m"' in refused


async def test_start_and_stop_by_hand(tmp_path: Path) -> None:
    with RunningSuite(tmp_path, toml=vm_toml("www", "127.1.4.1", stop_mode="shutdown")) as suite:
        assert suite.jitsu("start", "www.jitsu.test") == "www is ready\n"
        assert http_get("127.1.4.1") != ""
        assert suite.jitsu("stop", "www") == "www is stopped\n"
        assert http_get("127.1.4.1") == ""
        assert "no VM is called 'wwww'; did you mean \"www\"?" in suite.jitsu("stop", "wwww", check=False)
        assert "operator" in suite.jitsu("trace", "www")
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.1.4.1"]
