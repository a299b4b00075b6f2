"""Keys on the bus: which peers may connect and what they may request, encryption, and new keys in a running suite."""

from __future__ import annotations

import asyncio
import socket as sockets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import zmq.asyncio

from jitsu.keys import add, drop, init, rotate
from jitsu_protocol.messages import Apply, Drain, FeedItem, Ping, Pong
from jitsu_protocol.model.errors import Forbidden, NotFound, SetupFault, TimedOut
from jitsu_protocol.wire.permissions import ROLES, check
from jitsu_runtime.bus import curve as module
from jitsu_runtime.bus.curve import Curve, load
from jitsu_runtime.bus.feed_client import FeedClient
from jitsu_runtime.bus.zeromq import ZmqFollower, feed_server, rpc_client, rpc_server
from tests.support.suite import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from jitsu_protocol.messages import Request
    from jitsu_runtime.bus.rpc_client import RpcClient

pytestmark = pytest.mark.wires

LIMIT_S = 5.0
APPLY = Apply(changes=[], message="", author="operator:a", request="x")
SECRET_WORD = "a-word-that-nobody-else-may-read"


def pong(_: Request) -> Pong:
    return Pong(service=SECRET_WORD, version="1", pid=1, uptime_s=0.0)


class Suite:
    """A store with keys, and its clients."""

    def __init__(self, keys: Path, group: asyncio.TaskGroup) -> None:
        self.keys = keys
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.feed = f"tcp://127.0.0.1:{free_port()}"
        self.refused: list[str] = []
        """The refusals that the store has counted, by reason."""
        self.refusals_seen: list[str] = []
        """The refusals that its clients have counted."""
        self.tasks: list[asyncio.Task[Any]] = []
        self._contexts: list[zmq.asyncio.Context] = []
        self._group = group
        handlers: dict[type[Request], Any] = {Ping: pong, Apply: pong, Drain: pong}
        curve, context = self.curve("store", keys)
        self.server = rpc_server(context, self.endpoint, handlers, lambda reason: self.refused.append(reason), curve)
        self.feeds = feed_server(context, self.feed, ["t"], curve)
        self.spawn(self.server.run())
        self.spawn(self.feeds.run())

    def spawn(self, work: Any) -> None:
        self.tasks.append(self._group.create_task(work))

    def context(self) -> zmq.asyncio.Context:
        self._contexts.append(zmq.asyncio.Context())
        return self._contexts[-1]

    def curve(self, role: str, keys: Path) -> tuple[Curve, zmq.asyncio.Context]:
        context = self.context()
        counts = self.refused if role == "store" else self.refusals_seen
        return Curve(context, keys, role, self.spawn, counts.append), context

    def client(self, role: str, keys: Path | None = None) -> RpcClient:
        curve, context = self.curve(role, keys or self.keys)
        client = rpc_client(context, self.endpoint, "store", curve)
        self.spawn(client.run())
        return client

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        for context in self._contexts:
            context.destroy(linger=0)


@asynccontextmanager
async def suite(directory: Path) -> AsyncIterator[Suite]:
    keys = directory / "keys"
    init(keys)
    async with asyncio.TaskGroup() as group:
        made = Suite(keys, group)
        try:
            yield made
        finally:
            made.close()


async def test_a_client_with_a_known_key_gets_replies(tmp_path: Path) -> None:
    async with suite(tmp_path) as made:
        for role in ("dns", "vmd", "operator"):
            assert (await made.client(role).call(Ping(), Pong, LIMIT_S)).service == SECRET_WORD
        assert made.refused == []


async def test_a_client_without_a_key_is_refused_and_counted(tmp_path: Path) -> None:
    async with suite(tmp_path) as made:
        plain = rpc_client(made.context(), made.endpoint, "store")
        made.spawn(plain.run())
        with pytest.raises(TimedOut):
            await plain.call(Ping(), Pong, 1.0)
        assert set(made.refused) == {"handshake"}


async def test_a_client_with_an_unknown_key_is_refused_and_counted(tmp_path: Path) -> None:
    async with suite(tmp_path) as made:
        other = tmp_path / "other"
        init(other)
        (other / "public" / "store.key").write_text((made.keys / "public" / "store.key").read_text())
        with pytest.raises(TimedOut):
            await made.client("operator", other).call(Ping(), Pong, 1.0)
        assert set(made.refused) == {"unknown-key"}
        assert set(made.refusals_seen) == {"refused-by-owner"}


async def test_a_client_whose_key_becomes_known_later_gets_replies_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.1)
    async with suite(tmp_path) as made:
        add(made.keys, "dns.later", tmp_path / "later")
        public = made.keys / "public" / "dns.later.key"
        kept = public.read_bytes()
        public.unlink()
        await asyncio.sleep(0.4)
        client = made.client("dns", tmp_path / "later")
        with pytest.raises(TimedOut):
            await client.call(Ping(), Pong, 1.0)
        public.write_bytes(kept)
        await client.call(Ping(), Pong, LIMIT_S)


async def test_a_client_that_expects_another_key_of_the_owner_gets_no_reply(tmp_path: Path) -> None:
    async with suite(tmp_path) as made:
        other = tmp_path / "other"
        init(other)
        with pytest.raises(TimedOut):
            await made.client("operator", other).call(Ping(), Pong, 1.0)
        assert set(made.refused) == {"handshake"}


