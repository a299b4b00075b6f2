"""What LXD reports of an instance, and what follows from it for a VM. Incus reports the same.

An instance has a status, a flag `stateful` (its memory is saved on disk), and in a cluster a location, which is the
member that has it. A member has a status of its own: Online, Offline (no heartbeat for `cluster.offline_threshold`,
20 s by default), Evacuated (an operator, or Incus' healing, has moved or stopped what it had) or Blocked.

A member that is Offline may have lost its power, or only its connection to the other members. Nobody can tell from
outside, so nothing is concluded from it: the instance may run on, and a second one would have the same address (G1).
It is started elsewhere only when the cluster itself has given it another location, which it does when the member is
evacuated or healed. That needs storage that all members share.

    status                              stateful   its member     what the VM is
    Running, Ready, Thawed              any        any            running
    Starting, Restarting, Stopping,     any        any            running: the change is under way, and an event
    Aborting, Freezing                                            comes when it is over
    Frozen                              any        any            paused
    Stopped                             yes        any            suspended; off, if its saved state was discarded
    Stopped                             no         any            off
    Error, or none                      any        Offline        not known: its member is offline
    Error, or none                      any        other          not known: LXD cannot tell
    anything else                       any        any            not known: LXD cannot tell
    the instance is not there           -          -              off; a start makes it, or says that there is none

What a call is answered, whatever the call was (answers.py has the texts by which they are recognized):

    answer                                            what is done
    the instance is running, or stopped, already      success: what was wanted is so
    the instance is busy with another operation       wait for it, look again, and go on from there
    the database has no leader                        the same call again, after a look, until boot_limit is over
    nothing, or a connection to the member fails      the same, until the cluster notices that the member is offline
    the member is offline                             refused: the instance may run there
    the member is evacuated                           refused; `lxc cluster restore MEMBER`, or move the instance
    anything else                                     the reason of the failed boot or stop
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitsu_vmd.hypervisors.shared.rules.texts import one_line
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Mapping

RUNNING = frozenset({"Running", "Ready", "Thawed", "Starting", "Restarting", "Stopping", "Aborting", "Freezing"})
DISCARDED = "user.jitsu.discarded"
"""A key of an instance's configuration: its saved state is not to be restored. LXD can delete saved state only by
starting the instance without it, so the next start does."""
RESTORING = "user.jitsu.restoring"
"""A key of an instance's configuration, set before its saved state is restored, and removed afterwards."""


@dataclass(frozen=True)
class Member:
    """A member of a cluster."""

    name: str
    status: str
    message: str = ""
    """Why it has that status, in LXD's words."""
    url: str = ""

    @property
    def is_heard(self) -> bool:
        """Whether the other members hear it: one that is evacuated answers, too."""
        return self.status in ("Online", "Evacuated")


@dataclass(frozen=True)
class InstanceState:
    """What is known of an instance."""

    guest: GuestState | None = None
    """None: not known."""
    unseen: str = ""
    """Why it is not known."""


def state_of(instance: Mapping[str, Any], members: Mapping[str, Member]) -> InstanceState:
    """Return what an instance's record says of it; `members` are those of the cluster, none without one."""
    status = str(instance.get("status", ""))
    if status in RUNNING:
        return InstanceState(GuestState.RUNNING)
    if status == "Frozen":
        return InstanceState(GuestState.PAUSED)
    if status == "Stopped":
        is_saved = instance.get("stateful") is True and config_of(instance).get(DISCARDED) != "true"
        return InstanceState(GuestState.SUSPENDED if is_saved else GuestState.OFF)
    return InstanceState(unseen=why_unknown(instance, members))


def why_unknown(instance: Mapping[str, Any], members: Mapping[str, Member]) -> str:
    """Return why nothing is known of an instance."""
    location = str(instance.get("location", ""))
    member = members.get(location)
    if member is not None and not member.is_heard:
        return offline(member)
    where = f" on {location}" if member is not None else ""
    return f"LXD cannot tell the state of the instance{where}: it reports {instance.get('status') or 'none'}"


def offline(member: Member) -> str:
    """Return what is said of an instance whose member is not heard."""
    because = f" ({_short(member.message)})" if member.message else ""
    return (
        f"its cluster member {member.name} is {member.status.lower() or 'silent'} and may still run it; only the "
        f"cluster moves it elsewhere{because}"
    )


def _short(message: str) -> str:
    """Return LXD's message about a member without the time of day: `No heartbeat for 27.1s (2026-11-28 ...)`."""
    return one_line(re.sub(r"\.\d+s\b", " s", message.partition(" (")[0]))


def config_of(instance: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an instance's own configuration."""
    config = instance.get("config")
    return config if isinstance(config, dict) else {}


def members_of(records: object) -> dict[str, Member]:
    """Return the members of a cluster by name, from the records that LXD has of them."""
    found = {}
    for each in records if isinstance(records, list) else []:
        if isinstance(each, dict) and isinstance(each.get("server_name"), str):
            texts = (str(each.get(key) or "") for key in ("server_name", "status", "message", "url"))
            found[each["server_name"]] = Member(*texts)
    return found


def not_heard(members: Mapping[str, Member]) -> list[str]:
    """Return a note about each member that is neither online nor evacuated."""
    return [
        f"cluster member {member.name} is {member.status.lower()}: {_short(member.message)}"
        for member in members.values()
        if not member.is_heard
    ]
