"""Messages to synjitsu."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from jitsu_protocol.messages.base import Request, VmId

InterfaceName = Annotated[str, Field(max_length=127, pattern="^[^/\\s]*$")]
"""The name of a network interface, or an alternative name (`ip link property add altname`, ALTIFNAMSIZ of Linux)."""


class Arm(Request):
    """vmd to synjitsu, before the VM is started: answer for its addresses until it is up. Answer: Done.

    The answer is Unavailable if synjitsu is not attached to the bridge. If it is sent twice, it renews the time limit.
    """

    kind: ClassVar[str] = "synjitsu.arm"

    vm: VmId
    addresses: list[str] = Field(max_length=1000)
    mac: str
    bridge: InterfaceName = ""
    """The bridge of the guest; empty for the only one that Synjitsu listens on."""
    interface: InterfaceName = ""
    """The host's end of the guest's interface if it exists already; otherwise vmd's feed has it once the VM runs."""
    handover: Literal["replay", "xenstore"] = "replay"
    """What is done with the SYNs that were kept: send them to the guest, or write them into Xenstore."""
    domain_id: int | None = None
    """The Xen domain of the guest, if it is known already; it may read and write its part of Xenstore."""
    is_there: bool = False
    """The guest is paused or already boots, so the MAC address on the bridge may be its own."""
    limit_s: float
    """If no Disarm comes within this many seconds, the boot counts as failed."""


class Disarm(Request):
    """vmd to synjitsu: the VM is `ready`, or its boot has `failed`. Answer: Done."""

    kind: ClassVar[str] = "synjitsu.disarm"

    vm: VmId
    outcome: Literal["ready", "failed"]
