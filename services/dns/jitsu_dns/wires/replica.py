"""One dns replica: hands what happens to rules/front.py, and performs what that wants done."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from jitsu_dns.rules.events import (
    ClientGone,
    Drop,
    QueryReceived,
    RecordWait,
    Reply,
    ReportDrain,
    SendResponse,
    SendZone,
    StatePublished,
    StatesReceived,
    SummonVm,
)
from jitsu_dns.rules.exchange import Client
from jitsu_dns.rules.forward import AskServer, AttemptFailed, ForgetAttempt, ResponseReceived
from jitsu_dns.rules.notify import LogUnheard, NotifyAnswered, SendNotify
from jitsu_dns.rules.reports import ReplicaReports
from jitsu_dns.rules.usage import NameUsage, Reporting
from jitsu_dns.rules.warnings import WarningList, upgrade_hint
from jitsu_dns.wires.configured import front_of, summon_limit
from jitsu_dns.wires.interfaces import served_addresses
from jitsu_dns.wires.metrics import ReplicaMetrics
from jitsu_dns.wires.names import NamesFollower
from jitsu_dns.wires.query_log import QueryLog
from jitsu_dns.wires.servers import Servers
from jitsu_dns.wires.vmd_calls import VmdCalls
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.privacy import Privacy
from jitsu_runtime.bus.follow import follow_states
from jitsu_runtime.driver import Driver
from jitsu_runtime.usage import UsageReports

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from jitsu_dns.rules.front import Action
    from jitsu_dns.rules.notify import Server
    from jitsu_dns.rules.warm import Senders
    from jitsu_dns.wires.sockets import Sockets
    from jitsu_protocol.messages import VmStatus
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import Followed, World

LEAVING_TIMEOUT_S = 0.5
ANSWERING_TIMEOUT_S = 5.0
"""A replica that stops waits this long for its last answers: max_wait is at most 4 s, another server may take 3 s."""
FIRST_STATES_S = 2.0
"""A replica that starts while vmd is away serves all the same: its cold queries fail until vmd is back."""

log = structlog.get_logger("dns")


class Replica:
    """Joins the sockets, the rules and the bus."""

    def __init__(self, world: World, sockets: Sockets) -> None:
        self._world, self._sockets = world, sockets
        settings = world.settings.dns.model_copy(update={"bind": sockets.address})
        host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
        privacy = Privacy(world.settings.log.privacy)
        who = Reporting(settings.replica, uuid.uuid4().hex, settings.lease, f"{host}:{sockets.port}", privacy)
        self._servers = Servers(settings, sockets.port, sockets.interfaces) if settings.forward else None
        self._front = front_of(settings, NameUsage(who), self._servers, sockets, world.clock)
        self._driver = Driver(self._front, self._perform, world.clock)
        self._summons = VmdCalls(world, self._front.contents.table, self._driver)
        self._reports = UsageReports(world, ReplicaReports(self._front, self._warn))
        self._query_log = QueryLog(is_on=settings.log_queries)
        self.names = NamesFollower(world, self._driver, self._front.contents.names)
        self._warnings = WarningList(has_secondaries=bool(settings.secondaries))
        self._metrics = ReplicaMetrics(world.metrics, self._front, sockets)
        self._answered: asyncio.Event | None = None
        """In a replica that stops: set when no query waits any more."""

    async def start(self) -> None:
        """Serve at once, and learn names and states. Until a name is known, questions about it are held."""
        states = follow_states(self._world, self._summons.vmds, self._states_received, self._state_changed)
        self._front.states.is_heard = lambda host: host not in states or states[host].is_heard()
        self._sockets.serve(self)
        self._reports.start()
        if self._front.notifier is not None:
            await self._sockets.open_notify(self._front.notifier.secondaries)
        if self._servers is not None:
            self._world.spawn(self._servers.follow(self._driver), "servers")
        self._world.on_hangup = self._reread
        self._world.spawn(self._follow_addresses(), "addresses")
        await self.names.start()
        await _wait_for_states(states)
        names = len(self._front.contents.table)
        log.debug("serving", address=self._sockets.address, port=self._sockets.port, names=names)

    def switch_query_log(self) -> None:
        """Begin to log each query, or stop it."""
        self._query_log.switch()

    def reload(self, settings: Settings) -> None:
        """Adopt other limits on who may start VMs; buckets are full again."""
        self._front.cold.limit = summon_limit(settings.dns)
        self._query_log.is_on = settings.dns.log_queries

    def log_what_changed(self) -> None:
        """Log, for an operator who has set no zones, the line that keeps the zones of earlier versions."""
        if hint := upgrade_hint(self._front.contents.table):
            log.warning("only the VMs' own names are served, not their domains: set dns.zones for those", like=hint)

    async def stop(self) -> None:
        """Answer the queries that were read, then report to the reaper that this replica leaves."""
        if self._sockets.is_inherited:  # else what is in the socket goes with it
            self._sockets.stop_reading()
            await self._answer_those_that_wait()
        try:
            async with asyncio.timeout(LEAVING_TIMEOUT_S):
                await self._reports.leave()
        except (JitsuError, TimeoutError) as error:
            reason = str(error) or "it does not answer in time"
            log.warning("cannot report to the reaper that this replica stops", reason=reason)

    async def _answer_those_that_wait(self) -> None:
        """Return when the queries that wait for a VM or for another server are answered.

        Nobody else can answer them: they are no longer in the socket, and a client asks again only after seconds.
        """
        self._answered = asyncio.Event()
        self.turn_ended()
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWERING_TIMEOUT_S):
                await self._answered.wait()

    # --- what the sockets hand over (wires/sockets.py) ---

    def warm(self, queries: Sequence[bytes], senders: Senders) -> list[bytes | None]:
        """Return the answers that are ready."""
        if self._query_log.is_on:
            return [None] * len(queries)  # each is seen where queries are logged
        front = self._front
        limited = front.responder.limit.active
        return front.warm.answers(queries, self._world.clock.now(), senders, limited=limited)

    def received(self, data: bytes, client: Hashable, address: bytes, *, udp: bool) -> bytes | None:
        """Handle one query; return what is sent back at once: nothing if it is dropped, None if it waits."""
        event = QueryReceived(data, Client(client, address, udp))
        actions = self._front.handle(event, self._world.clock.now())
        answer: bytes | None = None
        for action in actions:
            if isinstance(action, Reply):
                answer = action.data
            elif isinstance(action, Drop):
                answer = b""
        self._perform(actions)
        self._query_log.note(data, address, answer, "UDP" if udp else "TCP")
        return answer

    def gone(self, client: Hashable) -> None:
        """Forget the queries of a client that has closed its connection."""
        self._driver.handle(ClientGone(client))

    def response_received(self, attempt: int, data: bytes, *, tcp: bool) -> None:
        """Hand over what another server sent."""
        self._driver.handle(ResponseReceived(attempt, data, tcp))

    def attempt_failed(self, attempt: int, reason: str) -> None:
        """Hand over that another server was not reached."""
        self._driver.handle(AttemptFailed(attempt, reason))

    def notify_answered(self, server: Server, data: bytes) -> None:
        """Hand over what a secondary sent."""
        self._driver.handle(NotifyAnswered(server, data))

    def turn_ended(self) -> None:
        """Set the timer for the queries of this turn, and note whether any query still waits."""
        self._driver.perform(())

    # --- what the rules want done ---

    def _perform(self, actions: Sequence[Action]) -> None:
        sockets = self._sockets
        for action in actions:
            match action:
                case Reply() | Drop():
                    pass  # `received` returns it
                case SendResponse(client, data):
                    sockets.send(client, data)
                case SendZone(client, messages):
                    sockets.send_all(client, messages)
                case SummonVm():
                    self._summons.begin(action)
                case RecordWait(seconds):
                    self._metrics.waits.observe(seconds)
                case ReportDrain():
                    self._reports.drain_seen()
                case AskServer(attempt, server, data, tcp):
                    sockets.ask(attempt, server, data, tcp=tcp)
                case ForgetAttempt(attempt):
                    sockets.forget(attempt)
                case SendNotify(server, data):
                    sockets.notify(server, data)
                case LogUnheard():
                    log.warning(
                        "a secondary did not acknowledge a NOTIFY; it will notice the change at its next refresh"
                    )
        if self._answered is not None and not (sockets.unhandled() or self._front.waiting):
            self._answered.set()

    # --- what the others say ---

    def _states_received(self, statuses: Sequence[VmStatus], host: str) -> None:
        self._driver.handle(StatesReceived(statuses, host))

    def _state_changed(self, status: VmStatus, gone: bool) -> None:
        self._driver.handle(StatePublished(status, gone))

    async def _follow_addresses(self) -> None:
        async for _ in self._sockets.address_changes():
            self._reread()

    def _reread(self) -> None:
        """Look at what this host is now: its servers, networks and addresses."""
        if self._servers is not None:
            self._servers.reload(self._driver)
        addresses = served_addresses(self._sockets.address, self._sockets.interfaces)
        if addresses is not None and self._front.contents.table.zones.readdress(addresses):
            log.info("the addresses of the zones' own name servers have changed", addresses=addresses)

    def _warn(self) -> list[str]:
        """Return what an operator should fix, and log what is new."""
        contents, found = self._front.contents, () if self._servers is None else self._servers.found.warnings
        left_out = contents.names.faults | contents.faults
        for warning in self._warnings.update(contents.table, left_out, [*self._sockets.warnings, *found]):
            log.warning(warning)
        return self._warnings.found


async def _wait_for_states(states: Mapping[str, Followed]) -> None:
    """Return when every vmd has reported its VMs, or has been silent for long enough."""
    try:
        async with asyncio.timeout(FIRST_STATES_S):
            for feed in states.values():
                await feed.synced.wait()
    except TimeoutError:
        for host in (host for host, feed in states.items() if not feed.is_live()):
            log.warning("vmd does not answer yet: queries for its VMs fail until it does", host=host)
