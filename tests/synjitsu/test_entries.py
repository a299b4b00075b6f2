"""Arms that are handed over through Xenstore: which entries are made, who may read them, and what is left of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.messages import Arm, Done
from jitsu_protocol.model.errors import Unavailable
from jitsu_synjitsu.rules.layout import MANAGED, address_path
from jitsu_synjitsu.wires import entries as module
from jitsu_synjitsu.wires.entries import OWN, Entries
from tests.support.synjitsu_host import SynjitsuHost, synjitsu_world
from tests.support.world import PlayedWorld, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

V4, V6 = "10.0.0.1", "fd00::1"
PATH = address_path(bytes((10, 0, 0, 1)))


class FakeXenstore:
    """What is written, and who may read it; a call fails while `is_away`."""

    def __init__(self, *_: object) -> None:
        self.values: dict[str, str] = {}
        self.permissions: dict[str, str] = {}
        self.watches: dict[bytes, tuple[str, Callable[[], None]]] = {}
        self.is_away = False

    async def change(self, values: Mapping[str, str | None], permissions: Mapping[str, str] | None = None) -> None:
        await asyncio.sleep(0)
        if self.is_away:
            raise Unavailable("Xenstore is not there")
        for path, value in values.items():
            if value is None:
                self.values = {at: text for at, text in self.values.items() if not f"{at}/".startswith(f"{path}/")}
            else:
                self.values[path] = value
        self.permissions |= permissions or {}

    async def read(self, path: str) -> str | None:
        if self.is_away:
            raise Unavailable("Xenstore is not there")
        return self.values.get(path)

    async def children(self, path: str) -> list[str]:
        below = {at.removeprefix(f"{path}/").partition("/")[0] for at in self.values if at.startswith(f"{path}/")}
        return sorted(below)

    async def watch(self, path: str, changed: Callable[[], None]) -> bytes:
        token = b"%d" % len(self.watches)
        self.watches[token] = (path, changed)
        return token

    async def unwatch(self, token: bytes) -> None:
        del self.watches[token]


@pytest.fixture
def xenstore(monkeypatch: pytest.MonkeyPatch) -> FakeXenstore:
    made = FakeXenstore()
    monkeypatch.setattr(module, "Xenstore", lambda *_: made)
    return made


class Made:
    """The entries of one Synjitsu."""

    def __init__(self, world: PlayedWorld) -> None:
        self.world = world
        self.managed: list[str] = []
        self.entries = Entries(world, self.managed.append)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Made]:
    async with synjitsu_world(tmp_path) as world:
        yield Made(world)


async def test_each_ipv4_address_gets_an_empty_node_and_nothing_of_an_earlier_boot(
    made: Made, xenstore: FakeXenstore
) -> None:
    xenstore.values[f"{PATH}/80/old"] = "x"
    await made.entries.arm("v", [V4, V6], None)
    assert (xenstore.values, xenstore.permissions) == ({PATH: ""}, {PATH: OWN})
    assert [path for path, _ in xenstore.watches.values()] == [PATH]


async def test_a_guest_may_use_what_is_there_once_its_domain_is_known(made: Made, xenstore: FakeXenstore) -> None:
    await made.entries.arm("v", [V4], None)
    xenstore.values[f"{PATH}/80"] = "kept"
    await made.entries.arm("v", [V4], 7)
    assert xenstore.permissions == {PATH: f"{OWN} b7", f"{PATH}/80": f"{OWN} b7"}
    assert xenstore.values[f"{PATH}/80"] == "kept", "asked again, nothing is removed"
    assert len(xenstore.watches) == 1
    xenstore.permissions.clear()
    await made.entries.arm("v", [V4], 7)
    assert xenstore.permissions == {}, "it may already"
    await made.entries.arm("v", [V4], 8)
    assert xenstore.permissions[PATH] == f"{OWN} b8"


async def test_entries_are_written_in_their_order_and_one_that_fails_is_logged(
    made: Made, xenstore: FakeXenstore, capfd: pytest.CaptureFixture[str]
) -> None:
    made.entries.write("v", {PATH: "before anything is armed"})
    await settled()
    assert xenstore.values == {}
    await made.entries.arm("v", [V4], None)
    made.entries.write("v", {f"{PATH}/a": "1"})
    made.entries.write("v", {f"{PATH}/a": "2", f"{PATH}/b": "1"})
    await settled()
    assert xenstore.values == {PATH: "", f"{PATH}/a": "2", f"{PATH}/b": "1"}
    xenstore.is_away = True
    made.entries.write("v", {f"{PATH}/c": "1"})
    await settled()
    assert "a connection is not handed over through Xenstore" in capfd.readouterr().out


async def test_all_of_a_vm_is_removed_after_its_last_write_unless_it_is_armed_again(
    made: Made, xenstore: FakeXenstore
) -> None:
    made.entries.clear("v", [bytes((10, 0, 0, 1))], 0.0)
    await settled()
    for again in (False, True):
        await made.entries.arm("v", [V4], 7)
        made.entries.write("v", {f"{PATH}/a": "1"})
        made.entries.clear("v", [bytes((10, 0, 0, 1))], 0.01)
        await settled()
        assert (xenstore.watches, xenstore.values) == ({}, {PATH: "", f"{PATH}/a": "1"})
        if again:
            await made.entries.arm("v", [V4], 7)
        await made.world.advance(0.02)
        assert xenstore.values == ({PATH: ""} if again else {})


async def test_a_guest_that_looks_after_its_address_itself_is_reported(made: Made, xenstore: FakeXenstore) -> None:
    await made.entries.arm("v", [V4], None)
    ((_, changed),) = xenstore.watches.values()
    for value, reported in (("", []), ("other", []), (MANAGED, ["v"])):
        xenstore.values[PATH] = value
        changed()
        await settled()
        assert made.managed == reported
    xenstore.is_away = True
    changed()
    await settled()
    assert made.managed == ["v"]


async def test_without_xenstore_what_is_kept_is_sent_to_the_guest_as_to_any_other(
    host: SynjitsuHost, xenstore: FakeXenstore, capfd: pytest.CaptureFixture[str]
) -> None:
    order = {"vm": "v", "addresses": [V4], "mac": "02:00:5e:00:53:01", "bridge": "br0", "limit_s": 60.0}
    arm = Arm.model_validate(order | {"handover": "xenstore", "domain_id": 7})
    for is_away in (True, False):
        xenstore.is_away = is_away
        arming: Any = host.server.arm(arm)
        assert await arming == Done()
        assert ("kept packets cannot be handed over" in capfd.readouterr().out) is is_away
        assert "holds 10.0.0.1" in host.notes()
    assert xenstore.permissions == {PATH: f"{OWN} b7"}
