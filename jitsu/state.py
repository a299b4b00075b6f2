"""The commands on the state tree: look, change, branch, merge, and to and from other repositories."""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jitsu import show
from jitsu.apply import APPLY_TIMEOUT_S, change_lines, changes_for, check, commit
from jitsu.cli import JsonOption, app, author, completing, with_link
from jitsu.export import toml, vms_in
from jitsu.legacy import parse_strings
from jitsu.printable import print_lines, print_value
from jitsu_protocol.errors import JitsuError
from jitsu_protocol.messages import (
    MASTER,
    Applied,
    BranchList,
    Change,
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
    Merge,
    Pull,
    Push,
    Read,
    Value,
)
from jitsu_protocol.process import EXIT_FAILED, EXIT_SETUP
from jitsu_protocol.settings import SettingsFault, load
from jitsu_protocol.vm import VM_ROOT

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


def _complete_branch(incomplete: str) -> list[str]:
    async def branches(link: Link) -> list[str]:
        listed = await link.call("store", ListBranches(), BranchList)
        return [branch.name for branch in listed.branches if branch.name.startswith(incomplete)]

    return completing(branches)


PathArgument = Annotated[str, typer.Argument(autocompletion=_complete_path)]
BelowArgument = Annotated[str, typer.Argument(help="Only what is below this path.", autocompletion=_complete_path)]
BranchOption = Annotated[str, typer.Option("--branch", "-b", help="On this branch.", autocompletion=_complete_branch)]
BranchArgument = Annotated[str, typer.Argument(autocompletion=_complete_branch)]
ForceOption = Annotated[bool, typer.Option("--force", help="Even if a hypervisor says that it could not run it.")]
RevisionArgument = Annotated[str, typer.Argument(help="A branch or a commit.", autocompletion=_complete_branch)]


def _print_json(what: Any) -> None:
    print(json.dumps(what, indent=2))


# --- looking -------------------------------------------------------------------------------------


@app.command()
def tree(path: BelowArgument = "", branch: BranchOption = MASTER, as_json: JsonOption = False) -> None:
    """Show the state tree, a line for each leaf."""

    async def show_tree(link: Link) -> None:
        listed = await link.call("store", List(prefix=path, branch=branch), Leaves, READ_TIMEOUT_S)
        if not listed.leaves and path:
            await link.call("store", Read(path=path, branch=branch), Value)  # says what is near
        if as_json:
            _print_json(dict(sorted(listed.leaves.items())))
        else:
            print_lines(show.tree_lines(listed.leaves))

    with_link(show_tree)


@app.command()
def get(path: PathArgument, branch: BranchOption = MASTER) -> None:
    """Print the value at a path."""

    async def show_value(link: Link) -> None:
        print_value((await link.call("store", Read(path=path, branch=branch), Value, READ_TIMEOUT_S)).value)

    with_link(show_value)


@app.command()
def log(
    path: Annotated[
        str, typer.Argument(help="Only commits that changed something here.", autocompletion=_complete_path)
    ] = "",
    limit: Annotated[int, typer.Option("-n", min=1, max=10_000)] = 20,
    branch: BranchOption = MASTER,
    as_json: JsonOption = False,
) -> None:
    """Show who changed what, newest first."""

    async def show_log(link: Link) -> None:
        history = await link.call("store", Log(path=path, limit=limit, branch=branch), History, READ_TIMEOUT_S)
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
        found = await link.call("store", Diff(old=old, new=new, prefix=path), Difference, READ_TIMEOUT_S)
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
        async for each in link.watch(branch, path.strip("/"), since):
            if as_json:
                print(each.model_dump_json(), flush=True)
            else:
                print_lines([*show.log_lines([each.commit]), *change_lines(each.changes)])
                sys.stdout.flush()

    with_link(follow)


# --- changing ------------------------------------------------------------------------------------


def _print_applied(applied: Applied) -> None:
    if applied.changed:
        print(f"{applied.commit[:10]} {applied.changed} value{'s' if applied.changed > 1 else ''} changed")
    else:
        print(f"{applied.commit[:10]} nothing changed")


