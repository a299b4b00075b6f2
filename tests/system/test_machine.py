"""A machine with systemd on which docs/how-to/operate.md was followed: what was installed runs, whatever happens."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dns.message
import dns.query
import dns.rcode
import dns.rrset
import pytest

from tests.support.lan import BRIDGE, Lan, made_lan
from tests.support.libvirtd import guest_image
from tests.support.machine import INSTALL_LIMIT_S, PACKAGE, Machine, repacked, running_machine
from tests.support.pages import DOCS, OPERATE
from tests.support.suite import wait_for
from tests.support.unikernel import unikernel_programs
from tests.system.test_first_packets import ECHO
from tests.system.test_real_guests import guest, page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: systemd-nspawn, bridges"),
]
SERVICES = ("store", "vmd", "dns@dns-0", "synjitsu", "reaper")
CONFIG = "/etc/jitsu/jitsu.toml"
QEMU_PAGE = DOCS / "how-to" / "qemu.md"
BACKUP, THREE_HOSTS = DOCS / "how-to" / "backup.md", DOCS / "tutorials" / "three-hosts.md"
TENDERS = "pgrep -x solo5-spt"
"""The kernel names a process after the file that was started, here a copy of the guest."""
LIMIT_S = 40.0
SOON_S = 10.0
STORES = ("/var/lib/jitsu/store.git", "/srv/jitsu.git")
HOST, HOST6 = "10.77.0.1", "fd77::1"
UNIKERNEL = f"""
[hypervisor.tenders]
kind = "solo5"
connect = "/run/jitsu/solo5"

[vm.uni]
dns = "uni.jitsu.test"
ip = "10.77.0.60"
hypervisor = "tenders"
kernel = "/usr/local/bin/web.spt"
memory = "16MiB"
nic = "{BRIDGE}"
cmdline = "--name={{name}} --ipv4={{ip}}/{{prefix}}"
use_synjitsu = true
ttl = 1
idle_timeout = 600
"""

EMULATED = """
[hypervisor.emulated]
kind = "qemu"

[vm.tiny]
dns = "tiny.jitsu.test"
ip = "10.77.0.62"
hypervisor = "emulated"
machine = "microvm"
kernel = "{image}/kernel"
initrd = "{image}/initrd"
cmdline = "console=ttyS0 quiet jitsu.name=tiny jitsu.ip=10.77.0.62/24"
memory = "96MiB"
nic = "{bridge}"
use_synjitsu = true
stop_mode = "suspend"
ttl = 1
idle_timeout = 600
"""
QEMU = "pgrep -f 'guest=tin[y]'"
"""The shell that runs this has the pattern on its command line, and not what the pattern finds."""

WIKI = """[Service]
ExecStartPre=/bin/ip address replace 10.77.0.61/32 dev lo
ExecStartPre=/bin/sh -c 'mkdir -p /run/wiki && echo served > /run/wiki/index.html'
ExecStart=/usr/bin/python3 -m http.server 80 --bind 10.77.0.61 --directory /run/wiki
"""
UNIT_VM = """
[hypervisor.units]
kind = "command"

[vm.wiki]
dns = "wiki.jitsu.test"
ip = "10.77.0.61"
hypervisor = "units"
command = "unit"
wait_for_port = 80
max_wait = 4
response_delay = 0
ttl = 1
idle_timeout = 600

