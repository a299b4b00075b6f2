"""Clones: VMs that begin where another VM, their template, was suspended, and are then given an identity of their own.

What a start of a clone does follows from the template, and from nothing that an earlier clone has left behind:

    template's process   template's save   the start of a clone
    none                 saved             is made from the save
    none                 none              is refused: the template is not suspended
    none                 saving            is refused: the template is not suspended
    none                 used              is refused: nobody knows whether the template has run since
    any other            any               is refused: the template's memory may change

What a clone is follows from its process and from a mark, which is set last of all:

    clone's process   its mark   the clone is      the next start
    none              any        off               makes it
    any               not set    off               ends the process, and makes it: vmd died, or the guest did not answer
    any               set        as in life.py     as in life.py, where to boot means to make it

    a clone is made:   copy the template's memory, and seal the copy; start a process that maps it privately; load the
                       state of the template's devices; let it run, with taps that are on no bridge; have its agent give
                       it an identity; put its taps on their bridges; set the mark

So no frame leaves a clone while it still has the addresses of its template (G1: one address is one guest). The template
itself may run again while its clones run. The kernel refuses every write to the sealed copy, a clone's disk is an
overlay of which the template's is only read, and vmd starts no VM that writes to a disk that a clone's process has.

A clone is made from its template at each start, so it keeps nothing that it has written: it is not suspended to disk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jitsu_vmd.hypervisors.qemu.rules.life import Process, SaveState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_vmd.hypervisors.qemu.rules.launch import Launch, LaunchNic

SCRIPT = "/etc/jitsu/clone"
"""What the guest agent is asked to execute."""
SAYS = "jitsu-clone:"
"""How the line begins in which the script says what it has changed."""
ALWAYS = ("mac", "address", "random", "clock")
IDENTITY = ("machine-id", "host-keys")
SEED_BYTES = 64


def why_not(process: Process, save: SaveState) -> str:
    """Return why no clone can be made of a template now, "" if one can."""
    if process is not Process.NONE:
        return "it has a process, so its memory may change: stop it (stop_mode = suspend), without standby"
    if save is SaveState.USED:
        return "its save may have been used before"
    return "" if save is SaveState.SAVED else "it is not suspended: start it, and stop it with stop_mode = suspend"


def clone_of(template: Launch, name: str, uuid: str, nics: Sequence[LaunchNic]) -> Launch:
    """Return the process of a clone; raises ValueError if its template cannot have any."""
    if template.template:
        raise ValueError("it is a clone itself")
    if not template.has_agent:
        raise ValueError("it has no channel for the guest agent: set guest_agent = true, and boot it")
    if not template.shares_memory:
        raise ValueError("its memory is not in a file: boot it with stop_mode = suspend")
    if len(nics) != len(template.nics):
        raise ValueError(f"it has {len(template.nics)} network interfaces: a clone must have as many")
    return replace(template, name=name, uuid=uuid, nics=tuple(nics), shares_memory=False, template=template.uuid)


def environment(launch: Launch, addresses: Sequence[str], seed: bytes, unix_s: float) -> list[str]:
    """Return what the script is told."""
    return [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"JITSU_NAME={launch.name}",
        f"JITSU_MACS={' '.join(nic.mac for nic in launch.nics)}",
        f"JITSU_ADDRESSES={' '.join(addresses)}",
        f"JITSU_MACHINE_ID={launch.uuid.replace('-', '')}",
        f"JITSU_SEED={seed.hex()}",
        f"JITSU_TIME={unix_s:.0f}",
    ]


def missing(output: str, *, shares_identity: bool) -> list[str]:
    """Return what the script should have changed, and does not say that it has."""
    done = {word for line in output.splitlines() if line.startswith(SAYS) for word in line.removeprefix(SAYS).split()}
    return [each for each in (*ALWAYS, *(() if shares_identity else IDENTITY)) if each not in done]
