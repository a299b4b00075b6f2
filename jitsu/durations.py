"""Time spans for people."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """Return a time span in its largest sensible unit, `-` for none."""
    if seconds is None:
        return "-"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 360_000 else f"{seconds / 86400:.0f} d"
