"""Real virtual machines on a bridge: summoned by a query, masked, stopped when idle in each way, resumed."""

from __future__ import annotations

import functools
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.lan import BRIDGE, Lan, lan_suite, made_lan, taken_macs
from tests.support.libvirtd import URI, Libvirtd, guest_image, running_libvirtd, virsh
from tests.support.suite import wait_for
from tests.system.test_first_packets import ECHO, datagram, summon
from tests.system.test_taps import one_of_each, shut_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.suite import RunningSuite

pytestmark = [
    pytest.mark.libvirt,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: libvirtd, bridges"),
]
LIMIT_S = 40.0
HANGS_S = 60.0


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with made_lan(1) as lan:
        yield lan


@pytest.fixture(scope="module")
def libvirtd(lan: Lan) -> Iterator[Libvirtd]:
    with running_libvirtd(["ip", "netns", "exec", lan.host]) as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def _no_domains(libvirtd: Libvirtd) -> None:
    libvirtd.destroy_all()


def guest(name: str, number: int, **keys: object) -> str:
    """Return [vm.NAME] of a guest that is made from guests/build.py's kernel."""
    image = guest_image()
    command = f"console=ttyS0 quiet jitsu.name={name} jitsu.ip=10.77.0.{number}/24 jitsu.ip=fd77::{number}/64"
    shown = {
        "dns": f"{name}.jitsu.test",
        "kernel": f"{image}/kernel",
        "initrd": f"{image}/initrd",
        "cmdline": command,
        "memory": 98304,
        "nic": BRIDGE,
        "ttl": 1,
        "idle_timeout": 3600,
        "use_synjitsu": "true",
    } | keys
    lines = [f"[vm.{name}]", f'ip = ["10.77.0.{number}", "fd77::{number}"]']
    return "\n".join([*lines, *(f'{key} = "{value}"' for key, value in shown.items()), ""])


def settings(more: str = "") -> str:
    return f'[hypervisor]\nkind = "libvirt"\nconnect = "{URI}"\naccelerate = "tcg"\n{more}\n'


def page(address: str, limit_s: float = LIMIT_S) -> str:
    """Fetch a page from a busybox httpd."""
    with socket.create_connection((address, 80), timeout=limit_s) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(4096), b"")).decode()


def rcode(name: str, port: int) -> str:
    query = dns.message.make_query(name, "A", use_edns=0)
    return dns.rcode.to_text(dns.query.udp(query, "10.77.0.1", port=port, timeout=5).rcode())


def stopped(suite: RunningSuite, name: str, state: str) -> None:
    wait_for(lambda: suite.state(name) == state, LIMIT_S, f"{name} is {state}")


@pytest.mark.parametrize("rdtype", ["A", "AAAA"])
def test_an_unmodified_guest_is_connected_when_it_listens(
    tmp_path: Path, lan: Lan, libvirtd: Libvirtd, rdtype: str
) -> None:
    with lan_suite(tmp_path, settings() + guest("www", 10), lan=lan) as (_, suite):
        assert "This is the VM <b>www</b>" in lan.run(0, lambda: page(summon("www", suite.port, rdtype)))
        assert suite.state("www") == "ready"
        assert "1 replayed" in suite.jitsu("status")
        assert lan.run(0, lambda: datagram("10.77.0.10", b"hello")) == b"hello"
        suite.jitsu("stop", "www")
        assert virsh("domstate", "www").strip() == "shut off"


@pytest.mark.parametrize(
    ("mode", "state", "shown"),
    [
        ("destroy", "off", "shut off"),
        ("shutdown", "off", "shut off"),
        ("suspend", "suspended", "shut off"),
        ("pause", "paused", "paused"),
    ],
)
def test_an_idle_vm_is_stopped_as_it_says_and_comes_back(
    tmp_path: Path, lan: Lan, libvirtd: Libvirtd, mode: str, state: str, shown: str
) -> None:
    toml = settings() + guest("www", 10, stop_mode=mode, idle_timeout=2)
    with lan_suite(tmp_path, toml, lan=lan) as (_, suite):
        for starts in (1, 2):
            assert "This is the VM" in lan.run(0, lambda: page(summon("www", suite.port)))
            stopped(suite, "www", state)
            assert virsh("domstate", "www").strip() == shown
            assert suite.status()["www"]["starts"] == starts
        assert taken_macs(suite) == [], "that of one that is paused is its own"
        suite.jitsu("stop", "www", check=False)


