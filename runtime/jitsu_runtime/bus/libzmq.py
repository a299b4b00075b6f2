"""The parts of ZeroMQ that other modules use without importing it: a context, key files, and its version."""

from __future__ import annotations

from pathlib import Path

import zmq
import zmq.asyncio
import zmq.auth

Context = zmq.asyncio.Context
"""All sockets of one process share one."""


def public_key_of(path: Path) -> bytes:
    """Return the public key in a key file; raises ValueError if there is none, OSError if it cannot be read."""
    return zmq.auth.load_certificate(path)[0]


def create_key_files(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a new pair of keys and return their files, the public one first."""
    public, secret = zmq.auth.create_certificates(directory, name)
    return Path(public), Path(secret)


def version() -> tuple[int, ...]:
    """Return the version of libzmq."""
    return zmq.zmq_version_info()
