"""What only a dockerd can show: TCP with TLS, and ports that are published at an address of the host."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.rules.events import GuestState
from tests.support.dockerd import BRIDGE, running_engine
from tests.support.hypervisors import running_docker, vm_of
from tests.support.suite import http_get
from tests.support.xapi import self_signed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.dockerd import ContainerEngine

pytestmark = [pytest.mark.wires, pytest.mark.docker, pytest.mark.timeout(300)]
HOST, PORT, PUBLISHED = "10.77.0.1", 23760, 8080


def test_an_engine_is_spoken_to_over_tcp_with_tls_and_wants_our_certificate(tmp_path: Path) -> None:
    self_signed(tmp_path)  # it is the authority, the server's certificate and ours
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    key.chmod(0o600)
    flags = ["--tlsverify", "--tlscacert", certificate, "--tlscert", certificate, "--tlskey", key]
    settings = {"hypervisor__connect": f"tcp://127.0.0.1:{PORT}", "hypervisor__ca_file": str(certificate)}
    ours = {"hypervisor__certificate_file": str(certificate), "hypervisor__key_file": str(key)}
    vm = vm_of("docker")

    async def starts() -> None:
        async with running_docker(vm, tmp_path / "ours", **settings, **ours) as made:
            await made.hypervisor.start(vm)
            assert await made.state() is GuestState.RUNNING
            made.told.clear()
            await made.hypervisor.stop(vm, StopMode.DESTROY)
            await made.tells(lambda: {vm.uuid, ""} & set(made.told))
            assert await made.state() is GuestState.OFF

    async def is_refused() -> None:
        with pytest.raises((JitsuError, ExceptionGroup)) as caught:
            async with running_docker(vm, tmp_path / "nobody", **settings):
                pass
        assert "cannot be reached" in repr(caught.value)

    with running_engine("docker", flags=[*map(str, flags), "--host", f"tcp://127.0.0.1:{PORT}"]) as engine:
        for work in (starts, is_refused):
            engine.lan.run_on_host(partial(asyncio.run, work()))


async def test_a_published_port_is_served_at_the_hosts_address(dockerd: ContainerEngine, tmp_path: Path) -> None:
    vm = vm_of("docker", ip=HOST, publish=f"{PUBLISHED}:80", nic=BRIDGE)

    def page() -> str:
        found = ""
        with suppress(OSError):
            found = dockerd.lan.run_on_host(lambda: http_get(HOST, PUBLISHED))
        return found

    async with running_docker(vm, tmp_path, hypervisor__connect=dockerd.uri) as made:
        assert (await made.hypervisor.examine([vm]))[vm.uuid].mistake == ""
        await made.hypervisor.start(vm)
        async with asyncio.timeout(20):
            while "here" not in await asyncio.to_thread(page):
                await asyncio.sleep(0.05)
        await made.hypervisor.stop(vm, StopMode.DESTROY)
        assert await asyncio.to_thread(page) == ""
