"""How the limit of open files is divided."""

from __future__ import annotations

import pytest

from jitsu_dns.rules.files import LEAST, OWN_FILES, divided


def test_a_limit_that_is_high_enough_gives_each_part_what_is_configured() -> None:
    files = divided(2120, 1000, 1000)
    assert (files.tcp, files.forwards, files.wanted) == (1000, 1000, 2000 + OWN_FILES)
    assert files.shortage(2120, 1000) == ""


def test_below_that_forwarded_names_keep_their_share_and_the_operator_hears_what_to_set() -> None:
    files = divided(1024, 1000, 1000)
    assert (files.tcp, files.forwards) == (452, 452)
    assert files.shortage(1024, 1000) == (
        "this process may have 1024 files open, but dns.max_tcp = 1000 and forwarding need 2120: at most 452 TCP "
        "connections and 452 forwarded questions are served at once; set LimitNOFILE=2120 in the unit, "
        "`ulimit -Hn 2120` before the start, or a lower dns.max_tcp"
    )


@pytest.mark.parametrize("limit", [0, 64, 256, 1024, 5000])
@pytest.mark.parametrize("max_tcp", [1, 1000, 100_000])
@pytest.mark.parametrize("max_forwards", [0, 1000])
def test_no_part_gets_more_than_was_asked_for_or_than_there_is(limit: int, max_tcp: int, max_forwards: int) -> None:
    files = divided(limit, max_tcp, max_forwards, hosts=2)
    assert min(LEAST, max_tcp) <= files.tcp <= max_tcp
    assert min(LEAST, max_forwards) <= files.forwards <= max_forwards
    if limit >= OWN_FILES + 20 + 2 * LEAST:
        assert files.tcp + files.forwards + OWN_FILES + 20 <= limit + LEAST
