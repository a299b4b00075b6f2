"""Engines of containers that are ours, in a network namespace: dockerd, and Podman's service.

An engine has a mount namespace as well, so that what it mounts goes with it. A process that only sleeps keeps that
namespace while the engine is killed and started again.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest
import requests

from tests.support.debian import program
from tests.support.lan import Lan
from tests.support.suite import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_LIMIT_S, END_LIMIT_S = 60.0, 60.0
IMAGE, NETWORK, BRIDGE = "jitsu-test", "jitsu-test", "jtdock0"
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PREFIX = f"10.78.{WORKER}"
"""Podman looks at the networks of others, too: each worker has a subnet of its own."""
SUBNET, GATEWAY = f"{PREFIX}.0/24", f"{PREFIX}.1"
SERVES = "trap 'exit 0' TERM; httpd -p 80 -h /www; sleep 86400 & wait"
"""What the image runs: a page on port 80; it ends when it is asked to."""
URIS: dict[str, str] = {}
"""Kind of a test -> where its engine listens, while it runs."""


class ContainerEngine:
    """An engine that a test may kill, let hang, start again, and use behind our back."""

    def __init__(self, lan: Lan, directory: Path) -> None:
        self.lan = lan
        self.directory = directory
        self.socket = directory / "sock"
        self.uri = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self._holder = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{lan.host}", "unshare", "--mount", "sleep", "infinity"]
        )
        # Until it sleeps, its namespaces are still those of this host.
        wait_for(lambda: self._holder_comm() == "sleep", START_LIMIT_S, "the namespaces are there")

    def _holder_comm(self) -> str:
        return Path(f"/proc/{self._holder.pid}/comm").read_text().strip()

    def command(self) -> list[str]:
        """Return the engine's own command line."""
        raise NotImplementedError

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_RAMDISK": "true"}

    @property
    def inside(self) -> list[str]:
        """The words before a command that is run in the engine's namespaces."""
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--net"]

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as said:
            self._process = subprocess.Popen(
                [*self.inside, *self.command()],
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
                env=self.environment,
            )
        wait_for(self._answers, START_LIMIT_S, "the engine answers")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()[-2000:]
        if not self.socket.exists():
            return False
        with self.client() as client:
            try:
                return bool(client.ping())
            except (docker.errors.DockerException, requests.ConnectionError):
                return False

    def client(self) -> Any:
        """Return a client of the engine, which is to be closed."""
        return closing(docker.APIClient(base_url=self.uri, version="1.41", timeout=60))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the engine; its containers run on."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(END_LIMIT_S)
            self._process = None

    def hang(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def start_behind_our_back(self, name: str) -> None:
        with self.client() as client:
            client.start(name)

    def stop_behind_our_back(self, name: str) -> None:
        with self.client() as client:
            client.kill(name)

    def remove_behind_our_back(self, name: str) -> None:
        with self.client() as client:
            client.remove_container(name, force=True)

    def remove_containers(self) -> None:
        with self.client() as client:
            for each in client.containers(all=True):
                with suppress(docker.errors.APIError):
                    client.remove_container(each["Id"], force=True)

    def end(self) -> None:
        """Leave nothing behind: no container, no engine, no mount."""
        try:
            if self._process is None:
                self.start()
            self.go_on()
            self.remove_containers()
            self.kill(signal.SIGTERM)
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            self._holder.kill()
            self._holder.wait()


class Dockerd(ContainerEngine):
    """Docker's daemon; its containers outlive it with --live-restore."""

    def __init__(self, lan: Lan, directory: Path, *flags: str) -> None:
        super().__init__(lan, directory)
        self._flags = flags

    def command(self) -> list[str]:
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
        own = [word for flag, name in places.items() for word in (f"--{flag}", str(self.directory / name))]
        return ["dockerd", "--host", self.uri, "--bridge", "none", *own, *self._flags]

    def start(self) -> None:
        # Its containerd ends with it. Until somebody has reaped that, dockerd would take it for one that runs.
        for file in ("pid", "exec/containerd/containerd.pid"):
            (self.directory / file).unlink(missing_ok=True)
        super().start()


class Podman(ContainerEngine):
    """Podman's service, which has the API of Docker too. Its containers never depend on it."""

    @property
    def environment(self) -> dict[str, str]:
        configuration = self.directory / "containers.conf"
        configuration.write_text(
            '[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\nruntime="runc"\n'
            '[network]\nnetwork_backend="netavark"\n'
            '[containers]\npids_limit=0\ndefault_ulimits=["nofile=20000:20000","nproc=32768:32768"]\n'
        )
        storage = self.directory / "storage.conf"
        places = f'runroot="{self.directory}/run"\ngraphroot="{self.directory}/data"\n'
        storage.write_text(f'[storage]\ndriver="overlay"\n{places}')
        own = {"CONTAINERS_CONF": str(configuration), "CONTAINERS_STORAGE_CONF": str(storage)}
        return {**super().environment, **own}

    def podman(self, *words: str) -> list[str]:
        """Return a command line of podman(1) with the places of this engine."""
        return ["podman", "--network-config-dir", f"{self.directory}/net", "--tmpdir", f"{self.directory}/tmp", *words]

    def command(self) -> list[str]:
        return self.podman("system", "service", "-t", "0", self.uri)


def test_image(directory: Path) -> Path:
    """Return a tar file with a root file system of a megabyte: busybox, and a page."""
    busybox = shutil.which("busybox") or program("busybox", "busybox-static", "/bin")
    root = directory / "root"
    for name in ("bin", "www", "tmp", "etc", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for name in ("sh", "httpd", "sleep", "cat", "echo", "ip", "touch", "true", "false"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "www/index.html").write_text("here\n")
    made = directory / "image.tar"
    with tarfile.open(made, "w") as archive:
        archive.add(root, ".")
    return made


def provide(engine: ContainerEngine, network: tuple[str, str, str]) -> None:
    """Give an engine the image, and a network: its bridge, its subnet, and the bridge's own address."""
    bridge, subnet, gateway = network
    made = test_image(engine.directory)
    with engine.client() as client:
        client.import_image_from_file(str(made), repository=IMAGE, tag="latest", changes=[_command()])
        pool = docker.types.IPAMPool(subnet=subnet, gateway=gateway)
        client.create_network(
            NETWORK,
            driver="bridge",
            ipam=docker.types.IPAMConfig(pool_configs=[pool]),
            options={"com.docker.network.bridge.name": bridge},
        )


def _command() -> str:
    return f'CMD ["/bin/sh", "-c", "{SERVES}"]'


@contextmanager
def running_engine(
    kind: str,
    clients: int = 0,
    lan: Lan | None = None,
    network: tuple[str, str, str] = (BRIDGE, SUBNET, GATEWAY),
    flags: Sequence[str] = (),
) -> Iterator[ContainerEngine]:
    """Run a dockerd, or Podman's service: in a Lan that is made for it, or in one that is there.

    `flags` are more words for dockerd.
    """
    if os.geteuid():
        pytest.skip("needs root")
    if kind == "docker podman":
        program("podman", "podman", at="/usr/bin")
        program("runc", "runc")
        program("netavark", "netavark", at="/usr/lib/podman")
    else:
        program("dockerd", "docker.io")
    made = None
    if lan is None:
        lan = made = Lan(clients)
    directory = Path(tempfile.mkdtemp(prefix="jd-", dir="/tmp"))
    if made is not None:
        made.make()
    engine: ContainerEngine
    try:
        if kind == "docker podman":
            engine = Podman(lan, directory)
        else:
            engine = Dockerd(lan, directory, "--iptables=false", "--ip-masq=false", "--live-restore", *flags)
        try:
            engine.start()
            provide(engine, network)
            URIS[kind] = engine.uri
            yield engine
        finally:
            URIS.pop(kind, None)
            engine.end()
    finally:
        if made is not None:
            made.remove()
        shutil.rmtree(directory, ignore_errors=True)
