"""What `make install` puts in place, and how services run under a service manager."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.debian import program
from tests.support.dns import ask
from tests.support.pages import OPERATE
from tests.support.suite import RunningSuite, beside, vm_toml, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.suite
ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("jitsu*.service"))
MOST = {"dns@": 2.0, "store": 2.0, "reaper": 2.0, "web": 2.0, "vmd": 4.0, "synjitsu": 4.0, "solo5": 4.0}
"""Of 10, what systemd-analyze finds exposed."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install into a directory that looks like a root to systemd-analyze."""
    root = tmp_path_factory.mktemp("root")
    subprocess.run(["make", "install", f"DESTDIR={root}"], cwd=ROOT, check=True, capture_output=True, timeout=300)
    for directory in ("bin", "sbin"):
        (root / directory).symlink_to(f"usr/{directory}")
    for name in ("sh", "kill"):
        if found := shutil.which(name):
            shutil.copy(found, root / "usr/bin" / name)
    units = Path("/usr/lib/systemd/system")
    if units.exists():  # else there is no systemd-analyze to look at them
        shutil.copytree(units, root / "usr/lib/systemd/system", symlinks=True, dirs_exist_ok=True)
    yield root
    shutil.rmtree(root)


@pytest.mark.timeout(400)
def test_every_unit_is_right(installed: Path) -> None:
    program("systemd-analyze", "systemd", at="/usr/bin")
    names = [unit.name.replace("@.", "@dns-0.") for unit in UNITS]
    checked = [*names, "jitsu.target", "jitsu-dns@dns-0.socket"]
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={installed}", "--man=no", "--recursive-errors=no", *checked],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "jitsu" in line]
    assert (done.returncode, said) == (0, [])


def test_what_the_page_says_after_the_installation_can_be_done(installed: Path) -> None:
    """In the installed tree instead of this machine: what starts services, and needs their manager, is left out."""
    program("systemctl", "systemd", at="/usr/bin")
    page = OPERATE.read_text()
    lines = re.findall(r"^    (systemd-sysusers .*|systemctl .*)$|`(systemctl enable [^`]+)`", page, re.MULTILINE)
    commands = [part.strip() for found in lines for line in found if line for part in line.split("&&")]
    assert len(commands) == 6
    for command in commands:
        if command != "systemctl daemon-reload":
            name, _, rest = command.replace(" --now", "").partition(" ")
            done = subprocess.run(
                [name, f"--root={installed}", *rest.split()], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}: {done.stderr}"
    users = set(re.findall(r"^(jitsu-\w+):", (installed / "etc/passwd").read_text(), re.MULTILINE))
    assert users == {"jitsu-store", "jitsu-dns", "jitsu-synjitsu", "jitsu-reaper", "jitsu-web"}
    wanted = {link.name for link in (installed / "etc/systemd/system").glob("*.wants/*")}
    assert wanted >= {"jitsu-dns@dns-0.socket", "jitsu-dns@dns-1.socket", "jitsu-dns@dns-1.service", "jitsu.target"}
    assert "jitsu-solo5.service" in wanted


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return a root that has our units only, none of them enabled."""
    program("systemctl", "systemd", at="/usr/bin")
    directory = tmp_path / "usr/lib/systemd/system"
    directory.mkdir(parents=True)
    for unit in UNITS[0].parent.glob("jitsu*"):
        shutil.copy(unit, directory)
    return tmp_path


def started_by_the_target(root: Path) -> set[str]:
    target = (root / "usr/lib/systemd/system/jitsu.target").read_text()
    named = re.findall(r"^(?:Wants|Requires|Upholds)=(.*)$", target, re.MULTILINE)
    enabled = (link.name for link in (root / "etc/systemd/system").glob("jitsu.target.wants/*"))
    return {*enabled, *(unit for line in named for unit in line.split())}


def systemctl(root: Path, *words: str) -> None:
    subprocess.run(["systemctl", f"--root={root}", *words], check=True, capture_output=True)


SUITE = {f"jitsu-{name}.service" for name in ("store", "vmd", "synjitsu", "reaper", "dns@dns-0")}


def test_a_machine_that_enables_the_target_runs_the_whole_suite(bare: Path) -> None:
    systemctl(bare, "enable", "jitsu.target")
    assert started_by_the_target(bare) == SUITE
    systemctl(bare, "disable", "jitsu-reaper.service")
    assert started_by_the_target(bare) == SUITE - {"jitsu-reaper.service"}


def test_a_machine_that_runs_some_services_starts_only_those_at_boot_and_with_the_target(bare: Path) -> None:
    systemctl(bare, "enable", "jitsu-vmd", "jitsu-synjitsu")
    some = {"jitsu-vmd.service", "jitsu-synjitsu.service"}
    assert started_by_the_target(bare) == some
    assert {link.name for link in (bare / "etc/systemd/system").glob("multi-user.target.wants/*")} == some


def upgrade(root: Path) -> None:
    """Run the package's postinst as dpkg does after an upgrade, on a root that no systemd runs."""
    programs = root / "programs"
    programs.mkdir()
    for name, command in (("systemctl", f'exec /usr/bin/systemctl --root={root} "$@"'), ("systemd-sysusers", "")):
        programs.joinpath(name).write_text(f"#!/bin/sh\n{command}\n")
        programs.joinpath(name).chmod(0o755)
    programs.joinpath("systemd-tmpfiles").symlink_to("systemd-sysusers")
    script = (ROOT / "deploy/deb/postinst").read_text()
    for directory in ("/etc/", "/run/"):
        script = script.replace(directory, f"{root}{directory}")
    path = f"{programs}:/usr/bin:/bin"
    subprocess.run(["sh", "-c", script, "postinst", "configure", "0.0.9"], check=True, env={"PATH": path})


