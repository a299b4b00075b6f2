"""A whole suite in a simulation: store, a vmd for each host, dns replicas and reaper; guests, clients and an operator.

What outlives a process is here: the store's repository and the bus directory (files), the hosts with their guests, and
what each client was answered. Every answer and every stop is held to G3 at the moment at which it happens.
"""

from __future__ import annotations

import os as files
import shutil
import struct
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, TypeVar

import dns.message
import dns.rcode

import jitsu_dns.main
import jitsu_reaper.main
import jitsu_store.main
import jitsu_synjitsu.main
import jitsu_vmd.main
from jitsu_protocol.messages import Applied, Apply, Change, ListVms, Message, Ping, Pong, VmList
from jitsu_protocol.model.lifetimes import REPLY_MAX_AGE_S
from jitsu_protocol.model.vm import to_tree
from tests.simulation.guests import GuestHost, SimulatedHypervisor
from tests.simulation.lan import BRIDGE, ClientOnLan, LanOfProcess, OutsideClock
from tests.simulation.simulation import UNIX_S, Simulation
from tests.simulation.world import SimulatedWorld
from tests.support.dns_sockets import FakeSockets
from tests.support.memory_lan import MemoryLan
from tests.support.store_memory import MemoryDisk, MemoryStorage
from tests.support.vms import make_vm
from tests.support.world import settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from jitsu_protocol.messages import Request, VmStatus
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import Caller
    from tests.simulation.simulation import Life

R = TypeVar("R", bound=Message)

FAST = Path("/dev/shm")
"""Files of a simulation need not outlive this machine (tmpfs(5))."""
START_LIMIT_S = 20.0
FIRST_PORT = 10_000
EDNS = struct.pack("!BHHIH", 0, 41, 1232, 0, 0)


@dataclass
class Asked:
    """A query, and what came back."""

    name: str
    replica: str
    at: float
    answered_at: float | None = None
    data: bytes = b""

    @property
    def seconds(self) -> float:
        """How long the answer took."""
        assert self.answered_at is not None, f"{self.name} was not answered"
        return self.answered_at - self.at

    @property
    def rcode(self) -> str:
        return dns.rcode.to_text(dns.rcode.Rcode(self.data[3] & 15)) if self.data else "none"

    @property
    def addresses(self) -> list[str]:
        return [each.to_text() for rrset in dns.message.from_wire(self.data).answer for each in rrset]

    @property
    def ttl(self) -> int | None:
        """Of its first address (RFC 1035, section 4.1), None if it has none."""
        if not self.data or self.data[3] & 15 or self.data[6:8] == b"\0\0":
            return None
        at = self.data.index(b"\0", 12) + 5
        return int(struct.unpack_from("!HHHI", self.data, at)[3])


class _Answers(list[Any]):
    """Passes on what FakeSockets notes."""

    def __init__(self, note: Callable[[Any, bytes], None]) -> None:
        super().__init__()
        self._note = note

    def append(self, each: Any) -> None:
        self._note(*each)


@dataclass
class Process:
    """One process of the suite, over all its starts."""

    name: str
    main: Callable[[SimulatedWorld], Any]
    flags: dict[str, str]
    service: str
    life: Life | None = None
    world: SimulatedWorld | None = None
    starts: int = 0


@dataclass
class Broken:
    """A guarantee that was broken."""

    at: float
    what: str