def test_g4_a_guest_that_is_paused_gets_what_is_sent_to_it_once(tmp_path: Path, lan: Lan, libvirtd: Libvirtd) -> None:
    with lan_suite(tmp_path, settings() + guest("www", 10, stop_mode="pause"), lan=lan) as (_, suite):
        assert "This is the VM" in lan.run(0, lambda: page(summon("www", suite.port)))
        for _ in range(2):
            suite.jitsu("stop", "www")
            stopped(suite, "www", "paused")
            wait_for(lambda: shut_ports(lan) != [], LIMIT_S, "its port is shut: the bridge knows its MAC address")
            assert lan.run(0, lambda: one_of_each(suite, "www", port=80)) == (0, 1, 1)
            assert shut_ports(lan) == []


def test_g3_a_connection_keeps_it_up_and_traffic_wakes_it(tmp_path: Path, lan: Lan, libvirtd: Libvirtd) -> None:
    toml = settings() + guest("www", 10, idle_timeout=2, wake_on_traffic="true", stop_mode="suspend")
    with lan_suite(tmp_path, toml, lan=lan) as (_, suite):

        def connect() -> socket.socket:
            connection = socket.create_connection(("10.77.0.10", ECHO), timeout=LIMIT_S)
            connection.sendall(b"x")
            assert connection.recv(10) == b"x"
            return connection

        with lan.run(0, connect):
            time.sleep(5)
            assert suite.state("www") in ("ready", "draining")
        stopped(suite, "www", "suspended")
        lan.run(0, connect).close()
        assert suite.status()["www"]["starts"] == 2


def test_what_others_do_with_a_domain_is_known_at_once(tmp_path: Path, lan: Lan, libvirtd: Libvirtd) -> None:
    with lan_suite(tmp_path, settings() + guest("www", 10, idle_timeout=3), lan=lan) as (_, suite):
        assert "This is the VM" in lan.run(0, lambda: page(summon("www", suite.port)))
        virsh("destroy", "www")
        wait_for(lambda: suite.state("www") == "off", 1.0, "its end is known")
        assert "This is the VM" in lan.run(0, lambda: page(summon("www", suite.port))), "and it boots again"
        stopped(suite, "www", "off")
        virsh("start", "www")
        wait_for(lambda: suite.state("www") in ("booting", "ready"), 1.0, "its start is known")
        stopped(suite, "www", "off")  # it is idle


def test_g7_vmd_dies_and_finds_what_runs(tmp_path: Path, lan: Lan, libvirtd: Libvirtd) -> None:
    with lan_suite(tmp_path, settings() + guest("www", 10), lan=lan) as (_, suite):
        assert "This is the VM" in lan.run(0, lambda: page(summon("www", suite.port)))
        domain = virsh("domid", "www")
        suite.kill("vmd")
        wait_for(lambda: suite.state("www") == "ready", 5.0, "it is found running")
        assert "This is the VM" in lan.run(0, lambda: page(summon("www", suite.port)))
        assert virsh("domid", "www") == domain
        suite.jitsu("stop", "www")


def test_g7_libvirtd_is_away_during_a_summon_and_others_do_not_notice(
    tmp_path: Path, lan: Lan, libvirtd: Libvirtd
) -> None:
    other = '[vm.other]\ndns = "other.jitsu.test"\nip = "10.77.0.11"\nhypervisor = "mocked"\nport = 80\nttl = 1\n'
    more = f'bridge = "{BRIDGE}"\n[hypervisor.mocked]\nkind = "bridge"'
    toml = settings(more) + guest("www", 10) + other
    with lan_suite(tmp_path, toml, lan=lan) as (_, suite):
        libvirtd.stop()
        begun = time.monotonic()
        refused = suite.jitsu("start", "www", check=False)
        assert time.monotonic() - begun < 20
        assert "is ready" not in refused
        wait_for(lambda: "does not answer" in suite.jitsu("status", check=False), LIMIT_S, "status says so")
        assert "other" in lan.run(0, lambda: page(summon("other", suite.port)))
        libvirtd.start()
        wait_for(lambda: "does not answer" not in suite.jitsu("status"), LIMIT_S, "it is connected again")
        suite.jitsu("start", "www")
        assert "This is the VM" in lan.run(0, lambda: page("10.77.0.10"))
        assert virsh("list", "--name").split() == ["www"]
        suite.jitsu("stop", "www")


