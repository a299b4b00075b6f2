"""`jitsu-dns --check`: what of [dns] only this service can judge."""

from __future__ import annotations

import pytest

from jitsu_dns.wires.check import faults
from jitsu_runtime.settings.schema import DnsSettings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"records": ["nonsense"]}, ["dns.records: 'nonsense' is not a record of a zone file"]),
        (
            {"records": ["a.test. 60 IN CNAME b.test.", "a.test. 60 IN A 192.0.2.1"], "zones": ["test"]},
            ["dns.records: "],
        ),
        ({"bind": "127.0.0.1", "port": 5300, "forward": "127.0.0.1", "forward_port": 5300}, ["dns.forward: 127.0.0.1"]),
    ],
)
def test_what_a_replica_would_refuse_to_start_with_is_named(settings: dict[str, object], expected: list[str]) -> None:
    found = faults(DnsSettings.model_validate(settings))
    assert len(found) == len(expected)
    assert all(line.startswith(begin) for line, begin in zip(found, expected, strict=True))
