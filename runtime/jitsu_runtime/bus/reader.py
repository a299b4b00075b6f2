"""Reads a ZeroMQ socket straight from the event loop.

pyzmq's own asyncio sockets make a future for each message and wake a task for it, which takes more processor time than
all else that a short message costs. Here the loop watches the socket's descriptor (zmq_getsockopt(3), ZMQ_FD) and hands
each message to a function, in the same turn.

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
EVENTS, POLLIN, NOBLOCK, RCVMORE = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.RCVMORE)
"""As plain numbers: each `&` of two flags of pyzmq makes a new member of an enum, which takes longer than the call."""


class Reader:
    """Reads one socket for as long as `attend` runs."""

    def __init__(self, socket: zmq.Socket[Any], take: Callable[[list[Any]], None], *, copy: bool = True) -> None:
        """`take` is called with the parts of each message; without `copy`, they are frames that know their sender."""
        self._socket = socket
        self._take = take
        self._copy = copy
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: _End | None = None
        """Both while `attend` runs."""
        self._goes_on: asyncio.Handle | None = None
        """The turn in which the rest is read, if this one has stopped early."""

    async def attend(self) -> None:
        """Read until cancelled or until somebody closes the socket; raises what `take` raises."""
        # A copy of the descriptor, because uvloop aborts the process if one that it watches is closed, and destroying a
        # context closes those of all its sockets.
        descriptor = os.dup(cast("int", self._socket.getsockopt(zmq.FD)))
        loop = self._loop = asyncio.get_running_loop()
        self._end = _End(loop)
        loop.add_reader(descriptor, self._read)
        try:
            self._read()
            await self._end.future
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self._loop = self._end = None
            if self._goes_on is not None:
                self._goes_on.cancel()

    def look(self) -> None:
        """Read soon, if there is anything to read; call this after each send."""
        if self._loop is not None and self._goes_on is None and self._is_readable():
            self._goes_on = self._loop.call_soon(self._go_on)

    def _is_readable(self) -> bool:
        return not self._socket.closed and bool(cast("int", self._socket.getsockopt(EVENTS)) & POLLIN)

    def _go_on(self) -> None:
        self._goes_on = None
        self._read()

    def _read(self) -> None:
        """Read the messages that are there, up to MAX_IN_A_ROW, and go on later if there may be more."""
        if self._end is None:
            return
        with self._end:
            for _ in range(MAX_IN_A_ROW):
                if not self._is_readable():
                    break
                self._take(self._message())
            else:
                self.look()
        if self._socket.closed:
            self._end.come()

    def _message(self) -> list[Any]:
        """Return the parts of the next message; there is one."""
        receive, copy = self._socket.recv, self._copy
        parts: list[Any] = [receive(NOBLOCK, copy)]
        while self._socket.getsockopt(RCVMORE):
            parts.append(receive(NOBLOCK, copy))
        return parts


class _End:
    """The end of the reading, for the task that attends: what was raised in a callback of the loop, or nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[None] = loop.create_future()

    def __enter__(self) -> None:
        """Begin to read."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> bool:
        """Keep an error for the task, whatever it is: nobody waits for a callback."""
        if error is None:
            return False
        if not self.future.done():
            self.future.set_exception(error)
        return True

    def come(self) -> None:
        """Note that there is nothing more to read."""
        if not self.future.done():
            self.future.set_result(None)
