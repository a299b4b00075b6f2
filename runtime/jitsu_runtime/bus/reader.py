"""Reads a ZeroMQ socket straight from the event loop.

pyzmq's own asyncio sockets make a future for each message and wake a task for it, which takes more processor time than
all else that a short message costs. Here the loop watches the socket's descriptor (zmq_getsockopt(3), ZMQ_FD) and hands
each message to a function.

That descriptor is edge-triggered: it says once that something has happened, and nothing more until all of that has
been read. A send may use up that notice too. So whoever sends has to call `look` afterwards, and a read that stops
before the socket is empty goes on by itself.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, cast

import zmq

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_IN_A_ROW = 16
"""Messages that one socket gives its process before the others have their turn: a query takes less than those."""


class Reader:
    """Reads one socket for as long as `attend` runs."""

    def __init__(self, socket: zmq.Socket[Any], take: Callable[[list[Any]], None], *, copy: bool = True) -> None:
        """`take` is called with the parts of each message; without `copy`, they are frames that know their sender."""
        self._socket = socket
        self._take = take
        self._copy = copy
        self._wake = asyncio.Event()

    async def attend(self) -> None:
        """Read until cancelled or until somebody closes the socket; raises what `take` raises."""
        # A copy of the descriptor, because uvloop aborts the process if one that it watches is closed, and destroying a
        # context closes those of all its sockets.
        descriptor = os.dup(cast("int", self._socket.getsockopt(zmq.FD)))
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, self._wake.set)
        try:
            while not self._socket.closed:
                self._wake.clear()
                if self._read():
                    await asyncio.sleep(0)
                else:
                    await self._wake.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def look(self) -> None:
        """Read soon, if there is anything to read; call this after each send."""
        if not self._socket.closed and cast("int", self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._wake.set()

    def _read(self) -> bool:
        """Read the messages that are there, up to MAX_IN_A_ROW; return whether there may be more."""
        for _ in range(MAX_IN_A_ROW):
            if self._socket.closed:
                return False
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=self._copy)
            except zmq.Again:
                return False
            self._take(parts)
        return True
