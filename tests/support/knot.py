"""Knot DNS beside a suite: the same zone from a file, or as its secondary."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.query

from tests.support.debian import program
from tests.support.suite import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def knot(directory: Path, zone: str, about_zone: str, more: str = "", port: int = 0) -> Iterator[int]:
    """Run a knotd with one zone, which `about_zone` says more of; yields its port."""
    path, port = program("knotd", "knot"), port or free_port()
    directory.mkdir(exist_ok=True)
    (directory / "conf").write_text(
        f'server:\n    listen: 127.0.0.1@{port}\n    rundir: "{directory}"\n'
        f'database:\n    storage: "{directory}"\n'
        f'log:\n  - target: "{directory}/log"\n    any: info\n{more}'
        f"zone:\n  - domain: {zone}\n    {about_zone}\n"
    )
    with (directory / "out").open("wb") as out:
        process = subprocess.Popen([path, "-c", str(directory / "conf")], stdout=out, stderr=out)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(20)


def asked(query: dns.message.Message, port: int, *, tcp: bool) -> dns.message.Message | None:
    """Return the answer, None if there is none."""
    try:
        if tcp:
            return dns.query.tcp(query, "127.0.0.1", port=port, timeout=3)
        return dns.query.udp(query, "127.0.0.1", port=port, timeout=3, raise_on_truncation=False)
    except (dns.exception.Timeout, OSError, EOFError):
        return None
