"""The tool's connection to a running suite."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jitsu_protocol.messages import Leaves, List, ListVms, Message, Ping, Pong, VmList
from jitsu_protocol.model.errors import JitsuError, Unavailable
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_protocol.vm_names import VmNames
from jitsu_runtime.bus.curve import Curve
from jitsu_runtime.bus.feed_client import FeedClient
from jitsu_runtime.bus.libzmq import Context
from jitsu_runtime.bus.watch import Watch
from jitsu_runtime.bus.zeromq import ZmqFollower, rpc_client
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.settings.schema import MACHINE_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Coroutine

    from jitsu_protocol.messages import CommitChanges, Request, VmStatus
    from jitsu_protocol.vm_names import NamedVm
    from jitsu_runtime.bus.rpc_client import RpcClient
    from jitsu_runtime.settings.schema import BusSettings

TIMEOUT_S = 5.0
PING_TIMEOUT_S = 1.0
GONE_S = 5.0
"""A service that restarts is back sooner: its unit waits for a quarter of a second, and it starts in one or two."""
PROBE_S = 0.1
OWNERS = ("store", "vmd", "synjitsu", "reaper")
EXTRA = "web"
"""Not everybody runs it, so it is asked only if it is there."""
"""The services that have an rpc."""

SYSTEMD = Path("/run/systemd/system")
"""This directory exists if systemd runs the machine: sd_booted(3)."""

R = TypeVar("R", bound=Message)


def listens(path: Path) -> bool:
    """Return whether somebody listens on a UNIX socket: its file outlives the process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # it has too much to do to take one more
        except OSError:
            return False
        return True


