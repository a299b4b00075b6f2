"""What Proxmox VE answers: errors, and how tasks end.

A call that changes something answers with the id of a task (UPID), which is looked at until it has stopped. Its exit
status is OK, "WARNINGS: 2", or the text of an error, which is the reason that an operator can act on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Unavailable
from jitsu_vmd.hypervisors.shared.rules.texts import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

UPID = re.compile(r"UPID:([A-Za-z0-9-]{1,63})(:[^:/?#\s]*){6,7}:?", re.ASCII)
"""UPID:NODE:PID:PSTART:STARTTIME:TYPE:ID:USER: (PVE::Tools::upid_decode)."""
UNREACHABLE = (595, 596, 599)
"""pveproxy's own codes: it could not connect to the node that is to do it."""
PRIVILEGES = "docs/how-to/proxmox.md says which privileges the token needs"


class PveFault(Unavailable):
    """Proxmox VE has refused a call, or its task has failed."""

    @property
    def is_settled(self) -> bool:
        """Whether it may already be as the call wanted it: the caller looks again."""
        return bool(re.search(r"already running|not running", self.message))

    @property
    def has_moved(self) -> bool:
        """Whether the machine is on another node now, or is gone."""
        return "does not exist" in self.message

    @property
    def waits_for_lock(self) -> bool:
        """Whether another task has held the machine, and the same call may succeed in a moment."""
        return "can't lock file" in self.message or "got timeout" in self.message


def fault(status: int, reason: str, body: object) -> Unavailable:
    """Return the error that an answer other than 200 stands for.

    The text is in the reason of the status line, and in newer versions in the body too; mistakes in parameters are
    listed in the body.
    """
    record = body if isinstance(body, dict) else {}
    errors = record.get("errors")
    listed = "; ".join(f"{key}: {value}" for key, value in errors.items()) if isinstance(errors, dict) else ""
    text = one_line(f"{record.get('message') or reason} {listed}")
    if status == 401:
        return Unavailable(f"Proxmox VE does not accept the token: {text}", hint="see token_file")
    if status == 403:
        return PveFault(text or "permission denied", hint=PRIVILEGES)
    if status in UNREACHABLE:
        return Unavailable(f"the node that has the machine cannot be reached: {text}")
    return PveFault(text or f"Proxmox VE answers {status}")


def upid_of(data: object) -> tuple[str, str]:
    """Return a task's node and id; raises PveFault if it is none."""
    found = UPID.fullmatch(str(data))
    if found is None:
        raise PveFault(f"Proxmox VE has answered {one_line(data)[:100]!r}, which is not the id of a task")
    return found[1], str(data)


@dataclass(frozen=True)
class TaskEnd:
    """How a task has ended."""

    exit_status: str

    @property
    def has_failed(self) -> bool:
        """Whether it did not do what it was to do; warnings are no failure."""
        return self.exit_status != "OK" and not self.exit_status.startswith("WARNINGS")


def task_end(task: object) -> TaskEnd | None:
    """Return how a task has ended, None if it goes on."""
    record = task if isinstance(task, dict) else {}
    if record.get("status") != "stopped":
        return None
    return TaskEnd(one_line(record.get("exitstatus")) or "it has ended without an exit status")


def reason_of(failure: str, log: object) -> str:
    """Return why a task has failed, with what its log says besides."""
    lines = [one_line(each.get("t")) for each in log if isinstance(each, dict)] if isinstance(log, list) else []
    more = [line for line in lines if line and not line.startswith("TASK ") and line not in failure]
    return one_line(f"{failure} ({'; '.join(more[-3:])})" if more else failure)


def changed_machines(tasks: object, known: Iterable[str]) -> tuple[set[str], set[int]]:
    """Return what is known of the latest tasks, and the VMIDs of machines that tasks not known before were about.

    A task is known by its id and by whether it has ended, so that both its start and its end are noticed.
    """
    before, now = set(known), set()
    machines: set[int] = set()
    for task in tasks if isinstance(tasks, list) else []:
        if not isinstance(task, dict):
            continue
        mark = f"{task.get('upid')} {'endtime' in task}"
        now.add(mark)
        vmid = str(task.get("id") or "")
        if mark not in before and vmid.isascii() and vmid.isdecimal() and len(vmid) < 10:
            machines.add(int(vmid))
    return now, machines
