"""What LXD's and Incus' words mean; pure."""

from __future__ import annotations

from typing import Any

import pytest

from jitsu_protocol.model.errors import Refused, SetupFault
from jitsu_vmd.hypervisor import Nic
from jitsu_vmd.hypervisors.lxd.rules import instances
from jitsu_vmd.hypervisors.lxd.rules.answers import LxdError, Meaning, first_error, meaning_of
from jitsu_vmd.hypervisors.lxd.rules.connect import Address, address_of
from jitsu_vmd.hypervisors.lxd.rules.keys import check
from jitsu_vmd.hypervisors.lxd.rules.states import DISCARDED, Member, members_of, not_heard, state_of
from jitsu_vmd.rules.events import GuestState
from tests.support.hypervisors import raised
from tests.support.vms import make_vm

MEMBERS = {
    "h1": Member("h1", "Online", "Fully operational"),
    "h2": Member("h2", "Offline", "No heartbeat for 21.123456789s (2026-11-28 16:02:53.5 +0000 UTC)"),
    "h3": Member("h3", "Evacuated", "Unavailable due to maintenance"),
}
SAID = {"name": "web", "location": "h1", "stateful": False, "config": {}}


@pytest.mark.parametrize(
    ("record", "guest"),
    [
        ({"status": "Running"}, GuestState.RUNNING),
        ({"status": "Ready"}, GuestState.RUNNING),
        ({"status": "Starting"}, GuestState.RUNNING),
        ({"status": "Stopping"}, GuestState.RUNNING),
        ({"status": "Freezing"}, GuestState.RUNNING),
        ({"status": "Frozen"}, GuestState.PAUSED),
        ({"status": "Stopped"}, GuestState.OFF),
        ({"status": "Stopped", "location": "h3"}, GuestState.OFF),
        ({"status": "Stopped", "stateful": True}, GuestState.SUSPENDED),
        ({"status": "Stopped", "stateful": True, "config": {DISCARDED: "true"}}, GuestState.OFF),
        ({"status": "Stopped", "stateful": True, "config": {DISCARDED: ""}}, GuestState.SUSPENDED),
        ({"status": "Running", "location": "h2"}, GuestState.RUNNING),
    ],
)
def test_a_status_says_what_the_guest_does(record: dict[str, Any], guest: GuestState) -> None:
    assert state_of(SAID | record, MEMBERS).guest is guest


def test_an_offline_member_does_not_prove_that_its_instance_has_stopped() -> None:
    state = state_of(SAID | {"status": "Error", "location": "h2"}, MEMBERS)
    assert state.guest is None
    assert state.unseen == (
        "its cluster member h2 is offline and may still run it; only the cluster moves it elsewhere "
        "(No heartbeat for 21 s)"
    )


@pytest.mark.parametrize("status", ["Error", "", "Broken", "Pending"])
def test_a_status_that_says_nothing_is_not_taken_for_off(status: str) -> None:
    assert state_of(SAID | {"status": status}, MEMBERS).guest is None
    assert state_of(SAID | {"status": status}, {}).unseen
    assert state_of({}, {}).guest is None


def test_members_that_are_not_heard_are_noted_and_evacuated_ones_are_not() -> None:
    assert not_heard(MEMBERS) == ["cluster member h2 is offline: No heartbeat for 21 s"]
    odd: list[Any] = [{"server_name": 4}, "x", {"server_name": "h9", "status": None}]
    assert members_of(odd) == {"h9": Member("h9", "")}
    assert members_of(None) == {}


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("The instance is already running", Meaning.IS_RUNNING),
        ("The container is already frozen", Meaning.IS_RUNNING),
        ("The instance is already stopped", Meaning.IS_STOPPED),
        ("The container isn't running", Meaning.IS_STOPPED),
        ('Instance is busy running a "stop" operation', Meaning.BUSY),
        ("Failed to begin transaction: context deadline exceeded", Meaning.NO_LEADER),
        ("no available dqlite leader server found", Meaning.NO_LEADER),
        ("Cluster member is evacuated", Meaning.EVACUATED),
        ("Missing event connection with target cluster member", Meaning.UNREACHABLE),
        ("Unable to perform container live migration. CRIU isn't installed", Meaning.CANNOT_SUSPEND),
        ("Stateful stop requires migration.stateful to be set to true", Meaning.CANNOT_SUSPEND),
        ("Failed to run: forkstart", Meaning.OTHER),
    ],
)
def test_errors_are_told_apart_by_their_texts(text: str, meaning: Meaning) -> None:
    assert meaning_of(text) is meaning


