"""One network that asks far too much: what it gets, what it boots, what others notice."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

import dns.message
import pytest

from tests.support.dns import SteadyLoad, ask, ask_all
from tests.support.suite import RunningSuite, vm_toml

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.suite, pytest.mark.alone]

QUERIES = 100_000
PIECE = 100
COLD_NAMES = 200
SUMMON_RATE, SUMMON_BURST = 2, 10
RESPONSE_RATE = 50


class Attacker:
    """Asks from one address, as fast as it can, and counts what comes back."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.66.0.1", 0))
        self._socket.connect(("127.0.0.1", port))
        self._socket.setblocking(False)
        self.sent_bytes = self.received_bytes = 0

    def send(self, packets: list[bytes]) -> None:
        for packet in packets:
            with suppress(BlockingIOError):
                self.sent_bytes += self._socket.send(packet)
        with suppress(BlockingIOError):
            while True:
                self.received_bytes += len(self._socket.recv(4096))

    def close(self) -> None:
        self._socket.close()


async def test_g10_a_flood_from_one_network_boots_little_is_answered_little_and_disturbs_nobody(tmp_path: Path) -> None:
    toml = f"[dns]\nexempt = []\nsummon_rate = {SUMMON_RATE}\nsummon_burst = {SUMMON_BURST}\n"
    toml += f"response_rate = {RESPONSE_RATE}\n" + vm_toml("www", "127.7.1.1", ttl=60, boot_time=0, response_delay=0)
    toml += "".join(vm_toml(f"n{n}", f"127.7.2.{n + 1}", ttl=60, boot_time=0) for n in range(COLD_NAMES))
    chance = random.Random(3)
    with RunningSuite(tmp_path, toml=toml) as suite:
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.7.1.1"]
        attacker, begun = Attacker(suite.port), monotonic()
        try:
            async with SteadyLoad("www.jitsu.test", "127.7.1.1", suite.port, 0.05, ("127.77.0.1", 0)) as others:
                for _ in range(QUERIES // PIECE):
                    names = [f"x{chance.getrandbits(60):x}" for _ in range(PIECE // 2)]
                    names += [f"n{chance.randrange(COLD_NAMES)}" for _ in range(PIECE // 2)]
                    attacker.send([dns.message.make_query(f"{name}.jitsu.test", "A").to_wire() for name in names])
                    await asyncio.sleep(0)
                took = monotonic() - begun
                assert others.answered > 10
                assert others.failures == []
        finally:
            attacker.close()
        started = [name for name, row in suite.status().items() if row["starts"] and name != "www"]
        assert 0 < len(started) <= SUMMON_BURST + SUMMON_RATE * took + 1
        assert attacker.sent_bytes > 30 * QUERIES
        assert attacker.received_bytes < 1.5 * attacker.sent_bytes
        refused = await ask(f"n{COLD_NAMES - 1}.jitsu.test", suite.port)  # another network: it has a share of its own
        assert refused.addresses == [f"127.7.2.{COLD_NAMES}"]


async def test_a_thousand_cold_names_at_once_are_all_answered_and_warm_ones_meanwhile(tmp_path: Path) -> None:
    names = [f"n{n}" for n in range(1000)]
    toml = vm_toml("www", "127.7.3.1", ttl=60, boot_time=0, response_delay=0)
    for number, name in enumerate(names):
        address = f"127.7.{10 + number // 250}.{number % 250 + 1}"
        toml += vm_toml(name, address, ttl=60, boot_time=0, response_delay=0, max_wait=4)
    with RunningSuite(tmp_path, toml=toml) as suite:
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.7.3.1"]
        async with SteadyLoad("www.jitsu.test", "127.7.3.1", suite.port) as load:
            answers = await ask_all([f"{name}.jitsu.test" for name in names], suite.port)
            assert load.failures == []
        for number, answer in enumerate(answers):
            assert answer.addresses == [f"127.7.{10 + number // 250}.{number % 250 + 1}"]
        assert sum(row["starts"] for row in suite.status().values()) == 1001