"""


def lines(section: str, page: Path = OPERATE) -> list[str]:
    """Return the command lines of a section of a page."""
    text = page.read_text()
    part = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^    (\S.*)$", part, re.MULTILINE)
    assert found, section
    return found


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with made_lan(1) as lan:
        yield lan


@pytest.fixture(scope="module")
def machine(lan: Lan) -> Iterator[Machine]:
    """What the page says was done, with the Debian package in place of `make install`, and with two VMs."""
    with running_machine(lan, guest_image()) as machine:
        install, *then = lines("On a machine with systemd")
        assert install.startswith("make install")
        toml = machine.root / CONFIG[1:]
        for line in then:
            if "enable" in line:
                given = toml.read_text().replace('# bridges = ["br0"]', f'bridges = ["{BRIDGE}"]')
                toml.write_text(given + guest("www", 10, idle_timeout=5) + guest("kept", 11))
            machine(line)
        yield machine


def ask(lan: Lan, name: str, where: str = HOST, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(f"{name}.jitsu.test", "A")
    send = dns.query.tcp if tcp else dns.query.udp
    answer: dns.message.Message = lan.run(0, lambda: send(query, where, timeout=SOON_S))
    return answer


def address(lan: Lan, name: str, where: str = HOST, tcp: bool = False) -> str:
    answer = ask(lan, name, where, tcp)
    assert answer.rcode() == dns.rcode.NOERROR, answer
    return str(answer.answer[0][0])


def state(machine: Machine, name: str) -> str:
    return next(line.split()[1] for line in machine("jitsu status").splitlines() if line.startswith(f"{name} "))


def show(machine: Machine, unit: str, what: str) -> str:
    return machine(f"systemctl show --value --property={what} jitsu-{unit}.service").strip()


def all_run(machine: Machine) -> bool:
    return all(show(machine, unit, "ActiveState") == "active" for unit in SERVICES)


def test_a_name_summons_a_guest_that_is_stopped_when_idle(machine: Machine, lan: Lan) -> None:
    assert all_run(machine)
    assert "This is the VM <b>www</b>" in lan.run(0, lambda: page(address(lan, "www")))
    assert "1 replayed" in machine("jitsu status")
    assert machine("virsh -q list --name").split() == ["www"]
    wait_for(lambda: state(machine, "www") == "off", LIMIT_S, "it is stopped")
    assert machine("virsh -q list --name").split() == []


@pytest.mark.parametrize("where", [HOST, HOST6])
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_all_addresses_of_the_machine_are_asked(machine: Machine, lan: Lan, where: str, tcp: bool) -> None:
    if where == HOST6:
        allowed = machine.root / CONFIG[1:]
        allowed.write_text(allowed.read_text().replace('summon_for = ["127', 'summon_for = ["fd77::/64", "127'))
        machine("systemctl restart jitsu-dns@dns-0")
    assert address(lan, "kept", where, tcp) == "10.77.0.11"


def test_names_of_others_are_asked_of_the_servers_that_resolv_conf_names_now(machine: Machine, lan: Lan) -> None:
    """The unit sees nothing of /proc but processes, and the file changes while the server runs."""

    def server() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("10.77.0.100", 53))
        made.settimeout(0.2)
        return made

    def answer_until(over: threading.Event, served: socket.socket) -> None:
        while not over.is_set():
            try:
                data, client = served.recvfrom(4096)
            except TimeoutError:
                continue
            reply = dns.message.make_response(dns.message.from_wire(data))
            reply.answer.append(dns.rrset.from_text(reply.question[0].name, 60, "IN", "A", "198.51.100.7"))
            served.sendto(reply.to_wire(), client)

    def asked() -> list[str]:
        query = dns.message.make_query("www.example.org", "A")
        answer: dns.message.Message = lan.run(0, lambda: dns.query.udp(query, HOST, timeout=SOON_S))
        assert answer.rcode() != dns.rcode.REFUSED, "a client in a network of this host"
        return [str(record) for found in answer.answer for record in found]

    over = threading.Event()
    with lan.run(0, server) as served, ThreadPoolExecutor(1) as thread:
        answering = thread.submit(answer_until, over, served)
        try:
            (machine.root / "etc/resolv.conf").write_text("nameserver 10.77.0.100\n")
            wait_for(lambda: asked() == ["198.51.100.7"], SOON_S, "the new server is asked")
        finally:
            over.set()
        answering.result()


def test_g7_each_service_is_killed_and_comes_back(machine: Machine, lan: Lan) -> None:
    def connect() -> socket.socket:
        connection = socket.create_connection((address(lan, "kept"), ECHO), timeout=LIMIT_S)
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        return connection

    domain = None
    with lan.run(0, connect) as held:
        domain = machine("virsh domid kept")
        for unit in SERVICES:
            pid = show(machine, unit, "MainPID")
            for _ in range(3):
                machine(f"systemctl kill --signal=KILL jitsu-{unit}.service")
                wait_for(
                    lambda unit=unit, pid=pid: show(machine, unit, "MainPID") not in ("0", pid),  # type: ignore[misc]
                    SOON_S,
                    f"{unit} is started again",
                )
                assert address(lan, "kept") == "10.77.0.11", "who asks waits for the socket that systemd holds"
            held.sendall(b"y")
            assert held.recv(1) == b"y"
        wait_for(lambda: all_run(machine), SOON_S, "all are ready")
    wait_for(lambda: state(machine, "kept") == "ready", SOON_S, "vmd has found it")
    assert machine("virsh domid kept") == domain


def test_a_service_that_hangs_is_killed_by_the_watchdog(machine: Machine, lan: Lan) -> None:
    drop_in = machine.root / "etc/systemd/system/jitsu-dns@.service.d/watchdog.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Service]\nWatchdogSec=3\n")
    machine("systemctl daemon-reload && systemctl restart jitsu-dns@dns-0")
    pid = show(machine, "dns@dns-0", "MainPID")
    machine(f"kill -STOP {pid}")
    assert address(lan, "kept") == "10.77.0.11"
    assert show(machine, "dns@dns-0", "MainPID") != pid
    assert "Watchdog timeout" in machine("journalctl --no-pager -u jitsu-dns@dns-0")


def test_settings_are_reloaded(machine: Machine, lan: Lan) -> None:
    config = machine.root / CONFIG[1:]
    before = config.read_text()
    config.write_text(before.replace("[dns]\n", "[dns]\nlog_queries = true\nmax_tcp = 7\n"))
    machine("systemctl reload 'jitsu-*.service'")
    said = "journalctl --no-pager -u jitsu-dns@dns-0"
    wait_for(lambda: "a restart is needed for" in machine(said), SOON_S, "what waits is told")
    assert "dns.max_tcp" in machine(said)
    assert address(lan, "kept") == "10.77.0.11"
    wait_for(lambda: "kept.jitsu.test" in machine(said), SOON_S, "queries are logged")
    config.write_text(before)
    machine("systemctl reload 'jitsu-*.service'")


def test_a_further_replica_shares_the_port(machine: Machine, lan: Lan) -> None:
    text = OPERATE.read_text()
    (command,) = re.findall(r"`(systemctl enable --now jitsu-dns@dns-1[^`]+)`", text)
    machine(command)
    try:

        def replicas() -> set[str]:
            query = dns.message.make_query("hostname.bind", "TXT", "CH")
            asked = (lan.run(0, lambda: dns.query.udp(query, HOST, timeout=SOON_S)) for _ in range(40))
            return {str(answer.answer[0][0]).strip('"') for answer in asked}

        assert replicas() == {"dns-0", "dns-1"}
        [reaper] = [line for line in machine("jitsu status").splitlines() if line.startswith("reaper ")]
        assert reaper.count("dns-") == 2
    finally:
        machine(command.replace("enable", "disable"))


def test_the_port_of_one_address_beside_who_has_it_on_others(machine: Machine, lan: Lan) -> None:
    page = OPERATE.read_text()
    (drop_in,) = re.findall(r"```ini\n(.*?)```", page, re.DOTALL)
    path = machine.root / "etc/systemd/system/jitsu-dns@dns-0.socket.d/address.conf"
    start = "systemctl daemon-reload && systemctl start jitsu-dns@dns-0.socket jitsu-dns@dns-0.service"
    stop = "systemctl stop jitsu-dns@dns-0.socket jitsu-dns@dns-0.service"
    machine(stop)
    machine("systemd-run --unit=other --service-type=exec python3 -m http.server --bind 127.0.0.1 53")
    try:
        wait_for(lambda: ":53" in machine("ss -ltnH sport = :53"), SOON_S, "it has the port")
        assert "failed" in machine("systemctl start jitsu-dns@dns-0.socket", check=False)
        path.parent.mkdir()
        path.write_text(drop_in.replace("192.0.2.1", HOST))
        machine(start)
        assert address(lan, "kept") == "10.77.0.11"
    finally:
        machine(f"systemctl stop other && {stop}")
        path.unlink(missing_ok=True)
        machine(start)


def test_who_may_operate(machine: Machine) -> None:
    machine("useradd -m alice; useradd -m bob; usermod -aG jitsu alice")
    assert "hypervisor libvirt (qemu:///system)" in machine("jitsu status", user="alice")
    refused = machine("jitsu status", user="bob", check=False)
    assert "for root and members of the group jitsu" in refused
    refused = machine("jitsu --runtime-dir /run/jitsu set a b", user="bob", check=False)
    assert "for root and members of the group jitsu" in refused
    assert "Permission denied" in machine(f"cat {CONFIG}", user="bob", check=False)


def test_a_mistake_is_told_and_not_tried_again(machine: Machine) -> None:
    config = machine.root / CONFIG[1:]
    before = config.read_text()
    config.write_text(before.replace("[store]", "[store]\nrepo = 7"))
    try:
        machine("systemctl restart jitsu-store", check=False)
        assert show(machine, "store", "ExecMainStatus") == "2"
        assert show(machine, "store", "ActiveState") == "failed"
        assert "store.repo" in machine("systemctl status --no-pager jitsu-store", check=False)
        config.write_text(before)
        machine("systemctl restart --no-block jitsu-reaper")
        wait_for(lambda: show(machine, "reaper", "StatusText") == "waiting for the store", SOON_S, "others say why")
    finally:
        config.write_text(before)
        machine("systemctl restart jitsu-store")
    wait_for(lambda: all_run(machine), SOON_S, "the store is back")
    assert show(machine, "reaper", "StatusText") == ""


def test_a_backup_is_made_and_put_back(machine: Machine) -> None:
    save, restore = lines("One file", BACKUP)
    machine(save)
    machine("systemctl stop jitsu-store && mv /var/lib/jitsu/store.git /var/lib/jitsu/moved.git")
    machine(restore)
    machine("systemctl start jitsu-store")
    wait_for(lambda: "kept" in machine("jitsu status", check=False), SOON_S, "it is back")
    head = "runuser -u jitsu-store -- git -C /var/lib/jitsu/{}.git rev-parse HEAD~1"
    before, after = (machine(head.format(name)) for name in ("moved", "store"))
    assert before == after


def test_the_history_is_pushed_over_ssh(machine: Machine) -> None:
    told = lines("Another repository", BACKUP)
    directory, key, keyscan, push = (line.replace("backup.example.org", HOST) for line in told)
    machine("useradd -m git && install -d -o git /srv/jitsu.git && runuser -u git -- git init -q --bare /srv/jitsu.git")
    machine("systemctl start ssh")
    machine(directory)
    machine(key)
    assert "is not known" in machine(push, check=False)
    machine(keyscan)
    assert "no key of the ssh agent" in machine(push, check=False)
    machine("install -D -o git /var/lib/jitsu/.ssh/id_ed25519.pub ~git/.ssh/authorized_keys")
    machine(push)
    here, there = (machine(f"git -c safe.directory='*' -C {each} rev-parse master") for each in STORES)
    assert here == there


def test_keys_of_a_suite_on_tcp(machine: Machine, lan: Lan) -> None:
    config = machine.root / CONFIG[1:]
    before = config.read_text()
    make = next(line for line in lines("1. Make the keys", THREE_HOSTS) if line.startswith("jitsu keys init"))
    machine(make)
    sockets = ("store_rpc", "store_feed", "vmd_rpc", "vmd_feed", "synjitsu_rpc", "reaper_rpc")
    bus = "".join(f'{name} = "tcp://127.0.0.1:{port}"\n' for port, name in enumerate(sockets, 7001))
    config.write_text(f'[bus]\nkeys = "/etc/jitsu/keys"\n{bus}\n{before}')
    try:
        machine("systemctl restart jitsu.target")
        assert "hypervisor libvirt" in machine("jitsu status")
        assert address(lan, "kept") == "10.77.0.11"
        told = machine("cat /etc/jitsu/keys/reaper.key_secret", user="jitsu-dns", check=False)
        assert "Permission denied" in told, "one service does not read another's key"
        machine("jitsu keys rotate /etc/jitsu/keys store")
        time.sleep(2)
        assert "hypervisor libvirt" in machine("jitsu status"), "the new key is the service's to read"
    finally:
        config.write_text(before)
        machine("systemctl restart jitsu.target")


def test_a_unikernel_goes_on_while_vmd_and_its_launcher_are_started_again(machine: Machine, lan: Lan) -> None:
    for name in ("jitsu-guest", "solo5-spt", "solo5-elftool", "web.spt"):
        shutil.copy(unikernel_programs() / name, machine.root / "usr/local/bin" / name)
    config = machine.root / CONFIG[1:]
    before = config.read_text()
    config.write_text(f"{before}{UNIKERNEL}")
    try:
        machine("systemctl enable --now jitsu-solo5")
        machine("systemctl restart jitsu-vmd")
        wait_for(lambda: "hypervisor tenders: solo5" in machine("jitsu status"), SOON_S, "vmd has found its launcher")
        machine(f"jitsu apply --yes {CONFIG}")
        assert "uni" in lan.run(0, lambda: page(address(lan, "uni")))
        tender = machine(TENDERS)
        machine("systemctl restart jitsu-vmd")
        machine("systemctl kill --signal=KILL --kill-whom=main jitsu-solo5")
        wait_for(lambda: show(machine, "solo5", "ActiveState") == "active", SOON_S, "the launcher is back")
        wait_for(lambda: state(machine, "uni") == "ready", SOON_S, "vmd has found its guest")
        assert machine(TENDERS) == tender
        assert "uni" in lan.run(0, lambda: page(address(lan, "uni")))
        machine("jitsu stop uni")
        assert machine(TENDERS, check=False) == ""
        assert "uni" in lan.run(0, lambda: page(address(lan, "uni"))), "it is started by the launcher that is back"
    finally:
        config.write_text(before)
        machine(f"jitsu apply --yes {CONFIG}", check=False)
        machine("systemctl disable --now jitsu-solo5")
        machine("systemctl restart jitsu-vmd")
    wait_for(lambda: machine(TENDERS, check=False) == "", SOON_S, "a VM that is removed is stopped")


def test_a_unit_of_the_machine_is_a_vm_as_the_shipped_example_has_it(machine: Machine, lan: Lan) -> None:
    example = (machine.root / "usr/share/jitsu/examples/systemd.toml").read_text()
    section = example[example.index("[command.") : example.index("[vm.")]
    (machine.root / "etc/systemd/system/on-demand-wiki.service").write_text(WIKI)
    config = machine.root / CONFIG[1:]
    before = config.read_text()
    config.write_text(f"{before}{UNIT_VM}{section}")
    try:
        machine("systemctl daemon-reload; systemctl restart jitsu-vmd")
        wait_for(lambda: "hypervisor units: command" in machine("jitsu status"), SOON_S, "vmd has read the section")
        machine(f"jitsu apply --yes {CONFIG}")
        assert "served" in lan.run(0, lambda: page(address(lan, "wiki")))
        assert machine("systemctl is-active on-demand-wiki").strip() == "active"
        machine("systemctl restart jitsu-vmd")
        wait_for(lambda: state(machine, "wiki") == "ready", SOON_S, "vmd has found it running")
        machine("jitsu stop wiki")
        assert machine("systemctl is-active on-demand-wiki", check=False).strip() == "inactive"
    finally:
        config.write_text(before)
        machine(f"jitsu apply --yes {CONFIG}", check=False)
        machine("systemctl stop on-demand-wiki", check=False)
        machine("systemctl restart jitsu-vmd")


def test_a_qemu_process_has_a_scope_in_which_nothing_that_is_done_to_vmds_unit_concerns_it(
    machine: Machine, lan: Lan
) -> None:
    added = re.search(r"^ {8}\[Service\]\n(?: {8}\S.*\n)+", QEMU_PAGE.read_text(), re.MULTILINE)
    assert added is not None
    drop_in = machine.root / "etc/systemd/system/jitsu-vmd.service.d/qemu.conf"
    config = machine.root / CONFIG[1:]
    before = config.read_text()
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text(added[0])
    config.write_text(before + EMULATED.format(image=guest_image(), bridge=BRIDGE))
    try:
        machine("systemctl daemon-reload; systemctl restart jitsu-vmd")
        wait_for(lambda: "hypervisor emulated: qemu" in machine("jitsu status"), SOON_S, "vmd has found QEMU")
        machine(f"jitsu apply --yes {CONFIG}")
        assert "tiny" in lan.run(0, lambda: page(address(lan, "tiny")))
        process = machine(QEMU)
        assert "/jitsu.slice/jitsu-guests.slice/jitsu-qemu-emulated-" in machine(f"cat /proc/{process.strip()}/cgroup")
        machine("systemctl kill --signal=KILL --kill-whom=all jitsu-vmd")
        wait_for(lambda: show(machine, "vmd", "ActiveState") == "active", SOON_S, "vmd is back")
        wait_for(lambda: state(machine, "tiny") == "ready", SOON_S, "vmd has found its guest")
        assert machine(QEMU) == process
        machine("jitsu stop tiny")
        assert machine(QEMU, check=False) == ""
        assert "tiny" in lan.run(0, lambda: page(address(lan, "tiny"))), "it is restored"
    finally:
        print(machine("journalctl --no-pager -n 40 -u jitsu-vmd; jitsu status", check=False))
        config.write_text(before)
        machine(f"jitsu apply --yes {CONFIG}", check=False)
        wait_for(lambda: machine(QEMU, check=False) == "", SOON_S, "a VM that is removed is stopped")
        drop_in.unlink()
        machine("systemctl daemon-reload; systemctl restart jitsu-vmd")


def test_after_a_reboot_all_is_as_before(machine: Machine, lan: Lan) -> None:
    starts = machine("jitsu status --json")
    machine.off()
    machine.on()
    assert all_run(machine)
    assert "kept" in starts
    assert state(machine, "kept") == "off"
    assert "This is the VM <b>kept</b>" in lan.run(0, lambda: page(address(lan, "kept")))


def test_the_sandbox_is_in_nobodys_way(machine: Machine) -> None:
    journal = machine("journalctl --no-pager -u 'jitsu*'").splitlines()
    said = "\n".join(line for line in journal if "launcher of tenders" not in line)  # a test has killed it
    assert "Started jitsu-vmd.service" in said
    for word in ("Traceback", "Operation not permitted", "Permission denied", "Read-only", '"level": "error"'):
        assert word not in said, said


def test_it_is_stopped_as_a_whole(machine: Machine, lan: Lan) -> None:
    machine("systemctl stop jitsu.target jitsu-dns@dns-0.socket")
    assert all(show(machine, unit, "ActiveState") == "inactive" for unit in SERVICES)
    assert machine("pgrep -f 'jitsu[_]'", check=False) == ""
    with pytest.raises(OSError, match="refused"):
        lan.run(0, lambda: socket.create_connection((HOST, 53), timeout=SOON_S))
    assert machine("virsh -q list --name").split() == ["kept"], "VMs go on"
    told = "no jitsu-store runs in /run/jitsu (`systemctl status jitsu-store` says why)"
    assert told in machine("jitsu status", check=False)
    machine("systemctl start jitsu.target")
    assert address(lan, "kept") == "10.77.0.11"


ASKING_PAUSE_S = 0.02
"""Far below dns.response_rate, above which answers are left out on purpose."""


class Asking:
    """A client that asks for a name all the time, and may wait for each answer as long as resolvers do."""

    def __init__(self, lan: Lan, name: str) -> None:
        self.answered = 0
        self.slowest_s = 0.0
        self._lan, self._name = lan, name
        self._over = threading.Event()

    def ask_until_over(self) -> None:
        while not self._over.is_set():
            begun = time.monotonic()
            assert address(self._lan, self._name) == "10.77.0.11"
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
            self.answered += 1
            self._over.wait(ASKING_PAUSE_S)

    def __enter__(self) -> Asking:
        self._pool = ThreadPoolExecutor(1)
        self._asking = self._pool.submit(self.ask_until_over)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        self._asking.result()


def version_of(machine: Machine) -> str:
    return machine("dpkg-query --show --showformat '${Version} ${db:Status-Status}' jitsu").strip()


def test_the_package_is_upgraded_and_goes_back_while_a_vm_runs_and_no_answer_is_lost(
    machine: Machine, lan: Lan
) -> None:
    """A query that comes while a replica is restarted waits in the socket that systemd holds; none is sent twice."""
    config = machine.root / CONFIG[1:]
    kept = config.read_text()
    before = version_of(machine).split()[0]
    following = repacked(machine, f"{before}+next")
    assert address(lan, "kept") == "10.77.0.11"
    domain = machine("virsh domid kept")
    machine("rm -r /etc/systemd/system/jitsu.target.wants")  # an earlier package had none: its target wanted them all
    with lan.run(0, lambda: socket.create_connection((address(lan, "kept"), ECHO), timeout=LIMIT_S)) as held:
        for package, version in ((following, f"{before}+next"), (PACKAGE, before)):
            pids = {unit: show(machine, unit, "MainPID") for unit in SERVICES}
            with Asking(lan, "kept") as asking:
                machine(f"dpkg --install {package}", limit_s=INSTALL_LIMIT_S)
            print(f"{version}: {asking.answered} answers, none lost, the slowest after {asking.slowest_s:.2f} s")
            assert asking.answered > 0
            assert version_of(machine) == f"{version} installed"
            assert all_run(machine)
            wanted = machine("systemctl show --value --property Wants jitsu.target").split()
            assert {f"jitsu-{unit}.service" for unit in SERVICES} <= set(wanted), "they start at the next boot too"
            assert [unit for unit in SERVICES if show(machine, unit, "MainPID") == pids[unit]] == []
            held.sendall(b"y")
            assert held.recv(1) == b"y"
    assert machine("virsh domid kept") == domain
    assert config.read_text() == kept, "what was changed in the configuration is left as it is"


def test_the_package_is_removed_and_purged_and_leaves_nothing(machine: Machine, lan: Lan) -> None:
    assert address(lan, "kept") == "10.77.0.11"
    machine("dpkg --remove jitsu", limit_s=INSTALL_LIMIT_S)
    assert machine("virsh -q list --name").split() == ["kept"], "VMs go on"
    assert machine("pgrep -f 'jitsu[_]'", check=False) == ""
    with pytest.raises(OSError, match="refused"):
        lan.run(0, lambda: socket.create_connection((HOST, 53), timeout=SOON_S))
    assert (machine.root / CONFIG[1:]).exists()
    assert (machine.root / "var/lib/jitsu/store.git/HEAD").exists()
    machine(f"dpkg --install {PACKAGE}", limit_s=INSTALL_LIMIT_S)
    machine("systemctl enable --now jitsu-dns@dns-0.socket jitsu.target")
    assert address(lan, "kept") == "10.77.0.11", "with the configuration and the state that were there"
    machine("dpkg --purge jitsu", limit_s=INSTALL_LIMIT_S)
    elsewhere = " ".join(
        f"-not -path '/{each}/*'" for each in ("proc", "sys", "root", "srv", "tmp", "usr/local", "var/log")
    )
    left = machine(f"find / -xdev -name '*jitsu*' -not -path '/jitsu.bundle' {elsewhere}").splitlines()
    assert [line for line in left if not line.startswith("/etc/systemd/system/jitsu-")] == [], (
        "drop-ins are the operator's"
    )
    assert "jitsu" not in machine("cat /etc/passwd /etc/group /etc/shadow")
    assert "jitsu" not in machine("systemctl --failed --no-legend")