class Link:
    """Calls the services of one suite."""

    def __init__(
        self,
        bus: BusSettings,
        context: Context,
        clients: dict[tuple[str, str], RpcClient],
        curve: Curve | None,
    ) -> None:
        """`clients` are by service and host."""
        self._curve = curve
        self._bus = bus
        self._context = context
        self._clients = clients

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts that have a vmd, "" for that of bus.vmd_rpc."""
        return frozenset(self._bus.vmds)

    @property
    def directory(self) -> Path:
        """Where the sockets are."""
        return self._bus.directory

    @property
    def is_local(self) -> bool:
        """Whether all services are on this machine, as far as is known: none is reached over tcp."""
        return not any(not endpoint.path for _, endpoint in self._bus.endpoints())

    def runs(self, owner: str, host: str = "") -> bool:
        """Return whether a service listens. One that is reached over tcp is taken to listen."""
        path = self._path(owner, host)
        return path is None or listens(path)

    def absent(self, owner: str) -> Unavailable:
        """Return the error for a service that does not run, with a hint what to do."""
        hint = "start the suite with `jitsu up`, or name its directory with --runtime-dir"
        if MACHINE_DIRECTORY.exists() and not os.access(MACHINE_DIRECTORY, os.X_OK):
            hint = "the suite of this machine is for root and members of the group jitsu"
        elif self._bus.directory == MACHINE_DIRECTORY and SYSTEMD.exists():
            hint = f"`systemctl status jitsu-{owner}` says why"
        return Unavailable(f"no jitsu-{owner} runs in {self._bus.directory}", hint=hint)

    async def call(self, owner: str, request: Request, reply: type[R], timeout: float = TIMEOUT_S, host: str = "") -> R:
        """Call a service; with the name of a host, the vmd there.

        Raises Unavailable at once if it has never run there, and if it has, when nobody has listened for GONE_S.
        """
        path = self._path(owner, host)
        if path is not None and not os.access(path, os.F_OK):
            raise self.absent(owner)
        answer = asyncio.ensure_future(self._clients[owner, host].call(request, reply, timeout))
        listened_at = SYSTEM_CLOCK.now()
        try:
            while not (await asyncio.wait({answer}, timeout=PROBE_S))[0]:
                if path is None or listens(path):
                    listened_at = SYSTEM_CLOCK.now()
                elif SYSTEM_CLOCK.now() - listened_at >= GONE_S:
                    raise self.absent(owner)
            return answer.result()
        finally:
            answer.cancel()

    def _path(self, owner: str, host: str) -> Path | None:
        endpoint = str(self._bus.endpoint(owner, "rpc", host))
        return Path(endpoint.removeprefix("ipc://")) if endpoint.startswith("ipc://") else None

    async def pings(self) -> dict[str, Pong | None]:
        """Return what each service reports about itself, None if it does not answer."""
        answers = await asyncio.gather(*(self._ping(owner, host) for owner, host in self._clients))
        names = (self.service_name(owner, host) for owner, host in self._clients)
        return dict(zip(names, answers, strict=True))

    @staticmethod
    def service_name(owner: str, host: str = "") -> str:
        """Return what a service is called in a list of all."""
        return f"{owner} of {host}" if host else owner

    async def _ping(self, owner: str, host: str) -> Pong | None:
        try:
            return await self.call(owner, Ping(), Pong, PING_TIMEOUT_S, host)
        except JitsuError:
            return None

    async def leaves(self, prefix: str = "") -> dict[str, str]:
        """Return the leaves below a path."""
        return (await self.call("store", List(prefix=prefix), Leaves)).leaves

    async def vms(self) -> list[VmStatus]:
        """Return all VMs as their vmds see them; raises Unavailable if that of this host does not answer."""
        found = (await self.call("vmd", ListVms(), VmList)).vms
        for listed in await self.from_further_hosts(ListVms(), VmList):
            found += listed.vms
        return found

    async def vms_of_all_hosts(self, silent: Collection[str] = ()) -> tuple[list[VmStatus], dict[str, JitsuError]]:
        """Return the VMs that the vmds know, and the error of each host whose vmd does not answer: host -> error.

        Hosts that are known to be `silent` are not waited for.
        """
        hosts = [host for host in self._bus.vmds if host not in silent]
        answers = await asyncio.gather(*(self._listed(host) for host in hosts))
        vms = [vm for answer in answers if isinstance(answer, VmList) for vm in answer.vms]
        errors = {host: each for host, each in zip(hosts, answers, strict=True) if isinstance(each, JitsuError)}
        return vms, {host: Unavailable("vmd does not answer") for host in silent} | errors

    async def _listed(self, host: str) -> VmList | JitsuError:
        try:
            return await self.call("vmd", ListVms(), VmList, host=host)
        except JitsuError as error:
            return error

    async def from_further_hosts(self, request: Request, reply: type[R]) -> list[R]:
        """Ask the vmds of bus.hosts, and return the replies of those that answer."""
        answers = await asyncio.gather(
            *(self.call("vmd", request, reply, PING_TIMEOUT_S, host) for host in self._bus.vmds[1:]),
            return_exceptions=True,
        )
        for each in answers:
            if isinstance(each, BaseException) and not isinstance(each, JitsuError):
                raise each
        return [each for each in answers if isinstance(each, reply)]

    async def watch(self, branch: str, prefix: str, since: str) -> AsyncIterator[CommitChanges]:
        """Yield what is committed below a path, until cancelled."""
        watched = Watch(self._clients["store", ""], branch, prefix, since)
        link = ZmqFollower(self._context, str(self._bus.endpoint("store", "feed")), "heads", "store", curve=self._curve)
        feed = FeedClient(link, "heads", ask=watched.ask, reset=watched.reset, apply=watched.apply)
        task = asyncio.create_task(feed.run())
        try:
            async for each in watched.commits():
                yield each
        finally:
            task.cancel()

    async def find_vm(self, word: str) -> NamedVm:
        """Return the VM with a name, a UUID or a DNS name; raises NotFound, or BadRequest if several have that name.

        The store knows VMs of hosts that do not answer too. Without the store, the vmds report which VMs there are.
        """
        try:
            names = VmNames.in_leaves(await self.leaves(VM_ROOT))
        except Unavailable:
            vms, errors = await self.vms_of_all_hosts()
            if not vms and errors:
                raise
            names = VmNames.of_statuses(vms)
        return names.find(word)


@asynccontextmanager
async def connect(bus: BusSettings) -> AsyncIterator[Link]:
    """Connect to the suite."""
    context = Context()
    tasks: list[asyncio.Task[None]] = []

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.create_task(work))

    try:
        keys = bus.keys_directory
        curve = None if keys is None else Curve(context, keys, "operator", spawn)
        owners = [(owner, "") for owner in OWNERS] + [("vmd", host) for host in bus.vmds[1:]]
        owners += [(EXTRA, "")] if listens(bus.directory / f"{EXTRA}.rpc") else []
        clients = {
            (owner, host): rpc_client(context, str(bus.endpoint(owner, "rpc", host)), owner, curve, host)
            for owner, host in owners
        }
        for client in clients.values():
            spawn(client.run())
        yield Link(bus, context, clients, curve)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        context.destroy(linger=0)
