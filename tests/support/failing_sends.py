"""Sends that fail as the kernel makes them fail: each Nth datagram is refused, with each errno in turn."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from itertools import cycle
from typing import TYPE_CHECKING, Any

from jitsu_dns.wires import datagrams

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

ERRNOS = tuple(errno.errorcode)
"""Every errno that there is; sendmsg(2) lists some, and says that protocols may have others."""
_HEADER_BYTES = 64
"""Of struct mmsghdr on 64-bit machines."""


class FailingSends:
    """Stands in for sendmmsg(2) of the C library, and decides for both ways of sending."""

    def __init__(self, every: int, errnos: Iterable[int] = ERRNOS) -> None:
        """`every`: each how manieth datagram fails; 1 is all of them."""
        self._every, self._errnos = every, cycle(errnos)
        self._count = self._owed = 0
        self.failed = 0
        self._real: Any = datagrams.LIBC

    def next_fails(self) -> int:
        """Count a datagram; return the errno that it fails with, 0 if it is sent."""
        self._count += 1
        if self._count % self._every:
            return 0
        self.failed += 1
        return next(self._errnos)

    def sendmmsg(self, descriptor: int, where: ctypes.c_void_p, count: int, flags: int) -> int:
        """Send up to the first datagram that fails, as the kernel does: an error is seen when it is the first."""
        assert where.value is not None
        for sent in range(count):
            number = self._owed or self.next_fails()
            self._owed = number if number and sent else 0
            if number and sent:
                return sent
            if number:
                ctypes.set_errno(number)
                return -1
            done: int = self._real.sendmmsg(descriptor, ctypes.c_void_p(where.value + sent * _HEADER_BYTES), 1, flags)
            assert done == 1, os.strerror(ctypes.get_errno())
        return count

    def recvmmsg(self, *arguments: Any) -> int:
        """Receive as always."""
        return int(self._real.recvmmsg(*arguments))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be the C library of the product's code."""
        monkeypatch.setattr(datagrams, "LIBC", self)


class FailingSocket(socket.socket):
    """A socket whose `sendmsg` fails as `sends` says."""

    sends: FailingSends | None = None

    def sendmsg(self, *arguments: Any) -> int:
        """Send, or fail."""
        if self.sends is not None and (number := self.sends.next_fails()):
            raise OSError(number, os.strerror(number))
        return super().sendmsg(*arguments)
