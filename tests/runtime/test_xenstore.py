"""Access to an unmodified xenstored, and to peers that pyxs alone would not survive."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import struct
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import Unavailable
from jitsu_runtime import xenstore as module
from jitsu_runtime.xenstore import Xenstore
from tests.support.suite import SLOWER
from tests.support.xenstored import Xenstored, running_xenstored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: xenstored")
suite = pytest.mark.suite


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Xenstored]:
    with running_xenstored(tmp_path) as running:
        yield running


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Xenstore]:
    tasks: list[asyncio.Task[None]] = []
    made = Xenstore(str(path), lambda work: tasks.append(asyncio.create_task(work)))
    yield made
    made.close()
    await asyncio.gather(*tasks)


@pytest.fixture
async def stoppable(daemon: Xenstored) -> AsyncIterator[Xenstore]:
    """A Xenstore whose daemon the test may stop."""
    async with connected(daemon.socket) as made:
        yield made


PLACES = [
    pytest.param("xenstored", marks=pytest.mark.suite),
    *(pytest.param(each, marks=pytest.mark.xen) for each in ("/run/xenstored/socket", "/dev/xen/xenbus")),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of Xenstore: of a xenstored without Xen, and in a dom0 of its socket and of the kernel's device."""
    monkeypatch.setattr(module, "LIMIT_S", module.LIMIT_S * SLOWER)
    if request.param == "xenstored":
        with running_xenstored(tmp_path) as running:
            yield running.socket
    else:
        yield Path(request.param)


@pytest.fixture
async def store(place: Path) -> AsyncIterator[Xenstore]:
    async with connected(place) as made:
        yield made
        await made.change(dict.fromkeys(("/ip", "/count", "/n", "/local/domain/3"), None))


async def test_values_are_written_read_listed_and_removed(store: Xenstore) -> None:
    assert await store.read("/ip/a") is None
    assert await store.children("/ip/a") == []
    await store.change({"/ip/a": "x", "/ip/a/80": "", "/ip/a/443/b": "y\ncaf\u00e9"})
    assert await store.read("/ip/a/443/b") == "y\ncaf\u00e9"
    assert await store.read("/ip/a") == "x"
    assert await store.read("/ip/a/80") == ""
    assert sorted(await store.children("/ip/a")) == ["443", "80"]
    await store.change({"/ip/a/443": None, "/not/there": None})
    assert await store.children("/ip/a") == ["80"]


@pytest.mark.parametrize("values", [{"/with space": "x"}, {"/a": "x" * 5000}, {"/end/": "x"}])
async def test_a_value_that_xenstore_cannot_store_is_refused_and_the_connection_goes_on(
    store: Xenstore, values: dict[str, str]
) -> None:
    with pytest.raises(Unavailable, match="Xenstore"):
        await store.change({"/before": "x"} | values)
    assert await store.read("/before") is None, "a transaction is applied completely or not at all"


async def test_a_transaction_is_repeated_when_others_interfere(store: Xenstore) -> None:
    await asyncio.gather(*(store.change({f"/count/{n % 3}": str(n)}) for n in range(40)))
    assert sorted(await store.children("/count")) == ["0", "1", "2"]


async def test_permissions_are_set_with_the_values(place: Path, store: Xenstore) -> None:
    await store.change({"/ip/b": ""}, {"/ip/b": "n0 b5"})
    process = await asyncio.create_subprocess_exec(
        "xenstore-ls",
        "-p",
        "/ip",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ} | ({} if str(place).startswith("/dev") else {"XENSTORED_PATH": str(place)}),
    )
    shown, _ = await process.communicate()
    assert b"(n0,b5)" in shown


async def test_a_watch_fires_at_once_and_with_each_change_below_its_path(store: Xenstore) -> None:
    events = asyncio.Queue[None]()
    token = await store.watch("/ip", lambda: events.put_nowait(None))
    async with asyncio.timeout(2):
        await events.get()
        for path in ("/ip", "/ip/deep/below"):
            await store.change({path: "x"})
            await events.get()
    await store.unwatch(token)
    while not events.empty():
        events.get_nowait()
    await store.change({"/ip/x": "y"})
    await asyncio.sleep(0.1)
    assert events.empty()


async def test_wait_for_returns_when_the_path_gets_a_value(store: Xenstore) -> None:
    waits = [asyncio.create_task(store.wait_for("/local/domain/3/data/status")) for _ in range(3)]
    await asyncio.sleep(0.1)
    await store.change({"/local/domain/3/data": "no"})
    await asyncio.sleep(0.1)
    assert not any(each.done() for each in waits)
    await store.change({"/local/domain/3/data/status": "up"})
    async with asyncio.timeout(2):
        assert await asyncio.gather(*waits) == ["up"] * 3


