"""A cluster of three members of LXD, of which one is lost while twenty names are asked for.

The suite runs beside the cluster and reaches it by https, as a user does who has outgrown one machine.
docs/how-to/lxd.md has the table that the first test prints.
"""

from __future__ import annotations

import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.lan import inside
from tests.support.lxd import running_cluster
from tests.support.suite import RunningSuite, vm_toml, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lxd import LxdCluster

pytestmark = [pytest.mark.wires, pytest.mark.lxd, pytest.mark.timeout(300)]

NAMES = [f"v{n}" for n in range(20)]
HOME = {name: f"h{n % 3 + 1}" for n, name in enumerate(NAMES)}
OFFLINE_S = 40.0


def address_of(name: str) -> str:
    return f"10.99.0.{100 + int(name[1:])}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LxdCluster]:
    with running_cluster() as made:
        first = made.members["h1"]
        for name in NAMES:
            first.make(name, "--target", HOME[name], "-c", f"environment.ADDRESS={address_of(name)}")
        yield made


@pytest.fixture(scope="module")
def suite(cluster: LxdCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    directory = tmp_path_factory.mktemp("suite")
    asked = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-nodes", "-subj", "/CN=jitsu")
    files = ("-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem"))
    subprocess.run(["openssl", *asked, *files], check=True, capture_output=True)
    (directory / "key.pem").chmod(0o600)
    first = cluster.members["h1"]
    first.lxc("config", "trust", "add", str(directory / "cert.pem"))
    shown = subprocess.check_output(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(first.home / "cluster.crt")], text=True
    )
    toml = f"""
[dns]
summon_rate = 0
[hypervisor]
kind = "lxd"
connect = "https://10.99.0.1"
certificate_file = "{directory}/cert.pem"
key_file = "{directory}/key.pem"
fingerprint = "{shown.strip().partition("=")[2]}"
[defaults]
ttl = 1
idle_timeout = 3600
on_timeout = "servfail"
max_wait = 4
"""
    toml += "".join(vm_toml(name, address_of(name), wait_for_port=80, stop_mode="destroy") for name in NAMES)
    with RunningSuite(directory, toml=toml, inside=["ip", "netns", "exec", cluster.switch]) as running:
        wait_for(lambda: running.state("v0") == "off", 20, "v0 is off")
        yield running


class Asked:
    """What came of one query."""

    def __init__(self, cluster: LxdCluster, suite: RunningSuite, name: str) -> None:
        self.name = name
        query = dns.message.make_query(f"{name}.jitsu.test", "A", use_edns=0)
        began = time.monotonic()
        response = inside(cluster.switch, lambda: dns.query.udp(query, "127.0.0.1", 6, suite.port))
        self.took_s = time.monotonic() - began
        self.rcode = dns.rcode.to_text(response.rcode())
        self.address = str(next(iter(response.answer[0]))) if response.answer else ""
        self.why = "; ".join(str(getattr(option, "text", "")) for option in response.options)


def ask_all(cluster: LxdCluster, suite: RunningSuite, names: list[str]) -> dict[str, Asked]:
    with ThreadPoolExecutor(len(names)) as threads:
        asked = list(threads.map(lambda name: Asked(cluster, suite, name), names))
    return {each.name: each for each in asked}


def show(title: str, asked: dict[str, Asked]) -> None:
    print(f"--- {title}")
    for each in asked.values():
        print(f"{each.name:4} of {HOME[each.name]}: {each.rcode:9} {each.address:13} {each.took_s:5.2f} s  {each.why}")


def locations(cluster: LxdCluster, by: str = "h1") -> dict[str, tuple[str, str]]:
    """Return state and member of each instance."""
    listed = cluster.members[by].lxc("list", "-c", "nsL", "-f", "csv").split()
    return {name: (state, where) for name, state, where in (line.split(",") for line in listed)}


def comes_up(cluster: LxdCluster, suite: RunningSuite, name: str, limit_s: float = 40.0) -> Asked:
    """Ask until there is an answer."""

    def asked() -> Asked | None:
        found = Asked(cluster, suite, name)
        return found if found.rcode == "NOERROR" else None

    answered: Asked = wait_for(asked, limit_s, f"{name} is answered")
    return answered


