"""DNS cookies, with the examples of RFC 9018, appendix A."""

from __future__ import annotations

from ipaddress import ip_address

from jitsu_dns.rules.cookies import Cookies

SECRET = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
CLIENT = bytes.fromhex("2464c4abcf10c957")
ADDRESS = ip_address("198.51.100.100").packed
MADE = 1559731985


def test_a_new_cookie_is_that_of_the_rfc() -> None:
    made = Cookies(SECRET).answer(CLIENT, ADDRESS, MADE)
    assert made == CLIENT + bytes.fromhex("010000005cf79f111f8130c3eee29480")


def test_a_cookie_in_time_is_kept_and_an_old_one_renewed() -> None:
    cookies = Cookies(SECRET)
    made = cookies.answer(CLIENT, ADDRESS, MADE)
    assert cookies.answer(made, ADDRESS, MADE + 1799) == made
    renewed = cookies.answer(made, ADDRESS, MADE + 1800)
    assert renewed != made
    assert cookies.is_valid(made, ADDRESS, MADE + 3600)
    assert not cookies.is_valid(made, ADDRESS, MADE + 3601)
    assert not cookies.is_valid(made, ADDRESS, MADE - 301)


def test_a_cookie_is_good_for_its_address_and_secret_only() -> None:
    cookies = Cookies(SECRET)
    made = cookies.answer(CLIENT, ADDRESS, MADE)
    assert cookies.is_valid(made, ADDRESS, MADE)
    assert not cookies.is_valid(made, ip_address("198.51.100.101").packed, MADE)
    assert not Cookies(bytes(16)).is_valid(made, ADDRESS, MADE)
    assert not cookies.is_valid(made[:-1] + b"\0", ADDRESS, MADE)
    assert not cookies.is_valid(CLIENT, ADDRESS, MADE)


def test_the_clock_of_32_bits_may_wrap() -> None:
    cookies = Cookies(SECRET)
    made = cookies.answer(CLIENT, ADDRESS, 2**32 - 10)
    assert cookies.is_valid(made, ADDRESS, 2**32 + 10)
