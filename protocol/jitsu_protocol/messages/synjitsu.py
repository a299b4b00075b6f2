"""To and from synjitsu."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from jitsu_protocol.messages.base import Request, VmId

InterfaceName = Annotated[str, Field(max_length=127, pattern="^[^/\\s]*$")]
"""Of a network interface, with those that `ip link property add altname` gives (ALTIFNAMSIZ of Linux)."""


class Arm(Request):
    """vmd to synjitsu, before the VM is started: hold its addresses until it boots. Answer: Done.

    Unavailable if that bridge is not attached. Sent twice it renews the time limit.
    """

    kind: ClassVar[str] = "synjitsu.arm"

    vm: VmId
    addresses: list[str] = Field(max_length=1000)
    mac: str
    bridge: InterfaceName = ""
    """Empty: the only one that Synjitsu listens on."""
    interface: InterfaceName = ""
    """The host's end of the guest's interface, when it is there already; else vmd's feed names it once the VM runs."""
    handover: Literal["replay", "xenstore"] = "replay"
    """What becomes of the SYNs that are kept: sent to the guest, or written into Xenstore."""
    domain_id: int | None = None
    """The guest's, as soon as it is known: it may read and write what is in Xenstore for it."""
    is_there: bool = False
    """The guest is paused, or boots already: the MAC address on the bridge may be its own."""
    limit_s: float
    """After that long without Disarm the boot counts as failed."""


class Disarm(Request):
    """vmd to synjitsu: the VM is `ready`, or its boot `failed`. Answer: Done."""

    kind: ClassVar[str] = "synjitsu.disarm"

    vm: VmId
    outcome: Literal["ready", "failed"]
