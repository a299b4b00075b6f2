"""What `jitsu up` tells a newcomer to type."""

from __future__ import annotations

import pytest

from jitsu import demo
from jitsu_protocol.settings import VmText, load


@pytest.mark.parametrize(
    ("addresses", "shown"),
    [
        (("fd00::5", "127.0.2.9"), "curl http://127.0.2.9:8080/"),
        (("127.0.2.9", "fd00::5", "127.0.2.1"), "curl http://127.0.2.1:8080/"),
        (("fd00::5",), "curl http://[fd00::5]:8080/"),
    ],
)
def test_the_next_steps_are_shown_whatever_families_the_addresses_are_of(
    addresses: tuple[str, ...], shown: str
) -> None:
    texts = [
        VmText(config={"dns": [f"n{number}.jitsu.test"], "ip": [address]}, where="here")
        for number, address in enumerate(addresses)
    ]
    steps = demo.next_steps(load(None, {}, {}, texts), "jitsu")
    assert [line.strip() for line in steps if "curl" in line] == [shown]
