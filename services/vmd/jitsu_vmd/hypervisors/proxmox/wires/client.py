"""A thin client of Proxmox VE's API, over aiohttp.

Each request has a limit in time, so that a node that hangs delays nobody else. Every node of a cluster answers for all;
if one does not answer, the next request goes to another of those that `hypervisor.connect` names.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jitsu_protocol.model.errors import SetupFault, Unavailable
from jitsu_runtime.clock import sleep
from jitsu_runtime.credentials import read_secret
from jitsu_vmd.hypervisors.proxmox.rules.answers import PveFault, fault, reason_of, task_end, upid_of
from jitsu_vmd.hypervisors.proxmox.rules.connect import authorization, urls_of
from jitsu_vmd.hypervisors.shared.http import HttpServers, library
from jitsu_vmd.hypervisors.shared.tls import client_context

if TYPE_CHECKING:
    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_runtime.clock import Clock

REQUEST_LIMIT_S = 10.0
TASK_LIMIT_S = 600.0
"""vmd itself gives up much earlier (boot_limit, shutdown_limit)."""
FIRST_POLL_S, LONGEST_POLL_S = 0.05, 0.5
"""A start takes about a second; the first polls are close to each other for a task that has failed at once."""
TASK_SILENCE_S = 15.0
"""A task is still waited for after that long without an answer: pveproxy may be restarting."""
MAX_ANSWER_BYTES = 64 << 20
"""Ten thousand machines are 6 MB."""
MAX_AT_ONCE = 16
BASE = "/api2/json"


class PveClient:
    """One node, or the nodes of one cluster."""

    def __init__(self, connection: HypervisorConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._servers = HttpServers(urls_of(connection.uri, connection.setting("connect")))

    # --- the connection ---

    def load(self) -> None:
        """Import aiohttp, and read the token and the certificates; raises SetupFault."""
        library("proxmox")  # what is missing comes first
        self._authorization()
        self._servers.open("proxmox", client_context(self._connection), MAX_AT_ONCE)

    async def close(self) -> None:
        """Close all connections."""
        await self._servers.close()

    @property
    def where(self) -> str:
        """Whom the next request goes to."""
        return self._servers.where

    def another(self, url: str) -> None:
        """Have the next request go to another node than this one."""
        self._servers.another(url)

    def _authorization(self) -> str:
        """Return what the file says now: a token may be replaced while vmd runs."""
        own, setting = self._connection.credentials, self._connection.setting("token_file")
        if not own.token_file:
            raise SetupFault(f"{setting}: Proxmox VE needs a token", hint="`pveum user token add` makes one")
        return authorization(own.user, read_secret(own.token_file, setting), setting)

    # --- requests ---

    async def get(self, path: str, limit_s: float = REQUEST_LIMIT_S, **query: str) -> Any:
        """Return what there is at a path; raises PveFault, or Unavailable if there is no answer within `limit_s`."""
        return await self._exchange("GET", path, limit_s, params=query)

    async def change(self, method: str, path: str, **form: str) -> None:
        """Have something changed, and return when that is done; raises PveFault with the reason, or Unavailable."""
        data = await self._exchange(method, path, REQUEST_LIMIT_S, data=form)
        if data is not None:
            await self._ended(*upid_of(data))

    async def _ended(self, node: str, upid: str) -> None:
        """Return when a task has ended; raises PveFault if it has failed."""
        path = f"/nodes/{node}/tasks/{quote(upid, safe=':@!')}"
        begun = heard = self._clock.now()
        pause = FIRST_POLL_S
        while True:
            try:
                end = task_end(await self.get(f"{path}/status"))
                heard = self._clock.now()
            except Unavailable as error:
                if isinstance(error, PveFault) or self._clock.now() > heard + TASK_SILENCE_S:
                    raise
                end = None
            if end is not None:
                break
            if self._clock.now() > begun + TASK_LIMIT_S:
                raise PveFault(f"the task {upid} has not ended within {TASK_LIMIT_S:g} s")
            await sleep(self._clock, pause)
            pause = min(2 * pause, LONGEST_POLL_S)
        if end.has_failed:
            raise PveFault(reason_of(end.exit_status, await self._log(path)))

    async def _log(self, path: str) -> Any:
        try:
            return await self.get(f"{path}/log", limit="50")
        except Unavailable:
            return None  # the exit status is enough

    async def _exchange(self, method: str, path: str, limit: float, **more: Any) -> Any:
        where, headers = self.where, {"Authorization": self._authorization()}
        answer = await self._servers.request(method, BASE + path, limit, MAX_ANSWER_BYTES, headers=headers, **more)
        try:
            body = json.loads(answer.data) if answer.data else None
        except (ValueError, RecursionError):
            body = None
            if answer.status == 200:
                raise Unavailable(f"{where} has answered what is not JSON") from None
        if answer.status != 200:
            raise fault(answer.status, answer.reason, body)
        if not isinstance(body, dict):
            raise Unavailable(f"{where} has answered what is not a record")
        return body.get("data")
