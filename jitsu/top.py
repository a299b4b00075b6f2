"""`jitsu top`: every VM on one screen of a terminal, kept up to date."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Annotated

import typer

from jitsu.cli import app, with_link
from jitsu_protocol.model.errors import Unavailable

if TYPE_CHECKING:
    from jitsu.link import Link


@app.command()
def top(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORD]...", help="Begin with VMs that have all of these words.")
    ] = None,
) -> None:
    """Show every VM on one screen, kept up to date: filter and sort them, start and stop them.

    It needs the extra `top`, which is Textual.
    """

    async def show(link: Link) -> None:
        if importlib.util.find_spec("textual") is None:
            raise Unavailable("Textual is not installed", hint='pip install "jitsu-suite[top]"')
        from jitsu.top_screen import TopScreen
        from jitsu.top_suite import TopSuite

        await TopScreen(TopSuite(link), " ".join(words or ())).run_async()

    with_link(show)
