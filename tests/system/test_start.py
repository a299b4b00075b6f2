"""The first seconds of `jitsu up`: dns gives no wrong answer before it knows which names it holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.suite import RunningSuite, vm_toml, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.suite
VMS = 2000
LAST = f"n{VMS - 1}"


def answer(port: int) -> str:
    """Return the rcode and addresses that the port answers, "" if nobody answers."""
    try:
        reply = dns.query.udp(dns.message.make_query(f"{LAST}.jitsu.test", "A"), "127.0.0.1", port=port, timeout=0.2)
    except (dns.exception.Timeout, OSError):
        return ""
    return " ".join([dns.rcode.to_text(reply.rcode()), *(data.to_text() for rrset in reply.answer for data in rrset)])


def test_the_first_answer_for_a_configured_name_is_right_and_comes_when_dns_is_said_to_be_ready(tmp_path: Path) -> None:
    toml = '[dns]\nzones = ["jitsu.test"]\n'
    toml += "".join(vm_toml(f"n{n}", f"127.2.{60 + n // 250}.{n % 250 + 1}", response_delay=0) for n in range(VMS))
    suite = RunningSuite(tmp_path, toml=toml)
    heard: list[str] = []

    def is_heard() -> bool:
        heard.append(answer(suite.port))
        return heard[-1] != ""

    def is_said_to_be_ready() -> bool:
        assert suite.process.poll() is None, suite.output
        is_heard()
        return any(line.split()[:2] == ["dns", "ready"] for line in suite.output)

    try:
        wait_for(is_said_to_be_ready, 40, "dns is said to be ready")
        said_at = time.monotonic()
        wait_for(is_heard, 40, "an answer")
        assert time.monotonic() - said_at < 2.0
    finally:
        suite.stop()
    assert set(heard) <= {"", f"NOERROR 127.2.{60 + (VMS - 1) // 250}.{(VMS - 1) % 250 + 1}"}
    assert heard[-1]
