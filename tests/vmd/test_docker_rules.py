"""What docker decides without an engine: endpoints, networks, what a container is made of, how it ended."""

from __future__ import annotations

from typing import Any

import pytest

from jitsu_protocol.model.errors import JitsuError, Refused, SetupFault
from jitsu_vmd.hypervisor import Nic
from jitsu_vmd.hypervisors.docker.rules import containers, keys
from jitsu_vmd.hypervisors.docker.rules.creation import request
from jitsu_vmd.hypervisors.docker.rules.endpoint import Endpoint, api_version, endpoint, is_podman
from jitsu_vmd.hypervisors.docker.rules.networks import Network, network, network_of
from jitsu_vmd.hypervisors.docker.rules.possible import check_container
from jitsu_vmd.hypervisors.docker.wires.engine import Engine
from jitsu_vmd.rules.events import GuestState
from tests.support.vms import make_vm

OLD, NEW = (1, 41), (1, 44)
LAN = network(
    {
        "Name": "lan",
        "Id": "0123456789abcdef",
        "Driver": "bridge",
        "IPAM": {"Config": [{"Subnet": "10.0.0.0/24"}, {"Subnet": "fd00::/64"}]},
        "Options": {},
    }
)
NAMED = network(
    {"Name": "named", "Id": "1", "Driver": "bridge", "IPAM": None, "Options": {"com.docker.network.bridge.name": "br7"}}
)


@pytest.mark.parametrize(
    ("uri", "uses_tls", "socket", "base"),
    [
        ("", False, "/var/run/docker.sock", "http://docker"),
        ("unix:///run/podman/podman.sock", False, "/run/podman/podman.sock", "http://docker"),
        ("tcp://10.0.0.2", False, "", "http://10.0.0.2:2375"),
        ("tcp://10.0.0.2", True, "", "https://10.0.0.2:2376"),
        ("https://[fd00::2]:99", False, "", "https://[fd00::2]:99"),
    ],
)
def test_where_an_engine_listens(uri: str, uses_tls: bool, socket: str, base: str) -> None:
    found = endpoint(uri, uses_tls=uses_tls)
    assert (found.socket, found.base) == (socket, base)


@pytest.mark.parametrize("uri", ["qemu:///system", "unix://host/x", "tcp://", "tcp://h:port", "tcp://u:p@h", "/x"])
def test_what_is_not_where_an_engine_listens_is_refused(uri: str) -> None:
    with pytest.raises(SetupFault, match="is not where an engine listens"):
        endpoint(uri)


def test_the_newest_version_that_both_speak_is_spoken() -> None:
    assert api_version({"ApiVersion": "1.41", "MinAPIVersion": "1.12"}) == (1, 41)
    assert api_version({"ApiVersion": "1.99", "MinAPIVersion": "1.44"}) == (1, 47)
    for answer in ({"ApiVersion": "1.39"}, {"ApiVersion": "x"}, {"ApiVersion": "1.99", "MinAPIVersion": "1.60"}):
        with pytest.raises(SetupFault, match=r"too (old|new)"):
            api_version(dict(answer))
    assert is_podman({"Components": [{"Name": "Podman Engine"}]})
    assert not is_podman({"Components": [{"Name": "Engine"}, None]})


def test_the_bridge_of_a_network_is_its_option_or_made_from_its_id() -> None:
    assert LAN.bridge == "br-0123456789ab"
    assert NAMED.bridge == "br7"
    assert network({"Name": "m", "Id": "2", "Driver": "macvlan"}).bridge == ""
    podmans = {"name": "p", "network_interface": "podman1", "driver": "bridge", "subnets": [{"subnet": "10.1.0.0/24"}]}
    assert network(podmans).bridge == "podman1"


def test_a_vm_is_on_the_network_of_its_bridge_or_of_its_address() -> None:
    assert network_of(make_vm("www", "10.0.0.9", image="i"), [NAMED, LAN]) is LAN
    assert network_of(make_vm("www", "10.0.0.9", image="i", nic="br7"), [NAMED, LAN]) is NAMED
    assert network_of(make_vm("www", "192.0.2.1", image="i", publish="80"), [NAMED, LAN]) is None
    with pytest.raises(Refused, match=r"^nic: .*docker network create -o"):
        network_of(make_vm("www", "10.0.0.9", nic="br8"), [LAN])
    with pytest.raises(Refused, match=r"^ip: .*docker network create --subnet 192.0.2.0/24"):
        network_of(make_vm("www", "192.0.2.1"), [LAN])


