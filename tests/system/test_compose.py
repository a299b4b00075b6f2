"""compose.yaml: the suite in containers, seen by its client and by who looks after it, while containers are killed."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import socket
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.compose import UP_LIMIT_S, Compose, running_compose
from tests.support.suite import wait_for
from tests.test_readmes import operating

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: dockerd"),
]
SERVICES = ("store", "vmd", "dns", "synjitsu", "reaper")
DNS, WWW, API = "172.31.77.53", "172.31.77.200", "172.31.77.201"
ECHO = 7
MAX_WAIT_S = 1.2
TRIES = 3
CHAOS_S = 30.0
COLD, COLD_FROM = 20, 210
"""Further VMs that are asked for once each while containers are killed; the last byte of the first one's address."""
ASKING_S = 0.2
"""What a thread beside two that ask all the time may find late, of an answer that came at the end of max_wait."""
OWN_LAYERS = 1
"""Of the image without further packages of Debian: what its service imports and others do not."""
OWN_LIMIT_BYTES = 120e6
CHECKS, CHECK_LIMIT_MS = 20, 5.0
METRICS = {"store": 9101, "vmd": 9103, "synjitsu": 9105, "reaper": 9106}
TYPING_S = 2.0
"""What is counted is shown within a second."""


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    with running_compose() as made:
        yield made


@pytest.fixture
def up(compose: Compose) -> Iterator[Compose]:
    compose("up", "-d")
    wait_for(lambda: all_healthy(compose), UP_LIMIT_S, "all services are healthy")
    wait_for(lambda: "blog" in compose.client("jitsu", "status", check=False), UP_LIMIT_S, "the VMs are configured")
    yield compose
    compose("down", "-v", "-t", "1")


def all_healthy(compose: Compose) -> bool:
    return all(
        (found := compose.containers(service))
        and all(each.attrs["State"]["Health"]["Status"] == "healthy" for each in found)
        for service in SERVICES
    )


def test_images_hold_one_service_each_and_nothing_to_build_with(compose: Compose) -> None:
    base = compose.docker.images.get("base").attrs["Size"]
    shared = compose.docker.images.get("jitsu-reaper").attrs["RootFS"]["Layers"][:-OWN_LAYERS]
    assert len(shared) > len(compose.docker.images.get("base").attrs["RootFS"]["Layers"]), "the libraries are in there"
    print()
    for service in (*SERVICES, "tool"):
        image = compose.docker.images.get(f"jitsu-{service}")
        size = image.attrs["Size"]
        print(f"jitsu-{service}: {size / 1e6:.0f} MB, {(size - base) / 1e6:.0f} MB of its own")
        assert size - base < OWN_LIMIT_BYTES
        assert image.attrs["RootFS"]["Layers"][: len(shared)] == shared, "what all need is there once"
        history = " ".join(layer["CreatedBy"] for layer in image.history())
        for word in ("pip install", "gcc", "build-essential", "python3-venv", "apt-get install -y python3-pip"):
            assert word not in history, f"{service}: {word}"
        assert image.attrs["Config"]["User"] == "10001:10001"
        imports = "; ".join(
            f"print('{other}', importlib.util.find_spec('jitsu_{other}') is not None)" for other in SERVICES
        )
        run = compose.docker.containers.run
        found = run(image, ["python3", "-c", f"import importlib.util; {imports}"], network_mode="none", remove=True)
        has = {line.split()[0] for line in found.decode().splitlines() if line.endswith("True")}
        assert has == (set(SERVICES) if service == "tool" else {service})
        tools = run(image, ["sh", "-c", "command -v gcc pip pip3 cc make; true"], network_mode="none", remove=True)
        assert tools == b""


