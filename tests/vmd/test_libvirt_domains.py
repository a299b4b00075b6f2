"""Looking at libvirt's domains, with a played library: one odd domain hides no other, and does not seem to be off."""

from __future__ import annotations

from typing import Any, cast

import pytest

from jitsu_protocol.model.errors import BootFailed
from jitsu_vmd.hypervisor import Unseen
from jitsu_vmd.hypervisors.libvirt.definitions import Definitions
from jitsu_vmd.hypervisors.libvirt.domains import FEW, Domains
from jitsu_vmd.rules.events import GuestState
from tests.support.vms import make_vm

NO_DOMAIN, OTHER_ERROR = 42, 1
INTERFACE = "<interface><mac address='02:00:5E:00:53:01'/><source bridge='br0'/></interface>"
XML = f"<domain><devices>{INTERFACE}</devices></domain>"


class PlayedError(Exception):
    """An error of libvirt."""

    def __init__(self, code: int) -> None:
        super().__init__(f"error {code}")
        self._code = code

    def get_error_code(self) -> int:
        return self._code

    def get_error_message(self) -> str:
        return str(self)


class Library:
    """The constants that are used."""

    libvirtError = PlayedError  # libvirt's own name
    VIR_ERR_NO_DOMAIN = NO_DOMAIN
    VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE = 1
    VIR_DOMAIN_RUNNING, VIR_DOMAIN_PAUSED, VIR_DOMAIN_SHUTOFF, VIR_DOMAIN_CRASHED, VIR_DOMAIN_PMSUSPENDED = range(1, 6)
    VIR_DOMAIN_SHUTOFF_CRASHED = 3


class Domain:
    """A domain; `error` is raised by every question about its state."""

    def __init__(self, name: str, uuid: str, state: int = Library.VIR_DOMAIN_RUNNING, is_saved: bool = False) -> None:
        self._name, self._uuid = name, uuid
        self.code, self.is_saved = state, is_saved
        self.error: PlayedError | None = None

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return self._uuid

    def hasManagedSaveImage(self, _: int) -> bool:
        return self.is_saved

    def managedSaveRemove(self, _: int) -> None:
        self.is_saved = False

    def isActive(self) -> bool:
        return self.code in (Library.VIR_DOMAIN_RUNNING, Library.VIR_DOMAIN_PAUSED)

    def ID(self) -> int:
        return 7

    def XMLDesc(self, _: int) -> str:
        return XML

    def state(self) -> tuple[int, int]:
        if self.error is not None:
            raise self.error
        return self.code, 0


class Connections:
    """A connection with some domains."""

    library = Library

    def __init__(self, *domains: Domain) -> None:
        self.domains = list(domains)
        self.is_alive = True
        self.defined: list[str] = []

    def mine(self) -> Connections:
        return self

    def isAlive(self) -> bool:
        return self.is_alive

    def lookupByName(self, name: str) -> Domain:
        return self._one(lambda domain: domain.name() == name)

    def lookupByUUIDString(self, uuid: str) -> Domain:
        return self._one(lambda domain: domain.UUIDString() == uuid)

    def _one(self, is_it: Any) -> Domain:
        for domain in self.domains:
            if is_it(domain):
                return domain
        raise PlayedError(NO_DOMAIN)

    def listAllDomains(self, flags: int) -> list[Domain]:
        return [domain for domain in self.domains if domain.is_saved or not flags]

    def defineXML(self, xml: str) -> Domain:
        self.defined.append(xml)
        raise PlayedError(OTHER_ERROR)


def played(count: int) -> tuple[Domains, Connections, list[Any]]:
    vms = [make_vm(f"vm{n}", f"127.0.1.{n + 1}") for n in range(count)]
    connections = Connections(*(Domain(vm.name, f"uuid{n}") for n, vm in enumerate(vms)))
    return Domains("played:///", cast("Any", connections), Definitions("br0")), connections, vms


@pytest.mark.parametrize("count", [2, FEW + 1])
def test_domains_are_found_by_name_and_one_that_is_not_there_is_left_out(count: int) -> None:
    domains, connections, vms = played(count)
    connections.domains[0].code = Library.VIR_DOMAIN_SHUTOFF
    connections.domains[0].is_saved = True
    guests = domains.guests([*vms, make_vm("none", "127.0.2.1")])
    assert guests.keys() == {vm.uuid for vm in vms}
    assert guests[vms[0].uuid].state is GuestState.SUSPENDED
    assert guests[vms[1].uuid].state is GuestState.RUNNING
    assert [(nic.mac, nic.bridge) for nic in guests[vms[1].uuid].nics] == [("02:00:5e:00:53:01", "br0")]
    assert domains.vms["uuid1"] == vms[1].uuid


@pytest.mark.parametrize("count", [2, FEW + 1])
def test_a_domain_that_cannot_be_looked_at_is_not_taken_to_be_off(count: int) -> None:
    domains, connections, vms = played(count)
    connections.domains[0].error = PlayedError(OTHER_ERROR)
    with pytest.raises(Unseen, match="vm0: error 1"):
        domains.guests(vms)


def test_a_domain_that_was_removed_in_the_meantime_is_off() -> None:
    domains, connections, vms = played(2)
    connections.domains[0].error = PlayedError(NO_DOMAIN)
    assert domains.guests(vms).keys() == {vms[1].uuid}


def test_a_connection_that_is_lost_during_a_look_is_the_hypervisors_trouble_and_no_domains() -> None:
    domains, connections, vms = played(2)
    connections.domains[0].error, connections.is_alive = PlayedError(OTHER_ERROR), False
    with pytest.raises(PlayedError):
        domains.guests(vms)


def test_a_save_beside_a_domain_that_runs_is_removed() -> None:
    domains, connections, vms = played(1)
    connections.domains[0].is_saved = True
    assert domains.guests(vms)[vms[0].uuid].state is GuestState.RUNNING
    assert not connections.domains[0].is_saved


def test_a_domain_that_cannot_be_defined_makes_the_next_start_fail_with_the_reason() -> None:
    connections, definitions = Connections(), Definitions("br0")
    domains, vm = Domains("played:///", cast("Any", connections), definitions), make_vm(kernel="/k")
    assert domains.guests([vm]) == {}
    assert len(connections.defined) == 1
    with pytest.raises(BootFailed, match="its domain cannot be defined: error 1"):
        definitions.check_defined(vm)
