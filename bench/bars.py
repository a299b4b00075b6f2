"""Bars as a picture (SVG), made of nothing but text: groups of bars below each other, on a logarithmic scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLORS = ("#8a8f98", "#2f6fb0", "#2a9d5c")
LEFT, WIDTH, RIGHT, BAR, GAP, HEAD = 110, 460, 70, 14, 14, 62


@dataclass(frozen=True)
class Bars:
    """What is shown."""

    title: str
    unit: str
    names: Sequence[str]
    """Of the bars of each group."""
    groups: Mapping[str, Sequence[float]]


def drawn(bars: Bars) -> str:
    """Return the picture. The scale is logarithmic, because engines differ by a factor of a thousand."""
    values = [value for group in bars.groups.values() for value in group]
    low = 10.0 ** math.floor(math.log10(min(values)))
    high = 10.0 ** math.ceil(math.log10(max(values) * 1.001))

    def x(value: float) -> float:
        return LEFT + WIDTH * math.log10(value / low) / math.log10(high / low)

    height = HEAD + len(bars.groups) * (len(bars.names) * BAR + GAP) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="8" y="18" font-size="14">{escape(bars.title)}, {escape(bars.unit)}</text>',
    ]
    for number, name in enumerate(bars.names):
        at = 8 + number * 200
        parts.append(f'<rect x="{at}" y="30" width="10" height="10" fill="{COLORS[number]}"/>')
        parts.append(f'<text x="{at + 15}" y="39">{escape(name)}</text>')
    tick = low
    while tick <= high:
        parts.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{HEAD - 6}" y2="{height - 20}" stroke="#d0d0d0"/>'
        )
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle" fill="#606060">{tick:g}</text>')
        tick *= 10
    y = HEAD
    for group, times in bars.groups.items():
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + len(times) * BAR / 2 + 4:.0f}" text-anchor="end">{escape(group)}</text>'
        )
        for number, value in enumerate(times):
            end = max(x(value), LEFT + 1)
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{BAR - 2}" fill="{COLORS[number]}"/>'
            )
            parts.append(f'<text x="{end + 4:.1f}" y="{y + BAR - 3}" font-size="11">{value:.1f}</text>')
            y += BAR
        y += GAP
    return "\n".join([*parts, "</svg>", ""])
