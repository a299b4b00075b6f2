"""A thin client of LXD's API, over aiohttp: a unix socket, or https with a client's certificate.

A request that changes something answers with an operation, which is waited for here. Each request has a limit in time,
so that a server that hangs delays nobody else. Of a cluster that is reached by https, every member can be asked: if one
does not answer, the next request goes to another.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from jitsu_protocol.model.errors import SetupFault, TimedOut, Unavailable
from jitsu_vmd.hypervisors.lxd.rules.answers import LxdError
from jitsu_vmd.hypervisors.lxd.rules.connect import url_of
from jitsu_vmd.hypervisors.shared.http import MAX_SERVERS, HttpServers
from jitsu_vmd.hypervisors.shared.tls import client_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_vmd.hypervisors.lxd.rules.connect import Address

REQUEST_LIMIT_S = 10.0
OPERATION_LIMIT_S = 600.0
"""vmd itself gives up much earlier (boot_limit, shutdown_limit)."""
WAIT_S, MARGIN_S = 4, 1.0
"""An operation is waited for in pieces of that many seconds; LXD answers each in time; the margin is for the way."""
UNDER_WAY = frozenset({"Operation created", "Pending", "Running", "Starting", "Stopping", "Cancelling", None})
MAX_ANSWER_BYTES = 256 << 20
"""Ten thousand instances are 25 MB."""
MAX_TEXT_BYTES = 4 << 20
MAX_EVENT_BYTES = 4 << 20
HEARTBEAT_S = 15.0
IN_A_ROW = 50
"""This many records are parsed before others have their turn: ten thousand would take a third of a second."""
LIST_BEGINS = '"metadata":['
_DECODER = json.JSONDecoder()


class LxdClient:
    """One server, or the members of one cluster."""

    def __init__(self, connection: HypervisorConnection, address: Address) -> None:
        self._connection = connection
        self._project = address.project
        self._servers = HttpServers(address.urls, address.socket)

    # --- the connection ---

    def load(self) -> None:
        """Import aiohttp and read the certificates; raises SetupFault."""
        tls = None if self._servers.socket else client_context(self._connection)
        self._servers.open("lxd", tls, most_at_once=0)

    async def close(self) -> None:
        """Close all connections."""
        await self._servers.close()

    def know(self, urls: list[str]) -> None:
        """Note where the members of the cluster listen; the one that is asked now stays the first."""
        found = []
        for text in urls[:MAX_SERVERS]:
            with suppress(SetupFault):
                found.append(url_of(text))
        self._servers.know(found)

    @property
    def where(self) -> str:
        """Whom the next request goes to."""
        return self._servers.where

    def _path(self, path: str, query: Mapping[str, str]) -> str:
        asked = dict(query) | ({"project": self._project} if self._project else {})
        joined = "&" if "?" in path else "?"
        return f"{path}{joined + urlencode(asked) if asked else ''}"

    # --- requests ---

    async def get(self, path: str, limit: float = REQUEST_LIMIT_S, **query: str) -> Any:
        """Return what there is at a path; raises LxdError, or Unavailable if there is no answer within `limit`."""
        answer = await self._exchange("GET", path, query, None, limit)
        return answer.get("metadata")

    async def get_text(self, path: str, limit: float = REQUEST_LIMIT_S, **query: str) -> str:
        """Return a file of the server, such as a log; "" if there is none."""
        text = await self._text("GET", path, query, None, limit)
        return "" if text.startswith('{"type":"error"') else text

    async def get_list(self, path: str, limit: float, each: Callable[[dict[str, Any]], None], **query: str) -> None:
        """Pass each record of a long list to `each`, without blocking others for long."""
        text = await self._text("GET", path, query, None, limit)
        count = 0
        for record in self._records(text):
            if not isinstance(record, dict):
                raise Unavailable(f"{self.where} has answered what is not a list of records")
            each(record)
            if (count := count + 1) % IN_A_ROW == 0:
                await asyncio.sleep(0)

    def _records(self, text: str) -> Iterator[object]:
        """Yield the records of an answer, each parsed when it is asked for; raises LxdError, Unavailable."""
        at = text.find(LIST_BEGINS) + len(LIST_BEGINS)
        if not text.startswith('{"type":"sync"') or at < len(LIST_BEGINS):
            whole = _checked(text).get("metadata")
            yield from whole if isinstance(whole, list) else [whole]
            return
        try:
            while text[at] != "]":
                record, at = _DECODER.raw_decode(text, at)
                yield record
                at += text[at] == ","
        except (ValueError, IndexError, RecursionError) as error:
            raise Unavailable(f"{self.where} has answered what is not a list: {error}") from None

    async def change(
        self,
        method: str,
        path: str,
        body: object,
        limit: float = OPERATION_LIMIT_S,
        between_waits: Callable[[], Awaitable[None]] | None = None,
    ) -> Any:
        """Have something changed, and return when that is done; raises LxdError, or Unavailable.

        Until then, `between_waits` is called every few seconds. It raises Unavailable if the member at work is gone.
        """
        answer = await self._exchange(method, path, {}, body, REQUEST_LIMIT_S)
        operation = str(answer.get("operation") or "")
        if not operation:
            return answer.get("metadata")
        if not operation.startswith("/1.0/operations/"):
            raise Unavailable(f"{self.where} has answered with an operation that is not one")
        done = await self._ended(operation.partition("?")[0] + "/wait", limit, between_waits)
        if done.get("status") != "Success":
            raise LxdError(400, str(done.get("err") or f"the operation is {done.get('status')}"))
        return done.get("metadata")

    async def _ended(
        self, path: str, limit: float, between_waits: Callable[[], Awaitable[None]] | None
    ) -> dict[str, Any]:
        """Return the record of an operation that has ended; each wait is short, in case its member does not answer."""
        for _ in range(max(1, round(limit / WAIT_S))):
            with suppress(TimedOut):
                answer = await self._exchange("GET", path, {"timeout": str(WAIT_S)}, None, WAIT_S + MARGIN_S)
                found = answer.get("metadata") or {}
                if found.get("status") not in UNDER_WAY:
                    return dict(found)
            if between_waits is not None:
                await between_waits()
        raise TimedOut(f"{self.where} has not ended an operation within {limit:g} s")

    async def _exchange(
        self, method: str, path: str, query: Mapping[str, str], body: object, limit: float
    ) -> dict[str, Any]:
        return _checked(await self._text(method, path, query, body, limit))

    async def _text(self, method: str, path: str, query: Mapping[str, str], body: object, limit: float) -> str:
        most = MAX_TEXT_BYTES if "/logs/" in path else MAX_ANSWER_BYTES
        answer = await self._servers.request(method, self._path(path, query), limit, most, json=body)
        try:
            return answer.data.decode()
        except UnicodeDecodeError:
            raise Unavailable(f"{self.where} has answered what is not text") from None

    # --- events ---

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what happens to instances and members from now on, first an empty record when it is listened to.

        Ends when the connection ends; raises Unavailable if there is none.
        """
        heartbeat = None if self._servers.socket else HEARTBEAT_S
        path = self._path("/1.0/events", {"type": "lifecycle"})
        async for message in self._servers.messages(path, REQUEST_LIMIT_S, MAX_EVENT_BYTES, heartbeat):
            event = {} if message is None else _event(message)
            if message is None or event:
                yield event


def path_of(collection: str, name: str, *more: str) -> str:
    """Return the path of something that has a name, or of a part of it."""
    return "/".join([f"/1.0/{collection}", quote(name, safe=""), *more])


def instance_path(name: str, *more: str) -> str:
    """Return the path of an instance, or of a part of it."""
    return path_of("instances", name, *more)


def _checked(text: str) -> dict[str, Any]:
    """Return an answer's record; raises LxdError if it is an error."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        raise Unavailable(f"the server has answered what is not JSON: {text[:100]!r}") from None
    if not isinstance(answer, dict):
        raise Unavailable(f"the server has answered what is not a record: {text[:100]!r}")
    if answer.get("type") == "error":
        code = answer.get("error_code")
        raise LxdError(code if isinstance(code, int) and code else 500, str(answer.get("error") or ""))
    return answer


def _event(data: object) -> dict[str, Any]:
    try:
        event = json.loads(data) if isinstance(data, str | bytes) else {}
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}
