"""What `jitsu doctor` finds: each finding made to happen where a test can, else judged from facts."""

from __future__ import annotations

import json
import socket
import tarfile
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from deploy.dist import MEMBERS, ROOT
from jitsu import keys as key_commands
from jitsu.doctor import (
    bridges,
    bundle,
    clocks,
    credentials,
    disk,
    keys,
    kvm,
    ports,
    rights,
    services,
    versions,
)
from jitsu.doctor.finding import Finding, Suite, lines, note
from jitsu_protocol import __version__
from jitsu_protocol.model.hypervisors import HypervisorKind
from jitsu_runtime.settings.load import load
from tests.support.doctor import faults, notes, pong, suite, vm

if TYPE_CHECKING:
    from pathlib import Path


# --- what is printed ---


def test_faults_come_last_with_what_to_do_and_are_counted() -> None:
    assert lines([Finding("disk", "it is full.", "Free some."), note("clock", "it is late.", "Set it.")]) == [
        "note  clock: it is late.",
        "      Set it.",
        "FAULT disk: it is full.",
        "      Free some.",
        "1 fault, 1 note",
    ]
    assert lines([]) == ["no faults, 0 notes"]


# --- ports ---


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_port_that_another_process_has_is_found_with_its_name(protocol: str) -> None:
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        facts = ports.gather(suite(dns__bind="127.0.0.1", dns__port=str(port)))
        (holder,) = [each for each in facts.holders if each.protocol == protocol]
        assert (holder.address, holder.port) == ("127.0.0.1", port)
        (said,) = [each for each in faults(ports.judge(facts)) if each.startswith(protocol.upper())]
        assert f"{protocol.upper()} port {port} of 127.0.0.1 is taken by python" in said
        assert f"(process {holder.pid}), and dns.port is 127.0.0.1 port {port}" in said


def test_metrics_and_endpoints_on_tcp_are_ports_too() -> None:
    found = ports.wanted(
        suite(reaper__metrics="127.0.0.1:9105", web__listen="127.0.0.1:8080", bus__store_rpc="tcp://127.0.0.1:7001")
    )
    assert [(each.key, each.protocol, each.port) for each in found] == [
        ("dns.port", "udp", 53),
        ("dns.port", "tcp", 53),
        ("reaper.metrics", "tcp", 9105),
        ("web.listen", "tcp", 8080),
        ("bus.store_rpc", "tcp", 7001),
    ]


@pytest.mark.parametrize(
    ("bind", "holder", "clashes"),
    [
        ("192.0.2.1", ports.Holder("udp", "192.0.2.1", 53), True),
        ("192.0.2.1", ports.Holder("udp", "127.0.0.53", 53), False),
        ("0.0.0.0", ports.Holder("udp", "127.0.0.53", 53, 9, "/lib/systemd/systemd-resolved"), True),
        ("127.0.0.1", ports.Holder("udp", "0.0.0.0", 53), True),
        ("127.0.0.1", ports.Holder("udp", "::", 53), True),
        ("::1", ports.Holder("udp", "0.0.0.0", 53), False),
        ("192.0.2.1", ports.Holder("tcp", "192.0.2.1", 53), False),
        ("192.0.2.1", ports.Holder("udp", "192.0.2.1", 5353), False),
        ("0.0.0.0", ports.Holder("udp", "0.0.0.0", 53, 9, "/usr/bin/python3 -m jitsu_dns.main"), False),
        ("0.0.0.0", ports.Holder("udp", "0.0.0.0", 53, 9, "/usr/bin/python3 /usr/bin/jitsu-dns"), False),
    ],
)
def test_a_port_clashes_only_on_the_same_address_and_not_with_jitsu_itself(
    bind: str, holder: ports.Holder, clashes: bool
) -> None:
    facts = ports.PortFacts((ports.Wanted("dns.port", "udp", bind, 53),), (holder,))
    assert bool(ports.judge(facts)) is clashes


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("/lib/systemd/systemd-resolved", "DNSStubListener=no"),
        ("/usr/sbin/dnsmasq --conf", "bind-interfaces"),
        ("/usr/sbin/named", "Stop that process"),
        ("", "as root"),
    ],
)
def test_what_to_do_about_a_port_depends_on_who_has_it(command: str, advice: str) -> None:
    holder = ports.Holder("udp", "0.0.0.0", 53, 9 if command else None, command)
    (found,) = ports.judge(ports.PortFacts((ports.Wanted("dns.port", "udp", "0.0.0.0", 53),), (holder,)))
    assert advice in found.advice


