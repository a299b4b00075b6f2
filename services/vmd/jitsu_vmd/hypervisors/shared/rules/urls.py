"""Addresses of servers that are reached over https."""

from __future__ import annotations

from urllib.parse import urlsplit


def https_url(text: str, port: int) -> str:
    """Return https://HOST:PORT of https://HOST or https://HOST:PORT; `port` is the usual one. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.username is not None:
        raise ValueError(f"{text[:100]!r} is not https://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}:{parts.port or port}"
