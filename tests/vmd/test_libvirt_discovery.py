"""The domains that a libvirt has: what their metadata, the leases of networks, and agents of guests say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import Unavailable
from jitsu_vmd.hypervisor import Discovers
from jitsu_vmd.hypervisors.libvirt import discovery, rules
from tests.support.hypervisors import libvirt, running

if TYPE_CHECKING:
    from pathlib import Path

OURS = """<jitsu:vm xmlns:jitsu="urn:jitsu:vm"><jitsu:dns>web.lab.test</jitsu:dns><jitsu:dns> www.lab.test
</jitsu:dns><ttl>30</ttl></jitsu:vm>"""
OTHERS = """<app:vm xmlns:app="urn:another"><app:dns>no.lab.test</app:dns></app:vm><vm><dns>no.lab.test</dns></vm>"""
AGENT = """<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='{}'/></channel>"""
NETWORK = """<network><ip address='10.0.0.1'><dhcp><range start='10.0.0.5' end='10.0.0.9'/>
<host mac='02:00:00:00:00:0A' name='web' ip='10.0.0.77'/><host name='no-mac' ip='10.0.0.78'/></dhcp></ip></network>"""


def domain_xml(metadata: str = "", devices: str = "") -> str:
    return f"<domain><metadata>{metadata}</metadata><devices>{devices}</devices></domain>"


def test_the_keys_are_the_elements_of_our_part_of_the_metadata_and_no_others() -> None:
    assert rules.labels(domain_xml(OTHERS + OURS)) == {"dns": "web.lab.test,www.lab.test", "ttl": "30"}
    assert rules.labels("<domain/>") == {}


def test_an_agent_is_asked_only_if_it_is_connected() -> None:
    assert rules.has_agent(domain_xml(devices=AGENT.format("connected")))
    assert not rules.has_agent(domain_xml(devices=AGENT.format("disconnected")))
    assert not rules.has_agent(domain_xml())


def test_a_network_knows_the_addresses_of_its_fixed_hosts() -> None:
    assert rules.fixed_addresses(NETWORK) == [("02:00:00:00:00:0a", "10.0.0.77")]


class PlayedFailure(Exception):
    """An error of libvirt."""


class PlayedLibrary:
    """The constants that are used."""

    libvirtError = PlayedFailure  # libvirt's own name
    VIR_DOMAIN_RUNNING = 1
    VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT = 1


class PlayedDomain:
    """A domain; one without XML is gone."""

    def __init__(self, name: str, mac: str, devices: str = "", state: int = 1) -> None:
        interface = f"<interface><mac address='{mac}'/><source bridge='br0'/></interface>"
        self._name, self._xml, self._state = name, domain_xml(OURS, interface + devices), state

    def XMLDesc(self, _: int) -> str:
        if self._name == "gone":
            raise PlayedFailure("no domain")
        return self._xml

    def isActive(self) -> int:
        return int(self._state == 1)

    def state(self) -> tuple[int, int]:
        return self._state, 0

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return f"u-{self._name}"

    def interfaceAddresses(self, _: int) -> Any:
        addresses = [{"addr": "10.0.0.50"}, {"addr": "fd00::50"}]
        return {"lo": {"addrs": [{"addr": "127.0.0.1"}]}, "eth0": {"addrs": addresses}, "eth1": {"addrs": None}}


class PlayedNetwork:
    """A network; one that is not active has no leases."""

    def __init__(self, *, is_active: bool) -> None:
        self._is_active = is_active

    def XMLDesc(self, _: int) -> str:
        return NETWORK

    def DHCPLeases(self) -> Any:
        if not self._is_active:
            raise PlayedFailure("network is not active")
        return [{"mac": "02:00:00:00:00:0B", "ipaddr": "10.0.0.6"}]


class PlayedConnection:
    """A connection to these domains, with the thread pool of nobody."""

    def __init__(self, *domains: PlayedDomain, is_active: bool = True, answers: bool = True) -> None:
        self.library = PlayedLibrary
        self._domains, self._networks, self._answers = domains, [PlayedNetwork(is_active=is_active)], answers

    def mine(self) -> PlayedConnection:
        return self

    def listAllDomains(self, _: int) -> Any:
        return self._domains

    def listAllNetworks(self, _: int) -> Any:
        return self._networks

    def lookupByUUIDString(self, uuid: str) -> Any:
        return next(each for each in self._domains if each.UUIDString() == uuid)

    def isAlive(self) -> bool:
        return True

    async def within(self, limit: float, otherwise: str, work: Any) -> Any:
        if limit == discovery.AGENT_LIMIT_S and not self._answers:
            raise Unavailable(otherwise)
        return work()


async def found(made: Any) -> dict[str, Any]:
    return {each.name: each for each in await discovery.discover("test:", made, made)}


async def test_addresses_come_from_fixed_hosts_and_leases_and_else_from_the_agent() -> None:
    web, db = PlayedDomain("web", "02:00:00:00:00:0a", state=5), PlayedDomain("db", "02:00:00:00:00:0b")
    other = PlayedDomain("other", "02:00:00:00:00:0c", AGENT.format("connected"))
    machines = await found(PlayedConnection(web, db, other, PlayedDomain("gone", "")))
    assert {name: each.addresses for name, each in machines.items()} == {
        "web": ("10.0.0.77",),
        "db": ("10.0.0.6",),
        "other": ("10.0.0.50", "fd00::50"),
    }
    assert (machines["web"].is_running, machines["db"].is_running) == (False, True)
    assert (machines["web"].nics[0].bridge, machines["web"].uuid) == ("br0", "u-web")


async def test_a_network_that_is_off_and_an_agent_that_hangs_hide_no_domain() -> None:
    other = PlayedDomain("other", "02:00:00:00:00:0b", AGENT.format("connected"))
    machines = await found(PlayedConnection(other, is_active=False, answers=False))
    assert machines["other"].addresses == ()


@libvirt
async def test_libvirt_lists_the_domain_of_its_test_driver(tmp_path: Path) -> None:
    async with running("libvirt test", tmp_path) as made:
        assert isinstance(made.hypervisor, Discovers)
        [machine] = [each for each in await made.hypervisor.discover() if each.name == "test"]
        assert (machine.is_running, machine.uuid) == (True, "6695eb01-f6a4-8304-79aa-97f2502e193f")
