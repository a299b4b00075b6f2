"""What the machine of one VM (handover.py) knows, apart from what it does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PASSING_S = 0.05
"""A SYN that comes this soon after the guest has shown itself may have been lost on the bridge: it may have passed, on
another processor, before the bridge learned the guest's port. One of 1,100 SYNs was lost even 1 ms after the guest's
first frame, for a reason that is not known; perhaps the kernel, which handles changes of a new tap's carrier with a
delay, had turned the port off and on once more. A longer time costs a probe for each SYN and nothing else: a SYN that
was delivered is not replayed.
"""
SETTLE_S = 0.5
CLEAR_AFTER_S = 4.0
REFUSE_S = 3.0
"""An answer that is given while the VM starts has a TTL of 1 s; some caches keep it a little longer."""
LEFT_TO_GUEST_S = 0.05
"""More than a question and its answer take (asking.py): a guest that shows itself has had its address for less."""
FOUND_LIMIT_S = 60.0
"""For a guest that somebody else has started; vmd's boot_limit is as long by default."""


class HandoverState(StrEnum):
    """Where a VM's handover stands."""

    WATCHING = "watching"
    ARMED = "armed"
    REFUSING = "refusing"
    RELEASED = "released"


@dataclass
class GuestFacts:
    """What is known of the guest itself."""

    mac: bytes
    heard_at: float | None = None
    """When its first frame came: from then on the bridge knows its port."""
    foreign: bytes = b""
    """An address that it has announced and that is not one of its own as configured."""
    missing: tuple[bytes, ...] = ()
    """Once released: the addresses at which it never showed itself."""


@dataclass
class BootFacts:
    """What is known of the boot, from vmd."""

    is_wanted: bool = False
    """vmd has been asked to start the VM."""
    is_armed: bool = False
    """vmd has said that it starts the VM; otherwise somebody else has started it."""
    is_ready: bool = False
    """vmd has said that the VM is ready; addresses that have not appeared are held until the limit."""
    is_reported: bool = False
    """vmd knows that the VM is handed over."""
    by_xenstore: bool = False
    probed_port: int | None = None
    """The TCP port to which vmd itself connects while the VM boots."""
    replayed: int = 0
    """Frames that the guest was sent in earlier boots."""
