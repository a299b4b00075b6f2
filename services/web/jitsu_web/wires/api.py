"""What routes are given: the caller, and this process's view of the suite."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from jitsu_web.rules.callers import ApiCaller, may, needed_role
from jitsu_web.rules.problems import HttpProblem
from jitsu_web.wires.serving import UNIX, name_of_user

if TYPE_CHECKING:
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.settings.web import WebSettings
    from jitsu_web.rules.places import StreamPlaces
    from jitsu_web.rules.sessions import PageSessions
    from jitsu_web.rules.tokens import TokenTable
    from jitsu_web.wires.asking import Asker
    from jitsu_web.wires.health import SuiteHealth
    from jitsu_web.wires.live import Live

BEARER = HTTPBearer(auto_error=False, description="A token of `jitsu token create`.")
CSRF_HEADER = "x-csrf-token"
_LOGIN_HINT = "send `Authorization: Bearer TOKEN`; `jitsu token create NAME` makes one"


@dataclass(frozen=True)
class Api:
    """Everything that a route may use."""

    live: Live
    tokens: TokenTable
    sessions: PageSessions
    clock: Clock
    settings: WebSettings
    asker: Asker
    health: SuiteHealth
    defaults: dict[str, str]
    """The section [defaults], for VMs that are written here."""
    places: StreamPlaces

    @property
    def cookie_name(self) -> str:
        """What the session's cookie is called; with TLS the browser holds it to this host (__Host-)."""
        return "__Host-jitsu" if self.settings.certificate else "jitsu"

    def caller(self, request: Request) -> ApiCaller:
        """Return who asks; raises HttpProblem."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme:
            return self._of_token(scheme, token.strip())
        client = request.scope.get("client") or ("", 0)
        if client[0] == UNIX:
            return ApiCaller(name_of_user(client[1]), "operator", "socket")
        cookie = request.cookies.get(self.cookie_name, "")
        if cookie:
            self.tokens.check_trust(self.clock.now())
        session = self.sessions.read(cookie, self.tokens, self.clock.wall()) if cookie else None
        if session is None:
            raise HttpProblem(401, "credentials are needed", _LOGIN_HINT).with_headers(WWW_Authenticate="Bearer")
        of = session.token
        return ApiCaller(of.name, of.role, "session", of.digest, session.csrf)

    def is_still(self, caller: ApiCaller) -> bool:
        """Return whether somebody who has been let in would still be: the token may have been revoked."""
        if caller.via == "socket":
            return True
        known = self.tokens.named(caller.name, self.clock.wall())
        is_same = known is not None and known.digest == caller.digest
        return is_same and self.tokens.is_trusted(self.clock.now())

    def _of_token(self, scheme: str, token: str) -> ApiCaller:
        self.tokens.check_trust(self.clock.now())
        known = self.tokens.find(token, self.clock.wall()) if scheme.lower() == "bearer" else None
        if known is None:
            raise HttpProblem(401, "this token is not known, was revoked, or has expired", _LOGIN_HINT).with_headers(
                WWW_Authenticate='Bearer error="invalid_token"'
            )
        return ApiCaller(known.name, known.role, "token", known.digest)


def api_of(request: Request) -> Api:
    """Return what the application was made with."""
    found: Api = request.app.state.api
    return found


def caller_of(request: Request, _: Annotated[Any, Depends(BEARER)]) -> ApiCaller:
    """Return who asks, if they may do what they ask; raises HttpProblem."""
    caller = api_of(request).caller(request)
    check_role(caller, request)
    is_change = needed_role(request.method) == "operator"
    if is_change and caller.via == "session" and not _is_equal(request.headers.get(CSRF_HEADER, ""), caller.csrf):
        raise HttpProblem(
            403, "the header X-CSRF-Token is missing or wrong", "GET /api/v1/session returns it as `csrf`"
        )
    return caller


def check_role(caller: ApiCaller, request: Request) -> None:
    """Raise HttpProblem if somebody's role does not allow what they ask for."""
    needed = needed_role(request.method)
    is_own_session = request.method == "DELETE" and request.scope["path"] == "/api/v1/session"
    if not is_own_session and not may(caller.role, needed):
        raise HttpProblem(
            403, f"{caller.name} is a {caller.role}, and this needs an {needed}", "use a token of that role"
        )


def _is_equal(sent: str, right: str) -> bool:
    return hmac.compare_digest(sent.encode(), right.encode())


TheApi = Annotated[Api, Depends(api_of)]
TheCaller = Annotated[ApiCaller, Depends(caller_of)]
