"""The configuration changed while everything runs: by set, apply, branch and merge."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from jitsu.apply import commit
from jitsu.link import connect
from jitsu_protocol.changes import changes_for
from jitsu_protocol.messages import Change
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_runtime.settings.load import load
from tests.support.dns import SteadyLoad, ask
from tests.support.suite import RunningSuite, http_get, vm_toml, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from jitsu.link import Link
    from jitsu_protocol.model.vm import VM

pytestmark = [pytest.mark.suite, pytest.mark.alone]

FOLLOWS_S = 0.2
ME = "operator:test"


@asynccontextmanager
async def linked(suite: RunningSuite) -> AsyncIterator[Link]:
    settings = load(None, {}, {"bus.runtime_dir": str(suite.directory / "run")})
    async with connect(settings.bus) as link:
        yield link


def vms(tmp_path: Path, toml: str) -> tuple[VM, ...]:
    path = tmp_path / "wanted.toml"
    path.write_text(toml)
    return load(path, {}, {}).vms


async def make_so(link: Link, wanted: Sequence[VM]) -> None:
    await commit(link, changes_for(wanted, await link.leaves(VM_ROOT), exact=True), "Test", ME)


async def test_a_running_suite_follows_every_change_without_dropping_a_query(tmp_path: Path) -> None:
    steady = vm_toml("steady", "127.2.20.1", ttl=30)
    with RunningSuite(tmp_path, toml=steady) as suite:
        await ask("steady.jitsu.test", suite.port)
        async with linked(suite) as link, SteadyLoad("steady.jitsu.test", "127.2.20.1", suite.port) as load:
            new = vm_toml("new", "127.2.20.2", ttl=30, response_delay=0)
            await make_so(link, vms(tmp_path, steady + new))
            await follows(lambda: is_answered("new.jitsu.test", suite.port, ["127.2.20.2"], 30))

            (vm,) = vms(tmp_path, new)
            below = f"{VM_ROOT}/{vm.uuid}"
            await commit(link, [Change(path=f"{below}/dns/new.jitsu.test/ttl", value="7")], "Test", ME)
            await follows(lambda: is_answered("new.jitsu.test", suite.port, ["127.2.20.2"], 7))
            await commit(link, [Change(path=f"{below}/ip", value="127.2.20.3")], "Test", ME)
            await follows(lambda: is_answered("new.jitsu.test", suite.port, ["127.2.20.3"], 7))
            await commit(link, [Change(path=f"{below}/dns/also.jitsu.test/ttl", value="9")], "Test", ME)
            await follows(lambda: is_answered("also.jitsu.test", suite.port, ["127.2.20.3"], 9))

            await make_so(link, vms(tmp_path, steady))
            await follows(lambda: is_answered("new.jitsu.test", suite.port, [], None))
            await asyncio.to_thread(wait_for, lambda: http_get("127.2.20.2") == "", 5, "the removed VM is stopped")
            assert set(suite.status()) == {"steady"}
            assert load.failures == []
            assert load.answered > 0


async def follows(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what must be so at once, for as long as the promise allows."""
    deadline = monotonic() + FOLLOWS_S
    while not await is_so():
        assert monotonic() < deadline


async def is_answered(name: str, port: int, addresses: list[str], ttl: int | None) -> bool:
    answer = await ask(name, port)
    return answer.addresses == addresses and (ttl is None or answer.ttl == ttl)


async def test_delay_mask_and_stop_mode_hold_from_the_next_query(tmp_path: Path) -> None:
    toml = vm_toml("www", "127.2.21.1", ttl=1, idle_timeout=60, response_delay=0.6)
    with RunningSuite(tmp_path, toml=toml) as suite:
        (vm,) = vms(tmp_path, vm_toml("www", "127.2.21.1"))
        assert (await ask("www.jitsu.test", suite.port)).seconds >= 0.6
        suite.jitsu("set", f"{VM_ROOT}/{vm.uuid}/response_delay", "0.2")
        suite.jitsu("set", f"{VM_ROOT}/{vm.uuid}/stop_mode", "suspend")
        suite.jitsu("set", f"{VM_ROOT}/{vm.uuid}/idle_timeout", "2")
        await asyncio.to_thread(wait_for, lambda: suite.state("www") == "suspended", 15, "www is suspended when idle")
        assert 0.2 <= (await ask("www.jitsu.test", suite.port)).seconds < 0.6
        suite.jitsu("set", f"{VM_ROOT}/{vm.uuid}/max_wait", "0.3")
        suite.jitsu("set", f"{VM_ROOT}/{vm.uuid}/wait_for_port", "9")
        suite.jitsu("stop", "www")
        answer = await ask("www.jitsu.test", suite.port)
        assert 0.3 <= answer.seconds < 0.5  # nobody listens on that port: max_wait is over first


async def test_a_branch_changes_nothing_that_runs_until_it_is_merged(tmp_path: Path) -> None:
    with RunningSuite(tmp_path, toml=vm_toml("www", "127.2.22.1", ttl=30)) as suite:
        (vm,) = vms(tmp_path, vm_toml("www", "127.2.22.1"))
        ttl = f"{VM_ROOT}/{vm.uuid}/dns/www.jitsu.test/ttl"
        who = ("--as", f"vm:{vm.uuid}")
        assert (await ask("www.jitsu.test", suite.port)).ttl == 30
        suite.jitsu(*who, "branch", vm.uuid)
        suite.jitsu(*who, "set", ttl, "5", "--branch", vm.uuid)
        assert suite.jitsu("diff", "master", vm.uuid, VM_ROOT) == f'- {ttl} "30"\n+ {ttl} "5"\n'
        assert (await ask("www.jitsu.test", suite.port)).ttl == 30
        assert "1 value changed" in suite.jitsu(*who, "merge", vm.uuid)
        assert (await ask("www.jitsu.test", suite.port)).ttl == 5
        assert f"vm:{vm.uuid} Merge" in suite.jitsu("log", ttl)
        refused = suite.jitsu(*who, "set", ttl, "6", check=False)
        assert refused == "jitsu: a VM writes only on branches that begin with its uuid, not on master\n"


async def test_apply_is_exact_and_shows_what_it_does(tmp_path: Path) -> None:
    one, two = vm_toml("one", "127.2.23.1"), vm_toml("two", "127.2.23.2")
    with RunningSuite(tmp_path, toml=one) as suite:
        file = tmp_path / "new.toml"
        file.write_text(two)
        planned = suite.jitsu("apply", str(file), "--dry-run")
        assert planned == "added    two\nremoved  one\n"
        paths = suite.jitsu("apply", str(file), "--dry-run", "--paths")
        assert "+ jitsu/vm/" in paths
        assert "- jitsu/vm/" in paths
        assert "give --yes if that is what you want" in suite.jitsu("apply", str(file), check=False)
        assert set(suite.status()) == {"one"}
        assert suite.jitsu("apply", str(file), "--yes").startswith(planned)
        await asyncio.to_thread(wait_for, lambda: set(suite.status()) == {"two"}, 5, "vmd follows")
        assert suite.jitsu("apply", str(file)) == "nothing to change\n"
        file.write_text(two + vm_toml("three", "127.2.23.2"))
        assert "belongs to the VM two already" in suite.jitsu("apply", str(file), check=False)
