"""A suite on tcp with keys: it serves, who may not is refused, keys change, replicas come from afar."""

from __future__ import annotations

import asyncio
import os
import time
import urllib.request
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import zmq.asyncio

from jitsu.keys import add, drop, init, rotate
from jitsu_protocol.messages import Applied, Apply, Ping, Pong
from jitsu_protocol.model.errors import Forbidden, TimedOut
from jitsu_runtime.bus.curve import Curve
from jitsu_runtime.bus.zeromq import rpc_client
from tests.support.dns import ask
from tests.support.lan import Lan, lan_suite
from tests.support.suite import RunningSuite, beside, free_port, vm_toml, wait_for

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

UUID = "0d0f4f2a-6a69-5473-8175-76302e320007"


def bus_toml(keys: Path, address: str = "127.0.0.1") -> str:
    sockets = ("store_rpc", "store_feed", "vmd_rpc", "vmd_feed", "synjitsu_rpc", "reaper_rpc")
    return "\n".join(
        ["[bus]", f'keys = "{keys}"', *(f'{each} = "tcp://{address}:{free_port()}"' for each in sockets), ""]
    )


async def call(suite: RunningSuite, role: str, request: Apply | Ping) -> None:
    """Ask the store as the process of a role would; "" has no key."""
    bus = suite.bus()
    context = zmq.asyncio.Context()
    tasks: list[asyncio.Task[None]] = []

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.create_task(work))

    try:
        assert bus.keys_directory is not None
        curve = Curve(context, bus.keys_directory, role, spawn) if role else None
        client = rpc_client(context, str(bus.endpoint("store", "rpc")), "store", curve)
        spawn(client.run())
        await client.call(request, Applied if isinstance(request, Apply) else Pong, 1.5)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        context.destroy(linger=0)


@contextmanager
def keyed_suite(directory: Path) -> Iterator[tuple[RunningSuite, Path, str]]:
    keys = directory / "keys"
    init(keys)
    metrics = f"127.0.0.1:{free_port()}"
    toml = bus_toml(keys) + f'[store]\nmetrics = "{metrics}"\n' + vm_toml("www", "127.8.9.1", boot_time=0, ttl=1)
    with RunningSuite(directory, toml=toml) as suite:
        yield suite, keys, f"http://{metrics}/metrics"


@pytest.mark.suite
async def test_a_suite_with_keys_serves_and_refuses_who_may_not(tmp_path: Path) -> None:
    with keyed_suite(tmp_path) as (suite, _, metrics):
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.8.9.1"]
        assert suite.state("www") == "ready"
        change = Apply(changes=[], message="", author="operator:mallory", request=uuid.uuid4().hex)
        with pytest.raises(Forbidden, match=r"a key of reaper may not send store\.apply"):
            await call(suite, "reaper", change)
        await call(suite, "reaper", Ping())
        with pytest.raises(TimedOut):
            await call(suite, "", Ping())
        shown = await asyncio.to_thread(lambda: urllib.request.urlopen(metrics, timeout=5).read().decode())
        counted = [line for line in shown.splitlines() if "dropped_messages_total{" in line]
        assert any('reason="forbidden"' in line for line in counted), counted
        assert any('reason="handshake"' in line for line in counted), counted


@pytest.mark.suite
async def test_keys_are_rotated_without_a_stop(tmp_path: Path) -> None:
    with keyed_suite(tmp_path) as (suite, keys, _):
        pids = [suite.pid(service) for service in ("store", "vmd", "dns", "reaper")]
        for role in ("vmd", "store", "dns", "operator"):
            rotate(keys, role)
            begun = time.monotonic()
            while time.monotonic() < begun + 3:
                answer = await ask("www.jitsu.test", suite.port)
                assert answer.addresses == ["127.8.9.1"]
                await asyncio.sleep(0.05)
            assert suite.state("www") == "ready"
            drop(keys, f"{role}.before")
        suite.jitsu("stop", "www")
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.8.9.1"], "it is summoned with new keys"
        assert pids == [suite.pid(service) for service in ("store", "vmd", "dns", "reaper")]


@pytest.mark.net
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
def test_g7_a_replica_in_another_network_is_cut_off_and_right_again_within_a_second(tmp_path: Path) -> None:
    keys, theirs = tmp_path / "keys", tmp_path / "theirs"
    init(keys)
    add(keys, "dns.far", theirs)
    lan = Lan(2)
    try:
        lan.make()
        bus = bus_toml(keys, "10.77.0.1")
        vm = vm_toml("www", "127.8.9.2", uuid=UUID, boot_time=0, ttl=60, idle_timeout=600)
        with lan_suite(tmp_path, f'[hypervisor]\nkind = "mock"\n{bus}{vm}', lan=lan) as (_, suite):
            toml = tmp_path / "far.toml"
            toml.write_text(bus.replace(str(keys), str(theirs)) + '[dns]\nreplica = "far"\nlease = 3600\n')
            own = {"JITSU_CONFIG": str(toml), "JITSU_DNS_PORT": "5300", "JITSU_DNS_FORWARD": "off"}
            with beside(suite, "dns", ["ip", "netns", "exec", lan.clients[0]], **own):

                def far() -> tuple[list[str], int]:
                    answer = lan.run(0, lambda: asyncio.run(ask("www.jitsu.test", 5300)))
                    assert answer.rcode == "NOERROR"
                    return answer.addresses, answer.ttl

                assert far() == (["127.8.9.2"], 60)
                wait_for(lambda: "far (heard" in suite.jitsu("status", check=False), 10.0, "the reaper counts on it")
                time.sleep(1)  # until it has heard that itself; before, it would have no lease
                lan.cut(0)
                suite.jitsu("set", f"jitsu/vm/{UUID}/dns/www.jitsu.test/ttl", "7")
                time.sleep(10)
                assert far() == (["127.8.9.2"], 60), "within its lease it answers what it knows"
                assert not lan.tcp_connections(0), "the host still sends to somebody who is not there"
                lan.join(0)
                wait_for(lambda: far()[1] == 7, 1.0, "it is right again")
    finally:
        lan.remove()