@suite
async def test_a_watch_survives_a_restart_of_xenstored(daemon: Xenstored, stoppable: Xenstore) -> None:
    wait = asyncio.create_task(stoppable.wait_for("/late"))
    await asyncio.sleep(0.1)
    daemon.stop()
    await asyncio.sleep(0.1)
    with pytest.raises(Unavailable, match="xenstored"):
        await stoppable.read("/late")
    daemon.start()
    await stoppable.change({"/late": "here"})
    async with asyncio.timeout(5):
        assert await wait == "here"


@suite
async def test_a_watch_can_be_set_while_xenstored_is_away(daemon: Xenstored, stoppable: Xenstore) -> None:
    daemon.stop()
    wait = asyncio.create_task(stoppable.wait_for("/late"))
    await asyncio.sleep(0.1)
    daemon.start()
    await stoppable.change({"/late": "here"})
    async with asyncio.timeout(5):
        assert await wait == "here"


@suite
async def test_calls_under_way_fail_when_the_connection_is_lost(daemon: Xenstored, stoppable: Xenstore) -> None:
    assert daemon.process is not None
    await stoppable.read("/")
    daemon.process.send_signal(signal.SIGSTOP)
    calls = [asyncio.create_task(stoppable.read("/x")) for _ in range(3)]
    await asyncio.sleep(0.1)
    daemon.stop()
    async with asyncio.timeout(module.LIMIT_S / 2):
        failed = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in failed] == [Unavailable] * 3


@suite
async def test_g9_a_xenstored_that_hangs_fails_each_call_at_its_deadline_and_blocks_no_thread(
    daemon: Xenstored, stoppable: Xenstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.3)
    assert daemon.process is not None
    await stoppable.read("/")
    for _ in range(10):  # more than there are threads
        daemon.process.send_signal(signal.SIGSTOP)
        with pytest.raises(Unavailable, match="not answered"):
            await stoppable.read("/x")
        daemon.process.send_signal(signal.SIGCONT)
        assert await stoppable.read("/x") is None


async def test_request_numbers_begin_again_after_the_last(store: Xenstore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.read("/")
    monkeypatch.setattr(module, "request_numbers", iter(range(2**32 - 2, 2**32 + 50)))
    for n in range(5):
        await store.change({"/n": str(n)})
    assert await store.read("/n") == "4"


@suite
async def test_file_descriptors_above_1023_work(daemon: Xenstored) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(2048, limits[0]), limits[1]))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        async with asyncio.TaskGroup() as group:
            made = Xenstore(str(daemon.socket), group.create_task)
            await made.change({"/a": "b"})
            assert await made.read("/a") == "b"
            made.close()
    finally:
        for each in held:
            os.close(each)


@suite
async def test_a_reply_to_watch_may_have_number_0_as_from_the_kernels_device(tmp_path: Path) -> None:
    """Play the kernel's device: WATCH is answered with number 0, after its first event (xenbus_dev_frontend.c)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.read(16):
            op, number, transaction, size = struct.unpack("IIII", head)
            payload = await reader.readexactly(size)
            answers = [(op, number, b"value")]
            if op == 4:
                answers = [(15, 0, payload), (4, 0, b"OK\0")]
            for kind, answered, data in answers:
                writer.write(struct.pack("IIII", kind, answered, transaction, len(data)) + data)
        writer.close()
        await writer.wait_closed()
        gone.put_nowait(None)

    gone = asyncio.Queue[None]()
    path = tmp_path / "bus"
    server = await asyncio.start_unix_server(serve, path)
    async with asyncio.TaskGroup() as group:
        made = Xenstore(str(path), group.create_task)
        events: list[int] = []
        await made.watch("/a", lambda: events.append(1))
        assert await made.read("/a") == "value"
        assert events == [1]
        made.close()
    for _ in range(2):  # one was only a test whether somebody listens
        await gone.get()
    server.close()


@suite
async def test_an_absent_xenstored_is_reported_with_a_hint(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        made = Xenstore(str(tmp_path / "none"), group.create_task)
        with pytest.raises(Unavailable) as caught:
            await made.read("/")
        assert "does xenstored run?" in caught.value.hint
        made.close()


@suite
async def test_g9_a_peer_that_is_not_xenstored_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.3)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        async with asyncio.TaskGroup() as group:
            made = Xenstore(str(tmp_path / "s"), group.create_task)
            with pytest.raises(Unavailable):
                await made.read("/")
            made.close()
