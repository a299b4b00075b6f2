"""Sessions with XAPI: one for each thread, on whichever host is the pool's master.

A host that is not the master names the one that is, and is left for it. A session that has failed once is not used
again, as its connection may be lost. XenAPI itself logs in again when a session has expired.
"""

from __future__ import annotations

import http.client
import threading
import xmlrpc.client
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from jitsu_protocol.model.errors import SetupFault, Unavailable
from jitsu_runtime.credentials import read_secret
from jitsu_vmd.hypervisors.shared.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitsu_protocol.model.hypervisors import HypervisorConnection

VERSION, ORIGINATOR, DEFAULT_USER = "1.0", "jitsu", "root"
MAX_MASTERS = 3
"""To follow in a row: the pool's master may change in the meantime."""

log = structlog.get_logger("vmd")


class _ThreadSession(threading.local):
    """A thread's own session, and where it was opened."""

    session: Any = None
    uri = ""


class Sessions:
    """The sessions with one pool."""

    def __init__(self, connection: HypervisorConnection) -> None:
        self.uri = connection.uri
        self.library: Any = None
        self._connection = connection
        self._own = _ThreadSession()

    def load(self) -> None:
        """Import XenAPI and check the settings; raises SetupFault."""
        try:
            from XenAPI import XenAPI
        except ImportError:
            raise SetupFault("XenAPI is not installed", hint='pip install "jitsu-vmd[xapi]"') from None
        if urlsplit(self.uri).scheme not in ("http", "https"):
            raise SetupFault(
                f"{self._connection.setting('connect')}: {self.uri!r} is not an address of XAPI; "
                "expected something like https://host"
            )
        self._password()
        self._transport()
        self.library = XenAPI

    def mine(self) -> Any:
        """Return this thread's session."""
        own = self._own
        if own.session is None or own.uri != self.uri:
            own.session = self._logged_in()
            own.uri = self.uri
        return own.session

    def _logged_in(self) -> Any:
        password, user = self._password(), self._connection.credentials.user or DEFAULT_USER
        for _ in range(MAX_MASTERS):
            session = self.library.Session(self.uri, transport=self._transport())
            try:
                session.xenapi.login_with_password(user, password, VERSION, ORIGINATOR)
            except self.library.Failure as failure:
                if failure.details[0] != "HOST_IS_SLAVE":
                    raise
                self._follow(failure.details[1])
            else:
                return session
        raise Unavailable(f"{self.uri} and others name each other as the pool's master")

    def _password(self) -> str:
        """Return what the file says now: it may be changed while vmd runs."""
        file = self._connection.credentials.password_file
        return read_secret(file, self._connection.setting("password_file")) if file else ""

    def _follow(self, master: str) -> None:
        parts = urlsplit(self.uri)
        port = f":{parts.port}" if parts.port else ""
        host = f"[{master}]" if ":" in master else master
        log.warning("the pool has another master", was=self.uri, master=master)
        self.uri = f"{parts.scheme}://{host}{port}"

    def _transport(self) -> xmlrpc.client.Transport:
        if urlsplit(self.uri).scheme == "http":
            return xmlrpc.client.Transport()
        return xmlrpc.client.SafeTransport(context=client_context(self._connection))

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Raise Unavailable in place of an error of XAPI or of the way to it, and drop this thread's session then."""
        try:
            yield
        except (self.library.Failure, OSError, xmlrpc.client.Error, http.client.HTTPException) as error:
            self._own.session = None
            raise self._meaning(error) from None

    def _meaning(self, error: Exception) -> Unavailable:
        if isinstance(error, self.library.Failure):
            code, *details = map(str, error.details)
            if code == "HOST_IS_SLAVE" and details:
                self._follow(details[0])
            if code == "SESSION_AUTHENTICATION_FAILED":
                hint = f"see {self._connection.setting('password_file')}"
                return Unavailable("XAPI takes neither user nor password", hint=hint)
            return Unavailable(f"XAPI says {code}{': ' + ', '.join(details) if details else ''}")
        if isinstance(error, xmlrpc.client.ProtocolError):
            return Unavailable(f"{self.uri} answers {error.errcode} {error.errmsg}")
        return Unavailable(f"{self.uri} cannot be reached: {error}")
