"""What Proxmox VE reports and answers, and what follows from it: without a server."""

from __future__ import annotations

from typing import Any

import pytest

from jitsu_protocol.model.errors import NotFound, Refused, SetupFault, Unavailable
from jitsu_vmd.hypervisors.proxmox.rules import answers, hardware
from jitsu_vmd.hypervisors.proxmox.rules.connect import authorization, urls_of
from jitsu_vmd.hypervisors.proxmox.rules.machines import PveMachine, check_mode, cluster_of, is_certain, state_of
from jitsu_vmd.hypervisors.shared.rules.texts import MAX_CHARACTERS
from jitsu_vmd.rules.events import GuestState
from tests.support.vms import make_vm

UUID = "d0a3e6f2-5e1a-4c0f-9c55-00c0ffee0001"
QEMU = PveMachine(100, "qemu", "pve1", "www")
CONTAINER = PveMachine(101, "lxc", "pve1", "db")


def resource(vmid: int, name: str, **more: Any) -> dict[str, Any]:
    return {"type": "qemu", "vmid": vmid, "name": name, "node": "pve1", "status": "running"} | more


@pytest.mark.parametrize(
    ("status", "qmpstatus", "lock", "state"),
    [
        ("running", "running", "", GuestState.RUNNING),
        ("running", "", "", GuestState.RUNNING),
        ("running", "save-vm", "suspending", GuestState.RUNNING),
        ("running", "running", "backup", GuestState.RUNNING),
        ("running", "running", "suspended", GuestState.RUNNING),
        ("running", "prelaunch", "backup", GuestState.OFF),
        ("running", "prelaunch", "", GuestState.PAUSED),
        ("running", "shutdown", "backup", GuestState.OFF),
        ("running", "paused", "", GuestState.PAUSED),
        ("running", "io-error", "", GuestState.PAUSED),
        ("running", "guest-panicked", "", GuestState.CRASHED),
        ("stopped", "", "suspended", GuestState.SUSPENDED),
        ("stopped", "stopped", "", GuestState.OFF),
        ("stopped", "", "backup", GuestState.OFF),
        ("unknown", "", "", None),
        ("", "", "", None),
    ],
)
def test_a_machine_is_what_the_table_says(status: str, qmpstatus: str, lock: str, state: GuestState | None) -> None:
    assert state_of(status, qmpstatus, lock) is state


def test_a_vm_is_found_by_its_name_or_by_its_vmid() -> None:
    cluster = cluster_of(
        [
            resource(100, "www"),
            resource(101, "db", type="lxc"),
            resource(102, "twice"),
            resource(103, "twice"),
            resource(104, "100"),
            resource(105, "golden", template=1),
            {"type": "storage", "storage": "local", "node": "pve1"},
            {"type": "node", "node": "pve1", "status": "online"},
        ]
    )
    assert cluster.machine(make_vm("www")).vmid == 100
    assert cluster.machine(make_vm("db")).path == "/nodes/pve1/lxc/101"
    assert cluster.machine(make_vm("103")).name == "twice"
    assert cluster.machine(make_vm("100")).name == "www", "not the machine that is called 100"
    with pytest.raises(Unavailable, match=r"2 machines are called twice \(name the VM by its VMID: 102, 103\)"):
        cluster.machine(make_vm("twice"))
    for name in ("golden", "none", "999"):
        with pytest.raises(NotFound, match=f"has no VM or container {name}"):
            cluster.machine(make_vm(name))


def test_nothing_is_concluded_of_a_machine_whose_node_is_offline() -> None:
    down = {"type": "node", "node": "pve2", "status": "offline"}
    cluster = cluster_of([resource(100, "www", node="pve2", status="unknown"), resource(101, "db"), down])
    assert cluster.why_unseen(cluster.machine(make_vm("www"))).startswith("its node pve2 is offline, and the machine")
    assert cluster.why_unseen(cluster.machine(make_vm("db"))) == ""
    fenced = cluster_of([resource(100, "www", node="pve1", status="stopped"), down])
    assert fenced.why_unseen(fenced.machine(make_vm("www"))) == "", "the HA manager has moved it"


