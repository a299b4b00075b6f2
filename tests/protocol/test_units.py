"""Durations and sizes with units are converted exactly, and refused values say what to write."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu_protocol.model.units import UNITS, plain, with_unit
from jitsu_protocol.model.vm import InvalidVm
from tests.support.examples import examples
from tests.support.vms import make_vm


@pytest.mark.parametrize(
    ("written", "unit", "number"),
    [
        ("10m", "s", "600"),
        ("10 min", "s", "600"),
        ("1.5h", "s", "5400"),
        ("30s", "s", "30"),
        ("250ms", "s", "0.25"),
        ("2d", "s", "172800"),
        (" 0.5s ", "s", "0.5"),
        ("512MiB", "KiB", "524288"),
        ("512M", "KiB", "524288"),
        ("4G", "KiB", "4194304"),
        ("65536KiB", "KiB", "65536"),
        ("1T", "KiB", "1073741824"),
        ("1.5K", "KiB", "1.5"),
    ],
)
def test_a_value_with_a_unit_becomes_a_plain_number(written: str, unit: str, number: str) -> None:
    assert plain(written, unit) == number


@pytest.mark.parametrize(
    "text",
    ["60", "-5", "1e3", "1.0", "", "m", "-1m", "10s!", "1m30s", "1,5h", "1.h", "10M", "4X", "512MB", "1  m", "٣m"],
)
@pytest.mark.parametrize("unit", ["s", "VMs/s", ""])
def test_any_other_text_stays_as_it_was_written(text: str, unit: str) -> None:
    assert plain(text, unit) == text


def test_units_of_durations_and_units_of_sizes_are_kept_apart() -> None:
    assert (plain("10m", "KiB"), plain("4G", "s")) == ("10m", "4G")


@settings(max_examples=examples(60), deadline=None)
@given(
    st.decimals(min_value=0, max_value=10**11, places=6),
    st.sampled_from([(unit, name) for unit, names in UNITS.items() for name in names]),
)
def test_a_number_with_any_unit_is_converted_exactly(number: Decimal, unit: tuple[str, str]) -> None:
    converted = plain(f"{number:f}{unit[1]}", unit[0])
    assert Decimal(converted) == number * UNITS[unit[0]][unit[1]]
    assert plain(converted, unit[0]) == converted


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 10**12 - 1), st.sampled_from(sorted(UNITS)))
def test_a_number_that_is_shown_with_a_unit_is_parsed_to_the_same_number(number: int, unit: str) -> None:
    assert plain(with_unit(number, unit), unit) == str(number)


def test_a_wrong_ttl_of_a_name_is_refused_with_both_ways_to_write_it() -> None:
    for wrong in ("www.jitsu.test", "www.jitsu.test soon", "30"):
        with pytest.raises(
            InvalidVm, match=r"is not NAME TTL; expected something like 'www\.example\.org 30' or '.* 1m'"
        ):
            make_vm(name_ttl=wrong)
    assert make_vm(name_ttl="www.jitsu.test 1m").names == {"www.jitsu.test": 60}
