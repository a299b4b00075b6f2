"""A server that answers as LXD and Incus do, on a unix socket: what it may be asked is what vmd asks.

The records have the shape that LXD 5.0.2 gave, and the errors the words of Incus 6 (its sources). Its instances may be
virtual machines, which can be suspended, and it may be a cluster with members that are offline, evacuated or healed.
"""

from __future__ import annotations

import itertools
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator
    from pathlib import Path

    Record = dict[str, Any]


class FakeLxd:
    """The server."""

    def __init__(self, *members: str) -> None:
        self.instances: dict[str, Record] = {}
        self.members: dict[str, Record] = {
            name: {"server_name": name, "status": "Online", "message": "Fully operational", "url": "https://x:8443"}
            for name in members
        }
        self.auth = "trusted"
        self.requests: list[str] = []
        self.bodies: list[Record] = []
        self.fails: dict[str, list[str]] = {}
        """Action -> the errors of its next operations."""
        self.says: bytes | None = None
        """What is answered in place of any record."""
        self.hangs: asyncio.Event | None = None
        self.forgets_to_clear = False
        """It dies between restoring an instance and noting that its saved state is used."""
        self.listeners: list[web.WebSocketResponse] = []
        self._operations: dict[str, Record] = {}
        self._numbers = itertools.count()

    def add(self, name: str, kind: str = "container", location: str = "none", **more: Any) -> Record:
        config = {
            f"volatile.{key}": value for key, value in {"uuid": f"uuid-{name}", "eth0.hwaddr": "00:16:3E:0:0:1"}.items()
        }
        record: Record = {
            "name": name,
            "type": kind,
            "status": "Stopped",
            "stateful": False,
            "location": location,
            "last_used_at": "1970-01-01T00:00:00Z",
            "config": config,
            "expanded_config": {"migration.stateful": "true"} if kind == "virtual-machine" else {},
            "devices": {},
            "profiles": ["default"],
            "expanded_devices": {"eth0": {"type": "nic", "network": "incusbr0", "name": "eth0"}},
        } | more
        self.instances[name] = record
        return record

    async def tell(self, action: str, name: str, location: str = "none") -> None:
        """Send an event to all who listen."""
        event = {
            "type": "lifecycle",
            "location": location,
            "metadata": {"action": action, "source": f"/1.0/instances/{name}?project=default"},
        }
        for listener in self.listeners:
            await listener.send_str(json.dumps(event))

    # --- the API ---

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        if self.hangs is not None:
            await self.hangs.wait()
        if self.says is not None:
            return web.Response(body=self.says)
        if request.path == "/1.0/events":
            return await self._listen(request)
        body = await request.json() if request.can_read_body else {}
        if body:
            self.bodies.append(body)
        return self._respond(request, request.path.removeprefix("/1.0").strip("/").split("/"), body)

    async def _listen(self, request: web.Request) -> web.WebSocketResponse:
        assert request.query["type"] == "lifecycle"
        listener = web.WebSocketResponse()
        await listener.prepare(request)
        self.listeners.append(listener)
        async for _ in listener:
            pass
        self.listeners.remove(listener)
        return listener

    def _respond(self, request: web.Request, parts: list[str], body: Record) -> web.Response:
        match request.method, parts:
            case "GET", [""]:
                environment = {"server": "incus", "server_version": "6.8", "server_name": "h1"}
                return _sync({"auth": self.auth, "environment": environment | {"server_clustered": bool(self.members)}})
            case "GET", ["cluster", "members"]:
                return _sync(list(self.members.values()))
            case "GET", ["instances"]:
                assert request.query["recursion"] in ("1", "2")
                return _sync(list(self.instances.values()))
            case "GET", ["operations", number, "wait"]:
                return _sync(self._operations[number])
            case "GET", ["networks"]:
                return _sync([{"name": "incusbr0", "managed": True, "type": "bridge"}])
            case "GET", ["profiles", "default"]:
                return _sync({"devices": {"eth0": {"type": "nic", "network": "incusbr0", "name": "eth0"}}})
            case "GET", ["images", "aliases", "vm"]:
                return _sync({"target": "abc", "type": "virtual-machine"})
            case "POST", ["instances"]:
                self.add(body["name"], body["type"], config=body["config"])
                return self._operation("create", None)
            case _, ["instances", name, *more] if name in self.instances:
                return self._on_instance(request.method, self.instances[name], more, body)
        return _error(404, "Instance not found")

    def _on_instance(self, method: str, record: Record, more: list[str], body: Record) -> web.Response:
        match method, more:
            case "GET", []:
                return _sync(record)
            case "GET", ["logs", _]:
                return _error(404, "Not Found")
            case "PATCH", []:
                record["config"] = {key: value for key, value in (record["config"] | body["config"]).items() if value}
                return _sync({})
            case "PUT", ["state"]:
                assert body.keys() == {"action", "timeout", "force", "stateful"}
                return self._operation(body["action"], self._change(record, **body))
        return _error(400, f"{method} {more} is not known")

    def _change(self, record: Record, action: str, *, force: bool, stateful: bool, timeout: int) -> str | None:
        """Change an instance; return why that cannot be done."""
        assert timeout > 0
        if self.fails.get(action):
            return self.fails[action].pop(0)
        status = record["status"]
        match action:
            case "start" if status != "Stopped":
                return "The instance is already running"
            case "start":
                if stateful and not record["stateful"]:
                    return "Instance has no existing state to restore"
                record["stateful"] = record["stateful"] and self.forgets_to_clear
                record["status"] = "Running"
            case "stop" if status == "Stopped":
                return "The instance is already stopped"
            case "stop":
                if stateful and record["expanded_config"].get("migration.stateful") != "true":
                    return "Stateful stop requires the instance to have migration.stateful be set to true"
                record |= {"status": "Stopped", "stateful": stateful}
            case "freeze":
                record["status"] = "Frozen"
            case "unfreeze" if status == "Frozen":
                record["status"] = "Running"
            case _:
                return f"{action} is not known"
        return None

    def _operation(self, action: str, error: str | None) -> web.Response:
        number = f"{action}-{next(self._numbers)}"
        self._operations[number] = {"id": number, "status": "Failure" if error else "Success", "err": error or ""}
        return web.json_response(
            {"type": "async", "status_code": 100, "operation": f"/1.0/operations/{number}", "metadata": {}}, status=202
        )


def _sync(metadata: Any) -> web.Response:
    answer = {"type": "sync", "status": "Success", "status_code": 200, "operation": "", "metadata": metadata}
    return web.Response(text=json.dumps(answer, separators=(",", ":")), content_type="application/json")


def _error(code: int, text: str) -> web.Response:
    return web.json_response({"type": "error", "error_code": code, "error": text, "metadata": None}, status=code)


@asynccontextmanager
async def serving(fake: FakeLxd, socket: Path) -> AsyncIterator[web.AppRunner]:
    """Serve on a unix socket."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    socket.unlink(missing_ok=True)
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield runner
    finally:
        if fake.hangs is not None:
            fake.hangs.set()
        await runner.cleanup()