@pytest.mark.parametrize(("version", "podman", "new"), [(OLD, False, False), (NEW, False, True), (OLD, True, True)])
def test_the_mac_address_goes_where_the_engine_looks_for_it(version: tuple[int, int], podman: bool, new: bool) -> None:
    engine = Engine(Endpoint("/none"), "docker")
    engine.version, engine.is_podman = version, podman
    vm = make_vm("www", "10.0.0.9", image="i", mac="02:00:5e:00:53:01")
    made = request(vm, LAN, mac_of_endpoint=engine.mac_of_endpoint)
    endpoint_of = made["NetworkingConfig"]["EndpointsConfig"]["lan"]
    assert made.get("MacAddress") == (None if new else "02:00:5e:00:53:01")
    assert endpoint_of.get("MacAddress") == ("02:00:5e:00:53:01" if new else None)
    assert endpoint_of["IPAMConfig"] == {"IPv4Address": "10.0.0.9"}
    assert made["HostConfig"] == {"NetworkMode": "lan"}, "limits only where a key says so"


def test_a_container_is_made_of_its_keys_and_known_by_them() -> None:
    vm = make_vm(
        "www", "192.0.2.1", image="i", cmdline="a 'b c'", memory="1024", vcpus="2", publish="8080:80", disk="/s@/t"
    )
    made = request(vm, None, mac_of_endpoint=False)
    assert made["Cmd"] == ["a", "b c"]
    host = made["HostConfig"]
    assert (host["Memory"], host["NanoCpus"]) == (1 << 20, 2 * 10**9)
    assert host["Mounts"] == [{"Type": "bind", "Source": "/s", "Target": "/t"}]
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "192.0.2.1", "HostPort": "8080"}]}
    other = request(make_vm("www", "192.0.2.1", image="j", publish="8080:80"), None, mac_of_endpoint=False)
    assert made["Labels"]["jitsu-made-for"] == other["Labels"]["jitsu-made-for"] == vm.uuid
    assert made["Labels"]["jitsu-made-of"] != other["Labels"]["jitsu-made-of"]
    assert request(vm, None, mac_of_endpoint=False)["Labels"] == made["Labels"]


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        ({"container": "_x"}, "container: '_x' cannot be the name of a container"),
        ({"name": "w"}, "name: 'w' cannot be the name of a container"),
        ({"stop_mode": "suspend"}, "stop_mode: suspend would need CRIU"),
        ({"image": "i", "cmdline": "'"}, "cmdline: "),
        ({"image": "i", "disk": "/x"}, "disk: '/x' is not DIRECTORY-OR-VOLUME@PATH"),
        ({"image": "i", "publish": "0:80"}, "publish: '0:80' is not a port"),
        ({"image": "i", "publish": "80/icmp"}, "publish: '80/icmp' is not a port"),
        ({"image": "i", "publish": "80", "use_synjitsu": "true"}, "use_synjitsu: with publish"),
    ],
)
def test_what_no_container_can_do_is_refused(more: dict[str, str], refusal: str) -> None:
    with pytest.raises(Refused) as caught:
        keys.check(make_vm(**({"name": "www"} | more)))
    assert str(caught.value).startswith(refusal)


def inspected(**state: Any) -> containers.Container:
    networks = {"lan": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}, "MacAddress": "", "IPAddress": ""}}
    return containers.inspected(
        {
            "Id": "f" * 64,
            "Name": "/www",
            "State": {"Status": "exited"} | state,
            "Config": {"MacAddress": "02:00:5E:00:53:01", "Labels": {"jitsu.dns": "www.jitsu.test"}},
            "NetworkSettings": {"Networks": networks},
        }
    )