def test_a_servers_text_is_one_line_of_bounded_length_that_a_terminal_can_show() -> None:
    text = str(LxdError(500, "no\n\x1b[2Jmemory" + "x" * 9999))
    assert text.startswith("no ?[2Jmemoryxxx")
    assert len(text) <= 500
    assert str(LxdError(503, "")) == "LXD has answered with status 503"


def test_the_first_error_of_a_log_is_the_reason() -> None:
    log = (
        "lxc web 20261128154808.123 WARN     conf - ../src/lxc/conf.c:lxc_map_ids:3621 - newuidmap is lacking\n"
        "lxc web 20261128154808.124 ERROR    start - ../src/lxc/start.c:start:2164 - No such file - Failed to exec\n"
        "lxc web 20261128154808.125 ERROR    sync - ../src/lxc/sync.c:sync_wait:34 - An error occurred\n"
    )
    assert first_error(log) == "No such file - Failed to exec"
    assert first_error("ERROR\n ERROR x - y") == ""


def record(**more: Any) -> dict[str, Any]:
    return {
        "name": "web",
        "status": "Running",
        "location": "h1",
        "config": {"volatile.eth0.host_name": "veth5", "volatile.eth0.hwaddr": "00:16:3E:00:00:10"},
        "expanded_devices": {
            "eth0": {"type": "nic", "network": "lxdbr0", "name": "eth0", "ipv4.address": "10.0.0.5"},
            "eth1": {"type": "nic", "nictype": "bridged", "parent": "br0", "hwaddr": "02:00:00:00:00:01"},
            "root": {"type": "disk", "path": "/"},
        },
    } | more


def test_the_bridge_and_the_hosts_end_of_an_interface_are_known() -> None:
    first, second = instances.nics(record(), is_here=True)
    assert first == Nic("00:16:3e:00:00:10", "lxdbr0", "veth5")
    assert second == Nic("02:00:00:00:00:01", "br0")
    assert instances.nics(record(), is_here=False)[0] == Nic("00:16:3e:00:00:10", "lxdbr0"), "it is elsewhere"
    assert instances.nics({"expanded_devices": None}, is_here=True) == ()


def test_an_instance_is_discovered_with_its_addresses_and_the_keys_beside_it() -> None:
    found = instances.discovered(
        record(
            config={"volatile.uuid": "u", "user.jitsu.dns": "www.test", "user.jitsu.ttl": "5", "user.jitsu.uuid": "x"},
            state={
                "network": {
                    "lo": {"addresses": [{"scope": "local", "address": "127.0.0.1"}]},
                    "eth0": {
                        "addresses": [
                            {"scope": "global", "address": "10.0.0.9"},
                            {"scope": "link", "address": "fe80::1"},
                        ]
                    },
                }
            },
        ),
        is_here=False,
    )
    assert found.name == "web"
    assert found.uuid == "u"
    assert found.is_running
    assert found.addresses == ("10.0.0.5", "10.0.0.9")
    assert found.keys == {"dns": "www.test", "ttl": "5"}


NETWORKS = instances.networks_of(
    [{"name": "lxdbr0", "managed": True, "type": "bridge"}, {"name": "br0", "managed": False, "type": "bridge"}],
    {"devices": {"root": {"type": "disk"}, "eth0": {"type": "nic", "network": "lxdbr0", "name": "eth0"}}},
)


