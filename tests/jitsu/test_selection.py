"""Which VMs and columns `jitsu status` shows, and what it says of words that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from jitsu.selection import Selection, words_in
from jitsu.status_lines import status_lines
from jitsu_protocol.model.errors import BadRequest, NotFound


def row(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "uuid": f"uuid-{name}",
        "state": "off",
        "host": "",
        "names": [f"{name}.jitsu.test"],
        "address": "127.0.1.1",
        "uptime_s": None,
        "starts": 0,
        "queries": 0,
        "idle_s": None,
        "last_error": "",
        "retry_after_s": None,
        "waits_for": "",
        "hold": "",
        "kept": "",
        "asleep": "",
        **fields,
    }


ROWS = [
    row("db", state="ready", queries=3, uptime_s=50.0, host="london"),
    row("mail", state="failed", last_error="no memory"),
    row("web1", state="ready", queries=70, uptime_s=9.0),
    row("web2", queries=8),
]


def names(wanted: Selection) -> list[str]:
    return [each["name"] for each in wanted.of(ROWS)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Selection(), ["db", "mail", "web1", "web2"]),
        (Selection(words=("web*",)), ["web1", "web2"]),
        (Selection(words=("uuid-db", "MAIL.jitsu.test.")), ["db", "mail"]),
        (Selection(states=("ready", "failed")), ["db", "mail", "web1"]),
        (Selection(words=("web?",), states=("ready",)), ["web1"]),
        (Selection(hosts=("london",)), ["db"]),
        (Selection(sort="queries"), ["web1", "web2", "db", "mail"]),
        (Selection(sort="queries", reverse=True), ["mail", "db", "web2", "web1"]),
        (Selection(sort="up"), ["db", "web1", "mail", "web2"]),
        (Selection(sort="up", reverse=True), ["web1", "db", "mail", "web2"]),
        (Selection(sort="state"), ["mail", "web2", "db", "web1"]),
    ],
)
def test_vms_are_chosen_and_sorted(wanted: Selection, expected: list[str]) -> None:
    assert names(wanted) == expected


def test_a_word_that_means_no_vm_names_the_nearest() -> None:
    with pytest.raises(NotFound, match=r"no VM is called 'wep1'; did you mean \"web1\"\?"):
        names(Selection(words=("wep1", "db")))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Selection(states=("redy",)), "'redy' is not a state; did you mean \"ready\"?"),
        (Selection(hosts=("londn",)), "'londn' is not a host that has a vmd; did you mean \"london\"?"),
        (Selection(columns=("vm", "adress")), "'adress' is not a column; did you mean \"address\"?"),
        (Selection(sort="uptime"), "'uptime' is not a column"),
    ],
)
def test_a_state_a_host_or_a_column_that_does_not_exist_is_a_mistake(wanted: Selection, expected: str) -> None:
    with pytest.raises(BadRequest) as mistake:
        wanted.check({"", "london"})
    assert str(mistake.value).startswith(expected)


@pytest.mark.parametrize(
    ("wanted", "one"),
    [
        (Selection(words=("db",)), "db"),
        (Selection(words=("db", "mail")), ""),
        (Selection(words=("d*",)), ""),
        (Selection(words=("db",), columns=("state",)), ""),
        (Selection(), ""),
    ],
)
def test_one_name_asks_for_everything_about_one_vm(wanted: Selection, one: str) -> None:
    assert wanted.one == one


def test_only_the_columns_that_are_wanted_are_shown_in_that_order() -> None:
    assert status_lines(ROWS[:2], 80, columns=("state", "vm", "host")) == [
        "STATE  VM   HOST",
        "ready  db   london",
        "failed mail",
    ]
    assert status_lines(ROWS[1:2], 80, columns=("vm", "error")) == ["VM   LAST ERROR", "mail no memory"]
    assert status_lines(ROWS[1:2], 10, columns=("vm", "error")) == ["VM", "mail", "    no", "    memory"]


def test_words_are_separated_by_commas() -> None:
    assert words_in(" Ready, booting,,") == ("ready", "booting")
