"""One dns replica: performs what rules/query.py asks for over the sockets and the bus."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from jitsu_dns.rules import forward
from jitsu_dns.rules.actions import Asker, AskSummon, ReportNow, Send, SendAll
from jitsu_dns.rules.message import TYPE_NAMES, Rcode
from jitsu_dns.rules.states import has_addresses
from jitsu_dns.rules.uses import MAX_USES, Uses
from jitsu_dns.rules.warnings import upgrade_hint, warnings
from jitsu_dns.wires.configured import front_of, summon_limit
from jitsu_dns.wires.interfaces import served_addresses
from jitsu_dns.wires.names import NamesFollower
from jitsu_dns.wires.names_file import NamesFile
from jitsu_dns.wires.query_log import QueryLog
from jitsu_dns.wires.servers import Servers
from jitsu_protocol.messages import Done, Summon, Summoned
from jitsu_protocol.model.errors import JitsuError, Unavailable
from jitsu_runtime.bus.follow import follow_states
from jitsu_runtime.driver import Alarm

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from jitsu_dns.rules.actions import Counts
    from jitsu_dns.rules.forward import Server
    from jitsu_dns.rules.query import Front
    from jitsu_dns.rules.ready import Senders
    from jitsu_dns.wires.sockets import Sockets
    from jitsu_protocol.messages import VmStatus
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import Followed, World

REPORT_S = 1.0
NEXT_PIECE_S = 0.005
"""Between the reports of one second: queries that waited for one do not wait for the next as well."""
REPORT_TIMEOUT_S = 2.0
LEAVING_TIMEOUT_S = 0.5
ANSWERING_TIMEOUT_S = 5.0
"""A replica that stops waits this long for its last answers: max_wait is at most 4 s, another server may take 3 s."""
SUMMON_AGAIN_S = 0.02
"""Store to vmd and store to dns take milliseconds: a vmd that knows other addresses is asked again so soon."""
FIRST_STATES_S = 2.0
"""A replica that starts while vmd is away serves all the same: its cold queries fail until vmd is back."""

log = structlog.get_logger("dns")


class Replica:
    """Joins the sockets, the rules and the bus."""

    def __init__(self, world: World, sockets: Sockets) -> None:
        self._world, self._clock, self._sockets = world, world.clock, sockets
        settings = world.settings.dns.model_copy(update={"bind": sockets.address})  # that of the service manager's
        self._settings = settings
        self._store = world.client("store")
        self._vmds = world.vmds()
        self._reaper = world.client("reaper")
        host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
        self._uses = Uses(settings.replica, uuid.uuid4().hex, settings.lease, f"{host}:{sockets.port}")
        self._servers = None if settings.forward == ["off"] else Servers(settings, sockets.port, sockets.interfaces)
        self._front = front_of(settings, self._uses, self._servers, sockets, world.clock)
        self._forward_alarm = Alarm(self._forward_passed, world.clock)
        self._notify_alarm = Alarm(self._notify_secondaries, world.clock)
        self._query_log = QueryLog(is_on=settings.log_queries)
        self._limits_responses = settings.response_rate > 0
        self._alarm = Alarm(self._passed, world.clock)
        self.names = NamesFollower(
            world,
            self._store,
            self._front,
            self.turn_ended,
            NamesFile(_kept_in(world.settings)),
        )
        self._warnings: list[str] = []
        """Those that are in the log already."""
        self._states: dict[str, Followed] = {}
        self._report_wanted = asyncio.Event()
        self._answered: asyncio.Event | None = None
        """Of a replica that stops: set when no query waits any more."""
        self._publish_metrics()

    async def start(self) -> None:
        """Serve at once, and learn names and states; what is not known yet is held (rules/unknown.py)."""
        states = self._states = follow_states(self._world, self._vmds, self._all_states, self._state)
        self._sockets.serve(self)
        self._world.spawn(self._report_for_ever(), "report")
        if self._front.notify is not None:
            await self._sockets.open_notify(self._front.notify.secondaries)
        if self._servers is not None and self._front.forward is not None:
            self._world.spawn(self._servers.follow(self._front.forward), "servers")
        self._world.on_hangup = self._reread
        self._world.spawn(self._follow_addresses(), "addresses")
        await self.names.start()
        try:
            async with asyncio.timeout(FIRST_STATES_S):
                for feed in states.values():
                    await feed.synced.wait()
        except TimeoutError:
            for host in (host for host, feed in states.items() if not feed.is_live()):
                log.warning("vmd does not answer yet: queries for its VMs fail until it does", host=host)
        log.debug("serving", address=self._settings.bind, port=self._sockets.port, names=len(self._front.table))

    def switch_query_log(self) -> None:
        """Begin to log each query, or stop it."""
        self._query_log.switch()

    async def _follow_addresses(self) -> None:
        async for _ in self._sockets.address_changes():
            self._reread()

    def _reread(self) -> None:
        """Look at what this host is now: its servers, networks and addresses."""
        if self._servers is not None and self._front.forward is not None:
            self._servers.reload(self._front.forward)
        addresses = served_addresses(self._settings.bind, self._sockets.interfaces)
        if addresses is not None and self._front.table.zones.readdress(addresses):
            log.info("the addresses of the zones' own name servers have changed", addresses=addresses)

    def say_what_changed(self) -> None:
        """Tell an operator who has set no zones which line keeps the zones of earlier versions."""
        if hint := upgrade_hint(self._front.table):
            log.warning("only the VMs' own names are served, not their domains: set dns.zones for those", like=hint)

    def reload(self, settings: Settings) -> None:
        """Adopt other limits on who may start VMs; buckets are full again."""
        self._front.summons = summon_limit(settings.dns)
        self._query_log.is_on = settings.dns.log_queries

    async def stop(self) -> None:
        """Answer the queries that were read, then tell the reaper not to wait for reports of this replica any more."""
        if self._sockets.is_inherited:  # else what is in the socket goes with it
            self._sockets.stop_reading()
            await self._answer_those_that_wait()
        while self._front.count(MAX_USES):
            pass
        try:
            async with asyncio.timeout(LEAVING_TIMEOUT_S):
                while len(self._uses):
                    sent_at = self._clock.now()
                    await self._reaper.call(self._uses.report((), sent_at), Done, LEAVING_TIMEOUT_S)
                    self._uses.acknowledged(sent_at)
            await self._reaper.call(self._uses.report((), self._clock.now(), leaving=True), Done, LEAVING_TIMEOUT_S)
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

    # --- queries ---

    def warm(self, queries: Sequence[bytes], senders: Senders) -> list[bytes | None]:
        """Return the answers that are ready."""
        if self._query_log.is_on:
            return [None] * len(queries)  # each is seen where queries are logged
        return self._front.warm(queries, self._clock.now(), senders if self._limits_responses else None)

    def received(self, data: bytes, client: Hashable, address: bytes, *, udp: bool) -> bytes | None:
        """Handle one query; return what is sent back at once."""
        answer = self._front.query(data, Asker(client, address, udp), self._clock.now())
        self._query_log.note(data, address, answer, "UDP" if udp else "TCP")
        return answer

    def gone(self, client: Hashable) -> None:
        """Forget the queries of a client that has closed its connection."""
        self._front.gone(client)

    def response_received(self, attempt: int, data: bytes, *, tcp: bool) -> None:
        """Give the forwarder what another server sent."""
        if self._front.forward is not None:
            self._front.forward.received(attempt, data, self._clock.now(), tcp=tcp)
            self.turn_ended()

    def attempt_failed(self, attempt: int, reason: str) -> None:
        """Tell the forwarder that it has to ask elsewhere."""
        if self._front.forward is not None:
            self._front.forward.failed(attempt, reason, self._clock.now())
            self.turn_ended()

    def notify_answered(self, server: Server, data: bytes) -> None:
        """Give the notifier what a secondary sent."""
        if self._front.notify is not None:
            self._front.notify.answered(server, data)

    def turn_ended(self) -> None:
        """Do what the rules want done, and arm the timers."""
        for action in self._front.take():
            match action:
                case Send(client, data):
                    self._sockets.send(client, data)
                case SendAll(client, messages):
                    self._sockets.send_all(client, messages)
                case AskSummon(vm, timeout):
                    self._world.spawn(self._summon(vm, timeout))
                case ReportNow():
                    self._report_wanted.set()
        self._give_on()
        self._notify_secondaries()
        for wait in self._front.counts.waits:
            self._waits.observe(wait)
        self._front.counts.waits.clear()
        self._alarm.set(self._front.next_deadline())
        if self._answered is not None and not (
            self._sockets.unhandled() or len(self._front.pending) or len(self._front.forward or ())
        ):
            self._answered.set()

    def _give_on(self) -> None:
        """Do what the forwarder wants done."""
        forwarder = self._front.forward
        if forwarder is None:
            return
        for action in forwarder.take():
            match action:
                case forward.AskServer(attempt, server, data, tcp):
                    self._sockets.ask(attempt, server, data, tcp=tcp)
                case forward.ForgetServer(attempt):
                    self._sockets.forget(attempt)
                case forward.Deliver(client, data):
                    self._sockets.send(client, data)
        self._forward_alarm.set(forwarder.next_deadline())

    def _forward_passed(self) -> None:
        if self._front.forward is not None:
            self._front.forward.passed(self._clock.now())
        self.turn_ended()

    def _notify_secondaries(self) -> None:
        notifier = self._front.notify
        if notifier is None:
            return
        unheard = notifier.unheard
        for each in notifier.passed(self._clock.now()):
            self._sockets.notify(each.server, each.data)
        if notifier.unheard > unheard:
            log.warning("a secondary did not acknowledge a NOTIFY; it will notice the change at its next refresh")
        self._notify_alarm.set(notifier.next_deadline())

    def _passed(self) -> None:
        self._front.states.unheard = [host for host, feed in self._states.items() if not feed.is_heard()]
        self._front.passed(self._clock.now())
        self.turn_ended()

    async def _summon(self, vm: str, timeout: float) -> None:
        held = self._front.table.held_by(vm)
        host = held[0].vm.host if held else ""
        try:
            if host not in self._vmds:
                raise Unavailable(f"its host {host} is not listed in bus.hosts")
            ttl = max((each.vm.ttl for each in held), default=None)
            summoned = await self._summoned(host, Summon(vm=vm, ttl=ttl), self._clock.now() + timeout)
        except JitsuError as error:
            self._front.refused(vm, error, self._clock.now())
        else:
            self._front.summoned(vm, self._clock.now(), armed=summoned.armed)
        self.turn_ended()

    async def _summoned(self, host: str, summon: Summon, ends: float) -> Summoned:
        """Summon a VM until its guest has the addresses that it is configured to have here."""
        while True:
            summoned = await self._vmds[host].call(summon, Summoned, ends - self._clock.now())
            held = self._front.table.held_by(summon.vm)
            if not held or has_addresses(held[0].vm, summoned.addresses) or self._clock.now() + SUMMON_AGAIN_S >= ends:
                return summoned
            await asyncio.sleep(SUMMON_AGAIN_S)

    # --- what the others say ---

    def _all_states(self, statuses: Sequence[VmStatus], host: str) -> None:
        self._front.all_states(statuses, self._clock.now(), host)
        self.turn_ended()

    def _state(self, status: VmStatus, gone: bool) -> None:
        self._front.state(status, self._clock.now(), gone=gone)
        self.turn_ended()

    async def _report_for_ever(self) -> None:
        silent = False
        while True:
            # Cleared before the report is made: a drain seen while it is under way makes another.
            self._report_wanted.clear()
            if not len(self._uses):
                while self._front.count(MAX_USES):  # noqa: ASYNC110 it waits for nothing: it lets queries in
                    await asyncio.sleep(0)
            sent_at = self._clock.now()
            report = self._uses.report(self._front.drains(), sent_at, warnings=self._warn())
            try:
                await self._reaper.call(report, Done, REPORT_TIMEOUT_S)
            except JitsuError as error:
                if not silent:
                    log.warning("the reaper does not accept reports", reason=str(error))
                silent = True
            else:
                if silent:
                    log.info("the reaper accepts reports again")
                silent = False
                self._uses.acknowledged(sent_at)
                if set(self._front.drains()) - set(report.drains):
                    continue  # that batch was older than the drain
            try:
                async with asyncio.timeout(NEXT_PIECE_S if len(self._uses) and not silent else REPORT_S):
                    await self._report_wanted.wait()
            except TimeoutError:
                continue

    def _warn(self) -> list[str]:
        """Return what an operator should put right; what is new goes to the log too."""
        left_out = self._front.names.faults | self._front.faults
        found = warnings(self._front.table, left_out, has_secondaries=bool(self._settings.secondaries))
        found += self._sockets.warnings
        found += () if self._servers is None else self._servers.found.warnings
        for warning in found:
            if warning not in self._warnings:
                log.warning(warning)
        self._warnings = found
        return found

    # --- metrics ---

    def _publish_metrics(self) -> None:
        metrics, counts = self._world.metrics, self._front.counts
        self._waits = metrics.histogram("cold_wait_seconds", "How long cold queries waited for their answer.")
        batches = metrics.histogram(
            "warm_batch_seconds", "From reading a batch of datagrams to sending the answers that were ready."
        )
        self._sockets.time_batches(batches.observe)
        metrics.counted_by(
            "queries", "Queries that were answered.", ("type", "rcode", "path"), lambda: _labelled(self._front)
        )
        read = {
            "malformed": "Packets that are not DNS queries.",
            "late": "Waiting queries whose max_wait was over.",
            "overflow": "Queries refused because too many wait.",
        }
        for name, about in read.items():
            metrics.counted(f"queries_{name}", about, partial(_count, counts, name))
        metrics.counted("forwarded_asked", "Questions sent to other servers.", lambda: self._forwarded("asked"))
        metrics.counted("forwarded_hits", "Forwarded questions answered from memory.", lambda: self._forwarded("hits"))
        metrics.counted(
            "forwarded_failures", "Forwarded questions that no server answered.", lambda: self._forwarded("failures")
        )
        metrics.counted("limited_responses", "Responses dropped or truncated by dns.response_rate.", self._limited)
        metrics.counted_by(
            "dropped_responses",
            "Responses that the kernel refused to send.",
            ("error",),
            lambda: {(error,): count for error, count in self._sockets.unsent().items()},
        )
        metrics.counted(
            "queries_dropped",
            "Queries that were dropped because too many arrived at once.",
            self._sockets.dropped_queries,
        )
        metrics.gauge("waiting", "Queries that are waiting now.", lambda: float(len(self._front.pending)))
        metrics.gauge("names", "Names held.", lambda: float(len(self._front.table)))
        metrics.gauge("tcp_connections", "TCP connections open.", lambda: float(self._sockets.connections()))

    def _forwarded(self, what: str) -> float:
        return float(getattr(self._front.forward, what, 0))

    def _limited(self) -> float:
        return float(self._front.responses.limited)


def _kept_in(settings: Settings) -> Path:
    """Return the file for names, in the directory of the service manager (systemd.exec(5)) or else the suite's."""
    return Path(os.environ.get("CACHE_DIRECTORY") or settings.bus.directory) / f"{settings.dns.replica}.names"


def _count(counts: Counts, name: str) -> float:
    return float(getattr(counts, name))


def _labelled(front: Front) -> dict[tuple[str, ...], float]:
    """Return how many queries were answered, by type, rcode and path; types that are not in use here are one."""
    found: Counter[tuple[str, ...]] = Counter()
    for (qtype, rcode, path), count in list(front.counts.answers.items()):
        found[TYPE_NAMES.get(qtype, "other"), Rcode(rcode).name, path] += count
    return dict(found)