@pytest.mark.parametrize("records", [None, "x", [None, 7, {}], [resource(1, "x", node="../x")], [{"type": "qemu"}]])
def test_records_that_make_no_sense_are_left_out(records: object) -> None:
    assert not cluster_of(records).machines


def test_resources_do_not_tell_whether_a_vm_that_is_paused_when_idle_runs() -> None:
    runs = PveMachine(100, "qemu", "pve1", "www", "running")
    assert is_certain(runs, make_vm("www"))
    assert not is_certain(runs, make_vm("www", stop_mode="pause"))
    assert is_certain(PveMachine(100, "qemu", "pve1", "www", "stopped"), make_vm("www", stop_mode="pause"))
    assert not is_certain(PveMachine(100, "qemu", "pve1", "www", "unknown"), make_vm("www"))


def test_a_container_is_neither_suspended_nor_paused() -> None:
    for mode in ("suspend", "pause"):
        check_mode(QEMU, mode)
        with pytest.raises(Refused, match=f"stop_mode: .* use shutdown, not {mode}"):
            check_mode(CONTAINER, mode)
    check_mode(CONTAINER, "shutdown")


def test_a_tasks_end_is_its_exit_status_and_its_log_says_more() -> None:
    assert answers.task_end({"status": "running"}) is None
    assert answers.task_end(None) is None
    for good in ("OK", "WARNINGS: 1"):
        assert answers.task_end({"status": "stopped", "exitstatus": good}) == answers.TaskEnd(good)
        assert not answers.TaskEnd(good).has_failed
    locked = answers.task_end({"status": "stopped", "exitstatus": "VM is locked (backup)"})
    unknown = answers.task_end({"status": "stopped"})
    assert locked is not None
    assert (locked.exit_status, locked.has_failed) == ("VM is locked (backup)", True)
    assert unknown is not None
    assert (unknown.exit_status, unknown.has_failed) == ("it has ended without an exit status", True)
    log = [{"n": 1, "t": "kvm: -drive file=/x: Could not open '/x'"}, {"n": 2, "t": "TASK ERROR: start failed: exit 1"}]
    assert answers.reason_of("start failed: exit 1", log) == (
        "start failed: exit 1 (kvm: -drive file=/x: Could not open '/x')"
    )
    assert answers.reason_of("start failed", None) == "start failed"


def test_an_error_says_what_the_server_says_on_one_line() -> None:
    assert str(answers.fault(500, "VM is locked (backup)", None)) == "VM is locked (backup)"
    body = {"errors": {"timeout": "value must have a minimum value of 0"}}
    assert "Parameter verification failed. timeout: value must" in str(
        answers.fault(400, "Parameter verification failed.", body)
    )
    denied = answers.fault(403, "Permission check failed (/vms/100, VM.PowerMgmt)", None)
    assert "VM.PowerMgmt" in str(denied)
    assert denied.hint == answers.PRIVILEGES
    assert "token_file" in answers.fault(401, "no such token", None).hint
    unreachable = answers.fault(595, "No route to host", None)
    assert not isinstance(unreachable, answers.PveFault)
    hostile = str(answers.fault(500, "a\x1b[2Jb\r\nc" + "x" * 9999, {"message": None}))
    assert hostile.startswith("a?[2Jb c")
    assert len(hostile) == MAX_CHARACTERS


def test_only_the_id_of_a_task_becomes_part_of_a_path() -> None:
    upid = "UPID:pve-1:0003F1B0:01A2B3C4:6742F1B0:qmstart:100:jitsu@pve!vmd:"
    assert answers.upid_of(upid) == ("pve-1", upid)
    for bad in (
        None,
        "",
        "UPID:pve1",
        upid + "/../x",
        upid.replace("qmstart", "a/b"),
        upid.replace("100", "1\n0"),
        "?",
    ):
        with pytest.raises(answers.PveFault, match="is not the id of a task"):
            answers.upid_of(bad)


def test_the_start_and_the_end_of_a_task_are_noticed_once_each() -> None:
    begun = {"upid": "UPID:1", "id": "100"}
    known, machines = answers.changed_machines([begun, {"upid": "UPID:2", "id": "storage"}, None], set())
    assert machines == {100}
    known, machines = answers.changed_machines([begun], known)
    assert machines == set()
    known, machines = answers.changed_machines([begun | {"endtime": 7}], known)
    assert machines == {100}
    assert answers.changed_machines("nonsense", known) == (set(), set())


