"""The line that is logged for a query."""

from __future__ import annotations

import dns.message
import dns.rcode
import structlog.testing

from jitsu_dns.wires.query_log import QueryLog


def test_every_rcode_that_another_server_may_send_has_a_name_in_the_log() -> None:
    query = dns.message.make_query("www.example.org", "A")
    log = QueryLog(is_on=True)
    with structlog.testing.capture_logs() as lines:
        for rcode in range(16):
            answer = dns.message.make_response(query)
            answer.set_rcode(dns.rcode.Rcode(rcode))
            log.note(query.to_wire(), bytes([192, 0, 2, 1]), answer.to_wire(), "UDP")
    names = [line["answer"] for line in lines]
    assert len(names) == 16
    assert (names[0], names[3], names[7]) == ("NOERROR", "NXDOMAIN", "RCODE7")
