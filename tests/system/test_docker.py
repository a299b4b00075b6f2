"""Containers of a real dockerd that are woken by their names: the first connection, and why one does not boot."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import dns.edns
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.dockerd import BRIDGE, GATEWAY, IMAGE, NETWORK, PREFIX, running_engine
from tests.support.lan import ip, retransmitted
from tests.support.suite import RunningSuite, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.dockerd import ContainerEngine

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: dockerd"),
]
LIMIT_S = 30.0
PAGE = Path(__file__).parents[2] / "docs/how-to/docker.md"


@pytest.fixture(scope="module")
def engine() -> Iterator[ContainerEngine]:
    """Run dockerd, with a client on the bridge of its network."""
    with running_engine("docker", clients=1) as made:
        ip("-n", made.lan.host, "link", "set", "c0", "master", BRIDGE)
        ip("-n", made.lan.clients[0], "address", "add", f"{PREFIX}.100/24", "dev", "eth0")
        yield made


@pytest.fixture(autouse=True)
def no_container_is_left(engine: ContainerEngine) -> Iterator[None]:
    """Remove the containers of a test, as they outlive its suite."""
    yield
    engine.remove_containers()


def suite_with(engine: ContainerEngine, directory: Path, **keys: str) -> RunningSuite:
    """Return a suite beside the engine, with one VM, www."""
    vm = {"dns": "www.jitsu.test", "ip": f"{PREFIX}.10", "image": IMAGE, "ttl": "1", "response_delay": "0"} | keys
    lines = [f'{key} = "{value}"' for key, value in vm.items()]
    toml = f'[dns]\nbind = "0.0.0.0"\nsummon_rate = 0\n[hypervisor]\nkind = "docker"\nconnect = "{engine.uri}"\n'
    toml += f'[synjitsu]\nbridges = ["{BRIDGE}"]\n[vm.www]\n' + "\n".join(lines) + "\n"
    return RunningSuite(directory, toml=toml, inside=["ip", "netns", "exec", engine.lan.host])


def asked(port: int, name: str = "www.jitsu.test") -> dns.message.Message:
    query = dns.message.make_query(name, "A", use_edns=0)
    return dns.query.udp(query, GATEWAY, port=port, timeout=LIMIT_S)


def page(port: int, name: str = "www.jitsu.test") -> tuple[str, int]:
    """Ask for the name and fetch a page at once; return it, and how many segments had to be sent again."""
    before = retransmitted()
    reply = asked(port, name)
    assert reply.rcode() == dns.rcode.NOERROR, reply.to_text()
    with socket.create_connection((reply.answer[0][0].to_text(), 80), timeout=LIMIT_S) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        received = b""
        while data := connection.recv(4096):
            received += data
    return received.decode(), retransmitted() - before


def test_a_first_connection_reaches_a_container_that_is_just_starting(engine: ContainerEngine, tmp_path: Path) -> None:
    keys = {"use_synjitsu": "true", "idle_timeout": "2", "stop_mode": "shutdown"}
    with suite_with(engine, tmp_path, **keys) as suite:
        text, again = engine.lan.run(0, lambda: page(suite.port))
        assert text.endswith("here\n")
        assert again == 0, "Synjitsu has passed its first SYN on: TCP's own timer had no part in that"
        wait_for(lambda: suite.state("www") == "off", LIMIT_S, "it is stopped when it is idle")
        text, again = engine.lan.run(0, lambda: page(suite.port))
        assert (text.endswith("here\n"), again) == (True, 0), "and started again"


def test_a_query_waits_for_the_port_of_a_container(engine: ContainerEngine, tmp_path: Path) -> None:
    with suite_with(engine, tmp_path, wait_for_port="80") as suite:
        text, again = engine.lan.run(0, lambda: page(suite.port))
        assert (text.endswith("here\n"), again) == (True, 0)


def test_a_query_is_told_why_a_container_does_not_boot(engine: ContainerEngine, tmp_path: Path) -> None:
    fails = "/bin/sh -c 'echo no database; sleep 0.2; exit 3'"
    with suite_with(engine, tmp_path, wait_for_port="80", max_wait="4", cmdline=fails) as suite:
        reply = engine.lan.run(0, lambda: asked(suite.port))
        assert reply.rcode() == dns.rcode.SERVFAIL
        told = [option.text or "" for option in reply.options if isinstance(option, dns.edns.EDEOption)]
        assert any("has ended with status 3; it printed last: no database" in text for text in told), told


def test_the_labels_of_a_container_are_all_the_configuration(engine: ContainerEngine, tmp_path: Path) -> None:
    labels = {"jitsu.dns": "shop.lab.test", "jitsu.ttl": "1", "jitsu.idle_timeout": "2", "jitsu.wait_for_port": "80"}
    with engine.client() as client:
        place = client.create_endpoint_config(ipv4_address=f"{PREFIX}.50")
        client.create_container(
            IMAGE,
            name="shop-web-1",
            labels=labels,
            host_config=client.create_host_config(network_mode=NETWORK),
            networking_config=client.create_networking_config({NETWORK: place}),
        )
    toml = '[dns]\nbind = "0.0.0.0"\nsummon_rate = 0\nzones = ["lab.test"]\n[hypervisor]\nkind = "docker"\n'
    toml += f'connect = "{engine.uri}"\nlabel_zones = ["lab.test"]\n'
    with RunningSuite(tmp_path, toml=toml, inside=["ip", "netns", "exec", engine.lan.host]) as suite:
        wait_for(lambda: "shop-web-1" in suite.status(), LIMIT_S, "what the labels describe is a VM")
        text, _ = engine.lan.run(0, lambda: page(suite.port, "shop.lab.test"))
        assert text.endswith("here\n")
        wait_for(lambda: suite.state("shop-web-1") == "off", LIMIT_S, "it is stopped when it is idle")
        engine.remove_behind_our_back("shop-web-1")
        wait_for(lambda: "shop-web-1" not in suite.status(), LIMIT_S, "it is gone with its container")


def test_a_compose_file_is_all_the_configuration_as_the_page_shows(engine: ContainerEngine, tmp_path: Path) -> None:
    composed, commands, shown = re.findall(r"```(?:yaml|sh|console)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "compose.yaml").write_text(composed.replace("image: nginx", f"image: {IMAGE}"))
    up, jitsu_up = commands.splitlines()
    composing = ["docker-compose", "--project-directory", str(tmp_path), "-f", str(tmp_path / "compose.yaml")]
    command = [*engine.inside, "env", f"DOCKER_HOST={engine.uri}", *composing, *up.split()[2:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    arguments = [*jitsu_up.removeprefix("jitsu up ").split(), "-c", engine.uri]
    inside = ["ip", "netns", "exec", engine.lan.host]
    with RunningSuite(tmp_path, arguments, inside=inside) as suite:
        wait_for(lambda: "blog" in suite.status(), LIMIT_S, "what the labels describe is a VM")
        assert [suite.state(name) for name in ("shop", "wiki", "blog")] == ["off"] * 3
        for typed, expected in re.findall(r"^\$ (.*)\n(.*)$", shown, re.MULTILINE):
            if typed.startswith("jitsu "):
                printed = suite.jitsu(*typed.split()[1:], check=False)
            else:
                asked_as = typed.replace("-p 5300", f"-p {suite.port}")
                done = subprocess.run(
                    [*inside, "sh", "-c", asked_as], capture_output=True, text=True, timeout=LIMIT_S, check=False
                )
                printed = done.stdout
            assert printed == f"{expected}\n", typed
        wait_for(lambda: suite.state("shop") == "off", LIMIT_S, "it is stopped when it is idle")
        with engine.client() as client:
            assert client.inspect_container("shop")["State"]["Status"] == "exited"
            client.remove_container("wiki")
        wait_for(lambda: "wiki" not in suite.status(), LIMIT_S, "the VM of a container that is removed goes with it")
