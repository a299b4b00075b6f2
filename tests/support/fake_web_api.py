"""A server that answers as jitsu-web's HTTP API does, from samples, for tests of the page alone.

It has what a real suite has too seldom to test a page with: every state, long names, hostile texts, thousands of VMs,
fifty changes a second, and a connection that breaks. tests/system/browser/test_tasks.py uses the
page with a real jitsu-web.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

import jitsu_web
from tests.support.sample_vms import commit, sample_services, sample_vms, summons_of, why_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAGE = Path(jitsu_web.__file__).parent / "page"
TOKENS = {"an-operators-token": ("alice", "operator"), "a-viewers-token": ("bob", "viewer")}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
CSRF = "a-token-against-forgery"
UP = ("starting", "booting", "ready", "draining")


class FakeWebApi:
    """The state behind the API, and what was asked of it."""

    def __init__(self, vms: list[dict[str, Any]] | None = None) -> None:
        self.vms = {vm["uuid"]: vm for vm in (sample_vms() if vms is None else vms)}
        self.services = sample_services()
        self.branches = {"master": self._leaves()}
        self.commits = [commit("Configure the first VMs", 9), commit("Give www a longer TTL", 8)]
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        """Changes: method, path and body."""
        self.last_ids: list[str] = []
        """With which event ids readers came."""
        self.is_down = False
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop that serves, which may be on another thread than the test."""
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        self._events: list[bytes] = []
        self._sessions: dict[str, tuple[str, str]] = {}

    # --- what a test does ---

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        """Send an event to every reader."""
        number = len(self._events) + 1
        self._events.append(f"id: e-{number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())
        self._send(self._events[-1])

    def change(self, name: str, **values: Any) -> None:
        """Change a VM, and send the event."""
        vm = self.named(name)
        vm |= values
        self.emit("vm", vm)

    def break_connections(self, *, is_down: bool) -> None:
        """End all streams; while it is down, every request is answered 503."""
        self.is_down = is_down
        self._send(None)

    def _send(self, event: bytes | None) -> None:
        assert self.loop is not None, "nothing is served yet"
        self.loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: bytes | None) -> None:
        for queue in self._streams:
            queue.put_nowait(event)

    def forget_sessions(self) -> None:
        """Make every session and stream end."""
        self._sessions.clear()
        self.break_connections(is_down=False)

    def named(self, name: str) -> dict[str, Any]:
        """Return the VM with this name."""
        return next(vm for vm in self.vms.values() if vm["name"] == name)

    # --- the server ---

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        """Serve on loopback; yields the address of the page."""
        self.loop, self.is_down = asyncio.get_running_loop(), False
        runner = web.AppRunner(self._application(), shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            self.break_connections(is_down=True)
            await runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._gate])
        api = "/api/v1"
        branch = api + "/config/branches/{branch}"
        routes: list[tuple[str, str, Handler]] = [
            ("POST", f"{api}/session", self._sign_in),
            ("GET", f"{api}/session", self._session),
            ("DELETE", f"{api}/session", self._sign_out),
            ("GET", f"{api}/events", self._stream),
            ("GET", f"{api}/vms", self._list),
            ("GET", api + "/vms/{name}", self._one),
            ("GET", api + "/vms/{name}/why", self._why),
            ("GET", api + "/vms/{name}/summons", self._summons),
            ("GET", api + "/vms/{name}/history", self._history),
            ("POST", api + "/vms/{name}/{verb}", self._steer),
            ("GET", f"{api}/services", self._services),
            ("GET", f"{api}/config/branches", self._branches),
            ("POST", f"{api}/config/branches", self._create),
            ("DELETE", branch, self._delete),
            ("GET", f"{api}/config/diff", self._diff),
            ("GET", f"{api}/config/history", self._history),
            ("POST", f"{api}/config/merge", self._merge),
            ("GET", branch + "/tree/{path:.*}", self._tree),
            ("PUT", branch + "/tree/{path:.*}", self._set),
            ("DELETE", branch + "/tree/{path:.*}", self._set),
        ]
        for method, path, handler in routes:
            app.router.add_route(method, path, handler)
        app.router.add_get("/", self._page)
        app.router.add_static("/", PAGE)
        return app

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/api/"):
            refused = self._refusal(request)
            if refused is not None:
                return refused
            if request.method != "GET" and not request.path.endswith("/session"):
                body = await request.json() if request.can_read_body else {}
                self.asked.append((request.method, request.path.removeprefix("/api/v1"), body))
        response = await handler(request)
        if not response.prepared:
            response.headers["Content-Security-Policy"] = POLICY
        return response

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self.is_down:
            return problem(503, "vmd does not answer", "is jitsu-vmd running?")
        if request.method == "POST" and request.path.endswith("/session"):
            return None
        caller = self._sessions.get(request.cookies.get("jitsu", ""))
        if caller is None:
            return problem(401, "credentials are needed", "sign in")
        if request.method != "GET" and not request.path.endswith("/session"):
            if request.headers.get("X-CSRF-Token") != CSRF:
                return problem(403, "the header X-CSRF-Token is missing", "")
            if caller[1] != "operator":
                return problem(403, "a viewer may not change anything", "ask an operator")
        return None

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / "index.html")

    async def _sign_in(self, request: web.Request) -> web.Response:
        caller = TOKENS.get((await request.json())["token"])
        if caller is None:
            return problem(401, "this token is not known", "jitsu token create")
        key = f"session-{len(self._sessions)}-{caller[0]}"
        self._sessions[key] = caller
        response = web.json_response({"name": caller[0], "role": caller[1], "via": "session", "csrf": CSRF})
        response.set_cookie("jitsu", key, httponly=True, samesite="Strict")
        return response

    async def _session(self, request: web.Request) -> web.Response:
        name, role = self._sessions[request.cookies["jitsu"]]
        return web.json_response({"name": name, "role": role, "via": "session", "csrf": CSRF})

    async def _sign_out(self, request: web.Request) -> web.Response:
        self._sessions.pop(request.cookies.get("jitsu", ""), None)
        return web.Response(status=204)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        last = request.headers.get("Last-Event-ID", "")
        self.last_ids.append(last)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        for missed in self._events[int(last.partition("-")[2]) :] if last else []:
            queue.put_nowait(missed)
        self._streams.add(queue)
        with suppress(ConnectionError):
            await response.write(b": hello\n\n")
            while (event := await queue.get()) is not None:
                await response.write(event)
        self._streams.discard(queue)
        return response

    async def _list(self, request: web.Request) -> web.Response:
        at, limit = int(request.query.get("cursor", "0")), int(request.query.get("limit", "100"))
        ordered = sorted(self.vms.values(), key=lambda vm: str(vm["name"]))
        after = at + limit
        return web.json_response({"items": ordered[at:after], "next": str(after) if after < len(ordered) else None})

    def _vm(self, request: web.Request) -> dict[str, Any]:
        for vm in self.vms.values():
            if request.match_info["name"] in (vm["name"], vm["uuid"]):
                return vm
        raise web.HTTPNotFound(text=json.dumps({"detail": "there is no such VM"}))

    async def _one(self, request: web.Request) -> web.Response:
        configuration = {"memory": 262144, "idle_timeout": 120, "response_delay": 0.3, "stop_mode": "shutdown"}
        return web.json_response({**self._vm(request), "status": None, "configuration": configuration})

    async def _why(self, request: web.Request) -> web.Response:
        return web.json_response(why_of(self._vm(request)))

    async def _summons(self, request: web.Request) -> web.Response:
        return web.json_response({"items": summons_of(self._vm(request))})

    async def _history(self, request: web.Request) -> web.Response:
        return web.json_response({"items": self.commits[::-1]})

    async def _steer(self, request: web.Request) -> web.Response:
        vm, verb = self._vm(request), request.match_info["verb"]
        if verb == "start":
            self.change(vm["name"], state="starting")
        elif verb == "stop":
            self.change(vm["name"], state="stopping")
        elif verb == "keep":
            self.change(vm["name"], idle={"stops_at": None, "reason": "alice keeps it up"})
        else:
            self.commits.append(commit("Go back to how it was", 0))
            self.emit("commit", {"branch": "master", "commit": self.commits[-1]["id"], "vms": [vm["uuid"]]})
        return web.json_response({"state": vm["state"]})

    async def _services(self, request: web.Request) -> web.Response:
        return web.json_response({"items": self.services})

    # --- branches ---

    def _leaves(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for vm in list(self.vms.values())[:200]:
            root = f"jitsu/vm/{vm['uuid']}"
            found |= {f"{root}/config/name/0": vm["name"], f"{root}/response_delay": "0.3"}
            found |= {f"{root}/dns/{name}/ttl": "60" for name in vm["names"]}
        return found

    def _id(self, branch: str) -> str:
        return f"{abs(hash(frozenset(self.branches[branch].items()))):040x}"[:40]

    async def _branches(self, request: web.Request) -> web.Response:
        return web.json_response({"items": [{"name": name, "commit": self.commits[-1]} for name in self.branches]})

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.branches[body["name"]] = dict(self.branches[body["start"]])
        return web.json_response({"name": body["name"]}, status=201)

    async def _delete(self, request: web.Request) -> web.Response:
        del self.branches[request.match_info["branch"]]
        return web.Response(status=204)

    async def _diff(self, request: web.Request) -> web.Response:
        old, new = (self.branches[request.query[side]] for side in ("from", "to"))
        paths = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
        return web.json_response(
            {"changes": [{"path": path, "old": old.get(path), "value": new.get(path)} for path in paths]}
        )

    async def _merge(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.branches[body["into"]] = dict(self.branches[body["branch"]])
        self.commits.append(commit(f"Merge {body['branch']}", 0))
        self.emit("commit", {"branch": body["into"], "commit": self.commits[-1]["id"], "vms": []})
        return web.json_response({"commit": self._id(body["into"]), "changed": 1})

    async def _tree(self, request: web.Request) -> web.Response:
        branch = request.match_info["branch"]
        commit_id = self._id(branch)
        body = {"path": "jitsu/vm", "value": None, "leaves": self.branches[branch], "commit": commit_id}
        return web.json_response(body, headers={"ETag": f'"{commit_id}"'})

    async def _set(self, request: web.Request) -> web.Response:
        branch, path = request.match_info["branch"], request.match_info["path"]
        if request.headers.get("If-Match", "").strip('"') != self._id(branch):
            return problem(412, "the branch has changed", "read it again")
        if request.method == "DELETE":
            del self.branches[branch][path]
            return web.json_response({"commit": self._id(branch), "changed": 1})
        value = (await request.json())["value"]
        if path.endswith("/ttl") and not value.isdigit():
            return problem(422, f"{path}: {value!r} is not a duration", "use seconds, for example 60")
        self.branches[branch][path] = value
        return web.json_response({"commit": self._id(branch), "changed": 1})


def problem(status: int, detail: str, hint: str) -> web.Response:
    """Answer with a problem document."""
    body = {"type": "about:blank", "title": "Refused", "status": status, "detail": detail, "hint": hint}
    return web.json_response(body, status=status, content_type="application/problem+json")


async def main() -> None:
    """Serve the samples until this is interrupted, to look at the page by hand."""
    async with FakeWebApi().serving(8899) as address:
        print(address, *TOKENS, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
