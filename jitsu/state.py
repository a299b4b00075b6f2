"""The commands that look at the state tree and its history, make branches, and send it to other repositories."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jitsu import show
from jitsu.apply import APPLY_TIMEOUT_S, change_lines
from jitsu.cli import JsonOption, app, author, completing, with_link
from jitsu.meant import meant_path
from jitsu.printable import print_lines, print_value
from jitsu_protocol.messages import (
    MASTER,
    Applied,
    BranchList,
    CreateBranch,
    DeleteBranch,
    Diff,
    Difference,
    Done,
    History,
    Leaves,
    List,
    ListBranches,
    Log,
    Push,
    Read,
    Value,
)
from jitsu_protocol.model.vm import VM_ROOT

if TYPE_CHECKING:
    from jitsu.link import Link

READ_TIMEOUT_S = 60.0
"""A question about the past may make the store read through a long history."""
NETWORK_TIMEOUT_S = 600.0


def _complete_path(incomplete: str) -> list[str]:
    """Return the next parts of the paths that begin so."""

    async def parts(link: Link) -> list[str]:
        above = incomplete.rpartition("/")[0]
        leaves = await link.leaves(above)
        depth = incomplete.count("/") + 1
        found = {path: "/".join(path.split("/")[:depth]) for path in leaves if path.startswith(incomplete)}
        return sorted({part if part == path else part + "/" for path, part in found.items()})

    return completing(parts)


async def resolved(link: Link, word: str, branch: str = MASTER) -> str:
    """Return the path that somebody means by a path, a VM's name or VM.KEY; see meant.py."""
    if not word.strip("/"):
        return ""
    listed = await link.call("store", List(prefix=VM_ROOT, branch=branch), Leaves, READ_TIMEOUT_S)
    return meant_path(word, listed.leaves)


def complete_branch(incomplete: str) -> list[str]:
    """Return the branches that begin so."""

    async def branches(link: Link) -> list[str]:
        listed = await link.call("store", ListBranches(), BranchList)
        return [branch.name for branch in listed.branches if branch.name.startswith(incomplete)]

    return completing(branches)


PathArgument = Annotated[
    str, typer.Argument(help="What is meant: VM.KEY, for example www.ttl, or a path.", autocompletion=_complete_path)
]
BelowArgument = Annotated[
    str, typer.Argument(help="Only this VM, or only what is below this path.", autocompletion=_complete_path)
]
BranchOption = Annotated[
    str, typer.Option("--branch", "-b", help="Look at or change this branch.", autocompletion=complete_branch)
]
BranchArgument = Annotated[
    str, typer.Argument(metavar="BRANCH", help="The name of a branch.", autocompletion=complete_branch)
]
RevisionArgument = Annotated[str, typer.Argument(help="A branch or a commit.", autocompletion=complete_branch)]


def _print_json(what: Any) -> None:
    print(json.dumps(what, indent=2))


# --- looking -------------------------------------------------------------------------------------


@app.command()
def tree(path: BelowArgument = "", branch: BranchOption = MASTER, as_json: JsonOption = False) -> None:
    """Show the state tree, a line for each leaf."""

    async def show_tree(link: Link) -> None:
        meant = await resolved(link, path, branch)
        listed = await link.call("store", List(prefix=meant, branch=branch), Leaves, READ_TIMEOUT_S)
        if not listed.leaves and meant:
            await link.call("store", Read(path=meant, branch=branch), Value)  # raises an error that names what is near
        if as_json:
            _print_json(dict(sorted(listed.leaves.items())))
        else:
            print_lines(show.tree_lines(listed.leaves))

    with_link(show_tree)


@app.command()
def get(path: PathArgument, branch: BranchOption = MASTER) -> None:
    """Print the value at a path."""

    async def show_value(link: Link) -> None:
        meant = await resolved(link, path, branch)
        print_value((await link.call("store", Read(path=meant, branch=branch), Value, READ_TIMEOUT_S)).value)

    with_link(show_value)


@app.command()
def log(
    path: Annotated[
        str, typer.Argument(help="Only commits that changed this VM, or something here.", autocompletion=_complete_path)
    ] = "",
    limit: Annotated[int, typer.Option("-n", metavar="NUMBER", min=1, max=10_000, help="At most this many.")] = 20,
    branch: BranchOption = MASTER,
    as_json: JsonOption = False,
) -> None:
    """Show who changed what, newest first."""

    async def show_log(link: Link) -> None:
        asked = Log(path=await resolved(link, path, branch), limit=limit, branch=branch)
        history = await link.call("store", asked, History, READ_TIMEOUT_S)
        if as_json:
            _print_json([each.model_dump() for each in history.commits])
        else:
            print_lines(show.log_lines(history.commits))

    with_link(show_log)


@app.command()
def diff(
    old: RevisionArgument, new: RevisionArgument = MASTER, path: BelowArgument = "", as_json: JsonOption = False
) -> None:
    """Show in what two revisions differ: - old, + new."""

    async def show_diff(link: Link) -> None:
        asked = Diff(old=old, new=new, prefix=await resolved(link, path))
        found = await link.call("store", asked, Difference, READ_TIMEOUT_S)
        if as_json:
            _print_json([change.model_dump() for change in found.changes])
        elif found.changes:
            print_lines(change_lines(found.changes))

    with_link(show_diff)


@app.command()
def watch(
    path: BelowArgument = "",
    branch: BranchOption = MASTER,
    since: Annotated[str, typer.Option("--since", metavar="COMMIT", help="Begin after this commit.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: a line for each commit.")] = False,
) -> None:
    """Print changes as they are committed, each once and in order, until Ctrl-C."""

    async def follow(link: Link) -> None:
        async for each in link.watch(branch, await resolved(link, path, branch), since):
            if as_json:
                print(each.model_dump_json(), flush=True)
            else:
                print_lines([*show.log_lines([each.commit]), *change_lines(each.changes)])
                sys.stdout.flush()

    with_link(follow)


# --- branches ------------------------------------------------------------------------------------


@app.command()
def branch(
    name: BranchArgument = "",
    start: Annotated[str, typer.Option("--from", metavar="REVISION", help="Where the new branch begins.")] = MASTER,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it, and what was not merged.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the branches, or make or delete one."""

    async def work(link: Link) -> None:
        if name and delete:
            await link.call("store", DeleteBranch(name=name, author=author()), Done, APPLY_TIMEOUT_S)
            print(f"{name} is deleted")
        elif name:
            made = await link.call("store", CreateBranch(name=name, start=start, author=author()), Applied)
            print(f"{made.commit[:10]} {name}")
        else:
            listed = await link.call("store", ListBranches(), BranchList, READ_TIMEOUT_S)
            if as_json:
                _print_json([each.model_dump() for each in listed.branches])
            else:
                width = max((len(each.name) for each in listed.branches), default=0)
                for each in listed.branches:
                    print_lines([f"{each.name:<{width}}  {show.log_lines([each.commit])[0]}"])

    with_link(work)


# --- other repositories --------------------------------------------------------------------------

RemoteArgument = Annotated[str, typer.Argument(help="A path or an address, as git takes it; the store reaches for it.")]


@app.command()
def push(remote: RemoteArgument, branch: BranchOption = MASTER) -> None:
    """Send the history to another Git repository."""

    async def work(link: Link) -> None:
        asked = Push(remote=remote, branch=branch, author=author())
        pushed = await link.call("store", asked, Applied, NETWORK_TIMEOUT_S)
        print(f"{pushed.commit[:10]} is on {branch} of {remote}")

    with_link(work)
