"""A Proxmox VE for tests: `/api2/json` over TLS, as pveproxy answers, for machines that are played or that QEMU runs.

Each request, and each answer that is not an error, is held against what Proxmox publishes (pve_description.py); what
does not fit is in `misfits`, which must be empty in the end. Tasks, locks, the order of what a suspend does, and the
texts of errors are those of qemu-server and pve-container. What the cluster reports of all machines is old until
`publish` is called, as it is there for some ten seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from tests.support import pve_description
from tests.support.xapi import self_signed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

USER = "jitsu@pve!vmd"
SECRET = "d0a3e6f2-5e1a-4c0f-9c55-00c0ffee0001"
TOKEN = f"{USER}={SECRET}"
LOCK_WAIT_S = 0.3
"""Ten seconds in qemu-server."""


class Refusal(Exception):
    """The API answers with an error: a status, and a text in its status line."""

    def __init__(self, text: str, status: int = 500) -> None:
        super().__init__(text)
        self.status = status


class Body(Protocol):
    """What runs a machine. A call that fails raises Refusal."""

    async def boot(self, *, restored: bool) -> None:
        """Start it, from its saved memory or from its disk."""

    async def quit(self) -> None:
        """End it at once."""

    async def pause(self) -> None:
        """Stop its processors."""

    async def resume(self) -> None:
        """Let its processors run."""

    async def save(self) -> None:
        """Save its memory."""

    async def power_down(self) -> None:
        """Press its power button."""

    async def qmp_status(self) -> str:
        """Return what query-status says, "" if it does not run."""

    async def end(self) -> None:
        """Leave nothing of it behind."""


class PlayedBody:
    """A machine that has only a state."""

    def __init__(self) -> None:
        self.status = ""
        self.is_deaf = False
        """It does not hear its power button."""

    async def boot(self, *, restored: bool) -> None:
        assert self.status == "", restored
        self.status = "running"

    async def quit(self) -> None:
        self.status = ""

    async def pause(self) -> None:
        self.status = "paused"

    async def resume(self) -> None:
        self.status = "running"

    async def save(self) -> None:
        pass

    async def power_down(self) -> None:
        if not self.is_deaf:
            self.status = ""

    async def qmp_status(self) -> str:
        return self.status

    async def end(self) -> None:
        self.status = ""


@dataclass
class PveMachine:
    """A machine as its node has it."""

    vmid: int
    name: str
    node: str = "pve1"
    type: str = "qemu"
    body: Body = field(default_factory=PlayedBody)
    lock: str = ""
    config: dict[str, str] = field(default_factory=dict)
    tags: str = ""
    is_template: bool = False
    agent: object = None
    """What its guest agent reports of interfaces."""
    held: asyncio.Lock = field(default_factory=asyncio.Lock)
    saved: bool = False


class FakePve:
    """A cluster, and its tasks."""

    def __init__(self, directory: Path, *nodes: str) -> None:
        self.certificate = self_signed(directory)
        self.nodes: dict[str, str] = dict.fromkeys(nodes or ("pve1",), "online")
        self.machines: dict[int, PveMachine] = {}
        self.publishes = True
        """Whether the nodes publish each change at once."""
        self.calls: list[str] = []
        self.misfits: list[str] = []
        self.fails: dict[str, str] = {}
        """What the next task of a kind fails with: `qmstart` -> a text."""
        self.shutdown_limit_s = 2.0
        """A played machine shuts down at once, or never."""
        self.hangs = False
        """Requests are taken, and not answered."""
        self.starts: list[int] = []
        """VMIDs of the machines that were booted or restored."""
        self.port = 0
        self._published: dict[int, dict[str, Any]] = {}
        self._tasks: dict[str, dict[str, Any]] = {}
        self._logs: dict[str, list[str]] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None

    @property
    def uri(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def fingerprint(self) -> str:
        pem = self.certificate.read_text()
        pem = pem[pem.index("-----BEGIN CERTIFICATE") :]
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    async def __aenter__(self) -> FakePve:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        for each in self._work:
            each.cancel()
        for machine in self.machines.values():
            await machine.body.end()

    async def open(self) -> None:
        """Listen; on the same port as before if it did."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop listening; machines and tasks go on."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def add(self, name: str, vmid: int = 0, **more: Any) -> PveMachine:
        vmid = vmid or 100 + len(self.machines)
        config = {"net0": f"virtio=BC:24:11:00:00:{vmid % 256:02X},bridge=vmbr0"}
        self.machines[vmid] = PveMachine(vmid, name, **({"config": config} | more))
        self._published[vmid] = {"status": "stopped", "uptime": 0, "name": name}
        return self.machines[vmid]

    async def publish(self) -> None:
        """Have all nodes report their machines, as pvestatd does every ten seconds."""
        for machine in self.machines.values():
            if self.nodes[machine.node] == "online":
                is_up = bool(await machine.body.qmp_status())
                state = {"status": "running" if is_up else "stopped", "uptime": 7 if is_up else 0, "name": machine.name}
                self._published[machine.vmid] = state

    # --- answers ---

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/api2/json")
        self.calls.append(f"{request.method} {path}")
        if self.hangs:
            await asyncio.Event().wait()
        form = {key: str(value) for key, value in (await request.post()).items()}
        try:
            if not request.path.startswith("/api2/json/"):
                raise Refusal("no such file", 404)
            if request.headers.get("Authorization") != f"PVEAPIToken={TOKEN}":
                raise Refusal("no such token 'vmd' for user 'jitsu@pve'", 401)
            data = {"data": await self._data(request.method, path, form)}
        except Refusal as refusal:
            return web.json_response({"data": None}, status=refusal.status, reason=str(refusal))
        try:
            pve_description.check(request.method, path, request.query, form, data)
        except (AssertionError, ValueError) as misfit:
            self.misfits.append(f"{request.method} {path}: {misfit}")
        return web.json_response(data)

    async def _data(self, method: str, path: str, form: dict[str, str]) -> object:
        parts = path.strip("/").split("/")
        match method, parts:
            case "GET", ["cluster", "resources"]:
                if self.publishes:
                    await self.publish()
                return [*self._nodes(), *(self._resource(each) for each in self.machines.values())]
            case "GET", ["cluster", "tasks"]:
                return list(self._tasks.values())
            case "GET", ["nodes", node, "tasks", upid, what]:
                self._reach(node)
                return self._task(upid, what)
            case _, ["nodes", node, ("qemu" | "lxc") as kind, vmid, *rest]:
                self._reach(node)
                machine = self.machines.get(int(vmid))
                if machine is None or (machine.node, machine.type) != (node, kind):
                    place = "qemu-server" if kind == "qemu" else "lxc"
                    raise Refusal(f"Configuration file 'nodes/{node}/{place}/{vmid}.conf' does not exist")
                return await self._of(machine, method, "/".join(rest), form)
        raise Refusal(f"Path '{path}' not implemented", 501)

    def _reach(self, node: str) -> None:
        if self.nodes.get(node) != "online":
            raise Refusal("No route to host", 595)

    def _nodes(self) -> list[dict[str, Any]]:
        return [
            {"id": f"node/{name}", "type": "node", "node": name, "status": status}
            for name, status in self.nodes.items()
        ]

    def _resource(self, machine: PveMachine) -> dict[str, Any]:
        record = {"id": f"{machine.type}/{machine.vmid}", "type": machine.type, "node": machine.node}
        record |= {"vmid": machine.vmid, "template": int(machine.is_template)} | self._published[machine.vmid]
        return record | {key: value for key, value in (("lock", machine.lock), ("tags", machine.tags)) if value}

    def _task(self, upid: str, what: str) -> object:
        if upid not in self._tasks:
            raise Refusal("no such task")
        if what == "log":
            return [{"n": n + 1, "t": text} for n, text in enumerate(self._logs[upid])]
        task = self._tasks[upid]
        ended = {"status": "stopped", "exitstatus": task["status"]} if "endtime" in task else {"status": "running"}
        return {key: task[key] for key in ("id", "node", "pid", "pstart", "starttime", "type", "upid", "user")} | ended

    async def _of(self, machine: PveMachine, method: str, what: str, form: dict[str, str]) -> object:
        verb = what.removeprefix("status/")
        match method, what:
            case "GET", "status/current":
                return await self._current(machine)
            case "GET", "config":
                return {"digest": "0" * 40, "description": "", **machine.config}
            case "GET", ("agent/network-get-interfaces" | "interfaces"):
                if machine.agent is None:
                    raise Refusal("QEMU guest agent is not running")
                return machine.agent
            case "PUT", "config" if form == {"delete": "vmstate"}:
                if machine.lock not in ("", "suspended"):
                    raise Refusal(f"VM is locked ({machine.lock})")
                machine.lock, machine.saved = "", False
                return None
            case "POST", _ if verb in ("start", "stop", "shutdown", "suspend", "resume"):
                return await self._begin(machine, verb, form)
        raise Refusal(f"Method '{method} {what}' not implemented", 501)

    async def _current(self, machine: PveMachine) -> dict[str, Any]:
        status = await machine.body.qmp_status()
        record: dict[str, Any] = {"vmid": machine.vmid, "name": machine.name, "ha": {"managed": 0}}
        record |= {"status": "running" if status else "stopped", "uptime": 7 if status else 0}
        if machine.type == "qemu":
            record["qmpstatus"] = status or "stopped"
        return record | ({"lock": machine.lock} if machine.lock else {})

    # --- tasks ---

    async def _begin(self, machine: PveMachine, verb: str, form: dict[str, str]) -> str:
        is_up = bool(await machine.body.qmp_status())
        if verb == "suspend" and not is_up:
            raise Refusal(f"VM {machine.vmid} not running")
        if verb == "resume" and not is_up and machine.lock != "suspended":
            raise Refusal(f"VM {machine.vmid} not running")
        if machine.type == "lxc" and is_up == (verb == "start"):
            raise Refusal(f"CT {machine.vmid} {'already' if is_up else 'not'} running")
        if verb == "shutdown" and await machine.body.qmp_status() == "paused":
            raise Refusal("VM is paused - cannot shutdown")
        kind = "qmpause" if verb == "suspend" and form.get("todisk") != "1" else f"qm{verb}"
        if machine.type == "lxc":
            kind = f"vz{verb}"
        work: dict[str, Callable[[], Awaitable[None]]] = {
            "start": lambda: self._start(machine),
            "stop": lambda: self._stop(machine),
            "shutdown": lambda: self._shut_down(machine, float(form.get("timeout", "60"))),
            "suspend": lambda: self._suspend(machine, to_disk=form.get("todisk") == "1"),
            "resume": lambda: self._resume(machine),
        }
        return self.task(kind, machine, work[verb])

    def task(self, kind: str, machine: PveMachine, work: Callable[[], Awaitable[None]]) -> str:
        """Run a task, as `fork_worker` does, and return its id."""
        number = len(self._tasks) + 1
        upid = f"UPID:{machine.node}:{number:08X}:00A1B2C3:6742F1B0:{kind}:{machine.vmid}:{USER}:"
        task = {"upid": upid, "node": machine.node, "pid": number, "pstart": 1, "starttime": 1732440000, "saved": "0"}
        self._tasks[upid] = task | {"type": kind, "id": str(machine.vmid), "user": USER.partition("!")[0]}
        self._logs[upid] = []
        running = asyncio.get_running_loop().create_task(self._run(upid, kind, machine, work))
        self._work.add(running)
        running.add_done_callback(self._work.discard)
        return upid

    async def _run(self, upid: str, kind: str, machine: PveMachine, work: Callable[[], Awaitable[None]]) -> None:
        status = "OK"
        try:
            async with asyncio.timeout(LOCK_WAIT_S):
                await machine.held.acquire()
            try:
                if kind in self.fails:
                    raise Refusal(self.fails.pop(kind))
                await work()
            finally:
                machine.held.release()
        except TimeoutError:
            status = f"can't lock file '/var/lock/qemu-server/lock-{machine.vmid}.conf' - got timeout"
        except Refusal as refusal:
            status = str(refusal)
        self._logs[upid].append("TASK OK" if status == "OK" else f"TASK ERROR: {status}")
        self._tasks[upid] |= {"endtime": 1732440001, "status": status}

    @staticmethod
    def _check_lock(machine: PveMachine, *allowed: str) -> None:
        if machine.lock and machine.lock not in allowed:
            raise Refusal(f"VM is locked ({machine.lock})")

    async def _start(self, machine: PveMachine) -> None:
        self._check_lock(machine, "suspended")
        if await machine.body.qmp_status():
            raise Refusal(f"VM {machine.vmid} already running")
        await machine.body.boot(restored=machine.lock == "suspended")
        self.starts.append(machine.vmid)
        if machine.lock == "suspended":  # only when the guest runs (PVE::QemuServer::vm_start_nolock)
            machine.lock, machine.saved = "", False

    async def _stop(self, machine: PveMachine) -> None:
        if await machine.body.qmp_status():
            self._check_lock(machine)
            await machine.body.quit()

    async def _shut_down(self, machine: PveMachine, limit_s: float) -> None:
        self._check_lock(machine)
        await machine.body.power_down()
        try:
            async with asyncio.timeout(min(limit_s, self.shutdown_limit_s)):
                while await machine.body.qmp_status():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Refusal("VM quit/powerdown failed - got timeout") from None

    async def _suspend(self, machine: PveMachine, *, to_disk: bool) -> None:
        self._check_lock(machine)
        if not to_disk:
            await machine.body.pause()
            return
        machine.lock = "suspending"
        await machine.body.save()
        machine.saved = True
        await machine.body.quit()
        machine.lock = "suspended"

    async def _resume(self, machine: PveMachine) -> None:
        if machine.lock == "suspended":
            await self._start(machine)
            return
        if await machine.body.qmp_status() != "running":
            self._check_lock(machine, "backup")
            await machine.body.resume()


def token_file(directory: Path, token: str = TOKEN) -> Path:
    path = directory / "token"
    path.touch(mode=0o600)
    path.write_text(token + "\n")
    return path