def test_a_member_is_lost_while_twenty_names_are_asked_for(cluster: LxdCluster, suite: RunningSuite) -> None:
    warm = ask_all(cluster, suite, NAMES[:3])  # one of each member runs
    show("before", warm)
    assert {each.rcode for each in warm.values()} == {"NOERROR"}
    timer = threading.Timer(0.3, cluster.kill, ["h2"])
    timer.start()
    during = ask_all(cluster, suite, NAMES)
    timer.join()
    show("h2 is lost", during)
    lost = [name for name in NAMES if HOME[name] == "h2"]
    stay = [name for name in NAMES if HOME[name] != "h2"]
    assert {during[name].rcode for name in stay} == {"NOERROR"}, "the members that stay are not held up"
    assert {during[name].rcode for name in lost if name not in warm} == {"SERVFAIL"}
    wait_for(lambda: "h2 is offline" in suite.jitsu("status"), OFFLINE_S, "h2 is offline")
    wait_for(lambda: all(suite.state(name) != "starting" for name in lost), 20, "no start hangs")
    after = ask_all(cluster, suite, NAMES)
    show("h2 is offline", after)
    assert {after[name].rcode for name in stay} == {"NOERROR"}
    for name in lost:
        if name in warm:
            assert after[name].rcode == "NOERROR", "it may run on: only the cluster's own network may be cut"
        else:
            assert after[name].rcode == "SERVFAIL"
            assert after[name].took_s < 1
            assert "its cluster member h2 is offline and may still run it" in after[name].why
    (running,) = (name for name in lost if name in warm)
    wait_for(lambda: suite.state(running) == "unknown", 60, "it is no longer known whether the one that ran does")
    refused = Asked(cluster, suite, running)
    show("25 s later", {running: refused})
    assert refused.rcode == "SERVFAIL"
    assert "its cluster member h2 is offline and may still run it" in refused.why
    assert {locations(cluster)[name] for name in lost} == {("ERROR", "h2")}, "none is started elsewhere"
    cluster.join("h2")
    cluster.members["h2"].start()
    print({name: comes_up(cluster, suite, name, 90).took_s for name in lost})
    assert {locations(cluster)[name][1] for name in lost} == {"h2"}


def test_a_member_is_evacuated_and_restored(cluster: LxdCluster, suite: RunningSuite) -> None:
    moving, staying = [name for name in NAMES if HOME[name] == "h3"][:2]
    first = cluster.members["h1"]
    first.lxc("config", "set", moving, "cluster.evacuate", "migrate")
    for name in (moving, staying):
        comes_up(cluster, suite, name)
    first.lxc("cluster", "evacuate", "h3", "--force")
    print(comes_up(cluster, suite, moving).took_s)
    assert locations(cluster)[moving][1] != "h3"
    wait_for(lambda: suite.state(staying) == "off", 20, "what was stopped is seen")
    refused = Asked(cluster, suite, staying)
    show("h3 is evacuated", {staying: refused})
    assert refused.rcode == "SERVFAIL"
    assert "its cluster member is evacuated (`lxc cluster restore" in refused.why
    first.lxc("cluster", "restore", "h3", "--force")
    for name in (moving, staying):
        print(comes_up(cluster, suite, name).took_s)
        assert locations(cluster)[name] == ("RUNNING", "h3")


def test_the_leader_of_the_database_is_killed(cluster: LxdCluster, suite: RunningSuite) -> None:
    listed = cluster.members["h1"].lxc("cluster", "list", "-f", "csv")
    leader = next(line.split(",")[0].strip('"') for line in listed.splitlines() if "database-leader" in line)
    own = next(name for name in NAMES if HOME[name] == leader)
    comes_up(cluster, suite, own)
    asked = [name for name in NAMES if HOME[name] != leader][:4]
    for name in asked:
        suite.jitsu("stop", name, check=False)
    wait_for(lambda: all(suite.state(name) == "off" for name in asked), 20, "they are off")
    cluster.members[leader].kill()
    began = time.monotonic()
    during = ask_all(cluster, suite, [own, *asked])
    show(f"{leader}, the leader, is killed", during)
    assert during[own].rcode == "NOERROR", "its instances run on"
    for name in asked:
        comes_up(cluster, suite, name)
        print(f"{name} answered {time.monotonic() - began:.1f} s after the leader was killed")
    assert time.monotonic() - began < 60
    other = next(name for name in cluster.members if name != leader)
    assert {locations(cluster, other)[name] for name in asked} == {("RUNNING", HOME[name]) for name in asked}
    cluster.members[leader].start()