@app.command("set", context_settings={"ignore_unknown_options": True})  # a value may begin with a minus
def set_value(
    path: PathArgument,
    value: str,
    branch: BranchOption = MASTER,
    expect: Annotated[
        str | None, typer.Option("--expect", metavar="VALUE", help="Only if this is the value now.")
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Why.")] = "",
    force: ForceOption = False,
) -> None:
    """Change the value at a path; running processes follow."""

    async def change(link: Link) -> None:
        clean = path.strip("/")
        expected = {} if expect is None else {clean: expect}
        changes = [Change(path=clean, value=value)]
        if not force and clean.startswith(f"{VM_ROOT}/"):
            own = "/".join(clean.split("/")[:3])
            listed = await link.call("store", List(prefix=own, branch=branch), Leaves, READ_TIMEOUT_S)
            await check(link, changes, listed.leaves)
        _print_applied(await commit(link, changes, message or f"Set {clean}", author(), branch, expected))

    with_link(change)


@app.command()
def unset(path: PathArgument, branch: BranchOption = MASTER) -> None:
    """Remove a value, or all values below a path: a VM, for example."""

    async def change(link: Link) -> None:
        clean = path.strip("/")
        listed = await link.call("store", List(prefix=clean, branch=branch), Leaves, READ_TIMEOUT_S)
        if not clean or not listed.leaves:
            await link.call("store", Read(path=clean, branch=branch), Value)  # says what is near
        changes = [Change(path=each, value=None) for each in listed.leaves]
        _print_applied(await commit(link, changes, f"Remove {clean}", author(), branch))

    with_link(change)


@app.command()
def apply(
    what: Annotated[list[str], typer.Argument(metavar="FILE | KEY=VALUE,...", help="A jitsu.toml, or VMs one each.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the difference.")] = False,
    force: ForceOption = False,
    branch: BranchOption = MASTER,
) -> None:
    """Make the VMs those of a jitsu.toml, in one commit: others are removed. Or add or change those of strings.

    Prints the difference.
    """
    is_file = len(what) == 1 and ("=" not in what[0] or Path(what[0]).exists())

    async def change(link: Link) -> None:
        listed = await link.call("store", List(prefix=VM_ROOT, branch=branch), Leaves, READ_TIMEOUT_S)
        changes = changes_for(vms, listed.leaves, exact=is_file)
        if not force:
            await check(link, changes, listed.leaves)
        if changes and not dry_run:
            about = Path(what[0]).name if is_file else ", ".join(vm.name for vm in vms)
            await commit(link, changes, f"Apply {about}", author(), branch, base=listed.commit)
        print("\n".join(change_lines(changes)) or "nothing to change")

    try:
        vms = load(Path(what[0]), os.environ, {}).vms if is_file else load(None, {}, {}, parse_strings(what)).vms
    except SettingsFault as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_SETUP)
    with_link(change)


@app.command()
def export(branch: BranchOption = MASTER) -> None:
    """Print the VMs as the sections of a jitsu.toml that `jitsu apply` takes."""

    async def work(link: Link) -> None:
        listed = await link.call("store", List(prefix=VM_ROOT, branch=branch), Leaves, READ_TIMEOUT_S)
        print(toml(vms_in(listed.leaves)), end="")

    with_link(work)


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


@app.command()
def merge(
    branch: BranchArgument,
    into: Annotated[
        str, typer.Option("--into", help="The branch that takes it.", autocompletion=_complete_branch)
    ] = MASTER,
    as_json: JsonOption = False,
) -> None:
    """Bring a branch's changes into master; all of them, or none and why."""

    async def work(link: Link) -> int:
        asked = Merge(branch=branch, into=into, author=author(), request=uuid.uuid4().hex[:16])
        try:
            applied = await link.call("store", asked, Applied, APPLY_TIMEOUT_S)
        except JitsuError as error:
            if not as_json:
                raise
            _print_json({"error": error.code, "message": error.message, "details": error.details})
            return EXIT_FAILED
        if as_json:
            _print_json(applied.model_dump())
        else:
            _print_applied(applied)
        return 0

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


@app.command()
def pull(remote: RemoteArgument, branch: BranchOption = MASTER) -> None:
    """Fetch from another Git repository and merge, by the rules of `jitsu merge`."""

    async def work(link: Link) -> None:
        asked = Pull(remote=remote, branch=branch, author=author(), request=uuid.uuid4().hex[:16])
        _print_applied(await link.call("store", asked, Applied, NETWORK_TIMEOUT_S))

    with_link(work)
