from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.wire import outbox as module
from jitsu_protocol.wire.outbox import OVERHEAD_BYTES, Outbox

if TYPE_CHECKING:
    import pytest


def sizes(outbox: Outbox, *peers: bytes) -> list[int]:
    """Return how many replies wait for each, and take them all."""
    found = []
    for peer in peers:
        count = 0
        while outbox.first(peer) is not None:
            outbox.sent(peer)
            count += 1
        found.append(count)
    return found


def test_replies_wait_in_order() -> None:
    outbox = Outbox()
    for number in range(3):
        outbox.put(b"a", b"%d" % number)
    assert outbox.first(b"a") == b"0"
    outbox.sent(b"a")
    assert outbox.first(b"a") == b"1"
    assert outbox.has(b"a")
    assert not outbox.has(b"b")
    outbox.forget(b"a")
    assert not outbox
    assert outbox.total == outbox.dropped == 0


def test_g9_the_oldest_reply_to_the_peer_with_the_most_bytes_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    each = 1000 + OVERHEAD_BYTES
    monkeypatch.setattr(module, "MAX_BYTES_PER_PEER", 10 * each)
    monkeypatch.setattr(module, "MAX_BYTES", 15 * each)
    outbox = Outbox()
    for number in range(20):
        outbox.put(b"greedy", b"%03d" % number + b"x" * 997)
    assert outbox.first(b"greedy") == b"010" + b"x" * 997
    assert outbox.dropped == 10
    for _ in range(8):
        outbox.put(b"other", b"x" * 1000)
    assert outbox.total <= 15 * each
    assert sizes(outbox, b"greedy", b"other") == [7, 8]
    assert outbox.total == 0