@pytest.mark.parametrize(
    ("state", "expected", "reason"),
    [
        ({"Status": "created"}, GuestState.OFF, ""),
        ({"ExitCode": 0}, GuestState.OFF, "the container www has ended with status 0"),
        ({"ExitCode": 137}, GuestState.OFF, "the container www has ended with status 137"),
        ({"ExitCode": 1}, GuestState.CRASHED, "the container www has ended with status 1; it printed last: oh"),
        ({"ExitCode": 137, "OOMKilled": True}, GuestState.CRASHED, "the container www had no memory left"),
        ({"Status": "created", "Error": "no such file"}, GuestState.OFF, "the container www could not be started: no "),
        ({"Status": "running", "StartedAt": "1970-01-01T00:01:00.5Z"}, GuestState.RUNNING, ""),
        ({"Status": "restarting"}, GuestState.RUNNING, ""),
        ({"Status": "paused"}, GuestState.PAUSED, ""),
    ],
)
def test_a_container_is_a_guest(state: dict[str, Any], expected: GuestState, reason: str) -> None:
    guest = containers.guest(inspected(**state), {"lan": LAN}, 100.0, "oh" if state.get("ExitCode") == 1 else "")
    assert guest.state is expected
    assert guest.reason.startswith(reason)
    assert bool(guest.reason) == bool(reason)
    assert guest.nics == (Nic("02:00:5e:00:53:01", "br-0123456789ab"),), "known before it starts"
    if "StartedAt" in state:
        assert guest.up_s == 39.5


def test_a_listed_container_is_the_same_as_an_inspected_one() -> None:
    found = containers.listed(
        {
            "Id": "f",
            "Names": ["/other/alias", "/www"],
            "State": "exited",
            "Status": "Exited (3) 2 minutes ago",
            "Labels": {"jitsu.dns": "www.jitsu.test", "else": "x"},
            "Ports": [{"PrivatePort": 80, "Type": "tcp"}, {"PrivatePort": 53, "Type": "udp"}],
            "NetworkSettings": {"Networks": {"lan": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}}}},
        }
    )
    assert containers.guest(found, {}, 0.0).reason == "the container www has ended with status 3"
    told = containers.discovered(found, {"lan": LAN})
    assert (told.name, told.addresses, told.ports) == ("www", ("10.0.0.9",), (80,))
    assert told.keys == {"dns": "www.jitsu.test"}
    assert not told.is_running


def test_the_end_of_a_log_is_one_line_of_printable_text() -> None:
    pieces = [b"one\n", b"two\x1b[0m\n", b"\n", b"three\n"]
    framed = b"".join(b"\x01\0\0\0" + len(each).to_bytes(4, "big") + each for each in pieces)
    assert containers.log_tail(framed) == "one | two[0m | three"
    assert containers.log_tail(b"of a terminal\r\n") == "of a terminal"
    assert len(containers.log_tail(b"x" * 10000)) <= containers.LOG_CHARACTERS + 3
    assert containers.log_tail(b"\x01\0\0\0\xff\xff\xff\xffcut") == "cut"


def test_a_container_that_is_not_at_the_vms_address_is_a_mistake() -> None:
    check_container(make_vm("www", "10.0.0.9"), inspected())
    with pytest.raises(Refused, match=r"docker network connect --ip 10.0.0.10"):
        check_container(make_vm("www", "10.0.0.10"), inspected())
    at_host = containers.Container("f", "www", "exited", published=("192.0.2.1",))
    check_container(make_vm("www", "192.0.2.1"), at_host)
    check_container(make_vm("www", "192.0.2.1"), containers.Container("f", "www", "exited", published=("",)))
    off = containers.Container("f", "www", "exited", joined=(containers.Joined("lan"),))
    check_container(make_vm("www", "10.0.0.9"), off, is_podman=True)
    with pytest.raises(Refused, match="which is on lan"):
        check_container(make_vm("www", "10.0.0.9"), off)
    with pytest.raises(JitsuError, match="--rm"):
        check_container(make_vm("www"), containers.Container("f", "www", "exited", is_removed_when_it_ends=True))


def test_addresses_that_a_network_cannot_give_are_refused() -> None:
    with pytest.raises(Refused, match=r"^ip: 192\.0\.2\.1 is in no subnet of the network lan"):
        request(make_vm("www", "10.0.0.9", ip="192.0.2.1", image="i"), LAN, mac_of_endpoint=False)
    assert Network("x").has(make_vm("www", "10.0.0.9").addresses[0]) is False
