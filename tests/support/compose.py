"""compose.yaml in a network namespace of its own: a dockerd that is ours, images from a base that is made here.

Nothing can be pulled: the base is Debian's (bases.py), and what pip installs into the images is taken from wheels that
are fetched beside it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import requests

from tests.support.bases import CACHE, ROOT, bases
from tests.support.debian import program
from tests.support.lan import Lan
from tests.support.suite import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

WHEELS = ROOT / "build" / "wheels"
START_LIMIT_S, UP_LIMIT_S = 60, 120
PROJECT = "jitsu"


class Docker:
    """A dockerd of our own."""

    def __init__(self, lan: Lan, socket: Path) -> None:
        self.lan = lan
        self.host = f"unix://{socket}"
        self.daemon: Any = docker.DockerClient(base_url=self.host, timeout=60)


class Compose:
    """The suite in containers."""

    def __init__(self, running: Docker) -> None:
        self.docker = running.daemon
        self._lan, self._host = running.lan, running.host

    def __call__(self, *arguments: str, check: bool = True, limit_s: float = 900) -> str:
        """Run docker-compose and return what it printed."""
        environment = {"DOCKER_HOST": self._host, "JITSU_BASE": "base", "JITSU_BUILD_BASE": "build-base"}
        done = subprocess.run(
            ["docker-compose", "-p", PROJECT, *arguments],
            env={**os.environ, **environment, "JITSU_PIP_FLAGS": "--no-index", "COMPOSE_HTTP_TIMEOUT": "300"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + ("" if check else done.stderr)

    def client(self, *command: str, check: bool = True) -> str:
        """Run a command in the client's container."""
        return self("exec", "-T", "client", *command, check=check, limit_s=60)

    def containers(self, service: str) -> list[Any]:
        """Return a service's containers that run."""
        label = f"com.docker.compose.service={service}"
        return list(self.docker.containers.list(filters={"label": [label], "status": "running"}))

    def inside(self, work: Any) -> Any:
        """Run a function on the machine that the containers run on."""
        return self._lan.run_on_host(work)


@contextmanager
def running_compose() -> Iterator[Compose]:
    """Run a dockerd, with all images built."""
    program("docker-compose", "docker-compose", at="/usr/bin")
    _wheels()
    with running_docker("build-base", "base") as running:
        compose = Compose(running)
        compose("build")
        try:
            yield compose
        finally:
            compose("down", "-v", "-t", "1", check=False)


@contextmanager
def running_docker(*names: str) -> Iterator[Docker]:
    """Run a dockerd that has these bases."""
    program("dockerd", "docker.io")
    made = bases()
    lan = Lan(0)
    directory = Path(tempfile.mkdtemp(prefix="jitsu-docker-"))
    socket = directory / "docker.sock"
    lan.make()
    # In a mount namespace of its own as well: what it mounts goes with it.
    apart = ["nsenter", f"--net=/run/netns/{lan.host}", "unshare", "--mount"]
    places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    own = [word for flag, name in places.items() for word in (f"--{flag}", str(directory / name))]
    with (directory / "log").open("wb") as said:
        daemon = subprocess.Popen(
            [*apart, "dockerd", "--host", f"unix://{socket}", "--bridge", "none", *own],
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={**os.environ, "DOCKER_RAMDISK": "true"},
        )
    try:
        wait_for(lambda: _answers(daemon, socket, directory), START_LIMIT_S, "dockerd answers")
        running = Docker(lan, socket)
        for name in names:
            running.daemon.api.import_image_from_file(str(made / f"{name}.tar"), repository=name, tag="latest")
        try:
            yield running
        finally:
            running.daemon.close()
    finally:
        daemon.terminate()
        daemon.wait(60)
        lan.remove()
        shutil.rmtree(directory, ignore_errors=True)


def _answers(daemon: subprocess.Popen[bytes], socket: Path, directory: Path) -> bool:
    assert daemon.poll() is None, (directory / "log").read_text()[-2000:]
    if not socket.exists():
        return False
    with closing(docker.APIClient(base_url=f"unix://{socket}", version="1.41")) as client:
        try:
            return bool(client.ping())
        except (docker.errors.DockerException, requests.ConnectionError):
            return False


def requirements() -> Path:
    """Fetch what `make setup` and `make dist` install, as it is published: its hashes are compared."""
    wanted = [ROOT / "requirements-dev.txt", ROOT / "requirements-tools.txt"]
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in wanted)).hexdigest()[:12]
    fetched = CACHE / f"requirements-{digest}"
    if not fetched.exists():
        partial = fetched.with_suffix(".new")
        shutil.rmtree(partial, ignore_errors=True)
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--require-hashes", "-d", str(partial)]
        for each in wanted:
            subprocess.run([*fetch, "-r", str(each)], check=True, capture_output=True)
        partial.rename(fetched)
    return fetched


def _wheels() -> None:
    """Fetch what pip is to find: from wherever this machine's pip has it."""
    WHEELS.mkdir(parents=True, exist_ok=True)
    members = [
        "./protocol",
        "./runtime",
        *sorted(f"./{each.relative_to(ROOT)}" for each in (ROOT / "services").glob("*/")),
        ".",
    ]
    pins = re.findall(r"^[\w.-]+==[^ ;\\]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    constraints = WHEELS / "constraints.txt"
    constraints.write_text("\n".join(pins))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "-w", WHEELS, "-c", constraints, "hatchling", *members],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    for ours in WHEELS.glob("jitsu*"):
        ours.unlink()
