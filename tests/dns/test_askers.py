"""Which clients a replica reports for `jitsu why`: those that wake VMs, and samples of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_dns.rules.events import SummonVm
from jitsu_protocol.model.states import VmState
from tests.support.front import VM_WWW, OneSender, ask, asked, front, state

if TYPE_CHECKING:
    from jitsu_protocol.messages import NotedClient

CLIENT_NETWORK = "10.0.0.0/24"


def reported(made: object, now: float) -> list[NotedClient]:
    front_made = made.front  # type: ignore[attr-defined]
    front_made.warm.count(100)
    report = front_made.usage.report((), now)
    front_made.usage.acknowledged(now)
    return list(report.asked)


def test_the_client_of_a_summon_has_its_token_and_is_reported_again_until_that_is_acknowledged() -> None:
    made = front()
    assert ask(made, 1.0) is None
    (summon,) = made.take()
    assert isinstance(summon, SummonVm)
    first, again = made.usage.report((), 1.5).asked, made.usage.report((), 3.0).asked
    (one,) = first
    assert (one.vm, one.token, one.what, one.about) == (VM_WWW.uuid, summon.by, "query", "www.jitsu.test A")
    assert one.client.endswith("/24")
    assert [(each.token, each.age_s) for each in (one, *again)] == [(summon.by, 0.5), (summon.by, 2.0)]
    made.usage.acknowledged(3.0)
    assert made.usage.report((), 4.0).asked == []


def test_of_clients_that_are_answered_at_once_one_in_five_seconds_is_a_sample() -> None:
    import dns.message

    made = front()
    state(made, VmState.READY)
    query = dns.message.make_query("www.jitsu.test", "A")
    counts = []
    for second in range(12):
        now = 10.0 + second
        for _ in range(3):
            assert asked(made, query, now)
        counts.append(len(reported(made, now)))
    assert counts == [1, 0, 0, 0, 0] * 2 + [1, 0]


def test_a_warm_answer_that_is_sent_without_being_parsed_is_sampled_too() -> None:
    import dns.message

    made = front()
    state(made, VmState.READY)
    data = dns.message.make_query("www.jitsu.test", "A").to_wire()
    assert asked(made, dns.message.from_wire(data), 10.0)
    reported(made, 10.0)
    (answer,) = made.warm([data], 20.0, OneSender())
    assert answer
    (one,) = reported(made, 20.0)
    assert (one.token, one.about) == ("", "www.jitsu.test A")
