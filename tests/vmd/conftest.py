"""What real hypervisors need."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.dockerd import ContainerEngine, running_engine
from tests.support.lan import Lan
from tests.support.libvirtd import XEN_URI, Libvirtd, running_libvirtd
from tests.support.lxd import LxdServer, running_lxd

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def qemu() -> Iterator[Libvirtd]:
    """Run libvirtd in a network namespace."""
    if os.geteuid():
        pytest.skip("needs root")
    lan = Lan(0)
    try:
        lan.make()
        with running_libvirtd(["ip", "netns", "exec", lan.host]) as daemon:
            yield daemon
    finally:
        lan.remove()


@pytest.fixture(scope="module")
def lxd() -> Iterator[LxdServer]:
    """Run LXD in a network namespace."""
    with running_lxd() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LXD_DIR", str(server.home))
        yield server


@pytest.fixture(scope="module")
def dockerd() -> Iterator[ContainerEngine]:
    """Run dockerd in a network namespace."""
    with running_engine("docker") as engine:
        yield engine


@pytest.fixture(scope="module")
def podman() -> Iterator[ContainerEngine]:
    """Run Podman's service in a network namespace."""
    with running_engine("docker podman") as engine:
        yield engine


@pytest.fixture(scope="module")
def bridge_here() -> Iterator[None]:
    """Have the tests' bridge in this network namespace: a tap is made where vmd runs."""
    if os.geteuid():
        pytest.skip("needs root: taps")
    lan = Lan(0, host_pid=os.getpid())
    try:
        lan.make()
        yield
    finally:
        lan.remove()


@pytest.fixture(scope="module")
def dom0() -> Iterator[None]:
    """Have a bridge beside Xen."""
    lan = Lan(0, host_pid=os.getpid())
    try:
        lan.make()
        yield
    finally:
        lan.remove()


@pytest.fixture(scope="module")
def libvirt_in_dom0(dom0: None) -> Iterator[None]:
    """Run libvirtd beside Xen."""
    with running_libvirtd(uri=XEN_URI):
        yield
