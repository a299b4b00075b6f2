"""The log of a process whose reader is slow, stopped or gone."""

from __future__ import annotations

import os
import pty
import socket
import termios
import tty
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import structlog

from jitsu_runtime.logs import MAX_KEPT_BYTES, Stream, configure_logging
from jitsu_runtime.settings.schema import LogSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.wires

LINE = "x" * 90
Ends = tuple[int, int]
"""The descriptors of the reader and of the writer."""


@pytest.fixture(params=["pipe", "socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    if request.param == "pipe":
        reads, writes = os.pipe()
    else:
        reads, writes = (each.detach() for each in socket.socketpair())
    yield reads, writes
    os.close(reads)
    os.close(writes)


@pytest.fixture
def stream(ends: Ends) -> Iterator[Stream]:
    opened = Stream(ends[1])
    yield opened
    opened.close()


def write_lines(stream: Stream, numbers: range) -> None:
    for number in numbers:
        stream.write(f"{number} {LINE}\n")
        stream.flush()


def read_all(reads: int, flush: Callable[[], None]) -> list[int]:
    """Read everything while the writer goes on, and return the numbers of the lines."""
    os.set_blocking(reads, False)
    data = b""
    while True:
        try:
            data += os.read(reads, 65536)
        except BlockingIOError:
            break
        flush()
    lines = data.decode().splitlines()
    assert all(line.endswith(LINE) for line in lines), "no line is cut"
    return [int(line.split()[0]) for line in lines]


def test_a_slow_reader_blocks_nobody_and_gets_every_line_that_was_kept(ends: Ends, stream: Stream) -> None:
    reads, _ = ends
    count = MAX_KEPT_BYTES // (2 * len(LINE))
    write_lines(stream, range(count))
    assert read_all(reads, stream.flush) == list(range(count))
    assert stream.lost() == 0


def test_lines_that_cannot_be_kept_are_lost_and_counted_once(ends: Ends, stream: Stream) -> None:
    reads, _ = ends
    count = 2 * MAX_KEPT_BYTES // len(LINE)
    write_lines(stream, range(count))
    assert stream.lost() == 0, "there is no room to report it yet"
    seen = read_all(reads, stream.flush)
    assert seen == list(range(len(seen)))
    assert stream.lost() == count - len(seen) > 0
    assert stream.lost() == 0
    write_lines(stream, range(3))
    assert read_all(reads, stream.flush) == [0, 1, 2]


def test_lines_are_thrown_away_when_the_reader_has_gone() -> None:
    reads, writes = os.pipe()
    stream = Stream(writes)
    write_lines(stream, range(2000))
    os.close(reads)
    write_lines(stream, range(2000))
    assert stream.lost() == 0
    stream.close()
    os.close(writes)


def test_a_process_that_ends_waits_for_its_reader_for_a_limited_time() -> None:
    reads, writes = os.pipe()
    write_lines(stream := Stream(writes), range(2000))
    with ThreadPoolExecutor(1) as thread:
        closed = thread.submit(stream.close)
        os.close(writes)
        with os.fdopen(reads) as lines:
            assert sum(1 for _ in lines) == 2000
        closed.result()
    reads, writes = os.pipe()
    write_lines(stream := Stream(writes), range(2000))
    stream.close()
    os.close(reads)
    os.close(writes)


def test_a_stopped_terminal_does_not_block_the_process() -> None:
    reads, terminal = pty.openpty()
    tty.setraw(terminal)
    stream = Stream(terminal)
    termios.tcflow(terminal, termios.TCOOFF)  # as Ctrl-S does
    write_lines(stream, range(20))
    assert os.get_blocking(terminal), "other processes that have it open see no change"
    termios.tcflow(terminal, termios.TCOON)
    stream.flush()
    assert read_all(reads, stream.flush) == list(range(20))
    stream.close()
    os.close(reads)
    os.close(terminal)


@pytest.mark.parametrize("form", ["json", "human"])
def test_a_traceback_shows_its_functions_and_no_local_variables(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    configure_logging(LogSettings.model_validate({"format": form}), "dns")
    try:
        raise_with(".".join(["192", "0", "2", "77"]))
    except ValueError:
        structlog.get_logger("test").exception("task failed")
    finally:
        structlog.configure(**before)
    logged = capsys.readouterr().err
    assert "raise_with" in logged
    assert "192.0.2.77" not in logged
    assert max(map(len, logged.splitlines())) < 4000


def raise_with(client: str) -> None:
    copies = [client] * 100
    raise ValueError(f"{len(copies)} things are wrong")


def test_a_log_file_is_continued_where_other_processes_have_stopped(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as file:
        file.write(b"before\n")
        stream = Stream(file.fileno())
        stream.write("here\n")
        stream.flush()
        file.write(b"after\n")
        stream.close()
    assert (tmp_path / "log").read_text() == "before\nhere\nafter\n"
