"""Durations and sizes with a unit, as people write them: "10m", "1.5h", "250ms", "512MiB".

    written by a person (jitsu.toml, flag, environment, KEY=VALUE, `jitsu set`)  `plain` converts it to seconds or KiB
    in the state tree and in messages                                             always a plain number

Each place where people write values converts them once. The state tree has plain numbers only, because older releases
read it too. A unit in the tree is therefore refused.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

DURATIONS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
"""Seconds in each unit of a duration. `min` is what `jitsu status` prints."""
SIZES = {
    "KiB": Decimal(1),
    "K": Decimal(1),
    "MiB": Decimal(1024),
    "M": Decimal(1024),
    "GiB": Decimal(1024**2),
    "G": Decimal(1024**2),
    "TiB": Decimal(1024**3),
    "T": Decimal(1024**3),
}
"""KiB in each unit of a size: M is MiB, as in `qemu -m` (qemu(1)). MB is refused, because libvirt reads it as 10^6."""
UNITS: Mapping[str, Mapping[str, Decimal]] = {"s": DURATIONS, "KiB": SIZES}
"""The units in which a person may write a value that is stored in seconds or in KiB."""
MAX_SHOWN_CHARACTERS = 80

_WITH_UNIT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([A-Za-z]{1,3})")  # TiB add 10 digits: exact in Decimal's 28
_NAMES = {
    "s": ("duration", "seconds", 'for example 60 or "1m"'),
    "KiB": ("size", "KiB", 'for example 65536 or "64MiB"'),
}


def plain(text: str, unit: str) -> str:
    """Return a text that has a unit as a plain number of `unit`, "s" or "KiB"; return any other text as it is.

    It never fails. A text that it does not recognize stays as it is, and the check of the value then refuses it.
    """
    written = _WITH_UNIT.fullmatch(text.strip()) if unit in UNITS else None
    factor = UNITS[unit].get(written[2]) if written else None
    if written is None or factor is None:
        return text
    number = f"{Decimal(written[1]) * factor:f}"
    return number.rstrip("0").removesuffix(".") if "." in number else number


def with_unit(number: int | float, unit: str) -> str:
    """Return a number of `unit` in the largest unit of which it is a whole multiple: 600 s becomes 10m."""
    exact = Decimal(str(number))
    by_size = sorted(UNITS[unit].items(), key=lambda each: (-each[1], len(each[0]) if unit == "s" else -len(each[0])))
    for name, factor in by_size:
        if exact and exact % factor == 0:
            return f"{int(exact / factor)}{name}"
    return f"{number:g}{unit}"


def refusal(written: object, unit: str, detail: Mapping[str, Any], *, in_tree: bool = False) -> str:
    """Return why a value was refused, and what to write instead; `detail` is pydantic's error.

    `in_tree` is true for a value of the state tree, which must not have a unit.
    """
    what, whole, examples = _NAMES[unit]
    shown = _shown(written)
    use = f"the state tree holds {whole} as a plain number" if in_tree else f"use {whole} or a unit, {examples}"
    number = _number(written if in_tree else plain(str(written), unit))
    if number is None or number < 0:
        meant = re.fullmatch(r"\s*([0-9.]{1,20}) ?([KMGT])B\s*", str(written), re.IGNORECASE) if unit == "KiB" else None
        return f"{shown} is not a {what}; {use}" + (
            f'; did you mean "{meant[1]}{meant[2].upper()}iB"?' if meant and not in_tree else ""
        )
    limits = detail.get("ctx", {})
    if detail["type"] in ("less_than_equal", "less_than"):
        most = limits.get("le", limits.get("lt", 0))
        return f"{shown} is too {'long' if unit == 's' else 'large'}: at most {with_unit(most, unit)} is allowed"
    if detail["type"] in ("greater_than_equal", "greater_than"):
        least = limits.get("ge", limits.get("gt", 0))
        bound = f"at least {with_unit(least, unit)}" if "ge" in limits else f"more than {with_unit(least, unit)}"
        return f"{shown} is too {'short' if unit == 's' else 'small'}: it must be {bound}"
    if number.adjusted() < 20 and number % 1:
        return f"{shown} is not a whole number of {whole}; {use}"
    return f"{shown} must be written with digits only; {use}"


def _number(value: object) -> Decimal | None:
    try:
        number = Decimal(str(value)[:400])
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _shown(value: object) -> str:
    """Return a value as an error message shows it: a number as it is, anything else in quotes."""
    text = str(value)
    short = text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "..."
    return short if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) else repr(short)