@dataclass
class SimulatedSuite:
    """See above."""

    vms: Sequence[VM]
    seed: int = 0
    replicas: int = 1
    hosts: Sequence[str] = ("",)
    synjitsu: bool = False
    """There is a bridge, with Synjitsu on it."""
    settings: dict[str, str] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    """What was found wrong; a test that ends with any of it fails, unless it is about that."""
    broken_is_expected: bool = False

    def __post_init__(self) -> None:
        """Make the processes; none is started."""
        self.simulation = Simulation(self.seed)
        self.directory = Path(mkdtemp(prefix="jitsu-simulated-", dir=FAST if FAST.is_dir() else None))
        self.disk = MemoryDisk()
        self.guests = {host: GuestHost(self.simulation) for host in self.hosts}
        for each in self.guests.values():
            each.stopping = self._stopping
        self.lan = MemoryLan(OutsideClock(self.simulation))
        self.processes: dict[str, Process] = {}
        self.sockets: dict[str, FakeSockets] = {}
        self._asked: dict[int, Asked] = {}
        self._clients = 0
        self.queries: list[Asked] = []
        self._valid_until: dict[str, tuple[float, Asked]] = {}
        """VM -> until when an answer for it is within its TTL, and which."""
        self.answered_at: dict[str, float] = {}
        """VM -> when an address of it was given out last."""
        others = ",".join(host for host in self.hosts if host)
        self._flags = {
            "bus.runtime_dir": str(self.directory),
            "dns.forward": "off",
            "dns.zones": "jitsu.test",
            **({"bus.hosts": others} if others else {}),
            **self.settings,
        }
        self._add("store", "store", self._start_store)
        for host in self.hosts:
            self._add(f"vmd-{host}" if host else "vmd", "vmd", self._start_vmd, {"hypervisor.host": host})
        if self.synjitsu:
            self.guests[""].bridge = self.lan.add(BRIDGE)
            self._add("synjitsu", "synjitsu", self._start_synjitsu, {"synjitsu.bridges": BRIDGE})
        for n in range(self.replicas):
            self.add_replica(f"dns-{n}")
        self._add("reaper", "reaper", jitsu_reaper.main.start)
        self._add("operator", "jitsu", self._start_operator)

    def add_replica(self, name: str, **flags: str) -> None:
        """Make one more dns replica; it is not started. `flags` are as lease="8"."""
        self._add(name, "dns", self._start_dns, {"dns.replica": name} | {f"dns.{k}": v for k, v in flags.items()})

    def _add(
        self, name: str, service: str, main: Callable[[SimulatedWorld], Any], flags: dict[str, str] | None = None
    ) -> None:
        self.processes[name] = Process(name, main, self._flags | (flags or {}), service)

    def __enter__(self) -> SimulatedSuite:
        self.simulation.__enter__()
        try:
            self._begin()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _begin(self) -> None:
        for name in self.processes:
            self.start(name)
        self.run_until(lambda: self.is_ready("store") and self.is_ready("operator"), START_LIMIT_S, "the store is up")
        self.apply({path: value for vm in self.vms for path, value in to_tree(vm).items()})
        self.run_until(lambda: all(map(self.is_ready, self.processes)), START_LIMIT_S, "the suite is up")
        self.run(1.0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.broken and not self.broken_is_expected:
                kind, error = AssertionError, AssertionError(str(self.broken))
                raise error
        finally:
            self.simulation.__exit__(kind, error, trace)
            shutil.rmtree(self.directory, ignore_errors=True)

    # --- what each process runs ---

    async def _start_store(self, world: SimulatedWorld) -> None:
        await jitsu_store.main.start(world, lambda _: MemoryStorage(self.disk))

    async def _start_vmd(self, world: SimulatedWorld) -> None:
        await jitsu_vmd.main.start(world, {"": SimulatedHypervisor(self.guests[world.host])})

    async def _start_dns(self, world: SimulatedWorld) -> None:
        name = world.settings.dns.replica
        sockets = self.sockets[name] = FakeSockets()
        sockets.answers = _Answers(self._answered)
        await jitsu_dns.main.start(world, sockets)

    async def _start_synjitsu(self, world: SimulatedWorld) -> None:
        life = self.processes["synjitsu"].life
        assert life is not None
        await jitsu_synjitsu.main.start(world, LanOfProcess(self.lan, life))

    async def _start_operator(self, world: SimulatedWorld) -> None:
        self._operator: dict[str, Caller] = {"store": world.client("store"), "reaper": world.client("reaper")}
        self._operator |= {f"vmd-{host}" if host else "vmd": vmd for host, vmd in world.vmds().items()}
        world.ready()

    # --- what a test does to processes ---

    def start(self, name: str) -> None:
        """Start a process that does not run."""
        process = self.processes[name]
        assert process.life is None or not process.life.alive, f"{name} runs already"

        async def main(life: Life) -> None:
            process.world = SimulatedWorld(self.simulation, life, process.service, settings_of(process.flags))
            await process.main(process.world)

        process.world = None
        process.life = self.simulation.begin(name, main)
        process.starts += 1

    def kill(self, name: str) -> None:
        """kill -9 a process."""
        life = self.processes[name].life
        assert life is not None
        self.simulation.end(life)
        kept = self.directory / "synjitsu.connections"
        if name == "synjitsu" and kept.exists():
            files.utime(kept, (UNIX_S + self.simulation.now,) * 2)  # it was written just before, by this time

    def stop(self, name: str, within_s: float = 5.0) -> None:
        """Stop a process in an orderly way."""
        process = self.processes[name]
        assert process.life is not None
        assert process.world is not None
        if process.world.on_stop is not None:
            self._await(process.life, process.world.on_stop, within_s)
        self.kill(name)

    def restart(self, name: str) -> None:
        """kill -9 a process if it runs, and start another."""
        if self.runs(name):
            self.kill(name)
        self.start(name)

    def suspend(self, seconds: float, *names: str) -> None:
        """Let processes do nothing for a while."""
        for name in names:
            if self.runs(name):
                life = self.processes[name].life
                assert life is not None
                self.simulation.suspend(life, seconds)

    def runs(self, name: str) -> bool:
        """Say whether a process is there."""
        life = self.processes[name].life
        return life is not None and life.alive

    def is_ready(self, name: str) -> bool:
        """Say whether a process is there and has said that it is ready."""
        world = self.processes[name].world
        return self.runs(name) and world is not None and world.is_ready

    # --- time ---

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.simulation.run(seconds)

    def run_until(self, what: Callable[[], Any], limit_s: float, about: str = "") -> None:
        """Let time pass until something is so; raises AssertionError if it is not so in time."""
        self.simulation.run_until(what, limit_s, about)

    def _await(self, life: Life, work: Callable[[], Any], limit_s: float) -> Any:
        """Run a coroutine in a process until it is done."""
        tasks: list[Any] = []
        life.arrives(lambda: tasks.append(life.loop.create_task(work())))
        self.run_until(lambda: tasks and tasks[0].done(), limit_s, "what was asked")
        return tasks[0].result()

    # --- what a test asks ---

    def call(self, owner: str, request: Request, reply: type[R], timeout: float = 10.0) -> R:
        """Call a service as the operator does; raises its error."""
        life = self.processes["operator"].life
        assert life is not None
        answer: R = self._await(life, lambda: self._operator[owner].call(request, reply, timeout), timeout + 1)
        return answer

    def apply(self, leaves: dict[str, str], message: str = "A change") -> Applied:
        """Commit a change of the configuration."""
        changes = [Change(path=path, value=value) for path, value in leaves.items()]
        request = Apply(changes=changes, author="operator:test", message=message, request=f"r{self.simulation.now}")
        return self.call("store", request, Applied)

    def configure(self, vm: VM) -> None:
        """Configure a VM otherwise."""
        self.vms = [vm if each.name == vm.name else each for each in self.vms]
        self.apply(to_tree(vm))

    def statuses(self) -> dict[str, VmStatus]:
        """Return what each vmd says of its VMs, by name."""
        found: dict[str, VmStatus] = {}
        for host in self.hosts:
            listed = self.call(f"vmd-{host}" if host else "vmd", ListVms(), VmList)
            found |= {status.name: status for status in listed.vms}
        return found

    def state(self, name: str) -> str:
        """Return a VM's state as its vmd says it."""
        return str(self.statuses()[name].state)

    def notes(self, name: str) -> list[str]:
        """Return what a process would show in `jitsu status`."""
        return self.call(name, Ping(), Pong).notes

    def vm(self, name: str) -> VM:
        """Return a VM by its name."""
        return next(vm for vm in self.vms if vm.name == name)

    def guest_runs(self, name: str) -> bool:
        """Say whether a VM's guest runs, whatever anybody believes."""
        return any(host.runs(self.vm(name)) for host in self.guests.values())

    def connect(self, vm: str) -> ClientOnLan:
        """Let a client open a connection to a VM's address."""
        self._clients += 1
        bridge = self.guests[""].bridge
        assert bridge is not None
        number = self._clients
        client = ClientOnLan(
            self.simulation,
            bridge,
            bytes((2, 0, 0, 9, number >> 8, number & 255)),
            bytes((10, 77, 100 + (number >> 8), number & 255)),
            self.vm(vm).addresses[0].packed,
            40_000 + number,
        )
        client.connect()
        return client

    def syns(self, vm: str) -> int:
        """Return how many connection attempts have reached the guest of a VM that runs now."""
        return len(self.guests[""].on_lan[self.vm(vm).uuid].syns)

    def boots(self, name: str) -> int:
        """Return how often a VM's guest was started."""
        return sum(each == name for host in self.guests.values() for _, each in host.boots)

    def stops(self, name: str) -> list[float]:
        """Return when a VM's guest was stopped."""
        return [at for host in self.guests.values() for at, each in host.stops if each == name]

    # --- queries ---

    def query(self, vm: str, replica: str = "dns-0") -> Asked:
        """Ask for a VM's address; the answer is in what is returned once time has passed."""
        asked = Asked(vm, replica, self.simulation.now)
        number = len(self.queries)
        self.queries.append(asked)
        self._asked[number] = asked
        life = self.processes[replica].life
        if life is not None and life.alive and replica in self.sockets:
            sockets = self.sockets[replica]
            client = (f"192.0.{number // 200 % 250}.{number % 200 + 1}", FIRST_PORT + number)
            packet = _packet(number & 0xFFFF, f"{vm}.jitsu.test")
            life.arrives(lambda: sockets.query(packet, client))
        return asked

    def ask(self, vm: str, replica: str = "dns-0", limit_s: float = 6.0) -> Asked:
        """Ask, and wait for the answer."""
        asked = self.query(vm, replica)
        self.run_until(lambda: asked.answered_at is not None, limit_s, f"an answer for {vm}")
        return asked

    def ask_until(self, vm: str, rcode: str, limit_s: float, replica: str = "dns-0", every_s: float = 0.05) -> Asked:
        """Ask again and again until the answer has this code; return it."""
        ends = self.simulation.now + limit_s
        while (asked := self.ask(vm, replica)).rcode != rcode:
            assert self.simulation.now < ends, f"{vm} is {asked.rcode} after {limit_s} s, not {rcode}"
            self.run(every_s)
        return asked

    def _answered(self, client: Any, data: bytes) -> None:
        asked = self._asked.pop(client[1] - FIRST_PORT)
        asked.answered_at, asked.data = self.simulation.now, data
        self.simulation.traced("answer", asked.name, asked.rcode, asked.ttl)
        if asked.ttl is not None:
            self.answered_at[asked.name] = self.simulation.now
            until = self.simulation.now + asked.ttl
            if until >= self._valid_until.get(asked.name, (0.0, asked))[0]:
                self._valid_until[asked.name] = (until, asked)

    # --- G3 ---

    def _stopping(self, name: str) -> None:
        now, vm = self.simulation.now, self.vm(name)
        until, asked = self._valid_until.get(name, (0.0, None))
        if asked is not None and now < until:
            self._note_broken(f"G3: {name} is stopped {until - now:.3f} s before the TTL of an answer is over")
        # A replica without a lease may answer that long after vmd has counted the query.
        idle_at = self.answered_at.get(name, 0.0) - REPLY_MAX_AGE_S + vm.idle_timeout
        if now < idle_at and not vm.evict:
            self._note_broken(f"G3: {name} is stopped {idle_at - now:.3f} s before its idle_timeout is over")

    def _note_broken(self, what: str) -> None:
        self.simulation.note(f"BROKEN    {what}")
        self.broken.append(Broken(self.simulation.now, what))


def vm(name: str, **keys: object) -> VM:
    """Return a VM of that name, which is NAME.jitsu.test, booting in no time unless `keys` say otherwise."""
    number = sum(name.encode()) % 250 + 1
    shown = {"response_delay": "0", **{key: str(value).lower() for key, value in keys.items()}}
    return make_vm(name, shown.pop("address", f"127.9.{len(name)}.{number}"), **shown)


def lan_vm(name: str, number: int, **keys: object) -> VM:
    """Return a VM on the bridge, which Synjitsu hides while it boots."""
    address = {"address": f"10.77.0.{number}", "nic": BRIDGE, "mac": f"02:00:5e:00:53:{number:02x}"}
    return vm(name, **{**address, "use_synjitsu": True, **keys})


@cache
def _question(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return labels + b"\0\0\1\0\1"


def _packet(id: int, name: str) -> bytes:
    """Return a query for an address (RFC 1035, section 4.1), with EDNS (RFC 6891)."""
    return struct.pack("!HHHHHH", id, 0x0100, 1, 0, 0, 1) + _question(name) + EDNS
