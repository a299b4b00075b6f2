"""The suite itself: its services, what hypervisors have, and tokens."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Any

from fastapi import APIRouter, Path

from jitsu_protocol.messages import Discover, Discoveries, Done
from jitsu_protocol.messages.tokens import CreateToken, ListTokens, RevokeToken, TokenList
from jitsu_protocol.model.errors import JitsuError, NotFound
from jitsu_protocol.model.tokens import RANDOM_BYTES, check_token_name, digest_of, token_of
from jitsu_web.rules.callers import may
from jitsu_web.rules.problems import HttpProblem
from jitsu_web.wires.api import TheApi, TheCaller
from jitsu_web.wires.shapes import (
    AskedToken,
    DiscoveriesShape,
    NewTokenShape,
    ServicesShape,
    TokenShape,
    TokensShape,
)

router = APIRouter(tags=["suite"])

DISCOVER_S = 30.0


@router.get("/services", response_model=ServicesShape)
async def list_services(api: TheApi, _: TheCaller) -> Any:
    """Show each service and replica: whether it answers, its version, and what it notes."""
    return {"items": api.health.services()}


@router.get("/discovered", response_model=DiscoveriesShape)
async def list_discovered(api: TheApi, _: TheCaller) -> Any:
    """Show the machines that hypervisors have, as `jitsu discover` does."""
    hosts = list(api.asker.hosts)
    async with api.asker.searches:
        answers = await asyncio.gather(
            *(api.asker.vmd(host, Discover(), Discoveries, DISCOVER_S) for host in hosts), return_exceptions=True
        )
    items, hypervisors, errors = [], [], []
    for host, found in zip(hosts, answers, strict=True):
        if isinstance(found, Discoveries):
            items += [{"host": host, "machine": each.model_dump(mode="json")} for each in found.machines]
            hypervisors += [{"host": host, **each.model_dump(mode="json")} for each in found.hypervisors]
        elif isinstance(found, JitsuError):
            errors.append(found)
        else:
            raise found
    if errors and not hypervisors:
        raise errors[0]
    return {"items": items, "hypervisors": hypervisors}


@router.get("/tokens")
async def list_tokens(api: TheApi, caller: TheCaller) -> TokensShape:
    """List all tokens, without what makes them tokens."""
    _check_operator(caller)
    found = await api.asker.store(ListTokens(), TokenList)
    return TokensShape(items=[TokenShape(**each.model_dump(exclude={"author"})) for each in found.tokens])


@router.post("/tokens", status_code=201)
async def create_token(api: TheApi, caller: TheCaller, asked: AskedToken) -> NewTokenShape:
    """Make a token; it is shown only in this answer."""
    token = token_of(os.urandom(RANDOM_BYTES))
    wall = api.clock.wall()
    end = None if asked.expires_s is None else wall + asked.expires_s
    request = CreateToken(
        name=check_token_name(asked.name),
        role=asked.role,
        digest=digest_of(token),
        expires_ts=end,
        author=caller.identity,
    )
    await api.asker.store(request, Done)
    return NewTokenShape(name=asked.name, role=asked.role, created_ts=wall, expires_ts=end, token=token)


@router.delete("/tokens/{name}", status_code=204)
async def revoke_token(api: TheApi, caller: TheCaller, name: Annotated[str, Path(max_length=100)]) -> None:
    """Let a token count no longer."""
    done = await api.asker.store(RevokeToken(name=name, author=caller.identity), Done)
    if done.note:
        raise NotFound(f"there is no token {name[:100]!r}")


def _check_operator(caller: TheCaller) -> None:
    """Raise HttpProblem if somebody may not even look: who has tokens is not for viewers."""
    if not may(caller.role, "operator"):
        raise HttpProblem(
            403, f"{caller.name} is a {caller.role}, and this needs an operator", "use a token of that role"
        )
