"""`jitsu keys`: makes directories of keys (bus/curve.py), adds to them, rotates keys."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from jitsu.cli import JsonOption, app, local
from jitsu.help import App, CommandGroup
from jitsu_protocol.model.errors import BadRequest, Conflict, NotFound
from jitsu_protocol.wire.permissions import ROLES
from jitsu_runtime.bus import libzmq

BEFORE = "before"
"""The word in the name of a public key that was replaced and is still accepted."""
_NAME = re.compile(rf"({'|'.join(ROLES)})(\.[A-Za-z0-9_-]+)?")


def init(directory: Path) -> list[str]:
    """Make a key pair for each role that does not have one; returns their names."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    (directory / "public").mkdir(mode=0o755, exist_ok=True)
    made = [role for role in ROLES if not (directory / f"{role}.key_secret").exists()]
    for role in made:
        _make(directory, role, directory, role)
    return made


def add(directory: Path, name: str, target: Path) -> None:
    """Make a further key of a role, ROLE.WORD, for another machine or person.

    The public key joins those of `directory`; `target` becomes a directory of keys with all of these and the secret
    one, as that machine or person needs it.
    """
    role, _, word = name.partition(".")
    if not _NAME.fullmatch(name) or not word:
        raise BadRequest(f"{name!r} is not ROLE.WORD", hint=f"a role is one of {', '.join(ROLES)}")
    if (directory / "public" / f"{name}.key").exists():
        raise Conflict(f"there is a key {name} already", hint="drop it first, or choose another word")
    if (target / f"{role}.key_secret").exists():
        raise Conflict(f"{target} has a key of {role} already")
    (target / "public").mkdir(mode=0o755, parents=True, exist_ok=True)
    _make(directory, name, target, role)
    for public in sorted((directory / "public").glob("*.key")):
        shutil.copyfile(public, target / "public" / public.name)


def rotate(directory: Path, role: str) -> None:
    """Give a role of this machine a new key pair; the previous one is accepted until it is dropped."""
    if role not in ROLES:
        raise BadRequest(f"{role!r} is not a role", hint=f"one of {', '.join(ROLES)}")
    public = directory / "public" / f"{role}.key"
    if not public.exists():
        raise NotFound(f"{directory} has no key of {role}", hint=f"`jitsu keys init {directory}` makes it")
    shutil.copyfile(public, _named(directory, f"{role}.{BEFORE}"))
    _make(directory, role, directory, role)


def drop(directory: Path, name: str) -> None:
    """Forget a public key."""
    path = _named(directory, name)
    if not path.exists():
        raise NotFound(f"no key is called {name}", hint=f"`jitsu keys list {directory}` shows them")
    path.unlink()


def listed(directory: Path) -> list[tuple[str, str, bool]]:
    """Return each public key with its name, and whether its secret key is here."""
    found = []
    for path in sorted((directory / "public").glob("*.key")):
        name = path.name.removesuffix(".key")
        public = libzmq.public_key_of(path)
        secret = directory / f"{name}.key_secret"
        is_here = secret.exists() and libzmq.public_key_of(secret) == public
        found.append((name, public.decode(), is_here))
    return found


def _named(directory: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise BadRequest(f"{name!r} is not the name of a key", hint="ROLE or ROLE.WORD")
    return directory / "public" / f"{name}.key"


def _make(directory: Path, name: str, target: Path, role: str) -> None:
    """Make a pair: its public half in `directory`, the whole in `target`, each there at once or not at all.

    As root, the secret one becomes that of the service's own user, if this machine has it (deploy/systemd).
    """
    mask = os.umask(0o077)
    try:
        with tempfile.TemporaryDirectory(dir=target) as scratch:
            public, secret = libzmq.create_key_files(Path(scratch), role)
            whole = shutil.copyfile(secret, Path(scratch, "whole"))
            if os.geteuid() == 0:
                with suppress(KeyError):
                    os.chown(whole, pwd.getpwnam(f"jitsu-{role}").pw_uid, -1)
            shutil.move(whole, target / f"{role}.key_secret")
            shutil.copyfile(public, f"{scratch}/half")
            Path(scratch, "half").chmod(0o644)
            shutil.move(f"{scratch}/half", directory / "public" / f"{name}.key")
    finally:
        os.umask(mask)


# --- commands ------------------------------------------------------------------------------------

commands = App(
    help="Make and change the keys that services and operators need on a bus over tcp.",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(commands, name="keys")

Directory = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The directory of keys that bus.keys names.")]
RoleArgument = Annotated[str, typer.Argument(metavar="ROLE", help=f"One of {', '.join(ROLES)}.")]


@commands.command("init")
def init_command(directory: Directory) -> None:
    """Make a key pair for each service and for operators; what is there stays."""

    def work() -> None:
        made = init(directory)
        print(f"made in {directory}: {', '.join(made)}" if made else f"{directory} has all keys already")
        print(f'Say `keys = "{directory.resolve()}"` in [bus] of jitsu.toml. Each *.key_secret goes only where its')
        print("service runs, owned by that service's user; public/ goes everywhere.")

    local(work)


@commands.command("list")
def list_command(directory: Directory, as_json: JsonOption = False) -> None:
    """Show the public keys that are known, and which of the secret ones are here."""

    def work() -> None:
        rows = listed(directory)
        if as_json:
            shown = [{"name": name, "public": public, "is_here": is_here} for name, public, is_here in rows]
            print(json.dumps(shown, indent=2))
            return
        if not rows:
            raise NotFound(f"there are no keys in {directory}", hint=f"`jitsu keys init {directory}` makes them")
        for name, public, is_here in rows:
            print(f"{name:<24} {public}{'  (secret key here)' if is_here else ''}")

    local(work)


@commands.command("add")
def add_command(
    directory: Directory,
    name: Annotated[
        str, typer.Argument(metavar="ROLE.WORD", help="What the key is called: dns.london, operator.alice, vmd.HOST.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Where its directory of keys is made.")],
) -> None:
    """Make a further key of a role, for another machine or person."""

    def work() -> None:
        add(directory, name, target)
        print(f"{name} is known in {directory}/public; {target} is for the machine that is to use it")

    local(work)


@commands.command("rotate")
def rotate_command(directory: Directory, role: RoleArgument) -> None:
    """Give a role a new key pair; everything goes on, and the key before still counts until it is dropped."""

    def work() -> None:
        rotate(directory, role)
        print(f"{role} has a new key. Copy public/ to the other machines, then:")
        print(f"jitsu keys drop {directory} {role}.{BEFORE}")

    local(work)


@commands.command("drop")
def drop_command(
    directory: Directory, name: Annotated[str, typer.Argument(metavar="NAME", help="As `jitsu keys list` shows it.")]
) -> None:
    """Forget a public key: whoever still uses it is refused within a second."""

    def work() -> None:
        drop(directory, name)
        print(f"{name} is no longer known")

    local(work)
