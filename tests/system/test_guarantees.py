"""The guarantees of the design, held to from outside a whole suite."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from tests.support.dns import SteadyLoad, ask, ask_all
from tests.support.suite import RunningSuite, http_get, vm_toml, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.suite


async def test_g1_a_thousand_queries_over_four_replicas_make_one_start(tmp_path: Path) -> None:
    toml = vm_toml("www", "127.2.1.1", boot_time=0.2, wait_for_port=8080, ttl=30)
    with RunningSuite(tmp_path, ["--replicas", "4"], toml) as suite:
        answers = await ask_all(["www.jitsu.test"] * 1000, suite.port)
        assert [answer for answer in answers if answer.addresses != ["127.2.1.1"]] == []
        assert suite.status()["www"]["starts"] == 1


@pytest.mark.alone
async def test_two_hundred_cold_names_at_once_do_not_slow_each_other_down(tmp_path: Path) -> None:
    boot = 0.3
    names = [f"n{number}" for number in range(201)]
    toml = "".join(
        vm_toml(name, f"127.2.2.{number + 1}", boot_time=boot, response_delay=boot, ttl=30)
        for number, name in enumerate(names)
    )
    with RunningSuite(tmp_path, toml=toml) as suite:
        alone = (await ask("n200.jitsu.test", suite.port)).seconds
        answers = await ask_all([f"{name}.jitsu.test" for name in names[:200]], suite.port)
        for number, answer in enumerate(answers):
            assert answer.addresses == [f"127.2.2.{number + 1}"]
        assert max(answer.seconds for answer in answers) < 3 * alone + boot
        assert sum(row["starts"] for row in suite.status().values()) == 201


@pytest.mark.alone
async def test_g7_kill_9_of_each_process_in_turn_under_load(tmp_path: Path) -> None:
    toml = vm_toml("www", "127.2.3.1", ttl=60) + vm_toml("cold", "127.2.3.2", ttl=60)
    with RunningSuite(tmp_path, toml=toml) as suite:
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.2.3.1"]
        async with SteadyLoad("www.jitsu.test", "127.2.3.1", suite.port) as load:
            for service in ("store", "vmd", "synjitsu", "reaper"):
                await _kill_and_wait_until_back(suite, service)
                assert load.failures == [], f"while {service} was away"
            answered = load.answered
            await _kill_and_wait_until_back(suite, "dns")
            back_at = monotonic()
            wait_for_load = asyncio.timeout(5)
            async with wait_for_load:
                while load.answered <= answered:
                    await asyncio.sleep(0.01)
            assert [failure for failure in load.failures if failure[0] > back_at + 2.0] == []
        row = suite.status()["www"]
        assert (row["state"], row["starts"]) == ("ready", 1)
        assert http_get("127.2.3.1") != ""
        assert (await ask("cold.jitsu.test", suite.port)).addresses == ["127.2.3.2"]
        assert suite.status()["cold"]["starts"] == 1


async def _kill_and_wait_until_back(suite: RunningSuite, service: str) -> None:
    """kill -9 a child; wait, without stopping the load, until it runs again and says that it is ready."""
    said = len(suite.output)
    killed = suite.kill(service)

    def is_back() -> bool:
        ready = any(line.split()[:2] == [service, "ready"] for line in suite.output[said:])
        return ready and suite.pid(service) not in (None, killed)

    await asyncio.to_thread(wait_for, is_back, 15, f"{service} is back; it said {suite.output[said:]}")
    await asyncio.sleep(1.0)  # "everything is as before within a second"


@pytest.mark.alone
async def test_g2_a_boot_that_fails_is_servfail_with_a_reason_and_backs_off(tmp_path: Path) -> None:
    toml = vm_toml("bad", "127.2.6.1", boot_failure="start") + vm_toml("good", "127.2.6.2", ttl=30)
    toml += vm_toml("crash", "127.2.6.3", boot_failure="crash", boot_time=0.1, wait_for_port=8080)
    toml += vm_toml("hang", "127.2.6.4", boot_failure="hang", wait_for_port=8080, boot_limit=0.5)
    with RunningSuite(tmp_path, toml=toml) as suite:
        first = await ask("bad.jitsu.test", suite.port)
        assert first.rcode == "SERVFAIL"
        assert first.seconds < 1.2
        assert "refuses to start it" in first.extended_error
        second = await ask("bad.jitsu.test", suite.port)
        assert second.rcode == "SERVFAIL"
        assert "a query can start it again in" in second.extended_error
        first_wait = suite.status()["bad"]["retry_after_s"]
        await asyncio.sleep(first_wait)
        assert "refuses to start it" in (await ask("bad.jitsu.test", suite.port)).extended_error
        assert suite.status()["bad"]["retry_after_s"] > first_wait
        assert "refuses to start it" in suite.status()["bad"]["last_error"]

        assert "the guest crashed" in (await ask("crash.jitsu.test", suite.port)).extended_error
        assert "not ready 0.5 s after its start" in (await ask("hang.jitsu.test", suite.port)).extended_error
        assert (await ask("good.jitsu.test", suite.port)).addresses == ["127.2.6.2"]
        assert suite.status()["bad"]["starts"] == 0


@pytest.mark.alone
async def test_g2_max_wait_bounds_every_wait(tmp_path: Path) -> None:
    slow = {"boot_time": 5, "wait_for_port": 8080, "ttl": 30}
    toml = vm_toml("anyway", "127.2.7.1", max_wait=0.5, **slow)
    toml += vm_toml("strict", "127.2.7.2", max_wait=0.5, on_timeout="servfail", **slow)
    toml += vm_toml("stuck", "127.2.7.3", start_time=4, ttl=30) + vm_toml("quick", "127.2.7.4", ttl=30)
    with RunningSuite(tmp_path, toml=toml) as suite:
        names = ["anyway.jitsu.test", "strict.jitsu.test", "stuck.jitsu.test", "quick.jitsu.test"]
        anyway, strict, stuck, quick = await ask_all(names, suite.port)
        assert anyway.addresses == ["127.2.7.1"]
        assert 0.5 <= anyway.seconds < 0.6
        assert strict.rcode == "SERVFAIL"
        assert strict.extended_error == "14 strict is still booting"
        assert 0.5 <= strict.seconds < 0.6
        assert stuck.addresses == ["127.2.7.3"]
        assert 1.2 <= stuck.seconds < 1.3
        assert quick.addresses == ["127.2.7.4"]
        assert quick.seconds < 0.5


async def test_what_is_not_an_address_boots_nothing(tmp_path: Path) -> None:
    with RunningSuite(tmp_path, toml=vm_toml("www", "127.2.8.1", ttl=30)) as suite:
        for rdtype in ("AAAA", "TXT", "MX", "HTTPS", "SOA"):
            answer = await ask("www.jitsu.test", suite.port, rdtype=rdtype)
            assert (answer.rcode, answer.addresses) == ("NOERROR", [])
            assert answer.message is not None
            assert answer.message.authority[0].to_text().startswith("jitsu.test. 10 IN SOA")
        assert (await ask("www.jitsu.test", suite.port, rdtype="ANY")).rcode == "NOERROR"
        assert (await ask("nobody.jitsu.test", suite.port)).rcode == "NXDOMAIN"
        assert (await ask("www.example.org", suite.port)).rcode == "REFUSED"
        assert suite.state("www") == "off"


async def test_g10_no_more_boot_at_once_than_may_and_the_others_have_their_turn(tmp_path: Path) -> None:
    count, most = 12, 3
    toml = f"[hypervisor]\nmax_booting = {most}\n" + "".join(
        vm_toml(f"n{n}", f"127.2.9.{n + 1}", boot_time=0.2, wait_for_port=8080, ttl=30, max_wait=4)
        for n in range(count)
    )
    with RunningSuite(tmp_path, toml=toml) as suite:
        asking = asyncio.create_task(ask_all([f"n{n}.jitsu.test" for n in range(count)], suite.port))
        seen = 0
        while not asking.done():
            rows = await asyncio.to_thread(suite.status)
            seen = max(seen, sum(row["state"] in ("starting", "booting") for row in rows.values()))
        assert [answer.addresses for answer in await asking] == [[f"127.2.9.{n + 1}"] for n in range(count)]
        assert 0 < seen <= most
        assert {row["starts"] for row in (await asyncio.to_thread(suite.status)).values()} == {1}
