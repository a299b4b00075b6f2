"""The log of a process on standard error: lines for people on a terminal, one JSON object per line otherwise.

A slow reader must not block the process. The reader may be a terminal that Ctrl-S has stopped, a pager, or a log driver
whose disk is slow. A line that cannot be written at once is therefore kept, and written with a later line or by
`flush`. When MAX_KEPT_BYTES are kept, further lines are lost and counted. When the reader has gone, lines are thrown
away.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import select
import socket
import stat
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import structlog
import structlog.tracebacks

from jitsu_runtime.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_runtime.settings.schema import LogSettings

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2
MAX_KEPT_BYTES = 1024 * 1024
MAX_FRAMES = 20
"""The frames of a traceback that are logged. Local variables never are: they hold addresses of clients, packets and
secrets."""
LAST_S = 0.5
"""How long a process that ends waits for the reader to take its last lines."""

log = structlog.get_logger("log")


class Stream:
    """A descriptor that is written to without ever waiting.

    O_NONBLOCK belongs to the open file description (open(2)), which other processes share: setting it on the terminal
    would change it for the shell too. So a pipe or a terminal is opened a second time (proc(5), /proc/PID/fd), and each
    message to a socket has MSG_DONTWAIT (send(2)). A regular file never blocks.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._opened = contextlib.ExitStack()
        self._send = self._sender()
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._lock = threading.Lock()

    def _sender(self) -> Callable[[bytes], int]:
        """Return a function that writes and returns the number of bytes; it raises BlockingIOError if it would wait."""
        mode = os.fstat(self._descriptor).st_mode
        if stat.S_ISSOCK(mode):
            same = self._opened.enter_context(socket.socket(fileno=os.dup(self._descriptor)))
            return lambda data: same.send(data, socket.MSG_DONTWAIT)
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            with contextlib.suppress(OSError):  # a terminal of another user cannot be opened; writing to it may block
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                own = os.open(f"/proc/self/fd/{self._descriptor}", flags)
                self._opened.callback(os.close, own)
                return functools.partial(os.write, own)
        return functools.partial(os.write, self._descriptor)

    def write(self, text: str) -> None:
        """Keep a line until `flush` writes it, or lose it if too much is kept already."""
        data = text.encode(errors="backslashreplace")
        with self._lock:
            if self._size + len(data) > MAX_KEPT_BYTES:
                self._lost += 1
                return
            self._kept.append(data)
            self._size += len(data)

    def flush(self) -> None:
        """Write as much as can be written without waiting."""
        with self._lock:
            while self._kept:
                try:
                    written = self._send(self._kept[0])
                except BlockingIOError:
                    return
                except OSError:  # the reader has gone
                    self._kept.clear()
                    self._size = 0
                    return
                self._size -= written
                left = self._kept.popleft()[written:]
                if left:
                    self._kept.appendleft(left)

    def lost(self) -> int:
        """Return how many lines were lost since the last call; 0 while there is no room to log the number."""
        with self._lock:
            if self._kept:
                return 0
            lost, self._lost = self._lost, 0
            return lost

    def close(self) -> None:
        """Write what is kept, but wait for the reader no longer than LAST_S."""
        until = SYSTEM_CLOCK.now() + LAST_S
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        self.flush()
        while self._kept and (left_s := until - SYSTEM_CLOCK.now()) > 0:
            poll.poll(left_s * 1000)
            self.flush()
        self._opened.close()


@functools.cache
def stream_to(descriptor: int) -> Stream:
    """Return the one stream to a descriptor of this process."""
    stream = Stream(descriptor)
    atexit.register(stream.close)
    return stream


def flush() -> None:
    """Write what is kept of the log; a process calls this about once a second."""
    stream = stream_to(STANDARD_ERROR)
    stream.flush()
    if lost := stream.lost():
        log.warning("lines of the log were lost, because the reader was too slow", lines=lost)


def configure_logging(settings: LogSettings, service: str) -> None:
    """Set up the log on standard error: lines for people, or one JSON object per line, as the settings ask."""
    human = settings.format == "human" or (settings.format == "auto" and sys.stderr.isatty())
    renderer: Any = _human_line if human else structlog.processors.JSONRenderer()
    exceptions: Any = (
        structlog.processors.ExceptionRenderer()
        if human
        else structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=MAX_FRAMES)
        )
    )
    is_replaced = sys.stderr is not sys.__stderr__  # by a test
    stream: Any = sys.stderr if is_replaced else stream_to(STANDARD_ERROR)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if human else "iso", utc=not human),
            _with_service(service),
            exceptions,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def _with_service(service: str) -> Any:
    def add(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
        event.setdefault("service", service)
        return event

    return add


def _human_line(_: Any, __: str, event: dict[str, Any]) -> str:
    """Render `12:00:01.123 vmd       boot failed  vm=www reason=...`."""
    stamp = str(event.pop("timestamp"))[:12]
    service, level = event.pop("service"), event.pop("level")
    message, trace = event.pop("event"), event.pop("exception", "")
    pairs = " ".join(f"{key}={value}" for key, value in event.items())
    mark = "" if level in ("info", "debug") else f"{level}: "
    line = f"{stamp} {service:<9} {mark}{message}  {pairs}".rstrip()
    return f"{line}\n{trace}" if trace else line
