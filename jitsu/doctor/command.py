"""`jitsu doctor`: asks the suite, examines one concern after the other, and shows what was found."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jitsu.cli import JsonOption, app, of_the_suite_that_runs
from jitsu.dig import replicas_at, who_answers
from jitsu.doctor import (
    bridges,
    bundle,
    clocks,
    credentials,
    delegation,
    disk,
    keys,
    kvm,
    ports,
    resolvers,
    rights,
    services,
    versions,
)
from jitsu.doctor.finding import Suite, lines
from jitsu.link import OWNERS, connect
from jitsu.printable import print_lines
from jitsu_protocol.messages import History, Log
from jitsu_protocol.model.errors import JitsuError, SetupFault
from jitsu_protocol.model.export import vms_in
from jitsu_protocol.model.vm import REPLICA_ROOT, STATS_ROOT, VM_ROOT
from jitsu_protocol.rows import status_rows
from jitsu_runtime.logs import configure_logging
from jitsu_runtime.service import EXIT_FAILED, EXIT_SETUP
from jitsu_runtime.settings.load import SettingsFault

if TYPE_CHECKING:
    from jitsu.doctor.finding import Finding
    from jitsu.link import Link
    from jitsu_runtime.settings.load import Settings

DNS_LIMIT_S = 0.7


async def ask_suite(settings: Settings) -> tuple[Suite, dict[str, Any]]:
    """Return what the suite says of itself, and its status for a bundle."""
    suite = Suite(settings, settings.vms)
    try:
        async with connect(settings.bus) as link:
            if not any(link.runs(owner) for owner in OWNERS):
                return replace(suite, silences={"store": link.absent("store").hint}), {}
            return await _asked(link, suite)
    except SetupFault:  # the keys are not there, which keys.py says better
        return suite, {}


async def _asked(link: Link, suite: Suite) -> tuple[Suite, dict[str, Any]]:
    pongs = await link.pings()
    silences = {}
    for name, pong in pongs.items():
        if pong is None:
            owner, _, host = name.partition(" of ")
            silences[name] = "It hangs, or has too much to do: look at its log."
            if not link.runs(owner, host):
                silences[name] = str(link.absent(owner))
    suite = replace(suite, pongs=pongs, silences=silences)
    if pongs.get("store") is None:
        return suite, {}
    try:
        roots = (VM_ROOT, STATS_ROOT, REPLICA_ROOT)
        leaves = {path: value for root in roots for path, value in (await link.leaves(root)).items()}
        commits = (await link.call("store", Log(limit=1), History)).commits
        vms, errors = await link.vms_of_all_hosts([name[4:] for name in silences if name.startswith("vmd")])
    except JitsuError as error:
        return replace(suite, silences=silences | {"store": str(error)}), {}
    places = {address: frozenset(names) for address, names in replicas_at(leaves).items()}
    heard = await asyncio.gather(
        *(asyncio.to_thread(who_answers, address, set(names), DNS_LIMIT_S) for address, names in places.items())
    )
    suite = replace(
        suite,
        vms=tuple(vms_in(leaves)[0]),
        replicas=places,
        answering={address: frozenset(each) for address, each in zip(places, heard, strict=True)},
        last_commit_ts=float(commits[0].ts) if commits else None,
    )
    now = clocks.gather(suite).now
    notes = {name: None if pong is None else pong.model_dump() for name, pong in pongs.items()}
    return suite, {"vms": status_rows(vms, leaves, now, errors), "services": notes}


async def examine(suite: Suite, *, internet: bool) -> tuple[list[Finding], versions.VersionFacts]:
    """Return what is found, and the versions for a bundle."""
    facts = versions.gather(suite)
    found = services.judge(suite)
    found += versions.judge(facts)
    found += ports.judge(ports.gather(suite))
    found += rights.judge(rights.gather(suite))
    found += bridges.judge(bridges.gather(suite))
    found += kvm.judge(await kvm.gather(suite))
    found += clocks.judge(clocks.gather(suite))
    found += disk.judge(disk.gather(suite))
    found += keys.judge(keys.gather(suite))
    found += credentials.judge(credentials.gather(suite))
    found += resolvers.judge(await resolvers.gather(suite))
    if internet:
        found += delegation.judge(await delegation.gather(suite))
    return found, facts


@app.command()
def doctor(
    as_json: JsonOption = False,
    internet: Annotated[
        bool, typer.Option("--internet", help="Also ask name servers elsewhere whether the zones are delegated to us.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            "--bundle", metavar="FILE", help="Also write a .tar.gz to send to somebody who helps, without secrets."
        ),
    ] = None,
) -> None:
    """Look at this machine and at the suite, and say what is wrong and what to do.

    Nothing is changed and no VM is started. Only servers that the configuration and /etc/resolv.conf name are asked,
    unless with --internet. The exit status is 1 if a fault is found; notes do not count.
    """

    async def work(settings: Settings) -> int:
        suite, status = await ask_suite(settings)
        found, facts = await examine(suite, internet=internet)
        if as_json:
            print(json.dumps([asdict(each) for each in found], indent=2))
        else:
            print_lines(lines(found))
        if to is not None:
            shown = {"findings": [asdict(each) for each in found], "versions": asdict(facts), "status": status}
            names = bundle.write(to, suite, shown, bundle.journal())
            if not as_json:
                print_lines([f"{to} has {', '.join(names)}; read it before you send it"])
        return EXIT_FAILED if any(each.is_fault for each in found) else 0

    try:
        settings = of_the_suite_that_runs()
        configure_logging(settings.log.model_copy(update={"level": "error"}), "jitsu")
        sys.exit(asyncio.run(work(settings)))
    except SettingsFault as fault:
        print(fault, file=sys.stderr)
        sys.exit(EXIT_SETUP)
    except OSError as error:
        print(f"jitsu doctor: {to}: {error.strerror or error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