# --- rights ---


def test_a_runtime_directory_that_others_may_open_is_found(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    directory.chmod(0o777)
    (said,) = faults(rights.judge(rights.gather(suite(bus__runtime_dir=str(directory), dns__port="5300"))))
    assert f"{directory} belongs to" in said
    assert "mode 0777" in said


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (rights.RightFacts(uid=1000), "this user may not bind port 53, which is below 1024"),
        (rights.RightFacts(uid=1000, first_free_port=53), ""),
        (rights.RightFacts(uid=1000, port=5300), ""),
        (rights.RightFacts(uid=1000, capabilities=1 << rights.CAP_NET_BIND_SERVICE), ""),
        (rights.RightFacts(uid=1000, port=5300, wants_synjitsu=True), "VMs use Synjitsu, and this user has no right"),
        (
            rights.RightFacts(uid=1000, port=5300, kinds=frozenset({HypervisorKind.SOLO5})),
            "hypervisor.kind = solo5 (unikernels",
        ),
        (rights.RightFacts(uid=0, port=5300, kinds=frozenset({HypervisorKind.SOLO5})), ""),
        (rights.RightFacts(port=5300, libvirt_is_closed=True), "this user may not use libvirt's socket"),
        (rights.RightFacts(port=5300, libvirt_is_absent=True), "libvirt does not run on this machine"),
        (rights.RightFacts(uid=1000, is_running=True, wants_synjitsu=True), ""),
    ],
)
def test_what_this_user_may_not_do_is_found_before_the_suite_runs(facts: rights.RightFacts, expected: str) -> None:
    said = faults(rights.judge(facts))
    assert [each[: len(expected)] for each in said] == ([expected] if expected else [])


def test_the_rights_of_this_process_are_read() -> None:
    facts = rights.gather(suite([vm(use_synjitsu="true")], dns__port="53"))
    assert facts.wants_synjitsu
    assert facts.port == 53
    assert 0 <= facts.first_free_port <= 1024
    if facts.uid:
        assert rights.judge(facts)


# --- bridges ---

UP = bridges.Interface(is_bridge=True, is_up=True)


@pytest.mark.parametrize(
    ("interface", "expected"),
    [
        (None, "there is no bridge br9 (synjitsu.bridges)"),
        (bridges.Interface(is_bridge=False, is_up=True), "this is not a bridge: br9 (synjitsu.bridges)"),
        (bridges.Interface(is_bridge=True, is_up=False), "the bridge is down: br9 (synjitsu.bridges)"),
        (bridges.Interface(True, True, 15.0), "a guest that starts is not reachable for 30 s, because of STP, on br9"),
        (UP, ""),
    ],
)
def test_a_bridge_that_does_not_forward_is_found(interface: bridges.Interface | None, expected: str) -> None:
    facts = bridges.BridgeFacts({"br9": "synjitsu.bridges"}, {"br9": interface} if interface else {})
    assert [each[: len(expected)] for each in faults(bridges.judge(facts))] == ([expected] if expected else [])


def test_a_packet_filter_on_bridges_is_a_fault_beside_docker_and_else_a_note() -> None:
    facts = bridges.BridgeFacts({"br9": "x"}, {"br9": UP}, frozenset({"iptables"}))
    assert notes(bridges.judge(facts)) == ["what crosses a bridge is filtered by iptables (br_netfilter)"]
    beside_docker = bridges.BridgeFacts({"br9": "x"}, {"br9": UP}, frozenset({"iptables"}), has_docker=True)
    assert "Docker lets FORWARD drop" in faults(bridges.judge(beside_docker))[0]
    assert bridges.judge(bridges.BridgeFacts({}, {}, frozenset({"iptables"}), has_docker=True)) == []


def test_the_bridges_that_are_wanted_are_those_of_vms_that_are_really_on_one() -> None:
    vms = [vm(nic="br1"), vm(name="a", nic="br2", hypervisor="m")]
    flags = {"hypervisor__kind": "libvirt", "hypervisor__connections": "m mock", "synjitsu__bridges": "br3"}
    assert bridges.wanted(suite(vms, **flags)) == {"br3": "synjitsu.bridges", "br1": "nic of www"}