def test_an_instance_is_made_with_the_address_that_its_vm_has_where_lxd_gives_addresses() -> None:
    vm = make_vm("web", "10.0.0.5", image="alpine", memory="131072", vcpus="2")
    config, devices = instances.made_of(vm, NETWORKS)
    assert config["limits.memory"] == "131072KiB"
    assert config["limits.cpu"] == "2"
    assert config[instances.OWNER] == vm.uuid
    assert devices == {
        "eth0": {
            "type": "nic",
            "network": "lxdbr0",
            "name": "eth0",
            "hwaddr": vm.mac,
            "ipv4.address": "10.0.0.5",
        }
    }
    _, on_a_bridge = instances.made_of(make_vm("web", "10.0.0.5", image="alpine", nic="br0"), NETWORKS)
    assert on_a_bridge == {
        "eth0": {"type": "nic", "name": "eth0", "hwaddr": vm.mac, "nictype": "bridged", "parent": "br0"}
    }


def test_what_an_instance_is_made_of_has_a_digest_that_changes_with_it() -> None:
    digests = {
        instances.made_of(make_vm("web", address, image="alpine", **more), NETWORKS)[0][instances.PARTS]
        for address, more in (("10.0.0.5", {}), ("10.0.0.6", {}), ("10.0.0.5", {"memory": "131072"}))
    }
    assert len(digests) == 3


def test_an_instance_of_somebody_else_is_never_taken_for_a_vm_with_an_image() -> None:
    vm = make_vm("web", image="alpine")
    with pytest.raises(Refused, match="was not made for this VM"):
        instances.check_owner(vm, {"config": {}})
    own = {instances.OWNER: vm.uuid, instances.MADE_FROM: "alpine"}
    instances.check_owner(vm, {"config": own})
    with pytest.raises(Refused, match=r"was made from debian; `lxc delete web`"):
        instances.check_owner(vm, {"config": own | {instances.MADE_FROM: "debian"}})
    instances.check_owner(make_vm("web"), {"config": {}})


def test_an_instance_that_has_run_may_have_something_on_its_disk() -> None:
    assert instances.has_run({"last_used_at": "2026-11-28T15:23:46Z"})
    for never in ("1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "", None):
        assert not instances.has_run({"last_used_at": never})


@pytest.mark.parametrize("image", ["ubuntu:24.04", "../x", "a b", "https://x/y", "-x", "x?y"])
def test_an_image_is_one_that_the_server_has(image: str) -> None:
    assert "lxc image copy REMOTE:IMAGE local:" in raised(check, make_vm("web", image=image))
    assert raised(check, make_vm("web", image="noble/cloud")) == ""


@pytest.mark.parametrize("name", ["www.jitsu.test", "9web", "web-", "w" * 64, "a_b"])
def test_a_name_that_lxd_does_not_take_is_refused(name: str) -> None:
    assert "cannot be the name of an instance" in raised(check, make_vm(name, dns="www.jitsu.test"))


def test_where_a_server_listens_is_read_from_the_setting() -> None:
    assert address_of("", "/usual") == Address(socket="/usual")
    assert address_of("?project=web", "/usual") == Address(socket="/usual", project="web")
    assert address_of("unix:///run/x", "/usual") == Address(socket="/run/x")
    assert address_of("https://h1;https://[fd00::1]:9", "") == Address(urls=("https://h1:8443", "https://[fd00::1]:9"))
    for bad in ("http://h1", "h1", "https://u@h1", "https://h1/x", "https://h1:99999", "/s?project=a/b"):
        with pytest.raises(SetupFault):
            address_of(bad, "")


def test_no_label_of_an_instance_is_dropped_before_it_can_be_refused() -> None:
    labels = {f"k{number:02}": "x" for number in range(64)} | {"stop_mode": "y" * 1001}
    config = {f"user.jitsu.{key}": text for key, text in labels.items()}
    found = instances.discovered(record(config=config), is_here=True)
    assert found.keys == labels


@pytest.mark.parametrize(
    "state", [{"network": []}, {"network": {"eth0": {"addresses": "x"}}}, {"network": {"eth0": {"addresses": ["x"]}}}]
)
def test_an_instance_that_is_described_as_none_is_hides_no_other(state: dict[str, Any]) -> None:
    assert instances.discovered(record(state=state), is_here=False).addresses == ("10.0.0.5",)
    assert instances.networks_of(["x", {"managed": True, "type": "bridge", "name": "a"}], {}).managed == {"a"}
