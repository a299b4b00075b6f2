"""The raw socket on one bridge (packet(7)): it sees all frames of armed VMs, and sends on the bridge itself, which
teaches the bridge no port for a guest's MAC address.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import SetupFault
from jitsu_synjitsu.rules.filter import Interest, packed, program

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_synjitsu.rules.filter import Instruction
    from jitsu_synjitsu.wires.lan import Taken

_SOL_PACKET, _ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _STATISTICS, _AUXDATA, _PROMISCUOUS = 263, 1, 2, 6, 8, 1
_ATTACH_FILTER = 26
_ETH_P_ALL = 3
_OUTGOING = 4  # PACKET_OUTGOING
_IFF_PROMISC = 0x100
AUX = struct.Struct("IIIHHHH")  # struct tpacket_auxdata: status, lengths, offsets, vlan_tci, vlan_tpid
_VLAN_VALID, _TPID_VALID = 0x10, 0x40
MAX_FRAME_BYTES = 65_536 + 18
MAX_BURST = 64
"""Frames taken before others have their turn."""
MAX_LOOKS = 100
RECEIVE_BUFFER_BYTES = 8 * 1024 * 1024
OWN_SOCKET_ERRNOS = frozenset({errno.EBADF, errno.ENOTSOCK})
"""Errors that concern the socket itself and not a frame. ENETDOWN is not among them: a packet socket goes on by itself
when its bridge is up again, and `WatchedBridge.look` sees one that is gone (packet(7)).
"""

log = structlog.get_logger("synjitsu")


class BridgeSocket:
    """One bridge."""

    def __init__(
        self,
        bridge: str,
        taken: Taken,
        make_socket: Callable[[int, int], socket.socket] = socket.socket,
    ) -> None:
        """Open it; raises SetupFault. `taken` gets each frame, and whether this host itself has sent it."""
        self.bridge = bridge
        self._taken = taken
        self._interest: Interest | None = None
        self._is_promiscuous = False
        self.unsent: Counter[str] = Counter()
        """Frames that were not sent, by the name of the error."""
        self.is_broken = False
        """The descriptor is not this socket's any more: it must be opened again."""
        self._was_down = False
        self._descriptor = -1
        """While it is read."""
        try:
            self._index = socket.if_nametoindex(bridge)
            self._socket = make_socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
            self.watch(Interest())
            self._socket.setsockopt(_SOL_PACKET, _AUXDATA, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self._socket.bind((bridge, _ETH_P_ALL))
        except OSError as error:
            hints = {
                errno.EPERM: "Synjitsu needs CAP_NET_RAW",
                errno.ENODEV: "`ip link show type bridge` lists the bridges of this host",
            }
            reason = error.strerror or "no such interface"
            raise SetupFault(
                f"cannot listen on the bridge {bridge}: {reason}", hint=hints.get(error.errno or errno.ENODEV, "")
            ) from None

    def watch(self, interest: Interest) -> None:
        """See of these VMs what is of interest, of others nothing."""
        if interest == self._interest:
            return
        self._interest = interest
        try:
            self._attach_filter(program(interest))
        except OSError as error:
            self._failed(error)
            log.warning(
                "the kernel refuses the packet filter; Synjitsu reads every frame on the bridge, which costs more",
                bridge=self.bridge,
                reason=error.strerror,
                hint="sysctl net.core.optmem_max=131072",
            )
            with suppress(OSError):  # if this fails too, reading says so
                self._attach_filter(program(Interest(), everything=True))
        if bool(interest) is not self._is_promiscuous:
            self._is_promiscuous = bool(interest)
            membership = struct.pack("iHH8s", self._index, _PROMISCUOUS, 0, b"")
            how = _ADD_MEMBERSHIP if interest else _DROP_MEMBERSHIP
            try:
                self._socket.setsockopt(_SOL_PACKET, how, membership)
            except OSError as error:  # the bridge went at this moment, or `warning` says so
                self._failed(error)

    def _attach_filter(self, instructions: list[Instruction]) -> None:
        code = packed(instructions)
        held = ctypes.create_string_buffer(code, len(code))
        filter_program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(held))
        self._socket.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, filter_program)

    def _failed(self, error: OSError) -> None:
        """Note an error of the socket. None ends the process; one that shows that the descriptor is no longer this
        socket's has the socket opened again.
        """
        if error.errno in OWN_SOCKET_ERRNOS and not self.is_broken:
            self.is_broken = True
            self._stop_reading()
            log.error(
                "the socket on the bridge is broken; it is opened again", bridge=self.bridge, reason=error.strerror
            )

    def has_lost(self) -> bool:
        """Say whether the kernel has dropped frames since the last call, because they were not read in time."""
        try:
            _, lost = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        except OSError as error:
            self._failed(error)
            return True
        return bool(lost)

    def warning(self) -> str:
        """Return why not all frames on the bridge are seen, or nothing."""
        if not self._is_promiscuous:
            return ""
        try:
            flags = int(Path(f"/sys/class/net/{self.bridge}/flags").read_text(), 16)
        except OSError:
            return ""
        return "" if flags & _IFF_PROMISC else f"{self.bridge} is not promiscuous: ip link set {self.bridge} promisc on"

    def open(self) -> None:
        """Begin to take frames."""
        self._descriptor = self._socket.fileno()
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """End it."""
        self._stop_reading()
        if self.is_broken:
            self._socket.detach()  # its number may be somebody else's by now
        else:
            self._socket.close()

    def _stop_reading(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._descriptor = -1

    def send(self, frame: bytes) -> None:
        """Put a frame on the bridge."""
        try:
            self._socket.send(frame)
        except OSError as error:
            self.unsent[errno.errorcode.get(error.errno or 0, "unknown")] += 1
            self._failed(error)

    def look(self) -> None:
        """Take the frames that have arrived until now, up to a limit."""
        for _ in range(MAX_LOOKS):
            if not self._read():
                return

    def _read(self) -> bool:
        """Take a burst of frames; returns whether there may be more."""
        for _ in range(MAX_BURST):
            try:
                frame, ancillary, _, address = self._socket.recvmsg(MAX_FRAME_BYTES, 64)
            except BlockingIOError:
                return False
            except OSError as error:
                self._failed(error)
                if error.errno != errno.ENETDOWN or not self._was_down:
                    log.warning("the bridge cannot be read", bridge=self.bridge, reason=error.strerror)
                self._was_down = error.errno == errno.ENETDOWN
                return False
            self._was_down = False
            for level, kind, data in ancillary:
                if level == _SOL_PACKET and kind == _AUXDATA:
                    frame = _with_tag(frame, data)
            self._taken(frame, bool(address) and address[2] == _OUTGOING)
        return True


def _with_tag(frame: bytes, auxiliary: bytes) -> bytes:
    """Put the VLAN tag back that the kernel has taken out."""
    status, _, _, _, _, tci, tpid = AUX.unpack_from(auxiliary)
    if not status & _VLAN_VALID:
        return frame
    tag = struct.pack("!HH", tpid if status & _TPID_VALID else 0x8100, tci)
    return frame[:12] + tag + frame[12:]