def test_a_vm_that_cannot_boot_says_why(tmp_path: Path, lan: Lan, libvirtd: Libvirtd) -> None:
    toml = settings() + guest("www", 10, kernel="/nowhere/kernel") + guest("big", 11, nic="nosuchbridge")
    with lan_suite(tmp_path, toml, lan=lan) as (_, suite):
        assert "kernel: there is no file /nowhere/kernel" in suite.jitsu("start", "www", check=False)
        assert "kernel: there is no file /nowhere/kernel" in suite.jitsu("status")
        assert "nosuchbridge" in suite.jitsu("start", "big", check=False)


def test_g1_g2_calls_that_hang_for_a_minute_are_bounded_and_start_nothing_twice(
    tmp_path: Path, lan: Lan, libvirtd: Libvirtd
) -> None:
    other = '[vm.other]\ndns = "other.jitsu.test"\nip = "10.77.0.11"\nhypervisor = "mocked"\nport = 80\nttl = 1\n'
    more = f'bridge = "{BRIDGE}"\n[hypervisor.mocked]\nkind = "bridge"'
    names = ["www", "ftp", "irc"]
    keys = {"use_synjitsu": "false", "on_timeout": "servfail", "max_wait": 1}
    guests = "".join(guest(name, number, **keys) for number, name in enumerate(names, 20))
    silent = f"({URI}) does not answer"
    with lan_suite(tmp_path, settings(more) + guests + other, lan=lan) as (_, suite):
        wait_for(lambda: set(names) <= set(virsh("list", "--all", "--name").split()), LIMIT_S, "they are defined")
        vmd = suite.pid("vmd")
        os.kill(libvirtd.pid(), signal.SIGSTOP)
        goes_on = time.monotonic() + HANGS_S
        try:
            while time.monotonic() < goes_on:
                for name in names:
                    asked = functools.partial(rcode, f"{name}.jitsu.test", suite.port)
                    begun = time.monotonic()
                    assert lan.run(0, asked) == "SERVFAIL"
                    assert time.monotonic() - begun < 1 + 0.1 + 0.4  # max_wait; what asking costs here
                assert "other" in lan.run(0, lambda: page(summon("other", suite.port)))
                time.sleep(2)
            assert silent in suite.jitsu("status")
        finally:
            os.kill(libvirtd.pid(), signal.SIGCONT)
        wait_for(lambda: silent not in suite.jitsu("status"), LIMIT_S, "it is connected again")
        for name in names:
            ready = f"{name} is ready"
            wait_for(lambda: suite.jitsu("start", name, check=False).startswith(ready), LIMIT_S, ready)  # noqa: B023
            starts = suite.status()[name]["starts"]
            assert starts <= 1, "the hypervisor was told to start it once, or it was found running"
            suite.jitsu("stop", name)
        assert suite.pid("vmd") == vmd, "vmd has lived through it"


def test_g2_a_start_that_succeeds_for_a_vm_that_never_comes_up_ends_with_a_reason(
    tmp_path: Path, lan: Lan, libvirtd: Libvirtd
) -> None:
    keys = {"wait_for_port": 80, "use_synjitsu": "false", "on_timeout": "servfail", "boot_limit": 6}
    mute = guest("www", 10, cmdline="console=ttyS0 quiet", **keys)
    with lan_suite(tmp_path, settings() + mute, lan=lan) as (_, suite):
        assert "not ready 6 s after its start" in suite.jitsu("start", "www", check=False)
        wait_for(lambda: virsh("domstate", "www").strip() == "shut off", LIMIT_S, "what is left of it is stopped")
        assert "not ready 6 s after its start" in suite.status()["www"]["last_error"]
        assert lan.run(0, lambda: rcode("www.jitsu.test", suite.port)) == "SERVFAIL"


def test_g2_a_vm_that_dies_while_booting_is_told_of_at_once(tmp_path: Path, lan: Lan, libvirtd: Libvirtd) -> None:
    dies = guest("www", 10, wait_for_port=80, use_synjitsu="false")
    with lan_suite(tmp_path, settings() + dies, lan=lan) as (_, suite):
        started = lan.start(0, lambda: suite.jitsu("start", "www", check=False))
        stopped(suite, "www", "booting")
        virsh("destroy", "www")
        assert "the VM is off while it should boot" in started.result(5)