def test_an_upgrade_enables_what_an_earlier_target_started_without_that(bare: Path) -> None:
    wants = bare / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "jitsu.target").symlink_to(bare / "usr/lib/systemd/system/jitsu.target")
    upgrade(bare)
    assert started_by_the_target(bare) == SUITE


def test_an_upgrade_enables_nothing_where_services_were_chosen(bare: Path) -> None:
    systemctl(bare, "enable", "jitsu.target")
    systemctl(bare, "disable", "jitsu-reaper.service", "jitsu-store.service")
    before = started_by_the_target(bare)
    upgrade(bare)
    assert started_by_the_target(bare) == before


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_each_unit_may_do_little(unit: Path) -> None:
    program("systemd-analyze", "systemd", at="/usr/bin")
    shown = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    level = re.search(r"exposure level for \S+: ([\d.]+)", shown)
    assert level is not None, shown
    print(f"{unit.name}: {level[1]}")
    assert float(level[1]) <= MOST[unit.stem.removeprefix("jitsu-")]


def test_installed_commands_run_and_have_manual_pages(installed: Path) -> None:
    for name in ("jitsu", *(f"jitsu-{unit.stem.removeprefix('jitsu-').rstrip('@')}" for unit in UNITS)):
        wrapper = (installed / "usr/bin" / name).read_text()
        argv = wrapper.splitlines()[-1].replace("/usr/lib/jitsu", str(installed / "usr/lib/jitsu"))
        argv = argv.replace('"$@"', "--help")
        done = subprocess.run(["sh", "-c", argv], capture_output=True, text=True, check=False, cwd=installed)
        assert done.returncode == 0, done.stderr
        assert ("--config" if name != "jitsu-solo5" else "--directory") in done.stdout
        page = installed / "usr/share/man" / ("man1/jitsu.1" if name == "jitsu" else f"man8/{name}.8")
        assert ".SH SYNOPSIS" in page.read_text()
    for name in ("jitsu-wake", "jitsu-answers"):  # for [command.NAME]
        wrapper = (installed / "usr/bin" / name).read_text().replace("/usr/lib/jitsu", str(installed / "usr/lib/jitsu"))
        argv = wrapper.splitlines()[-1].replace('"$@"', "--help")
        done = subprocess.run(["sh", "-c", argv], capture_output=True, text=True, check=False, cwd=installed)
        assert done.stdout.startswith(f"usage: {name} "), done.stderr
        assert ".SH SYNOPSIS" in (installed / "usr/share/man/man1" / f"{name}.1").read_text()
    assert os.access(installed / "usr/share/jitsu/examples/redfish", os.X_OK)
    assert "jitsu" in (installed / "usr/share/bash-completion/completions/jitsu").read_text()
    settings = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from jitsu_runtime.settings.load import load; from pathlib import Path; "
            "load(Path(sys.argv[1]), {}, {})",
            installed / "etc/jitsu/jitsu.toml",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert settings.returncode == 0, settings.stderr


HAND_OVER = 'exec 3<&{} 4<&{}; LISTEN_PID=$$ LISTEN_FDS=2 exec "$@"'
"""What a unit's process inherits are its descriptors 3 and 4; LISTEN_PID says for whom they are (sd_listen_fds(3))."""


