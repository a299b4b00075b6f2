"""The commands that change the configuration: set, unset, apply, merge, pull; and export, which writes it down.

All but `set` show what they do to which VM first, and have it agreed to (consent.py).
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jitsu.apply import APPLY_TIMEOUT_S, change_lines, check, commit
from jitsu.cli import DryRunOption, ForceOption, JsonOption, YesOption, app, author, with_link
from jitsu.consent import agreed, stopped_by, summary_of
from jitsu.labelled import comes_back, labelled, untouched
from jitsu.legacy import parse_strings
from jitsu.meant import meant_path, meant_paths, paths_to_remove, plain_text
from jitsu.printable import print_lines, printable
from jitsu.restart import restart_lines
from jitsu.state import (
    NETWORK_TIMEOUT_S,
    READ_TIMEOUT_S,
    BranchArgument,
    BranchOption,
    PathArgument,
    RemoteArgument,
    complete_branch,
)
from jitsu.stop_modes import with_stop_modes
from jitsu.summary import Summary
from jitsu.trial import commit_of, fetched, tried, unmoved
from jitsu_protocol.changes import changes_for, expectations
from jitsu_protocol.messages import MASTER, Applied, Change, Leaves, List, Merge, Pull, Read, Value
from jitsu_protocol.model.errors import JitsuError, Refused, UnknownKind
from jitsu_protocol.model.export import keys_of, vms_in
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_runtime.service import EXIT_FAILED, EXIT_SETUP
from jitsu_runtime.settings.load import SettingsFault, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu.link import Link


def _report(summary: Summary, applied: Applied | None, *, as_json: bool) -> None:
    """Print what was done, with None after a dry run; as JSON with what it did to each VM."""
    if as_json:
        done = {} if applied is None else applied.model_dump()
        print(json.dumps({**done, "summary": asdict(summary)}, indent=2))
    elif applied is not None:
        _print_applied(applied)


def _print_applied(applied: Applied) -> None:
    if applied.changed:
        print(f"{applied.commit[:10]} {applied.changed} value{'s' if applied.changed > 1 else ''} changed")
    else:
        print(f"{applied.commit[:10]} nothing changed")


async def _leaves(link: Link, branch: str) -> Leaves:
    return await link.call("store", List(prefix=VM_ROOT, branch=branch), Leaves, READ_TIMEOUT_S)


@app.command("set", context_settings={"ignore_unknown_options": True})  # a value may begin with a minus
def set_value(
    path: PathArgument,
    value: Annotated[str, typer.Argument(help="What it is set to, for example 60 or 1m.")],
    branch: BranchOption = MASTER,
    expect: Annotated[
        str | None, typer.Option("--expect", metavar="VALUE", help="Only if this is the value now.")
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Why.")] = "",
    force: ForceOption = False,
) -> None:
    """Change a value, `jitsu set www.ttl 30` or by its path; running processes follow.

    A VM that cannot run on with the new value is stopped, which is shown.

    Durations and sizes may have a unit: 1m, 250ms, 512MiB.
    """

    async def change(link: Link) -> None:
        leaves = (await _leaves(link, branch)).leaves
        paths = meant_paths(path, value, leaves)
        expected = {} if expect is None else {each: plain_text(each, expect) for each in paths}
        changes = [Change(path=each, value=held, old=leaves.get(each)) for each, held in paths.items()]
        if not force and any(each.startswith(f"{VM_ROOT}/") for each in paths):
            await check(link, changes, leaves)
        stopped = await stopped_by(link, leaves, changes, branch)
        _print_applied(await commit(link, changes, message or f"Set {path.strip('/')}", author(), branch, expected))
        print_lines(stopped)

    with_link(change)


@app.command()
def unset(
    path: PathArgument,
    branch: BranchOption = MASTER,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a value, or all values below a path, or a VM by its name."""

    async def change(link: Link) -> int:
        leaves = (await _leaves(link, branch)).leaves
        changes = []
        for clean in paths_to_remove(path, leaves):
            listed = await link.call("store", List(prefix=clean, branch=branch), Leaves, READ_TIMEOUT_S)
            changes += [Change(path=each, value=None, old=value) for each, value in listed.leaves.items()]
        clean = meant_path(path, leaves)
        if not clean or not changes:
            await link.call("store", Read(path=clean, branch=branch), Value)  # raises an error that names what is near
        summary = await summary_of(link, leaves, changes, branch)
        if branch == MASTER and summary.removed:
            removed = {each.path.removeprefix(f"{VM_ROOT}/").partition("/")[0] for each in changes}
            print_lines(comes_back(removed, await labelled(link)), sys.stderr)
        if not await agreed(summary, branch, yes=yes or dry_run, out=sys.stderr if as_json else None):
            return EXIT_FAILED
        applied = None
        if not dry_run:
            applied = await commit(link, changes, f"Remove {clean}", author(), branch, expectations(changes))
        _report(summary, applied, as_json=as_json)
        return 0

    with_link(change)