def test_files_of_the_kernel_are_read(tmp_path: Path) -> None:
    bridge = tmp_path / "net" / "br1"
    (bridge / "bridge").mkdir(parents=True)
    (bridge / "flags").write_text("0x1002\n")
    (bridge / "bridge" / "stp_state").write_text("1\n")
    (bridge / "bridge" / "forward_delay").write_text("1500\n")
    (tmp_path / "bridge-nf-call-ip6tables").write_text("1\n")
    (tmp_path / "bridge-nf-call-iptables").write_text("0\n")
    facts = bridges.gather(suite(synjitsu__bridges="br1,br2"), tmp_path / "net", tmp_path)
    assert facts.interfaces == {"br1": bridges.Interface(is_bridge=True, is_up=False, forward_delay_s=15.0)}
    assert facts.filtered == {"ip6tables"}


# --- KVM ---


async def test_a_device_that_is_not_there_is_found_for_guests_of_qemu_only(tmp_path: Path) -> None:
    made = [vm(kernel="/boot/vmlinuz")]
    absent = await kvm.gather(suite(made, hypervisor__kind="libvirt"), tmp_path / "kvm")
    assert notes(kvm.judge(absent)) == [f"there is no {kvm.DEVICE}: guests run ten times slower"]
    demanded = await kvm.gather(suite(made, hypervisor__kind="libvirt", hypervisor__accelerate="kvm"), tmp_path / "kvm")
    assert faults(kvm.judge(demanded)) == [f"there is no {kvm.DEVICE}: guests run ten times slower"]
    for other in ({"hypervisor__kind": "mock"}, {"hypervisor__kind": "libvirt", "hypervisor__accelerate": "tcg"}):
        assert kvm.judge(await kvm.gather(suite(made, **other), tmp_path / "kvm")) == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (kvm.KvmFacts(True, True, is_there=True), "this user may not open /dev/kvm"),
        (
            kvm.KvmFacts(True, True, is_there=True, may_open=True, works=False),
            "a guest with KVM does not run to its end",
        ),
        (kvm.KvmFacts(True, True, is_there=True, may_open=True, works=None), ""),
        (kvm.KvmFacts(True, True, is_there=True, may_open=True, works=True), ""),
    ],
)
def test_kvm_that_is_there_may_still_not_work(facts: kvm.KvmFacts, expected: str) -> None:
    assert [each[: len(expected)] for each in faults(kvm.judge(facts))] == ([expected] if expected else [])


# --- clocks ---


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (clocks.ClockFacts(now=86400.0), "the clock of this machine says 1970-01-02"),
        (clocks.ClockFacts(2e9, last_commit_ts=2e9 + 7200), "the latest commit of the store is 2 h in the future"),
        (clocks.ClockFacts(2e9, last_commit_ts=2e9 + 30), ""),
    ],
)
def test_a_clock_that_is_wrong_is_found(facts: clocks.ClockFacts, expected: str) -> None:
    assert [each[: len(expected)] for each in faults(clocks.judge(facts))] == ([expected] if expected else [])


def test_a_clock_that_nobody_keeps_right_is_a_note() -> None:
    assert notes(clocks.judge(clocks.ClockFacts(2e9, is_synchronized=False))) == [
        "nothing keeps the clock of this machine right"
    ]
    assert clocks.gather(suite()).is_synchronized in (True, False, None)


# --- disk ---


def test_places_that_are_full_are_found() -> None:
    found = disk.judge(
        [
            disk.Place("store.path", "/s", 10 * 1024 * 1024, None),
            disk.Place("bus.runtime_dir", "/r", 10 * 1024 * 1024, 5, disk.MIN_FREE_SOCKETS_BYTES),
            disk.Place("store.path", "/o", 2**40, 10**6, is_read_only=True),
            disk.Place("store.path", "/w", 2**40, 10**6),
        ]
    )
    assert faults(found) == [
        "/s (store.path) has 10 MiB free, and should have 100",
        "/r (bus.runtime_dir) is on a file system with room for only 5 more files",
        "/o (store.path) is on a read-only file system",
    ]


def test_a_place_that_is_not_there_yet_is_judged_by_what_is_above_it(tmp_path: Path) -> None:
    found = disk.gather(suite(store__path=str(tmp_path / "a" / "b.git"), bus__runtime_dir=str(tmp_path)))
    assert [each.key for each in found] == ["bus.runtime_dir", "store.path"]
    assert found[0].free_bytes == pytest.approx(found[1].free_bytes, rel=0.1)


# --- versions ---