@pytest.mark.parametrize(
    ("role", "request_", "may"),
    [
        ("operator", APPLY, True),
        ("reaper", APPLY, False),
        ("reaper", Drain(vm="x"), True),
        ("dns", Drain(vm="x"), False),
    ],
)
async def test_a_role_may_send_its_own_requests_only(tmp_path: Path, role: str, request_: Request, may: bool) -> None:
    async with suite(tmp_path) as made:
        client = made.client(role)
        if may:
            await client.call(request_, Pong, LIMIT_S)
            assert made.refused == []
        else:
            with pytest.raises(Forbidden, match=f"a key of {role} may not send {request_.kind}"):
                await client.call(request_, Pong, LIMIT_S)
            assert made.refused == ["forbidden"]


def test_a_request_that_is_not_in_the_table_is_for_operators_only() -> None:
    check("operator", "store.something-new")
    for role in (*sorted(set(ROLES) - {"operator"}), ""):
        with pytest.raises(Forbidden):
            check(role, "store.something-new")


async def test_a_feed_can_be_followed_with_a_key_only(tmp_path: Path) -> None:
    async with suite(tmp_path) as made:

        def follow(curve: Curve | None, context: zmq.asyncio.Context) -> list[FeedItem]:
            taken: list[FeedItem] = []

            async def ask() -> tuple[str, int, Any]:
                feed = made.feeds.feeds["t"]
                return feed.epoch, feed.number, None

            link = ZmqFollower(context, made.feed, "t", "store", curve=curve)
            client = FeedClient(link, "t", ask=ask, reset=lambda _: None, apply=taken.append)
            made.spawn(client.run())
            return taken

        known, stranger = follow(*made.curve("dns", made.keys)), follow(None, made.context())
        async with asyncio.timeout(LIMIT_S):
            while not known:
                made.feeds.publish("t", pong(Ping()))
                await asyncio.sleep(0.05)
        assert stranger == []


async def test_a_capture_shows_no_message(tmp_path: Path) -> None:
    """A relay between client and owner captures all bytes in both directions."""
    captured: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            captured.append(data)
            writer.write(data)
        writer.close()

    async with suite(tmp_path) as made:
        port = int(made.endpoint.rpartition(":")[2])

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(relay(reader, onward_writer), relay(onward_reader, writer))

        between = await asyncio.start_server(accepted, "127.0.0.1", 0, family=sockets.AF_INET)
        async with between:
            made.endpoint = f"tcp://127.0.0.1:{between.sockets[0].getsockname()[1]}"
            assert (await made.client("operator").call(Ping(), Pong, LIMIT_S)).service == SECRET_WORD
            whole = b"".join(captured)
            assert b"CURVE" in whole
            for word in (SECRET_WORD.encode(), Ping.kind.encode(), b"uptime"):
                assert word not in whole
            made.close()


async def test_keys_can_be_rotated_while_everything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.1)
    async with suite(tmp_path) as made:
        clients = [made.client(role) for role in ("dns", "operator")]
        for role in ("store", "dns"):
            before = load(made.keys, role).public
            rotate(made.keys, role)
            assert load(made.keys, role).public != before
            for _ in range(10):
                for client in clients:
                    await client.call(Ping(), Pong, LIMIT_S)
                await asyncio.sleep(0.05)
            assert load(made.keys, role).role(before) == role, "the previous key is still known"
            drop(made.keys, f"{role}.before")
            assert load(made.keys, role).role(before) == ""
            await asyncio.sleep(0.3)
            for client in clients:
                await client.call(Ping(), Pong, LIMIT_S)


async def test_an_owner_that_cannot_bind_with_its_new_key_exits_so_that_it_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    monkeypatch.setattr(module, "REBIND_TRIES", 0)

    async def rotated() -> None:
        async with asyncio.timeout(5), suite(tmp_path) as made:
            rotate(made.keys, "store")
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as ended:
        await rotated()
    fault = ended.value.exceptions[0]
    assert isinstance(fault, SetupFault)
    assert fault.status == 1, "with 2 the service manager would not start it again"


async def test_a_removed_key_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.1)
    async with suite(tmp_path) as made:
        add(made.keys, "dns.second", tmp_path / "second")
        await asyncio.sleep(0.4)
        client = made.client("dns", tmp_path / "second")
        await client.call(Ping(), Pong, LIMIT_S)
        drop(made.keys, "dns.second")
        await asyncio.sleep(0.4)
        with pytest.raises(Forbidden, match="this key is no longer known"):
            await client.call(Ping(), Pong, LIMIT_S)


async def test_g9_removing_the_key_of_an_owner_by_mistake_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.1)
    async with suite(tmp_path) as made:
        client = made.client("dns")
        await client.call(Ping(), Pong, LIMIT_S)
        public = made.keys / "public" / "store.key"
        kept = public.read_bytes()
        drop(made.keys, "store")
        await asyncio.sleep(0.4)
        await client.call(Ping(), Pong, LIMIT_S)
        public.write_bytes(kept)
        rotate(made.keys, "dns")
        await asyncio.sleep(0.4)
        await client.call(Ping(), Pong, LIMIT_S)


def test_a_secret_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    assert sorted(init(tmp_path)) == sorted(ROLES)
    assert init(tmp_path) == [], "what is there stays"
    for role in ROLES:
        secret = tmp_path / f"{role}.key_secret"
        assert secret.stat().st_mode & 0o777 == 0o600
    secret.chmod(0o640)
    with pytest.raises(SetupFault, match="others may read") as caught:
        load(tmp_path, "operator" if secret.name.startswith("operator") else "reaper")
    assert "chmod 600" in caught.value.hint


def test_what_is_missing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SetupFault) as caught:
        load(tmp_path, "dns")
    assert "jitsu keys init" in caught.value.hint
    init(tmp_path)
    with pytest.raises(NotFound, match=r"no key is called dns\.nobody"):
        drop(tmp_path, "dns.nobody")
