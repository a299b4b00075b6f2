"""What every request passes before it reaches a route, and every answer on its way out.

the Host header     a name of this server (rules/hosts.py)                  421
the rate            of the user; of the address, without credentials       429
the Origin          of a change: this server, or none                       403
credentials, role   of a change, before its body is read              401, 403
the body            at most MAX_BODY_BYTES, whatever Content-Length says    413
on the way out      headers that keep browsers from doing what nobody meant
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request

from jitsu_protocol.rates import Buckets
from jitsu_web.rules.callers import READS
from jitsu_web.rules.hosts import HostNames, is_same_origin
from jitsu_web.rules.problems import MEDIA_TYPE, HttpProblem, document
from jitsu_web.wires.api import check_role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from jitsu_runtime.world import World
    from jitsu_web.wires.api import Api

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 4 * 1024 * 1024
LOGIN = "/api/v1/session"
MAX_LOGIN_BYTES = 4096
"""The most that somebody without credentials may send."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]

log = structlog.get_logger("web")


class Gate:
    """The application around the application."""

    def __init__(self, app: AsgiApp, world: World, api: Api) -> None:
        self._app = app
        self._api = api
        self._clock = world.clock
        settings, listen = api.settings, api.settings.listen
        self._hosts = HostNames(listen.tcp.host, settings.hosts, is_unix=bool(listen.path))
        self._rates = Buckets(settings.request_rate, settings.request_burst)
        self._is_tls = bool(settings.certificate)
        self._requests = world.metrics.counter("requests", "Requests answered, by their status.", ["status"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            return
        started = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._requests.labels(str(message["status"])).inc()
                message["headers"] = [*message.get("headers", ()), *self._more_headers(scope, message)]
            await send(message)

        try:
            longest = MAX_BODY_BYTES if self._admits_change(scope) else MAX_LOGIN_BYTES
            await self._app(scope, _Limited(scope, receive, longest), sending)
        except HttpProblem as problem:
            if started:
                raise
            await answer(problem, sending)

    def _admits_change(self, scope: Scope) -> bool:
        """Return whether somebody asks for a change who may ask for one; raises HttpProblem."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._hosts.allows(host):
            raise HttpProblem(
                421,
                f"this server is not called {host[:100]!r}",
                "use its address, or add the name to web.hosts in jitsu.toml",
            )
        request = Request(scope)
        caller, refusal, key = None, None, (scope.get("client") or ("", 0))[0]
        try:
            caller = self._api.caller(request)
            # Not by the address: whoever has no credentials must not use up what others at it may ask for.
            key = (caller.name, caller.digest)
        except HttpProblem as problem:
            refusal = problem
        if not self._rates.take(key, self._clock.now()):
            raise HttpProblem(429, "too many requests", "wait a second").with_headers(Retry_After="1")
        if scope["method"] not in READS:
            origin = headers.get(b"origin", b"").decode("latin-1")
            is_foreign = headers.get(b"sec-fetch-site", b"") in (b"cross-site", b"same-site")
            if is_foreign or (origin and not is_same_origin(origin, host)):
                raise HttpProblem(403, "a page of another site may change nothing here", "use this server's own page")
        if scope["method"] in READS or scope["path"] == LOGIN:
            return False
        if caller is None:
            assert refusal is not None
            raise refusal
        check_role(caller, request)
        return True

    def _more_headers(self, scope: Scope, message: MutableMapping[str, Any]) -> list[tuple[bytes, bytes]]:
        there = {name.lower() for name, _ in message.get("headers", ())}
        more = [pair for pair in _HEADERS if pair[0] not in there]
        if b"cache-control" not in there:
            is_api = scope["path"].startswith("/api/")
            more.append((b"cache-control", b"no-store" if is_api else b"no-cache"))
        if self._is_tls:
            more.append((b"strict-transport-security", b"max-age=31536000"))
        return more


class _Limited:
    """A request's body, which is refused when it becomes too long."""

    def __init__(self, scope: Scope, receive: Receive, longest: int) -> None:
        self._receive = receive
        self._longest = self._left = longest
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length[:18]) > longest:
            self._left = -1

    async def __call__(self) -> MutableMapping[str, Any]:
        if self._left < 0:
            raise HTTPException(413, f"the body is longer than {self._longest} bytes")
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413, f"the body is longer than {self._longest} bytes")
        return message


async def answer(problem: HttpProblem, send: Send) -> None:
    """Send a problem document."""
    body = json.dumps(document(problem)).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