def test_a_health_check_costs_little(up: Compose) -> None:
    """CPU time of the container's processes, as `times` of the shell has it: user and system time of its children."""
    for service, environment in (("dns", ". /tmp/replica; export JITSU_DNS_METRICS; "), ("store", "")):
        loop = f"for n in $(seq {CHECKS}); do bash /opt/jitsu/bin/healthy || exit; done; times"
        (container, *_) = up.containers(service)
        done = container.exec_run(["bash", "-c", environment + loop])
        assert done.exit_code == 0, done.output
        minutes = re.findall(r"(\d+)m([\d.]+)s", done.output.decode().splitlines()[-1])
        each_ms = sum(60 * int(whole) + float(part) for whole, part in minutes) / CHECKS * 1000
        print(f"\n{service}: {each_ms:.1f} ms of CPU time for a health check")
        assert each_ms < CHECK_LIMIT_MS


def test_port_53_and_metrics_are_published_on_the_hosts_loopback(up: Compose) -> None:
    def metrics(port: int) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def addresses(send: Any) -> list[str]:
        query = dns.message.make_query("www.jitsu.test", "A")
        answer: dns.message.Message = send(query, "127.0.0.1", timeout=10)
        return [str(record) for found in answer.answer for record in found]

    assert up.inside(lambda: addresses(dns.query.udp)) == [WWW]
    assert up.inside(lambda: addresses(dns.query.tcp)) == [WWW]
    for service, port in METRICS.items():
        assert f"jitsu_{service}_" in up.inside(lambda port=port: metrics(port)), service
    [replica] = up.containers("dns")
    told = replica.exec_run(["cat", "/tmp/replica"]).output.decode()
    port = int(told.strip().rpartition(":")[2])
    assert 9110 <= port <= 9113
    assert "jitsu_dns_" in up.inside(lambda: metrics(port))


def test_a_client_resolves_and_fetches_through_synjitsu(up: Compose) -> None:
    begun = time.monotonic()
    assert "This is the VM <b>www</b>" in up.client("curl", "-sS", "-m", "10", "http://www.jitsu.test/")
    print(f"\nthe first page: {time.monotonic() - begun:.2f} s, with docker-compose's own")
    status = up.client("jitsu", "status")
    assert "1 replayed" in status, status
    up("up", "-d", "--scale", "dns=4", "--no-recreate")
    wait_for(lambda: len(up.containers("dns")) == 4 and all_healthy(up), UP_LIMIT_S, "four replicas are healthy")
    told = up.client("jitsu", "status")
    [reaper] = [line for line in told.splitlines() if line.startswith("reaper ")]
    assert reaper.count("dns-") == 4, told
    answers = {up.client("dig", f"@{DNS}", "+short", "hostname.bind", "CH", "TXT") for _ in range(40)}
    assert len(answers) == 4, "all four answer at the one address"


class Load:
    """A resolver that asks again when it is not answered, on and on."""

    def __init__(self, name: str, address: str, pause_s: float) -> None:
        self.name, self.address, self.pause_s = name, address, pause_s
        self.asked = 0
        self.failures: list[str] = []
        self.lost = 0
        self.slowest = 0.0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            self.asked += 1
            if failure := self.resolve():
                self.failures.append(failure)
            time.sleep(self.pause_s)

    def resolve(self) -> str:
        seen = []
        for _ in range(TRIES):
            query = dns.message.make_query(self.name, "A")
            begun = time.monotonic()
            try:
                answer = dns.query.udp(query, DNS, timeout=2.0)
            except (dns.exception.Timeout, OSError) as error:
                self.lost += 1
                seen.append(type(error).__name__)
                continue
            self.slowest = max(self.slowest, time.monotonic() - begun)
            if answer.rcode() == dns.rcode.NOERROR and answer.answer and str(answer.answer[0][0]) == self.address:
                return ""
            seen.append(dns.rcode.to_text(answer.rcode()))
        return f"{self.name} at {time.monotonic():.1f}: {seen}"


