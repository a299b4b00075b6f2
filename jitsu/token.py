"""`jitsu token`: makes, lists and revokes the tokens of the HTTP API (model/tokens.py of the protocol)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from jitsu.cli import JsonOption, app, author, with_link
from jitsu.help import App, CommandGroup
from jitsu.printable import print_lines
from jitsu_protocol.messages import Done
from jitsu_protocol.messages.tokens import CreateToken, ListTokens, RevokeToken, TokenList
from jitsu_protocol.model.errors import BadRequest, NotFound
from jitsu_protocol.model.tokens import RANDOM_BYTES, check_token_name, digest_of, token_of
from jitsu_protocol.model.units import plain
from jitsu_runtime.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu.link import Link
    from jitsu_protocol.messages.tokens import TokenInfo

MAX_EXPIRES_S = 10 * 365 * 86_400.0
_ROLES = ("viewer", "operator")

commands = App(
    help="Make and revoke tokens for the HTTP API and the web page.",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(commands, name="token")


def end_of(duration: str, now: float) -> float | None:
    """Return when a token for a duration expires, None for `never`; raises BadRequest."""
    if duration == "never":
        return None
    try:
        seconds = float(plain(duration, "s"))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_EXPIRES_S:
        raise BadRequest(f"--expires: {duration!r} is not a duration; for example 90d or 12h, or never")
    return now + seconds


def token_lines(tokens: Sequence[TokenInfo], now: float) -> list[str]:
    """Return the tokens for people."""
    return [
        f"{each.name:<24} {each.role:<9} {_left(each.expires_ts, now):<20} made by {each.author}".rstrip()
        for each in tokens
    ]


def _left(end: float | None, now: float) -> str:
    if end is None:
        return "never expires"
    days = (end - now) / 86_400
    if days <= 0:
        return "has expired"
    return f"expires in {days:.0f} d" if days >= 2 else f"expires in {days * 24:.1f} h"


@commands.command("create")
def create_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is: what it does is recorded under this name.")],
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="viewer: may look; operator: may change.")] = (
        "viewer"
    ),
    expires: Annotated[str, typer.Option("--expires", metavar="TIME", help="90d, 12h; never.")] = "90d",
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it; it is shown only this once, because only its hash is kept."""

    async def work(link: Link) -> None:
        token = token_of(os.urandom(RANDOM_BYTES))
        end = end_of(expires, SYSTEM_CLOCK.wall())
        request = CreateToken(
            name=check_token_name(name),
            role="operator" if role == "operator" else "viewer",
            digest=digest_of(token),
            expires_ts=end,
            author=author(),
        )
        await link.call("store", request, Done)
        print(json.dumps({"name": name, "role": role, "expires_ts": end, "token": token}) if as_json else token)

    if role not in _ROLES:
        raise typer.BadParameter(f"one of {', '.join(_ROLES)}", param_hint="--role")
    with_link(work)


@commands.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """Show the tokens that count, whose they are, and when they expire."""

    async def work(link: Link) -> None:
        tokens = (await link.call("store", ListTokens(), TokenList)).tokens
        if as_json:
            print(json.dumps([each.model_dump() for each in tokens], indent=2))
        else:
            lines = token_lines(tokens, SYSTEM_CLOCK.wall())
            print_lines(lines or ["there are no tokens; `jitsu token create NAME` makes one"])

    with_link(work)


@commands.command("revoke")
def revoke_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `jitsu token list` has it.")],
) -> None:
    """Let a token count no longer: within a second it is refused, and the sessions that began with it end."""

    async def work(link: Link) -> None:
        done = await link.call("store", RevokeToken(name=name, author=author()), Done)
        if done.note:
            raise NotFound(f"there is no token {name}", hint="`jitsu token list` shows them")
        print(f"{name} is revoked")

    with_link(work)
