"""The routes that tell a caller its name and role, and open and close the page's session."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Response

from jitsu_web.rules.callers import ApiCaller
from jitsu_web.rules.problems import HttpProblem
from jitsu_web.wires.api import TheApi, TheCaller
from jitsu_web.wires.shapes import AskedSession, SessionShape

router = APIRouter(prefix="/session", tags=["session"])


def shape_of(caller: ApiCaller) -> SessionShape:
    """Return a caller as the API shows it."""
    return SessionShape(name=caller.name, role=caller.role, via=caller.via, csrf=caller.csrf)


@router.get("")
async def read_session(caller: TheCaller) -> SessionShape:
    """Return the name and the role of the caller."""
    return shape_of(caller)


@router.post("")
async def log_in(api: TheApi, asked: AskedSession, response: Response) -> SessionShape:
    """Begin a session with a token: sets a cookie that scripts cannot read."""
    wall = api.clock.wall()
    api.tokens.check_trust(api.clock.now())
    token = api.tokens.find(asked.token, wall)
    if token is None:
        raise HttpProblem(
            401, "this token is not known, was revoked, or has expired", "`jitsu token create NAME` makes one"
        )
    cookie, end = api.sessions.cookie(token, wall, secrets.token_hex(8))
    response.set_cookie(
        api.cookie_name,
        cookie,
        max_age=int(end - wall),
        path="/",
        secure=bool(api.settings.certificate),
        httponly=True,
        samesite="strict",
    )
    return shape_of(ApiCaller(token.name, token.role, "session", token.digest, api.sessions.csrf_of(cookie)))


@router.delete("", status_code=204)
async def log_out(api: TheApi, _: TheCaller, response: Response) -> None:
    """End the session: removes the cookie."""
    response.delete_cookie(api.cookie_name, path="/", secure=bool(api.settings.certificate), httponly=True)
