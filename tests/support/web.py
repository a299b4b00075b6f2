"""jitsu-web alone: its application, without a socket, in a world whose other services the test plays."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from jitsu_protocol.messages import (
    Applied,
    Apply,
    BranchList,
    ChangesList,
    ChangesSince,
    Check,
    Checked,
    Difference,
    Discover,
    Discoveries,
    Done,
    History,
    Leaves,
    List,
    ListBranches,
    ListVms,
    Log,
    Merge,
    OperatorStop,
    Ping,
    Pong,
    Summon,
    Summoned,
    Timelines,
    Trace,
    VmList,
    VmStatus,
    Why,
    WhyReport,
)
from jitsu_protocol.messages.store import Branch, Commit, CreateBranch, DeleteBranch, Diff
from jitsu_protocol.messages.tokens import (
    CreateToken,
    Digests,
    ListTokens,
    ReadDigests,
    RevokeToken,
    TokenDigest,
    TokenList,
)
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.tokens import digest_of, token_of
from jitsu_protocol.model.vm import to_tree
from jitsu_web.rules.places import StreamPlaces
from jitsu_web.rules.sessions import PageSessions
from jitsu_web.wires.api import Api
from jitsu_web.wires.app import make_app
from jitsu_web.wires.asking import Asker
from jitsu_web.wires.commits import CommitWatch
from jitsu_web.wires.credentials import FollowedTokens
from jitsu_web.wires.health import SuiteHealth
from jitsu_web.wires.live import Live
from tests.support.vms import make_vm
from tests.support.world import played_world, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jitsu_protocol.messages import Request
    from jitsu_protocol.model.vm import VM
    from tests.support.world import PlayedWorld

COMMIT = "c0ffee" + "0" * 34
OPERATOR_TOKEN, VIEWER_TOKEN = token_of(b"o" * 32), token_of(b"v" * 32)
WWW, DB = make_vm("www", "127.0.1.1"), make_vm("db", "127.0.1.2")


def known_token(name: str, role: Any, token: str, expires_ts: float | None = None) -> TokenDigest:
    """Return what the store keeps of a token."""
    return TokenDigest(name=name, role=role, digest=digest_of(token), created_ts=0.0, expires_ts=expires_ts)


class PlayedSuite:
    """A store and a vmd, as far as jitsu-web asks them: what is committed is kept, and has no other effect."""

    def __init__(self, world: PlayedWorld, *vms: VM) -> None:
        self.world = world
        self.tree = {path: value for vm in vms for path, value in to_tree(vm).items()}
        self.statuses = {vm.uuid: VmStatus(uuid=vm.uuid, name=vm.name, state=VmState.OFF) for vm in vms}
        self.tokens = {
            each.name: each
            for each in (known_token("olga", "operator", OPERATOR_TOKEN), known_token("vera", "viewer", VIEWER_TOKEN))
        }
        self.applied: list[Apply] = []
        commit = Commit(id=COMMIT, ts=0.0, author="operator:me", message="First\n\nRequest-Id: abc\n")
        world.answers |= {
            List: self.list,
            Apply: self.apply,
            ListVms: lambda _: VmList(vms=list(self.statuses.values()), epoch="e", number=0),
            ReadDigests: lambda _: Digests(tokens=list(self.tokens.values()), epoch="e", number=0),
            ListTokens: lambda _: TokenList(tokens=list(self.tokens.values())),
            CreateToken: lambda _: Done(),
            RevokeToken: lambda _: Done(),
            Check: lambda _: Checked(refusals={}, writes_to_disk={}),
            Summon: lambda _: Summoned(),
            OperatorStop: lambda _: Done(),
            Trace: lambda _: Timelines(timelines=[]),
            Discover: lambda _: Discoveries(machines=[], hypervisors=[]),
            Log: lambda _: History(commits=[commit]),
            ChangesSince: lambda _: ChangesList(commits=[], upto=COMMIT, more=False),
            Diff: lambda _: Difference(changes=[]),
            ListBranches: lambda _: BranchList(branches=[Branch(name="master", commit=commit)], epoch="e", number=0),
            Merge: lambda _: Applied(commit=COMMIT, changed=1),
            CreateBranch: lambda _: Applied(commit=COMMIT, changed=0),
            DeleteBranch: lambda _: Done(),
            Why: lambda request: WhyReport(
                vm=request.vm, name="x", state="off", why_booted="", why_up="", when_stops=""
            ),
            Ping: lambda _: Pong(service="x", version="1", pid=1, uptime_s=1.0),
        }

    def asked(self, kind: type[Request]) -> list[Any]:
        """Return the requests of a kind that have come."""
        return [each for peer in self.world.peers.values() for each in peer.asked if isinstance(each, kind)]

    def list(self, request: List) -> Leaves:
        below = {
            path: value
            for path, value in self.tree.items()
            if path == request.prefix or path.startswith(request.prefix + "/") or not request.prefix
        }
        return Leaves(leaves=below, commit=COMMIT, epoch="e", number=0)

    def apply(self, request: Apply) -> Applied:
        self.applied.append(request)
        for change in request.changes:
            if change.value is None:
                self.tree.pop(change.path, None)
            else:
                self.tree[change.path] = change.value
        return Applied(commit=COMMIT, changed=len(request.changes))


class WebUnderTest:
    """The application, and what the test holds of it."""

    def __init__(self, world: PlayedWorld, suite: PlayedSuite, live: Live, api: Api) -> None:
        self.world, self.suite, self.live, self.api = world, suite, live, api
        self.app = make_app(world, api)

    def client(self, token: str = OPERATOR_TOKEN, host: str = "127.0.0.1:8080", peer: str = "10.0.0.9") -> Any:
        """Return a client with a token; without one if it is empty."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        transport = httpx.ASGITransport(app=self.app, client=(peer, 1234), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url=f"http://{host}", headers=headers)


@asynccontextmanager
async def web_under_test(*vms: VM, **settings: str) -> AsyncIterator[WebUnderTest]:
    """Run it with these VMs, www and db if none are given; `settings` are as web__request_rate="1"."""

    given = {"web__listen": "127.0.0.1:8080", "web__request_rate": "0", **settings}
    async with played_world("web", **given) as world:
        suite = PlayedSuite(world, *(vms or (WWW, DB)))
        live = Live(world, "epoch")
        tokens = FollowedTokens(world, live.store)
        asker = Asker(world, live)
        health = SuiteHealth(world, live.hub, live.store, live.vmds, asker.reaper)
        sessions = PageSessions(b"k" * 32)
        own = world.settings.web
        places = StreamPlaces(own.max_streams)
        api = Api(live, tokens.table, sessions, world.clock, own, asker, health, {}, places)
        live.start()
        tokens.start()
        health.start()
        CommitWatch(world, live.store, live.hub).start()
        await settled()
        yield WebUnderTest(world, suite, live, api)


def events_in(text: str) -> list[tuple[str, str, Any]]:
    """Return the events of a stream: id, kind and data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "event" in fields:
            found.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return found
