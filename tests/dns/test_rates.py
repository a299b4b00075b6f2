"""Which clients may ask and summon, and how often."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from jitsu_dns.rules.clients import network, plain
from jitsu_dns.rules.rates import Limited, ResponseLimit, SummonLimit
from jitsu_protocol.rates import MAX_BUCKETS, Buckets, Networks


def raw(text: str) -> bytes:
    return ip_address(text).packed


def test_networks_hold_what_is_in_them_of_their_own_family_only() -> None:
    held = Networks(["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"])
    for inside in ("192.0.2.0", "192.0.2.255", "2001:db8:ffff::1", "198.51.100.7"):
        assert raw(inside) in held
    for outside in ("192.0.3.0", "2001:db9::", "198.51.100.8", "::c000:201"):
        assert raw(outside) not in held
    assert raw("192.0.2.1") not in Networks([])
    assert not Networks([])


def test_an_ipv4_client_of_an_ipv6_socket_is_an_ipv4_client() -> None:
    assert plain(raw("::ffff:192.0.2.1")) == raw("192.0.2.1")
    assert plain(raw("2001:db8::1")) == raw("2001:db8::1")
    assert network(raw("192.0.2.1")) == network(raw("192.0.2.200")) != network(raw("192.0.3.1"))
    assert (
        network(raw("2001:db8:0:aa00::1")) == network(raw("2001:db8:0:aaff::1")) != network(raw("2001:db8:0:bb00::1"))
    )


@given(
    st.floats(0.1, 100),
    st.floats(1, 50),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 3)), max_size=100),
)
def test_a_bucket_never_gives_more_than_burst_and_rate(
    rate: float, burst: float, steps: list[tuple[float, int]]
) -> None:
    buckets, now, given_out = Buckets(rate, burst), 0.0, 0
    for wait, count in steps:
        now += wait
        if buckets.take("k", now, count):
            given_out += count
        assert given_out <= burst + rate * now + 1e-6


def test_buckets_are_apart_and_bounded() -> None:
    buckets = Buckets(1, 1)
    assert buckets.take("a", 0.0)
    assert not buckets.take("a", 0.0)
    assert buckets.take("b", 0.0)
    for number in range(MAX_BUCKETS + 10):
        buckets.take(number, 0.0)
    assert not buckets.take(10, 0.0), "those that were used last are remembered"
    assert buckets.take(9, 0.0)


def test_g10_responses_beyond_the_rate_are_dropped_and_every_second_one_truncated() -> None:
    limit = ResponseLimit(10, Networks(["127.0.0.0/8"]))
    attacker, other = raw("192.0.2.1"), raw("192.0.3.1")
    verdicts = [limit.judge(attacker, "x", 0.0) for _ in range(30)]
    assert verdicts[:10] == [Limited.SEND] * 10
    assert verdicts[10:] == [Limited.DROP, Limited.TRUNCATE] * 10
    assert limit.limited == 20
    assert limit.judge(attacker, "y", 0.0) is Limited.SEND
    assert limit.judge(other, "x", 0.0) is Limited.SEND
    assert limit.judge(attacker, "x", 0.2) is Limited.SEND
    assert {limit.judge(raw("127.0.0.9"), "x", 0.0, "sender") for _ in range(50)} == {Limited.SEND}
    assert limit.known_exempt == {"sender"}
    off = ResponseLimit(0, Networks([]))
    assert {off.judge(attacker, "x", 0.0) for _ in range(50)} == {Limited.SEND}


def test_g10_who_may_not_summon_or_summons_too_much_hears_why() -> None:
    limit = SummonLimit(Networks(["192.0.2.0/24"]), Networks(["127.0.0.1"]), rate=1, burst=3)
    assert "may not start VMs" in limit.refusal(raw("198.51.100.1"), 1, 0.0)
    assert limit.refusal(raw("192.0.2.1"), 3, 0.0) == ""
    assert "too many VMs at once" in limit.refusal(raw("192.0.2.9"), 1, 0.0)
    assert limit.refusal(raw("192.0.2.9"), 1, 1.0) == ""
    everyone = SummonLimit(Networks([]), Networks(["127.0.0.1"]), rate=1, burst=1)
    assert [everyone.refusal(raw("127.0.0.1"), 1, 0.0) for _ in range(5)] == [""] * 5
