"""libvirt's connections to one URI: one for events, and one for each thread that makes calls.

No connection is used by two threads at once. libvirtd serves only five calls of a connection at a time
(max_client_requests in libvirtd.conf), so five calls that hang would block all others. And libvirt's client writes into
freed memory when a connection with several calls under way is closed, as keepalive does with a libvirtd that hangs
(CVE-2024-4418, fixed in libvirt 10.3).

             connect()
    away ----------------> connected     an opening that hangs is waited for again: there is only one
         <----------------
          lose()

A thread's own connection belongs to the connection for events that existed when it was opened, and is lost with it.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import SetupFault, Unavailable
from jitsu_vmd.hypervisors.shared.threads import Threads, limited

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_LIMIT_S, OPEN_LIMIT_S = 5.0, 10.0
KEEPALIVE_S, KEEPALIVE_COUNT = 3, 3


@dataclass(frozen=True)
class _Main:
    """The connection for events."""

    connection: Any
    driver: str
    events: int | None
    """libvirt's number of our subscription; None with a driver that has no events."""


class _ThreadConnection(threading.local):
    """A thread's own connection."""

    main: _Main | None = None
    """The connection for events that it belongs to."""
    connection: Any = None


class Connections:
    """The connections to one URI."""

    def __init__(self, uri: str, threads: Threads, happened: Callable[[Any, int], None]) -> None:
        """`happened` is called on libvirt's thread with the domain of each event, and the event's number."""
        self.library: Any = None
        self._uri = uri
        self._threads = threads
        self._happened = happened
        self._main: _Main | None = None
        self._opening: asyncio.Future[_Main] | None = None
        self._of_thread = _ThreadConnection()
        self._opens = threading.Lock()
        """One at a time: sshd accepts only ten connections that have not logged in yet (MaxStartups)."""
        self._away = ""
        """Why it could not be connected, the last time."""

    def load(self) -> None:
        """Import libvirt; raises SetupFault if it is not there."""
        try:
            import libvirt
        except ImportError:
            raise SetupFault(
                "libvirt-python is not installed",
                hint='pip install "jitsu-vmd[libvirt]", or apt-get install python3-libvirt',
            ) from None
        self.library = libvirt
        _run_events(libvirt)

    async def connect(self) -> str:
        """Connect, and return the driver's name (virConnectGetType); raises Unavailable."""
        otherwise = f"{self._uri} does not answer"
        opening = self._opening = self._opening or self._threads.run(self._opened_for_events)
        try:
            main = await limited(asyncio.shield(opening), OPEN_LIMIT_S, otherwise)
        except Unavailable as error:
            self._away = error.message
            raise
        finally:
            if opening.done():
                self._opening = None
        self._main = main
        return main.driver

    def lose(self) -> None:
        """Use none of the connections any longer."""
        main, self._main = self._main, None
        if main is not None:
            self._threads.run(lambda: self._close(main))

    def _close(self, main: _Main) -> None:
        with suppress(self.library.libvirtError):  # that it was lost is known
            if main.events is not None:
                main.connection.domainEventDeregisterAny(main.events)
        with suppress(self.library.libvirtError):
            main.connection.close()

    async def is_alive(self) -> bool:
        """Say whether there is a connection for events."""
        if self._main is None:
            return False
        try:
            return bool(await self._threads.within(LOOK_LIMIT_S, "", self._main.connection.isAlive))
        except Unavailable:
            return False

    def mine(self) -> Any:
        """Return this thread's connection; raises Unavailable."""
        main, own = self._live(), self._of_thread
        if main.driver == "Test":  # its domains are its connection's, and it calls nobody
            return main.connection
        if own.main is not main or not own.connection.isAlive():
            own.main = own.connection = None  # the last reference to it closes it
            with self._opens:
                self._still(main)
                own.connection = self._opened()
            own.main = main
            self._still(main)
        return own.connection

    def _still(self, main: _Main) -> None:
        """Raise Unavailable if the connection was lost in the meantime: the caller has given up."""
        if self._live() is not main:
            raise Unavailable(f"{self._uri} does not answer")

    def _live(self) -> _Main:
        main = self._main
        if main is None:
            raise Unavailable(f"{self._uri} is not connected{f': {self._away}' if self._away else ''}")
        return main

    def _opened(self) -> Any:
        connection = self.library.open(self._uri)
        with suppress(self.library.libvirtError):  # a local driver has no need of it
            connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
        return connection

    def _opened_for_events(self) -> _Main:
        connection, events = self._opened(), None
        lifecycle = self.library.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        with suppress(self.library.libvirtError):  # a driver without events is looked at now and then
            events = connection.domainEventRegisterAny(None, lifecycle, self._on_event, None)
        return _Main(connection, connection.getType(), events)

    def _on_event(self, _: Any, domain: Any, event: int, __: int, ___: Any) -> None:
        self._happened(domain, event)


_events: threading.Thread | None = None


def _run_events(libvirt: Any) -> None:
    """Run libvirt's own event loop on a thread, once for all connections; before the first is opened."""
    global _events
    if _events is not None:
        return
    libvirt.registerErrorHandler(lambda _, __: None, None)  # errors are raised, and logged where that is known
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            with suppress(libvirt.libvirtError):
                libvirt.virEventRunDefaultImpl()

    _events = threading.Thread(target=run, name="libvirt events", daemon=True)
    _events.start()
