"""What all commands have in common: the options before the command, the suite that is meant, how errors end."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from jitsu.apply import operator
from jitsu.help import INTERRUPTED, App, CommandGroup
from jitsu.link import OWNERS, Link, connect, listens
from jitsu.printable import printable
from jitsu_protocol.model import identity
from jitsu_protocol.model.errors import JitsuError
from jitsu_runtime.logs import configure_logging
from jitsu_runtime.service import EXIT_FAILED, EXIT_SETUP
from jitsu_runtime.settings.help import version_text
from jitsu_runtime.settings.load import Settings, SettingsFault, VmText, Written
from jitsu_runtime.settings.schema import MACHINE_DIRECTORY, runtime_directory

T = TypeVar("T")

app = App(
    help="Start virtual machines when their names are looked up.\n\n"
    "Commands are for the suite that --config or --runtime-dir names; else for your own, if one runs; "
    "else for this machine's.",
    cls=CommandGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version_text("jitsu"))
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
]

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The jitsu.toml that is meant.")]
DirectoryOption = Annotated[str, typer.Option("--runtime-dir", metavar="DIR", help="Where the suite's sockets are.")]
MACHINE_CONFIG = Path("/etc/jitsu/jitsu.toml")
"""What `make install` puts in place; root and members of the group jitsu may read it."""
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Even if a hypervisor says that it could not run it.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed by scripts where VMs are removed.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]


class Where:
    """The options before the command."""

    config: Path | None = None
    runtime_dir: str = ""
    who: str = ""


@app.callback()
def where(
    config: ConfigOption = None,
    runtime_dir: DirectoryOption = "",
    version: VersionOption = False,
    who: Annotated[
        str, typer.Option("--as", metavar="WHO", help="In whose name: operator:NAME (you, if not given) or vm:UUID.")
    ] = "",
) -> None:
    """Note which suite is meant, and who asks."""
    from_environment = os.environ.get("JITSU_CONFIG")
    Where.config = config or (Path(from_environment) if from_environment else None)
    Where.runtime_dir = runtime_dir
    Where.who = who


def author() -> str:
    """Return who asks; raises BadRequest."""
    return str(identity.parse(Where.who or operator()))


def settings(
    flags: dict[str, str] | None = None, texts: list[VmText] | None = None, presets: dict[str, str] | None = None
) -> Settings:
    """Return the settings of the suite that is meant; raises SettingsFault."""
    return written(flags, texts, presets).with_vms()


def written(
    flags: dict[str, str] | None = None, texts: list[VmText] | None = None, presets: dict[str, str] | None = None
) -> Written:
    """Return what is written of the suite that is meant, before its VMs are built; raises SettingsFault."""
    flags = flags or {}
    if Where.runtime_dir:
        flags["bus.runtime_dir"] = Where.runtime_dir
    return Written(Where.config, os.environ, flags, texts or (), presets)


def of_the_suite_that_runs() -> Settings:
    """Return the settings of the suite that commands are for; raises SettingsFault.

    It is the one that the options or the environment name; else this user's own, if one runs; else the machine's.
    """
    named = Where.config or Where.runtime_dir or os.environ.get("JITSU_BUS_RUNTIME_DIR")
    own = Path(runtime_directory())
    runs_own = own != MACHINE_DIRECTORY and any(listens(own / f"{owner}.rpc") for owner in OWNERS)
    if not named and not runs_own and os.access(MACHINE_CONFIG, os.R_OK):
        Where.config, Where.runtime_dir = MACHINE_CONFIG, str(MACHINE_DIRECTORY)
    return settings()


def with_link(work: Callable[[Link], Awaitable[int | None]]) -> None:
    """Run a command against the suite; an error becomes one line and status 1."""

    async def run() -> int:
        async with connect(bus) as link:
            return await work(link) or 0

    try:
        found = of_the_suite_that_runs()
        bus = found.bus
        configure_logging(found.log.model_copy(update={"level": "error"}), "jitsu")
        sys.exit(asyncio.run(run()))
    except SettingsFault as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_SETUP)
    except JitsuError as error:
        for line in f"jitsu: {error}".split("\n"):
            print(printable(line), file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def local(work: Callable[[], None]) -> None:
    """Run a command that needs no suite; an error becomes one line and status 1."""
    try:
        work()
    except (JitsuError, OSError) as error:
        print(f"jitsu: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def completing(found: Callable[[Link], Awaitable[list[T]]]) -> list[T]:
    """Return what completes a word, nothing if no suite answers: a shell is no place for errors."""

    async def run() -> list[T]:
        async with connect(of_the_suite_that_runs().bus) as link:
            return await found(link)

    try:
        return asyncio.run(run())
    except (JitsuError, SettingsFault):
        return []
