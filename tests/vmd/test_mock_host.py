"""The host of mock guests: what it keeps, and what it reports."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from jitsu_vmd.hypervisors.mock.guest import LoopbackGuest
from jitsu_vmd.hypervisors.mock.host import MockHost
from jitsu_vmd.hypervisors.mock.messages import TOPIC, ListGuests, StartMockGuest, StopMockGuest
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from typing import Literal

    from jitsu_runtime.bus.feed_server import FeedServer

pytestmark = pytest.mark.wires


class Feed:
    """Takes what is published."""

    epoch, number = "e", 0

    def __init__(self) -> None:
        self.feeds = {TOPIC: self}
        self.published: list[str] = []

    def publish(self, _: str, message: object) -> None:
        self.published.append(str(getattr(message, "uuid", "")))


def start(uuid: str, failure: Literal["never", "crash", "hang"] = "hang") -> StartMockGuest:
    return StartMockGuest(
        uuid=uuid, name=uuid, addresses=["127.88.7.1"], port=1, start_time=0, boot_time=0, failure=failure
    )


def states(host: MockHost, *uuids: str) -> dict[str, GuestState]:
    listed = host.list_guests(ListGuests(uuids=list(uuids) if uuids else None))
    return {uuid: info.state for uuid, info in listed.guests.items()}


async def test_the_host_forgets_a_guest_that_is_off() -> None:
    feed: FeedServer = Feed()  # type: ignore[assignment]
    host = MockHost(feed)
    for n in range(300):
        await host.start(start(f"g{n}"))
        await host.stop(StopMockGuest(uuid=f"g{n}", how="destroy"))
        await host.stop(StopMockGuest(uuid=f"never-started-{n}", how="destroy"))
    assert states(host) == {}
    await host.start(start("p"))
    await host.stop(StopMockGuest(uuid="p", how="pause"))
    await host.start(start("c", "crash"))
    await asyncio.sleep(0.01)
    assert states(host) == {"p": GuestState.PAUSED, "c": GuestState.CRASHED}, "what vmd has still to know"
    await host.stop(StopMockGuest(uuid="c", how="discard"))
    assert states(host) == {"p": GuestState.PAUSED}


async def test_a_look_at_one_guest_is_answered_with_one() -> None:
    feed: FeedServer = Feed()  # type: ignore[assignment]
    host = MockHost(feed)
    for n in range(5):
        await host.start(start(f"g{n}"))
    assert states(host, "g3", "nobody") == {"g3": GuestState.RUNNING}
    assert len(states(host)) == 5
    for n in range(5):
        await host.stop(StopMockGuest(uuid=f"g{n}", how="destroy"))


async def test_a_guest_with_an_address_that_is_not_of_this_host_says_what_to_do() -> None:
    guest = LoopbackGuest("www", ["127.88.7.3", "192.0.2.250"], 8080, 0.0)
    with pytest.raises(OSError, match="not all of ") as caught:
        await guest.boot()
    said = "not all of 127.88.7.3, 192.0.2.250 are addresses of this host; use an address such as 127.0.2.1"
    assert caught.value.strerror == said
