"""One dns replica: performs what rules/query.py asks for over the sockets and the bus."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import secrets
import signal
import socket
import time
import uuid
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from jitsu_dns.rules import forward
from jitsu_dns.rules.access import ResponseLimit, SummonLimit, plain
from jitsu_dns.rules.actions import About, Asker, AskSummon, ReportNow, Send, SendAll
from jitsu_dns.rules.cookies import SECRET_BYTES, Cookies
from jitsu_dns.rules.message import TYPE_NAMES, Rcode
from jitsu_dns.rules.names import Names
from jitsu_dns.rules.notify import Notifier
from jitsu_dns.rules.query import Front
from jitsu_dns.rules.records import Authority, conflicts, parse_static
from jitsu_dns.rules.room import Files, divided
from jitsu_dns.rules.special import SpecialNames
from jitsu_dns.rules.states import has_addresses
from jitsu_dns.rules.table import Table, Wildcards
from jitsu_dns.rules.uses import MAX_USES, Uses
from jitsu_dns.rules.warnings import upgrade_hint, warnings
from jitsu_dns.wires.activation import inherited, is_activated
from jitsu_dns.wires.forward import ForwardSockets
from jitsu_dns.wires.interfaces import address_changes, served_addresses
from jitsu_dns.wires.names import NamesFollower
from jitsu_dns.wires.names_file import NamesFile
from jitsu_dns.wires.notify import NotifySockets
from jitsu_dns.wires.query_log import QueryLog
from jitsu_dns.wires.servers import Servers
from jitsu_dns.wires.tcp import Connection, TcpServer, bind_tcp
from jitsu_dns.wires.udp import UdpServer, bind_udp
from jitsu_protocol.messages import Done, Summon, Summoned
from jitsu_protocol.model.errors import JitsuError, SetupFault, Unavailable
from jitsu_protocol.rates import Networks
from jitsu_runtime.bus.follow import follow_states
from jitsu_runtime.descriptors import raise_limit
from jitsu_runtime.driver import Alarm
from jitsu_runtime.settings.schema import server_address

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from jitsu_dns.rules.actions import Counts
    from jitsu_dns.wires.datagrams import Address, Datagrams
    from jitsu_protocol.messages import VmStatus
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.settings.schema import DnsSettings
    from jitsu_runtime.world import Followed, World

ANY_PORT_TRIES = 20
"""A port that is free for UDP need not be so for TCP: with port 0 another one is tried."""
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

    def __init__(self, process: World) -> None:
        self._process = process
        self._is_activated = is_activated()
        self._udp_socket, self._tcp_socket = _bound(process.settings.dns)
        address, self.port = self._udp_socket.getsockname()[:2]
        settings = process.settings.dns.model_copy(update={"bind": address})  # that of the service manager's socket
        self._settings = settings
        self._store = process.client("store")
        self._vmds = process.vmds()
        self._reaper = process.client("reaper")
        host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
        self._uses = Uses(settings.replica, uuid.uuid4().hex, settings.lease, f"{host}:{self.port}")
        files, self._shortages = _divided_files(settings, len(self._vmds))
        self._servers = None if settings.forward == ["off"] else Servers(settings, self.port)
        self._front = _front(settings, self._uses, self._servers, files.forwards)
        self._udp = UdpServer(self._udp_socket, self._warm, self._received_udp, self._after)
        self._tcp = TcpServer(
            self._received_tcp,
            self._front.gone,
            self._after,
            max_connections=files.tcp,
            idle_s=settings.tcp_idle,
        )
        self._forward = (
            None if self._front.forward is None else ForwardSockets(self._front.forward, self._after, process.spawn)
        )
        self._forward_alarm = Alarm(self._forward_passed, process.clock)
        self._notify = (
            None if self._front.notify is None else NotifySockets(self._front.notify, settings.bind, process.clock)
        )
        self._query_log = QueryLog(is_on=settings.log_queries)
        self._limits_responses = settings.response_rate > 0
        self._alarm = Alarm(self._passed, process.clock)
        self.names = NamesFollower(
            process,
            self._store,
            self._front,
            self._after,
            NamesFile(_kept_in(process.settings)),
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
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, self._query_log.switch)
        states = self._states = follow_states(self._process, self._vmds, self._all_states, self._state)
        self._process.spawn(self._udp.run(), "udp")
        self._process.spawn(self._tcp.run(self._tcp_socket), "tcp")
        self._process.spawn(self._report_for_ever(), "report")
        if self._notify is not None:
            await self._notify.open()
        if self._servers is not None and self._front.forward is not None:
            self._process.spawn(self._servers.follow(self._front.forward), "servers")
        self._process.on_hangup = self._reread
        self._process.spawn(self._follow_addresses(), "addresses")
        await self.names.start()
        try:
            async with asyncio.timeout(FIRST_STATES_S):
                for feed in states.values():
                    await feed.synced.wait()
        except TimeoutError:
            for host in (host for host, feed in states.items() if not feed.is_live()):
                log.warning("vmd does not answer yet: queries for its VMs fail until it does", host=host)
        log.debug("serving", address=self._settings.bind, port=self.port, names=len(self._front.table))

    async def _follow_addresses(self) -> None:
        async for _ in address_changes():
            self._reread()

    def _reread(self) -> None:
        """Look at what this host is now: its servers, networks and addresses."""
        if self._servers is not None and self._front.forward is not None:
            self._servers.reload(self._front.forward)
        addresses = served_addresses(self._settings.bind)
        if addresses is not None and self._front.table.zones.readdress(addresses):
            log.info("the addresses of the zones' own name servers have changed", addresses=addresses)

    def say_what_changed(self) -> None:
        """Tell an operator who has set no zones which line keeps the zones of earlier versions."""
        if hint := upgrade_hint(self._front.table):
            log.warning("only the VMs' own names are served, not their domains: set dns.zones for those", like=hint)

    def take(self, settings: Settings) -> None:
        """Take other limits on who may start VMs; buckets are full again."""
        self._front.summons = _summon_limit(settings.dns)
        self._query_log.is_on = settings.dns.log_queries

    async def stop(self) -> None:
        """Answer the queries that were read, then tell the reaper not to wait for reports of this replica any more."""
        if self._is_activated:  # else what is in the socket goes with it
            self._udp.stop_reading()
            await self._answer_those_that_wait()
        while self._front.count(MAX_USES):
            pass
        try:
            async with asyncio.timeout(LEAVING_TIMEOUT_S):
                while len(self._uses):
                    sent_at = monotonic()
                    await self._reaper.call(self._uses.report((), sent_at), Done, LEAVING_TIMEOUT_S)
                    self._uses.acknowledged(sent_at)
            await self._reaper.call(self._uses.report((), monotonic(), leaving=True), Done, LEAVING_TIMEOUT_S)
        except (JitsuError, TimeoutError) as error:
            reason = str(error) or "it does not answer in time"
            log.warning("cannot report to the reaper that this replica stops", reason=reason)

    async def _answer_those_that_wait(self) -> None:
        """Return when the queries that wait for a VM or for another server are answered.

        Nobody else can answer them: they are no longer in the socket, and a client asks again only after seconds.
        """
        self._answered = asyncio.Event()
        self._after()
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWERING_TIMEOUT_S):
                await self._answered.wait()

    # --- queries ---

    def _warm(self, queries: Sequence[bytes], senders: Datagrams) -> list[bytes | None]:
        if self._query_log.is_on:
            return [None] * len(queries)  # each is seen where queries are logged
        return self._front.warm(queries, monotonic(), senders if self._limits_responses else None)

    def _received_udp(self, data: bytes, client: Address, address: bytes) -> bytes | None:
        answer = self._front.query(data, Asker(client, address, True), monotonic())
        self._query_log.note(data, address, answer, "UDP")
        return answer

    def _received_tcp(self, data: bytes, client: Connection) -> bytes | None:
        address = plain(client.address)
        answer = self._front.query(data, Asker(client, address, False), monotonic())
        self._query_log.note(data, address, answer, "TCP")
        return answer

    def _after(self) -> None:
        """Do what the rules want done, and arm the one timer."""
        for action in self._front.take():
            match action:
                case Send(client, data):
                    self._send(client, data)
                case SendAll(client, messages):
                    if isinstance(client, Connection):
                        client.send_all(messages)
                case AskSummon(vm, timeout):
                    self._process.spawn(self._summon(vm, timeout))
                case ReportNow():
                    self._report_wanted.set()
        self._give_on()
        if self._notify is not None:
            self._notify.go_on()
        for wait in self._front.counts.waits:
            self._waits.observe(wait)
        self._front.counts.waits.clear()
        self._alarm.set(self._front.next_deadline())
        if self._answered is not None and not (
            self._udp.queries_left or len(self._front.pending) or len(self._front.forward or ())
        ):
            self._answered.set()

    def _give_on(self) -> None:
        """Do what the forwarder wants done; what fails at once makes it want more."""
        forwarder, sockets = self._front.forward, self._forward
        if forwarder is None or sockets is None:
            return
        while actions := forwarder.take():
            for action in actions:
                match action:
                    case forward.AskServer(attempt, server, data, tcp):
                        sockets.ask(attempt, server, data, tcp=tcp)
                    case forward.ForgetServer(attempt):
                        sockets.forget(attempt)
                    case forward.Deliver(client, data):
                        self._send(client, data)
        self._forward_alarm.set(forwarder.next_deadline())

    def _forward_passed(self) -> None:
        if self._front.forward is not None:
            self._front.forward.passed(monotonic())
        self._after()

    def _send(self, client: Hashable, data: bytes) -> None:
        if isinstance(client, Connection):
            client.send(data)
        elif isinstance(client, tuple):
            self._udp.send(data, client)

    def _passed(self) -> None:
        self._front.states.unheard = [host for host, feed in self._states.items() if not feed.is_heard()]
        self._front.passed(monotonic())
        self._after()

    async def _summon(self, vm: str, timeout: float) -> None:
        held = self._front.table.held_by(vm)
        host = held[0].vm.host if held else ""
        try:
            if host not in self._vmds:
                raise Unavailable(f"its host {host} is not listed in bus.hosts")
            ttl = max((each.vm.ttl for each in held), default=None)
            summoned = await self._summoned(host, Summon(vm=vm, ttl=ttl), monotonic() + timeout)
        except JitsuError as error:
            self._front.refused(vm, error, monotonic())
        else:
            self._front.summoned(vm, monotonic(), armed=summoned.armed)
        self._after()

    async def _summoned(self, host: str, summon: Summon, ends: float) -> Summoned:
        """Summon a VM until its guest has the addresses that it is configured to have here."""
        while True:
            summoned = await self._vmds[host].call(summon, Summoned, ends - monotonic())
            held = self._front.table.held_by(summon.vm)
            if not held or has_addresses(held[0].vm, summoned.addresses) or monotonic() + SUMMON_AGAIN_S >= ends:
                return summoned
            await asyncio.sleep(SUMMON_AGAIN_S)

    # --- what the others say ---

    def _all_states(self, statuses: Sequence[VmStatus], host: str) -> None:
        self._front.all_states(statuses, monotonic(), host)
        self._after()

    def _state(self, status: VmStatus, gone: bool) -> None:
        self._front.state(status, monotonic(), gone=gone)
        self._after()

    async def _report_for_ever(self) -> None:
        silent = False
        while True:
            # Cleared before the report is made: a drain seen while it is under way makes another.
            self._report_wanted.clear()
            if not len(self._uses):
                while self._front.count(MAX_USES):  # noqa: ASYNC110 it waits for nothing: it lets queries in
                    await asyncio.sleep(0)
            sent_at = monotonic()
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
        found += self._shortages
        found += () if self._servers is None else self._servers.found.warnings
        for warning in found:
            if warning not in self._warnings:
                log.warning(warning)
        self._warnings = found
        return found

    # --- metrics ---

    def _publish_metrics(self) -> None:
        metrics, counts = self._process.metrics, self._front.counts
        self._waits = metrics.histogram("cold_wait_seconds", "How long cold queries waited for their answer.")
        self._udp.batch_s = metrics.histogram(
            "warm_batch_seconds", "From reading a batch of datagrams to sending the answers that were ready."
        ).observe
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
            lambda: {(errno.errorcode.get(number, str(number)),): n for number, n in self._udp.unsent.items()},
        )
        metrics.counted(
            "queries_dropped",
            "Queries that were dropped because too many arrived at once.",
            lambda: self._udp.queries_dropped,
        )
        metrics.gauge("waiting", "Queries that are waiting now.", lambda: float(len(self._front.pending)))
        metrics.gauge("names", "Names held.", lambda: float(len(self._front.table)))
        metrics.gauge("tcp_connections", "TCP connections open.", lambda: float(len(self._tcp.connections)))

    def _forwarded(self, what: str) -> float:
        return float(getattr(self._front.forward, what, 0))

    def _limited(self) -> float:
        return float(self._front.responses.limited)


def _bound(settings: DnsSettings) -> tuple[socket.socket, socket.socket]:
    """Return the sockets for UDP and TCP, on the same port: those of the service manager, else new ones.

    Raises SetupFault.
    """
    if given := inherited():
        by_kind = {each.type: each for each in given}
        if len(given) != 2 or len(by_kind) != 2:
            raise SetupFault(
                "a replica takes one socket for UDP and one for TCP from the service manager",
                hint="give it one ListenDatagram= and one ListenStream=: 53 is all addresses, else a replica for each",
            )
        return by_kind[socket.SOCK_DGRAM], by_kind[socket.SOCK_STREAM]
    for left in reversed(range(ANY_PORT_TRIES)):
        udp = bind_udp(settings.bind, settings.port, reuse_port=settings.reuse_port)
        try:
            return udp, bind_tcp(settings.bind, udp.getsockname()[1], reuse_port=settings.reuse_port)
        except SetupFault:
            udp.close()
            if settings.port or not left:
                raise
    raise AssertionError("not reached")


def _divided_files(settings: DnsSettings, hosts: int) -> tuple[Files, list[str]]:
    """Raise the limit of open files to what is configured; return also what cannot be served if that is not allowed."""
    forwards = 0 if settings.forward == ["off"] else forward.MAX_UNDER_WAY
    limit = raise_limit(divided(0, settings.max_tcp, forwards, hosts).wanted)
    files = divided(limit, settings.max_tcp, forwards, hosts)
    shortage = files.shortage(limit, settings.max_tcp)
    return files, [shortage] if shortage else []


def _front(
    settings: DnsSettings, uses: Uses, servers: Servers | None, max_forwards: int = forward.MAX_UNDER_WAY
) -> Front:
    """Return the rules as they are configured; raises SetupFault."""
    try:
        static = [parse_static(line) for line in settings.records]
    except ValueError as error:
        raise SetupFault(f"dns.records: {error}") from None
    if clashes := conflicts(static, settings.zones):
        raise SetupFault(f"dns.records: {'; '.join(clashes)}", hint="remove one of the records")
    glue: dict[str, tuple[str, ...]] = {}
    for text in settings.glue:
        name, _, address = text.partition("=")
        glue[name] = (*glue.get(name, ()), address)
    authority = Authority(
        mname=settings.mname,
        rname=settings.rname,
        nameservers=tuple(settings.nameservers),
        glue=glue,
        own_addresses=served_addresses(settings.bind) or (),
    )
    table = Table(
        settings.zones,
        authority,
        static,
        wildcards=Wildcards(frozenset(label.encode() for label in settings.wildcard_exclude), settings.wildcard_labels),
        notes_changes=bool(settings.secondaries),
    )
    secondaries = [server_address(text) for text in settings.secondaries]
    responses = ResponseLimit(settings.response_rate, Networks(settings.exempt))
    return Front(
        table,
        uses,
        settings.max_waiting,
        summons=_summon_limit(settings),
        responses=responses,
        cookies=Cookies(bytes.fromhex(settings.cookie_secret) or secrets.token_bytes(SECRET_BYTES)),
        about=About(settings.version, settings.replica, settings.tcp_idle),
        forward=_forwarder(servers, responses, max_forwards),
        special=SpecialNames(settings.forward_special),
        notify=Notifier(secondaries, table.soa_of, random.SystemRandom()) if secondaries else None,
        names=Names(),
        wall_ahead_s=time.time() - monotonic(),
    )


def _kept_in(settings: Settings) -> Path:
    """Return the file for names, in the directory of the service manager (systemd.exec(5)) or else the suite's."""
    return Path(os.environ.get("CACHE_DIRECTORY") or settings.bus.directory) / f"{settings.dns.replica}.names"


def _summon_limit(settings: DnsSettings) -> SummonLimit:
    allowed, exempt = Networks(settings.summon_for), Networks(settings.exempt)
    return SummonLimit(allowed, exempt, settings.summon_rate, settings.summon_burst)


def _forwarder(servers: Servers | None, responses: ResponseLimit, most: int) -> forward.Forwarder | None:
    if servers is None:
        return None
    found = servers.found
    clients = Networks(found.networks)
    return forward.Forwarder(found.servers, clients, found.addresses, random.SystemRandom(), responses, most)


def _count(counts: Counts, name: str) -> float:
    return float(getattr(counts, name))


def _labelled(front: Front) -> dict[tuple[str, ...], float]:
    """Return how many queries were answered, by type, rcode and path; types that are not in use here are one."""
    found: Counter[tuple[str, ...]] = Counter()
    for (qtype, rcode, path), count in list(front.counts.answers.items()):
        found[TYPE_NAMES.get(qtype, "other"), Rcode(rcode).name, path] += count
    return dict(found)
