"""What a process says, to who does not read it."""

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
"""Who reads, and where it is written to."""


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


def say(stream: Stream, numbers: range) -> None:
    for number in numbers:
        stream.write(f"{number} {LINE}\n")
        stream.flush()


def read_all(reads: int, flush: Callable[[], None]) -> list[int]:
    """Read to the end while the other side goes on; return the numbers of the lines."""
    os.set_blocking(reads, False)
    data = b""
    while True:
        try:
            data += os.read(reads, 65536)
        except BlockingIOError:
            break
        flush()
    lines = data.decode().splitlines()
    assert all(line.endswith(LINE) for line in lines), "each is whole"
    return [int(line.split()[0]) for line in lines]


def test_who_does_not_read_holds_nobody_up_and_misses_nothing_that_is_kept(ends: Ends, stream: Stream) -> None:
    reads, _ = ends
    count = MAX_KEPT_BYTES // (2 * len(LINE))
    say(stream, range(count))
    assert read_all(reads, stream.flush) == list(range(count))
    assert stream.lost() == 0


def test_lines_that_cannot_be_kept_are_lost_and_counted_once(ends: Ends, stream: Stream) -> None:
    reads, _ = ends
    count = 2 * MAX_KEPT_BYTES // len(LINE)
    say(stream, range(count))
    assert stream.lost() == 0, "there is no room to say it"
    seen = read_all(reads, stream.flush)
    assert seen == list(range(len(seen)))
    assert stream.lost() == count - len(seen) > 0
    assert stream.lost() == 0
    say(stream, range(3))
    assert read_all(reads, stream.flush) == [0, 1, 2]


def test_when_nobody_reads_any_more_nothing_is_said() -> None:
    reads, writes = os.pipe()
    stream = Stream(writes)
    say(stream, range(2000))
    os.close(reads)
    say(stream, range(2000))
    assert stream.lost() == 0
    stream.close()
    os.close(writes)


def test_a_process_that_ends_waits_for_its_reader_but_not_for_ever() -> None:
    reads, writes = os.pipe()
    say(stream := Stream(writes), range(2000))
    with ThreadPoolExecutor(1) as thread:
        closed = thread.submit(stream.close)
        os.close(writes)
        with os.fdopen(reads) as lines:
            assert sum(1 for _ in lines) == 2000
        closed.result()
    reads, writes = os.pipe()
    say(stream := Stream(writes), range(2000))
    stream.close()
    os.close(reads)
    os.close(writes)


def test_a_terminal_that_is_stopped_is_not_waited_for() -> None:
    reads, terminal = pty.openpty()
    tty.setraw(terminal)
    stream = Stream(terminal)
    termios.tcflow(terminal, termios.TCOOFF)  # as Ctrl-S does
    say(stream, range(20))
    assert os.get_blocking(terminal), "it is as it was for all others who have it open"
    termios.tcflow(terminal, termios.TCOON)
    stream.flush()
    assert read_all(reads, stream.flush) == list(range(20))
    stream.close()
    os.close(reads)
    os.close(terminal)


@pytest.mark.parametrize("form", ["json", "human"])
def test_a_traceback_shows_where_it_was_and_no_local_variables(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    configure_logging(LogSettings.model_validate({"format": form}), "dns")
    try:
        raise_with(".".join(["192", "0", "2", "77"]))
    except ValueError:
        structlog.get_logger("test").exception("task failed")
    finally:
        structlog.configure(**before)
    said = capsys.readouterr().err
    assert "raise_with" in said
    assert "192.0.2.77" not in said
    assert max(map(len, said.splitlines())) < 4000


def raise_with(client: str) -> None:
    copies = [client] * 100
    raise ValueError(f"{len(copies)} things are wrong")


def test_a_file_is_written_where_others_have_stopped(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as file:
        file.write(b"before\n")
        stream = Stream(file.fileno())
        stream.write("here\n")
        stream.flush()
        file.write(b"after\n")
        stream.close()
    assert (tmp_path / "log").read_text() == "before\nhere\nafter\n"