@app.command()
def apply(
    what: Annotated[list[str], typer.Argument(metavar="FILE | KEY=VALUE,...", help="A jitsu.toml, or VMs one each.")],
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    branch: BranchOption = MASTER,
    yes: YesOption = False,
    paths: Annotated[bool, typer.Option("--paths", help="Also print each path that changes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make the VMs those of a jitsu.toml, in one commit: others are removed. Or add or change those of strings.

    Shows first what is added, changed and removed.
    """
    is_file = len(what) == 1 and ("=" not in what[0] or Path(what[0]).exists())

    async def change(link: Link) -> int:
        leaves = (await _leaves(link, branch)).leaves
        of_labels = await labelled(link) if is_file and branch == MASTER else {}
        changes = changes_for(found.vms, leaves, exact=is_file, of_labels=of_labels)
        out = sys.stderr if as_json else sys.stdout
        for line in restart_lines(Path(what[0]), found, link.directory) if is_file else []:
            print(line, file=out)
        writes_to_disk = await check(link, changes, leaves, force=force) if changes else {}
        vms, notes = with_stop_modes(found.vms, found, leaves, writes_to_disk)
        changes = changes_for(vms, leaves, exact=is_file, of_labels=of_labels)
        if not changes and not as_json:
            print("nothing to change")
            return 0
        print_lines([*notes, *(change_lines(changes) if paths else [])], out)
        summary = await summary_of(link, leaves, changes, branch)
        if not await agreed(summary, branch, yes=yes or dry_run, out=out):
            return EXIT_FAILED
        applied = None
        if changes and not dry_run:
            about = Path(what[0]).name if is_file else ", ".join(vm.name for vm in found.vms)
            applied = await commit(link, changes, f"Apply {about}", author(), branch, expectations(changes))
        _report(summary, applied, as_json=as_json)
        return 0

    try:
        found = load(Path(what[0]), os.environ, {}) if is_file else load(None, {}, {}, parse_strings(what))
    except SettingsFault as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_SETUP)
    with_link(change)


@app.command()
def export(branch: BranchOption = MASTER, as_json: JsonOption = False) -> None:
    """Print the VMs as the sections of a jitsu.toml; `jitsu apply` of that changes nothing."""

    async def work(link: Link) -> int:
        leaves = (await _leaves(link, branch)).leaves
        vms, faults = vms_in(leaves)
        of_labels = untouched(leaves, await labelled(link)) if branch == MASTER else set()
        left_out = sorted(vm.name for vm in vms if vm.uuid in of_labels)
        vms = [vm for vm in vms if vm.uuid not in of_labels]
        if as_json:
            print(json.dumps({vm.name: keys_of(vm) for vm in sorted(vms, key=lambda each: each.name)}, indent=2))
        else:
            from jitsu.toml_text import toml

            print(toml(vms), end="")
        if left_out:
            print(f"left out, because labels describe them: {printable(', '.join(left_out))}", file=sys.stderr)
        for vm, reason in faults.items():
            print(f"left out, because it cannot be used: {vm}: {printable(reason)}", file=sys.stderr)
        return EXIT_FAILED if faults else 0

    with_link(work)


@app.command()
def merge(
    branch: BranchArgument,
    into: Annotated[
        str, typer.Option("--into", help="The branch that takes it.", autocompletion=complete_branch)
    ] = MASTER,
    as_json: JsonOption = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
) -> None:
    """Bring a branch's changes into master; all of them, or none and why. Shows first what that does."""

    async def work(link: Link) -> int:
        try:
            was_at = await commit_of(link, branch)
            changes = await tried(link, branch, into, author())
            summary = await _accepted(link, changes, into, yes=yes or dry_run, force=force, as_json=as_json)
            if summary is None:
                return EXIT_FAILED
            if dry_run:
                _report(summary, None, as_json=as_json)
                return 0
            await unmoved(link, branch, was_at)
            asked = Merge(branch=branch, into=into, author=author(), request=uuid.uuid4().hex[:16])
            applied = await link.call("store", asked, Applied, APPLY_TIMEOUT_S)
        except JitsuError as error:
            if not as_json:
                raise
            print(json.dumps({"error": error.code, "message": error.message, "details": error.details}, indent=2))
            return EXIT_FAILED
        _report(summary, applied, as_json=as_json)
        return 0

    with_link(work)


@app.command()
def pull(
    remote: RemoteArgument,
    branch: BranchOption = MASTER,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch from another Git repository and merge, by the rules of `jitsu merge`. Shows first what that does."""

    async def work(link: Link) -> int:
        try:
            return await look_and_merge(link)
        except UnknownKind:
            if not yes or dry_run:
                raise Refused(
                    "this jitsu-store is of a version that cannot show what a pull changes, so nothing is changed",
                    hint="bring it up to date, or give --yes to pull without looking",
                ) from None
        asked = Pull(remote=remote, branch=branch, author=author(), request=uuid.uuid4().hex[:16])
        applied = await link.call("store", asked, Applied, NETWORK_TIMEOUT_S)
        _report(Summary(), applied, as_json=as_json)
        return 0

    async def look_and_merge(link: Link) -> int:
        async with fetched(link, remote, branch, author(), NETWORK_TIMEOUT_S) as theirs:
            changes = await tried(link, theirs.name, branch, author())
            summary = await _accepted(link, changes, branch, yes=yes or dry_run, force=force, as_json=as_json)
            if summary is None:
                return EXIT_FAILED
            if dry_run:
                _report(summary, None, as_json=as_json)
                return 0
            await theirs.keep(link, author())
            asked = Merge(
                branch=theirs.name,
                into=branch,
                author=author(),
                message=f"Merge {branch} of {remote} into {branch}",
                request=uuid.uuid4().hex[:16],
            )
            _report(summary, await link.call("store", asked, Applied, APPLY_TIMEOUT_S), as_json=as_json)
        return 0

    with_link(work)


async def _accepted(
    link: Link, changes: Sequence[Change], into: str, *, yes: bool, force: bool, as_json: bool
) -> Summary | None:
    """Have a merge's changes checked by the hypervisors; return what they do, None if that is not agreed to."""
    leaves = (await _leaves(link, into)).leaves
    if not force and any(change.path.startswith(VM_ROOT + "/") for change in changes):
        await check(link, changes, leaves)
    summary = await summary_of(link, leaves, changes, into)
    return summary if await agreed(summary, into, yes=yes, out=sys.stderr if as_json else None) else None