def test_a_service_of_another_version_is_found() -> None:
    facts = versions.VersionFacts("2.0", {"vmd": "1.9", "store": "2.0"}, libzmq=(4, 1, 0))
    assert faults(versions.judge(facts)) == [
        "vmd is of version 1.9, and this tool of 2.0",
        "libzmq is 4.1.0, which is too old",
    ]
    assert versions.judge(versions.gather(suite())) == []


def test_a_distribution_of_another_version_is_found() -> None:
    facts = versions.VersionFacts("2.0", installed={"jitsu-protocol": "2.0", "jitsu-runtime": "1.9"})
    assert faults(versions.judge(facts)) == ["jitsu-runtime 1.9 is installed, and this tool is of 2.0"]


def test_every_distribution_of_this_checkout_is_looked_at() -> None:
    names = {tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]["name"] for member in MEMBERS}
    assert {"jitsu-suite", *(f"jitsu-{name}" for name in versions.OURS)} == names
    assert set(versions.gather(suite()).installed) == names - {"jitsu-suite"}


# --- keys ---


def test_keys_that_are_open_foreign_or_left_over_are_found(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    one = suite(bus__keys=str(directory), bus__store_rpc="tcp://192.0.2.1:7001")
    assert faults(keys.judge(keys.gather(one))) == [f"there is no directory {directory}"]
    key_commands.init(directory)
    assert keys.judge(keys.gather(one)) == []
    key_commands.rotate(directory, "vmd")
    (directory / "store.key_secret").chmod(0o644)
    (directory / "operator.key_secret").unlink()
    (directory / "public" / "dns.key").unlink()
    found = keys.judge(keys.gather(one))
    assert sorted(faults(found)) == [
        f"{directory} has no key for operators, so no command reaches the suite from here",
        f"others may read {directory}/store.key_secret (mode 0644)",
        f"the public half of {directory}/dns.key_secret is not in {directory}/public, so others refuse it",
    ]
    assert notes(found) == ["the key vmd.before, which was rotated, is still accepted"]


def test_credentials_that_are_missing_or_open_to_others_are_found(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    open_to_all = tmp_path / "ca.pem"
    open_to_all.touch(mode=0o644)
    one = suite(
        hypervisor__kind="xapi",
        hypervisor__password_file=str(secret),
        hypervisor__ca_file=str(open_to_all),
        hypervisor__connections=f"big xapi https://b password_file={tmp_path}/none,c xapi https://c password_file=name",
    )
    missing = f"hypervisor.big.password_file: there is no file {tmp_path}/none"
    assert faults(credentials.judge(credentials.gather(one))) == [missing]
    secret.chmod(0o640)
    assert faults(credentials.judge(credentials.gather(one))) == [
        f"hypervisor.password_file: others may read {secret} (mode 0640), so vmd refuses to use it",
        missing,
    ]


def test_a_bus_without_keys_over_a_network_is_a_note() -> None:
    plain = suite(bus__store_rpc="tcp://192.0.2.1:7001", bus__allow_plain_tcp="true")
    assert notes(keys.judge(keys.gather(plain))) == ["bus.store_rpc: what is sent can be read and forged on the way"]


# --- services ---


def test_what_does_not_answer_is_found_with_the_reason() -> None:
    shown = Suite(
        load(None, {}, {}),
        pongs={"store": pong("store"), "vmd": None, "synjitsu": None, "reaper": pong("reaper")},
        silences={"vmd": "no jitsu-vmd runs in /run"},
        replicas={"127.0.0.1:5300": frozenset({"dns-0", "dns-1"})},
        answering={"127.0.0.1:5300": frozenset({"dns-0"})},
    )
    found = services.judge(shown)
    assert faults(found) == ["vmd does not answer", "dns-1 does not answer at 127.0.0.1:5300"]
    assert found[0].advice == "no jitsu-vmd runs in /run"


def test_a_hypervisor_that_does_not_answer_is_found() -> None:
    told = pong("vmd", __version__, "hypervisor libvirt (qemu:///system) does not answer: refused", "fine")
    shown = Suite(load(None, {}, {}), pongs={"store": pong("store"), "vmd": told}, replicas={"h:1": frozenset()})
    assert faults(services.judge(shown)) == ["vmd: hypervisor libvirt (qemu:///system) does not answer: refused"]


def test_events_that_were_lost_or_not_delivered_are_found() -> None:
    told = pong("web", __version__, "events were dropped: 3, because events.queue is full", "the store is not heard")
    shown = Suite(load(None, {}, {}), pongs={"store": pong("store"), "web": told}, replicas={"h:1": frozenset()})
    assert faults(services.judge(shown)) == ["web: events were dropped: 3, because events.queue is full"]


def test_that_all_vms_are_held_is_a_note() -> None:
    told = pong("vmd", __version__, "all VMs are held by operator:anna")
    shown = Suite(load(None, {}, {}), pongs={"store": pong("store"), "vmd": told}, replicas={"h:1": frozenset()})
    assert notes(services.judge(shown)) == ["vmd: all VMs are held by operator:anna"]


def test_synjitsu_that_vms_need_and_a_store_without_replicas_are_found() -> None:
    pongs = {"store": pong("store"), "synjitsu": None}
    shown = Suite(load(None, {}, {}), (vm(use_synjitsu="true"),), pongs)
    assert faults(services.judge(shown)) == ["synjitsu does not answer", "the store knows of no dns replica"]


def test_that_no_suite_runs_is_no_fault() -> None:
    assert notes(services.judge(suite()))[0].startswith("no suite runs in ")


# --- the bundle ---


def test_addresses_of_clients_get_the_same_name_everywhere_and_secrets_are_left_out() -> None:
    names = bundle.Pseudonyms({"192.0.2.7", "2001:db8::7", "02:00:5e:00:53:01"})
    text = (
        "12:00:01 client=198.51.100.9:4711 vm 192.0.2.7 [2001:db8::9]:53 2001:db8::7 127.0.0.1:53 198.51.100.9, "
        "9.100.51.198.in-addr.arpa 1.0.0.2.8.b.d.0.1.0.0.2.ip6.arpa 02:00:5e:00:53:01 02:00:5e:00:53:ff "
        "dns.cookie_secret=0123abcd password: hunter2 https://root:pw@xen.example/ tcp://host:7001 v1.2.3.4.5"
    )
    assert names.hidden(text) == (
        "12:00:01 client=client-2:4711 vm 192.0.2.7 [client-3]:53 2001:db8::7 127.0.0.1:53 client-2, "
        "client-4.in-addr.arpa ip6.arpa 02:00:5e:00:53:01 mac-1 "
        "dns.cookie_secret=(left out) password: (left out) https://root:(left out)@xen.example/ "
        "tcp://host:7001 v1.2.3.4.5"
    )


def test_a_bundle_has_the_settings_without_secrets_and_is_closed_to_others(tmp_path: Path) -> None:
    shown = suite(
        [vm()],
        dns__cookie_secret="00112233445566778899aabbccddeeff",
        events__webhooks="chat https://chat.example/hooks/T0K3N /etc/jitsu/chat.secret",
        dns__bind="192.0.2.53",
        hypervisor__connect="https://root:pw@xen.example",
        hypervisor__connections="big xapi https://root:pw@big.example password_file=/etc/big",
        hypervisor__token_file="/etc/token",
    )
    file = tmp_path / "jitsu.tar.gz"
    names = bundle.write(file, shown, {"findings": ["from 198.51.100.9"]}, "query from 198.51.100.9 to 192.0.2.53\n")
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        parts = {}
        for member in archive.getmembers():
            opened = archive.extractfile(member)
            assert opened is not None
            parts[member.name.removeprefix("jitsu-doctor/")] = opened.read().decode()
    assert sorted(parts) == sorted(names) == ["findings.json", "log.txt", "settings.json"]
    assert parts["log.txt"] == "query from client-1 to 192.0.2.53\n"
    assert json.loads(parts["findings.json"]) == ["from client-1"]
    settings = json.loads(parts["settings.json"])
    assert (settings["dns.cookie_secret"], settings["dns.bind"]) == ("(left out)", "192.0.2.53")
    assert settings["hypervisor.connect"] == "https://root:(left out)@xen.example"
    assert settings["hypervisor.connections"] == ["big xapi https://root:(left out)@big.example password_file=/etc/big"]
    assert settings["hypervisor.token_file"] == "/etc/token"
    assert "T0K3N" not in parts["settings.json"]


def test_a_bundle_shows_commands_without_the_values_of_their_variables(tmp_path: Path) -> None:
    file = tmp_path / "jitsu.toml"
    file.write_text(
        '[command.a]\nstart = ["x", "https://u:p@h/"]\nstop = "y"\nstate = "z"\nenvironment = { T = "s" }\n'
    )
    section: Any = bundle.shown_settings(Suite(load(file, {}, {}), ()))["command"]
    assert section["a"]["environment"] == {"T": "(left out)"}
    assert section["a"]["start"] == ["x", "https://u:(left out)@h/"]