def test_interfaces_and_addresses_follow_from_the_configuration() -> None:
    config = {
        "net0": "virtio=BC:24:11:AA:BB:01,bridge=vmbr0",
        "net1": "virtio=BC:24:11:AA:BB:02,bridge=vmbr1,firewall=1",
        "net2": "nonsense",
        "ipconfig0": "ip=192.0.2.7/24,gw=192.0.2.1,ip6=auto",
    }
    first, second = hardware.nics_of(QEMU, config, is_here=True)
    assert (first.mac, first.bridge, first.interface) == ("bc:24:11:aa:bb:01", "vmbr0", "tap100i0")
    assert (second.bridge, second.interface) == ("vmbr1", "fwpr100p1")
    assert [nic.interface for nic in hardware.nics_of(QEMU, config, is_here=False)] == ["", ""]
    assert hardware.fixed_addresses(config) == ["192.0.2.7"]
    net0 = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:09,ip=192.0.2.9/24,ip6=2001:db8::9/64,type=veth"
    (nic,) = hardware.nics_of(CONTAINER, {"net0": net0}, is_here=True)
    assert (nic.mac, nic.interface) == ("bc:24:11:00:00:09", "veth101i0")
    assert hardware.fixed_addresses({"net0": net0}) == ["192.0.2.9", "2001:db8::9"]


def test_addresses_that_only_the_guest_can_use_are_left_out() -> None:
    of_agent = {
        "result": [
            {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1"}, {"ip-address": "::1"}]},
            {"name": "eth0", "ip-addresses": [{"ip-address": "192.0.2.7"}, {"ip-address": "fe80::1%eth0"}, 7]},
            {"name": "eth1"},
        ]
    }
    assert hardware.reported_addresses(of_agent) == ["192.0.2.7"]
    of_node = [{"name": "lo", "inet": "127.0.0.1/8"}, {"name": "eth0", "inet": "192.0.2.9/24", "inet6": "x"}]
    assert hardware.reported_addresses(of_node) == ["192.0.2.9"]
    assert hardware.reported_addresses("nonsense") == []


def test_tags_and_lines_of_the_notes_may_carry_keys() -> None:
    notes = "# The shop\n\n- jitsu.ttl: 30\n`jitsu.alias = shop.example.org`\nSee jitsu.dns: not at the line's start\n"
    assert hardware.keys_of("web;jitsu.dns.www.example.org;jitsu.dns.www.example.net;jitsu.;jitsu", notes) == {
        "dns": "www.example.org,www.example.net",
        "ttl": "30",
        "alias": "shop.example.org",
    }


def test_a_token_is_whole_or_its_secret_alone() -> None:
    whole = f"jitsu@pve!vmd={UUID}"
    for user, text in (("", whole), ("", f"PVEAPIToken={whole}\n"), ("jitsu@pve!vmd", UUID)):
        assert authorization(user, text, "hypervisor.token_file") == f"PVEAPIToken={whole}"
    for user, text in (
        ("", UUID),
        ("root@pam", UUID),
        ("", "secret"),
        ("", f"a@b!c={UUID}\r\nHost: x"),
        ("", f"{whole}x"),
    ):
        with pytest.raises(SetupFault, match=r"^hypervisor\.token_file: the file does not hold a token") as caught:
            authorization(user, text, "hypervisor.token_file")
        assert text not in str(caught.value)


def test_several_nodes_of_a_cluster_may_be_named() -> None:
    setting = "hypervisor.connect"
    assert urls_of("https://pve1;https://pve2:443;https://[2001:db8::1]", setting) == (
        "https://pve1:8006",
        "https://pve2:443",
        "https://[2001:db8::1]:8006",
    )
    for bad in ("", "pve1", "http://pve1", "https://root:x@pve1", "https://pve1/api2", "https://pve1:x"):
        with pytest.raises(SetupFault, match=r"hypervisor\.connect: .* is not an address of Proxmox VE"):
            urls_of(bad, setting)
