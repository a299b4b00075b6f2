"""What hypervisors have, as vmd passes it on: who is asked, who is silent, and what hostile descriptions become."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.messages import Discoveries
from jitsu_protocol.model.errors import Unavailable
from jitsu_vmd.hypervisor import Discovered, Discovers, Nic
from jitsu_vmd.wires import discovery
from jitsu_vmd.wires.discovery import MAX_LABELS, MAX_NAME_CHARACTERS, MAX_VALUES, Discovery, bounded, with_vms
from tests.support.vmd import PlayedHypervisor
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Sequence

WEB = Discovered("web", addresses=("192.0.2.1",), keys={"dns": "web.lab.test"})


@dataclass
class ListingHypervisor:
    """Lists machines, or fails, or hangs."""

    name: str = "listing"
    machines: Sequence[Discovered] = ()
    fails: Exception | None = None
    hangs: bool = False
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def discover(self) -> Sequence[Discovered]:
        self.asked.set()
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails
        return self.machines


def asking(**backends: Any) -> Discovery:
    return Discovery({name.removeprefix("first"): each for name, each in backends.items()}, {"": "mock"}, 0.01)


async def test_all_hypervisors_are_asked_at_once_and_one_that_hangs_is_named() -> None:
    hangs, answers = ListingHypervisor("slow", hangs=True), ListingHypervisor("quick", [WEB])
    found = await asking(first=hangs, other=answers).everything([])
    assert [(each.name, each.hypervisor) for each in found.machines] == [("web", "other")]
    troubles = {each.name: each.trouble for each in found.hypervisors}
    assert troubles == {"slow": "it has not answered within 0.01 s", "quick": ""}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Unavailable("the socket is gone"), "the socket is gone"), (KeyError("Labels"), "KeyError: 'Labels'")],
)
async def test_a_hypervisor_that_fails_hides_no_other(error: Exception, reason: str) -> None:
    found = await asking(
        first=ListingHypervisor("broken", fails=error), other=ListingHypervisor("ok", [WEB])
    ).everything([])
    assert [each.name for each in found.machines] == ["web"]
    assert found.hypervisors[0].trouble == reason


async def test_a_hypervisor_without_a_list_is_not_asked_and_that_is_said() -> None:
    found = await asking(first=PlayedHypervisor()).everything([])
    assert [(each.can_list, each.trouble, each.kind) for each in found.hypervisors] == [(False, "", "mock")]


async def test_a_listing_hypervisor_is_one_by_the_seam() -> None:
    assert isinstance(ListingHypervisor(), Discovers)


def test_a_machine_is_configured_if_a_vm_of_its_connection_has_its_name_or_its_uuid() -> None:
    here, there = make_vm("web"), make_vm("web2", "127.0.1.2", hypervisor="other")
    machines = bounded("", [Discovered("web"), Discovered("web2"), Discovered("renamed", uuid=here.uuid)])
    assert [each.vm for each in with_vms(machines, [here, there])] == [here.uuid, here.uuid, ""]
    assert [each.name for each in machines] == ["renamed", "web", "web2"]


def test_what_is_not_an_address_or_a_port_is_left_out() -> None:
    machine = Discovered(
        "web",
        nics=(Nic("02:00:00:00:00:01", "docker0"),),
        addresses=("192.0.2.1", "::1%eth0", "fe80::1", "nonsense", "192.0.2.1", "224.0.0.1", "2001:DB8::1"),
        ports=(80, 0, 70_000, -1),
    )
    [found] = bounded("", [machine])
    assert (found.addresses, found.ports) == (["192.0.2.1", "2001:db8::1"], [80])
    assert (found.mac, found.bridge) == ("02:00:00:00:00:01", "docker0")


_ANY = st.text(st.characters(exclude_categories=()), max_size=300)


@given(
    st.lists(
        st.builds(
            Discovered,
            name=_ANY,
            uuid=_ANY,
            nics=st.lists(st.builds(Nic, mac=_ANY, bridge=_ANY), max_size=2).map(tuple),
            addresses=st.lists(_ANY, max_size=100).map(tuple),
            ports=st.lists(st.integers(), max_size=100).map(tuple),
            keys=st.dictionaries(_ANY, _ANY, max_size=100),
        ),
        max_size=3,
    )
)
def test_whatever_a_machine_says_of_itself_can_be_sent_and_is_bounded(machines: list[Discovered]) -> None:
    found = bounded("c", machines)
    sent = Discoveries(machines=found, hypervisors=[]).model_dump_json().encode()
    assert Discoveries.model_validate_json(sent).machines == found
    for each in found:
        assert max(len(each.name), len(each.uuid), len(each.bridge)) <= MAX_NAME_CHARACTERS
        assert len(each.keys) <= MAX_LABELS + 1
        assert max(len(each.addresses), len(each.ports)) <= MAX_VALUES


async def test_many_machines_with_large_labels_are_one_bounded_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    assert discovery.MAX_MACHINES == 20_000
    monkeypatch.setattr(discovery, "MAX_MACHINES", 200)  # ten thousands take a second
    machines = [Discovered(f"m{n}", keys={"dns": "x" * 100_000}) for n in range(30)]
    found = await asking(first=ListingHypervisor(machines=machines * 10)).everything([])
    assert (len(found.machines), found.left_out) == (200, 100)
    assert {len(each.keys["dns"]) for each in found.machines} == {4097}