async def test_dns_takes_the_port_that_the_service_manager_has_bound(tmp_path: Path) -> None:
    with (
        RunningSuite(tmp_path, toml=vm_toml("www", "127.8.11.1", boot_time=0)) as suite,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
    ):
        udp.bind(("127.0.0.1", 0))
        port = udp.getsockname()[1]
        tcp.bind(("127.0.0.1", port))
        tcp.listen()
        inside = ["bash", "-c", HAND_OVER.format(udp.fileno(), tcp.fileno()), "unit"]
        own = {"JITSU_DNS_REPLICA": "unit", "JITSU_DNS_PORT": "53", "JITSU_DNS_FORWARD": "off"}
        with beside(suite, "dns", inside, (udp.fileno(), tcp.fileno()), **own):
            assert (await ask("www.jitsu.test", port)).addresses == ["127.8.11.1"]


async def test_a_query_that_a_replica_has_read_is_answered_when_it_is_stopped(tmp_path: Path) -> None:
    """And one that comes later is left in the socket, for the replica that is started next."""
    vms = vm_toml("www", "127.8.12.1", boot_time=2, max_wait=4) + vm_toml("api", "127.8.12.2", boot_time=0)
    with (
        RunningSuite(tmp_path, toml=vms) as suite,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
    ):
        udp.bind(("127.0.0.1", 0))
        port = udp.getsockname()[1]
        tcp.bind(("127.0.0.1", port))
        tcp.listen()
        inside = ["bash", "-c", HAND_OVER.format(udp.fileno(), tcp.fileno()), "unit"]
        own = {"JITSU_DNS_REPLICA": "unit", "JITSU_DNS_PORT": "53", "JITSU_DNS_FORWARD": "off"}
        with beside(suite, "dns", inside, (udp.fileno(), tcp.fileno()), **own) as replica:
            read = asyncio.create_task(ask("www.jitsu.test", port))
            while suite.state("www") == "off":
                await asyncio.sleep(0.01)
            replica.terminate()
            await asyncio.sleep(0.1)
            later = asyncio.create_task(ask("api.jitsu.test", port, timeout=20))
            assert (await read).addresses == ["127.8.12.1"]
            assert await asyncio.to_thread(replica.wait, 10) == 0
            assert not later.done()
            with beside(suite, "dns", inside, (udp.fileno(), tcp.fileno()), **own):
                assert (await later).addresses == ["127.8.12.2"]


@pytest.mark.parametrize(
    ("kinds", "own", "said"),
    [
        ((socket.SOCK_DGRAM, socket.SOCK_DGRAM), {}, "one socket for UDP and one for TCP"),
        ((socket.SOCK_DGRAM, socket.SOCK_STREAM), {"JITSU_DNS_WORKERS": "2"}, "set workers = 1"),
    ],
)
def test_sockets_that_nobody_would_read_are_refused(
    tmp_path: Path, kinds: tuple[socket.SocketKind, socket.SocketKind], own: dict[str, str], said: str
) -> None:
    with socket.socket(socket.AF_INET, kinds[0]) as first, socket.socket(socket.AF_INET, kinds[1]) as second:
        inside = ["bash", "-c", HAND_OVER.format(first.fileno(), second.fileno()), "unit"]
        done = subprocess.run(
            [*inside, sys.executable, "-m", "jitsu_dns.main"],
            env={**os.environ, **own, "JITSU_BUS_RUNTIME_DIR": str(tmp_path)},
            pass_fds=(first.fileno(), second.fileno()),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert done.returncode == 2
    assert said in done.stderr


def test_a_watchdog_is_fed_and_sighup_reads_the_configuration_again(tmp_path: Path) -> None:
    toml = tmp_path / "reaper.toml"
    toml.write_text('[log]\nlevel = "info"\n')
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
        (tmp_path / "said").open("wb") as said,
    ):
        address = str(tmp_path / "notify")
        notified.bind(address)
        notified.settimeout(20)
        runtime = {"JITSU_BUS_RUNTIME_DIR": str(tmp_path / "own")}
        process = subprocess.Popen(
            [sys.executable, "-m", "jitsu_store.main", "--config", str(toml)],
            env={**os.environ, **runtime, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"},
            stderr=said,
        )
        try:
            told = {notified.recv(100) for _ in range(3)}
            assert told == {b"READY=1\nSTATUS=", b"WATCHDOG=1"}
            toml.write_text('[log]\nlevel = "warning"\n[store]\nmetrics = "127.0.0.1:1"\n')
            process.send_signal(signal.SIGHUP)
            log = tmp_path / "said"
            wait_for(lambda: "a restart is needed for" in log.read_text(), 10, "what waits is told")
            assert "store.metrics" in log.read_text()
            toml.write_text("[stroe]\n")
            process.send_signal(signal.SIGHUP)
            wait_for(lambda: "cannot use the new configuration" in log.read_text(), 10, "a mistake is told")
            assert process.poll() is None
        finally:
            process.terminate()
            process.wait(20)