def test_g1_g2_g3_g7_containers_are_killed_at_random_under_load(up: Compose) -> None:
    chance = random.Random(7)
    up("up", "-d", "--scale", "dns=4", "--no-recreate")
    wait_for(lambda: len(up.containers("dns")) == 4 and all_healthy(up), UP_LIMIT_S, "four replicas are healthy")
    cold = {f"c{n}.jitsu.test": f"172.31.77.{COLD_FROM + n}" for n in range(COLD)}
    up.client("jitsu", "apply", *(f"dns={name},ip={ip},use_synjitsu=true,ttl=300" for name, ip in cold.items()))
    killed: list[str] = []
    summoned: list[Load] = []
    loads = [Load("www.jitsu.test", WWW, 0.01), Load("www.jitsu.test", WWW, 0.02)]

    def connection() -> socket.socket:
        made = socket.create_connection((WWW, ECHO), timeout=10)
        made.sendall(b"x")
        assert made.recv(1) == b"x"
        return made

    def summon_in_turn() -> None:
        for name, address in cold.items():
            summoned.append(Load(name, address, 0.0))
            if failure := summoned[-1].resolve():
                summoned[-1].failures.append(failure)
            time.sleep(CHAOS_S / COLD)

    def chaos() -> None:
        assert not loads[0].resolve()
        threads = [threading.Thread(target=work) for work in (*(load.run for load in loads), summon_in_turn)]
        with connection() as held:
            for thread in threads:
                thread.start()
            ends = time.monotonic() + CHAOS_S
            while time.monotonic() < ends:
                service = chance.choice(SERVICES)
                container = chance.choice(up.containers(service) or [None])
                if container is not None:
                    os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)
                    killed.append(service)
                time.sleep(chance.uniform(0.5, 2.5))
                held.sendall(b"y")
                assert held.recv(1) == b"y", "a connection is held: its VM is not stopped"
            for load in loads:
                load.stop.set()
            for thread in threads:
                thread.join()

    up.inside(chaos)
    asked, lost = sum(load.asked for load in loads), sum(load.lost for load in loads)
    slowest = max(load.slowest for load in loads)
    print(
        f"\nkilled {', '.join(killed)}: {asked} names asked for, {lost} questions lost, slowest answer {slowest:.3f} s"
    )
    assert set(killed) == set(SERVICES)
    assert [each for load in loads for each in load.failures] == [], "each is answered, if asked again"
    assert slowest < MAX_WAIT_S + 0.1
    refused = [each for load in summoned for each in load.failures]
    coldest = max(load.slowest for load in summoned)
    print(f"{COLD} cold names: {len(refused)} refused while vmd was away, slowest answer {coldest:.3f} s")
    assert coldest < MAX_WAIT_S + 0.1 + ASKING_S, "G2: answered in time, or refused"
    assert len(refused) < COLD / 2, refused
    wait_for(lambda: len(up.containers("dns")) == 4 and all_healthy(up), UP_LIMIT_S, "all are back")
    status = up.client("jitsu", "status")
    row = next(line.split() for line in status.splitlines() if line.startswith("www"))
    assert row[1] == "ready", status
    assert "This is the VM <b>api</b>" in up.client("curl", "-sS", "-m", "10", "http://api.jitsu.test/"), (
        "and a cold one"
    )
    assert [failure for load in summoned if (failure := up.inside(load.resolve))] == []
    starts = {row["name"]: row["starts"] for row in json.loads(up.client("jitsu", "status", "--json"))["vms"]}
    # vmd counts a start when it has returned: one that dies just then finds the VM running, and counts none.
    assert max(starts[name] for name in cold) <= 1, "G1: none was started twice"
    page = up.client("curl", "-sS", "-m", "10", "http://www.jitsu.test/")
    assert float(page.partition("has been up for ")[2].split()[0]) > CHAOS_S, f"started twice: {page}"


def test_the_pages_lines_do_what_they_say(compose: Compose) -> None:
    first, fetch, scale = (shlex.split(line)[2:] for line in operating("docker compose"))
    try:
        compose(*first)
        wait_for(lambda: all_healthy(compose), UP_LIMIT_S, "all services are healthy")
        fetch.insert(1, "-T")  # there is no terminal here
        wait_for(lambda: "This is the VM" in compose(*fetch, check=False), UP_LIMIT_S, "the client fetches")
        compose(*scale)
        wait_for(lambda: len(compose.containers("dns")) == 4, UP_LIMIT_S, "four replicas")
    finally:
        compose("down", "-v", "-t", "1")
