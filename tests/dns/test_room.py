"""How the limit of open files is divided, and that it is raised as far as it may be."""

from __future__ import annotations

import resource

import pytest

from jitsu_dns.rules.room import LEAST, OWN_FILES, divided
from jitsu_dns.wires import descriptors


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


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "then"),
    [(1024, 4096, 2120, 2120), (1024, 2000, 2120, 2000), (4096, 4096, 2120, 4096), (1024, -1, 2120, 2120)],
)
def test_the_limit_is_raised_as_far_as_the_hard_one_and_never_lowered(
    soft: int, hard: int, wanted: int, then: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert descriptors.raised_to(wanted) == then
    assert limits[-1] == (then, hard)
