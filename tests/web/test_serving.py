"""jitsu-web's own socket: who may connect, who is kept waiting for, and what it refuses to start with."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.settings.load import load
from jitsu_runtime.settings.values import WebAddress
from jitsu_web.wires import serving
from jitsu_web.wires.files import OwnFiles

if TYPE_CHECKING:
    import socket
    from pathlib import Path

pytestmark = pytest.mark.wires


async def application(scope: Any, _: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(scope["client"]).encode()})


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bytes:
    writer.write(text)
    try:
        return await asyncio.wait_for(reader.read(), 5.0)
    finally:
        writer.close()


async def served(bound: socket.socket, use: Any, app: Any = application) -> Any:
    stop = asyncio.Event()
    serving_task = asyncio.create_task(serving.serve(app, bound, None, stop))
    try:
        await asyncio.sleep(0.1)
        return await use()
    finally:
        stop.set()
        await serving_task


async def test_the_user_at_a_unix_socket_is_known_and_others_may_not_even_connect(tmp_path: Path) -> None:
    path = tmp_path / "web.http"
    bound = serving.listening_socket(WebAddress(path=str(path)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660

    async def use() -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        return await exchange(reader, writer, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    answer = await served(bound, use)
    assert f"('{serving.UNIX}', {os.getuid()})".encode() in answer


async def test_a_socket_that_a_killed_process_left_is_replaced_and_one_that_is_served_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "web.http"
    serving.listening_socket(WebAddress(path=str(path))).close()
    with serving.listening_socket(WebAddress(path=str(path))) as bound:
        bound.listen()
        with pytest.raises(SetupFault, match="somebody listens"):
            serving.listening_socket(WebAddress(path=str(path)))


async def test_a_connection_without_a_whole_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REQUEST_LIMIT_S", 0.2)
    bound = serving.listening_socket(load(None, {}, {"web.listen": "127.0.0.1:0"}).web.listen)
    port = bound.getsockname()[1]

    async def use() -> list[bytes]:
        return [
            await exchange(*await asyncio.open_connection("127.0.0.1", port), text)
            for text in (b"", b"GET / HTTP/1.1\r\nHost:", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT")
        ]

    nothing, half, one_and_half = await served(bound, use)
    assert nothing == half == b""
    assert one_and_half.count(b"200 OK") == 1


async def whole_body(_: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await application({"client": "whole"}, None, send)


async def test_a_connection_without_a_whole_body_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REQUEST_LIMIT_S", 0.2)
    bound = serving.listening_socket(load(None, {}, {"web.listen": "127.0.0.1:0"}).web.listen)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"

    async def use() -> list[bytes]:
        return [
            await exchange(*await asyncio.open_connection(*bound.getsockname()), head + body) for body in (b"{", b"{}")
        ]

    half, whole = await served(bound, use, whole_body)
    assert half == b""
    assert b"200 OK" in whole


async def test_a_connection_whose_other_end_reads_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REQUEST_LIMIT_S", 0.2)
    bound = serving.listening_socket(load(None, {}, {"web.listen": "127.0.0.1:0"}).web.listen)
    gone = asyncio.Event()

    async def endless(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        piece = {"type": "http.response.body", "body": b"x" * 65_536, "more_body": True}

        async def sending() -> None:
            while not gone.is_set():
                await send(piece)
                await asyncio.sleep(0)  # uvicorn returns at once when the connection is gone

        task = asyncio.create_task(sending())
        assert (await receive())["type"] == "http.disconnect"
        gone.set()
        await task

    async def use() -> None:
        _, writer = await asyncio.open_connection(*bound.getsockname(), limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(gone.wait(), 5.0)
        writer.close()

    await served(bound, use, endless)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"web.listen": "192.0.2.1:80"}, "not loopback"),
        ({"web.listen": "127.0.0.1:80", "web.key": "/k"}, "web.certificate: is missing"),
        ({"web.listen": "127.0.0.1:80", "web.key": "/no/key", "web.certificate": "/no/c"}, "/no/key"),
    ],
)
def test_it_does_not_start_where_tokens_could_be_read(settings: dict[str, str], said: str) -> None:
    with pytest.raises(SetupFault, match=said):
        serving.context_of(load(None, {}, settings).web)


def test_the_key_of_the_sessions_is_made_once_and_only_its_user_may_read_it(tmp_path: Path) -> None:
    key = OwnFiles(tmp_path / "web").session_key()
    assert OwnFiles(tmp_path / "web").session_key() == key
    assert stat.S_IMODE((tmp_path / "web" / "session.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "web").stat().st_mode) == 0o700
    (tmp_path / "web" / "session.key").write_bytes(b"short")
    assert len(OwnFiles(tmp_path / "web").session_key()) == 32
