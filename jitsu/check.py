"""`jitsu check FILE`: what is wrong with a jitsu.toml, found without starting anything.

    jitsu                    jitsu-vmd --check                 jitsu-dns --check
      |  reads the file as `jitsu up` and `jitsu apply` do; ends here if that finds faults
      |-- started ------------->|  asks its hypervisors for domains; looks for kernels, disks and bridges
      |-- started ----------------------------------------------->|  reads its records and forwarders
      |<-- JSON, and it ends ---|<---------------------------------|
      |  each fault at its line of the file

The two are programs of their own because the tool may not import services. The result names one that is not
installed here.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jitsu.cli import JsonOption, Where, app, settings
from jitsu.program import run_module
from jitsu.reach import unreachable_lines
from jitsu.stop_modes import with_stop_modes
from jitsu_runtime.service import EXIT_FAILED, EXIT_SETUP
from jitsu_runtime.settings.load import SettingsFault
from jitsu_runtime.settings.toml_positions import TomlFile
from jitsu_runtime.settings.web import web_faults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_runtime.settings.load import Settings

LIMIT_S = 30.0
"""Longer than a vmd waits for each of a few hypervisors."""
SERVICES = ("vmd", "dns")


@dataclass
class Judgement:
    """What was found out about a file."""

    vms: int = 0
    faults: list[str] = field(default_factory=list)
    """Mistakes with which it cannot run; each names file, line and key."""
    notes: list[str] = field(default_factory=list)
    """Things worth knowing, which may be meant so."""
    unchecked: list[str] = field(default_factory=list)
    """What could not be looked at, and why."""

    def lines(self, file: Path) -> list[str]:
        """Return lines for people."""
        lines = [*self.faults, *self.notes, *(f"not checked: {each}" for each in self.unchecked)]
        what = f"{self.vms} VM{'' if self.vms == 1 else 's'}"
        count = f"{len(self.faults)} mistake{'' if len(self.faults) == 1 else 's'}"
        return [*lines, f"{file}: {what}, {count if self.faults else 'no mistakes'}"]


def judge(file: Path, found: Settings, answers: Mapping[str, Mapping[str, Any] | str]) -> Judgement:
    """Judge a file by the answer of each service, or by why there is none."""
    toml = TomlFile.read(file)
    judged = Judgement(len(found.vms))
    vmd, dns = answers["vmd"], answers["dns"]
    sections = _sections(toml)
    if isinstance(vmd, str):
        judged.unchecked.append(f"whether a hypervisor can run the VMs: {vmd}")
        vmd = {}
    names = {vm.uuid: vm.name for vm in found.vms}
    for uuid, reason in vmd.get("refusals", {}).items():
        key, _, why = reason.partition(": ")
        is_key = bool(why) and " " not in key
        section = sections.get(names[uuid], names[uuid])
        place = toml.at("vm", section, key) if is_key else toml.at("vm", section)
        judged.faults.append(f"{place}: {why if is_key else reason}")
    for name, reason in vmd.get("silent", {}).items():
        judged.unchecked.append(f"what {name} has: {reason}")
    elsewhere = sorted({vm.host for vm in found.vms if vm.host != found.hypervisor.host})
    judged.unchecked += [f"the VMs of the host {host or 'without a name'}: run it there" for host in elsewhere]
    if isinstance(dns, str):
        judged.unchecked.append(f"[dns]: {dns}")
    else:
        for fault in dns.get("faults", []):
            path, _, why = fault.partition(": ")
            judged.faults.append(f"{toml.at(*path.split('.'))}: {why}")
    for key, why, what in web_faults(found.web):
        judged.faults.append(f"{toml.at('web', key)}: {why}; {what}")
    judged.notes += with_stop_modes(found.vms, found, {}, vmd.get("writes_to_disk", {}))[1]
    judged.notes += unreachable_lines(found.vms, found)
    if not found.vms:
        judged.notes.append(
            "note: there is no VM: `jitsu apply` of this file removes all VMs, and `jitsu up` needs store.path with it"
        )
    return judged


def _sections(toml: TomlFile) -> dict[str, str]:
    """Return in which [vm.SECTION] each VM stands, by its name."""
    tables = toml.data.get("vm", {})
    return {str(table.get("name", section)): section for section, table in tables.items() if isinstance(table, dict)}


async def ask_services(file: Path) -> dict[str, dict[str, Any] | str]:
    """Ask the services to check a file; returns the answer of each, or why there is none."""
    answers = await asyncio.gather(*(_ask(service, file) for service in SERVICES))
    return dict(zip(SERVICES, answers, strict=True))


async def _ask(service: str, file: Path) -> dict[str, Any] | str:
    finished = await run_module(f"jitsu_{service}.main", "--config", str(file), "--check", limit_s=LIMIT_S)
    if finished is None:
        return f"jitsu-{service} has not answered within {LIMIT_S:g} s"
    said = finished.err.strip().rpartition("\n")[2]
    if finished.status:
        return f"jitsu-{service} is not installed here" if f"jitsu_{service}" in said else f"jitsu-{service}: {said}"
    answer: dict[str, Any] = json.loads(finished.out)
    return answer


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A jitsu.toml.")],
    as_json: JsonOption = False,
    no_hypervisor: Annotated[
        bool,
        typer.Option("--no-hypervisor", help="Do not ask hypervisors for domains, nor look for files and bridges."),
    ] = False,
) -> None:
    """Judge a jitsu.toml by the rules of up and apply. Nothing is started or changed, and no suite need run.

    Hypervisors that can be reached are asked for domains; kernels, disks and bridges are looked for on this machine.
    The exit status is 2 for mistakes in the file itself, and 1 where only what it names is missing.
    """
    Where.config = file
    try:
        found = settings()
    except SettingsFault as fault:
        status, judged = EXIT_SETUP, Judgement(faults=list(fault.faults))
    else:
        answers: dict[str, Any] = {"vmd": "--no-hypervisor was given", "dns": {}}
        if not no_hypervisor:
            answers = asyncio.run(ask_services(file))
        judged = judge(file, found, answers)
        status = EXIT_FAILED if judged.faults else 0
    if as_json:
        print(json.dumps(asdict(judged), indent=2))
    else:
        print("\n".join(judged.faults if status == EXIT_SETUP else judged.lines(file)))
    sys.exit(status)
