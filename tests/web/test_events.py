"""The log of events, and the stream that pages read."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from jitsu_protocol.messages import Change, ChangesList, ChangesSince, Commit, CommitChanges, HeadMoved
from jitsu_protocol.model.states import VmState
from jitsu_web.rules.event_log import EventLog
from jitsu_web.rules.events import GoneEvent
from jitsu_web.wires.hub import Hub
from tests.support.web import VIEWER_TOKEN, WWW, events_in, web_under_test
from tests.support.world import settled


def test_a_reader_goes_on_after_the_event_that_it_had_last() -> None:
    log = EventLog("e", limit=3)
    assert log.place("") == 0
    ids = [log.add(GoneEvent(str(number), "x")).id for number in range(5)]
    assert ids == ["e-1", "e-2", "e-3", "e-4", "e-5"]
    place = log.place("e-3")
    assert place == 3
    assert [each.id for each in log.after(3) or ()] == ["e-4", "e-5"]
    assert log.place("e-5") == 5
    assert log.after(5) == ()


@pytest.mark.parametrize("last", ["e-1", "f-3", "e-6", "e-", "e--1", "nonsense", "e-²", "e-" + "9" * 50])
def test_a_reader_whose_place_is_not_kept_reads_everything_again(last: str) -> None:
    log = EventLog("e", limit=3)
    for number in range(5):
        log.add(GoneEvent(str(number), "x"))
    assert log.place(last) is None


async def test_a_slow_reader_gets_a_reset_and_costs_no_memory() -> None:
    hub = Hub("e")
    hub.log = EventLog("e", limit=3)
    async with aclosing(hub.read()) as slow:
        first = asyncio.ensure_future(anext(slow))
        await asyncio.sleep(0)
        hub.publish(GoneEvent(str(number), "x") for number in range(10))
        kinds = [(await first).event.kind]
        hub.publish([GoneEvent("new", "x")])
        kinds.append((await anext(slow)).event.kind)
    assert kinds == ["reset", "gone"]


async def test_the_stream_has_each_change_once_and_goes_on_after_a_lost_connection() -> None:
    async with web_under_test() as web:
        hub, feed = web.live.hub, web.world.followed["vmd vm"]
        begun = hub.log.last
        web.suite.statuses[WWW.uuid] = web.suite.statuses[WWW.uuid].model_copy(update={"state": VmState.READY})
        await feed.snapshot()
        text = b""
        async with aclosing(hub.read(f"epoch-{begun}")) as events:
            for _ in range(hub.log.last - begun):
                text += hub.encoded(await anext(events))
        found = events_in(text.decode())
        assert [(kind, data["name"], data["state"]) for _, kind, data in found if data["name"] == "www"] == [
            ("vm", "www", "ready")
        ]
        assert [id for id, _, _ in found] == [f"epoch-{number}" for number in range(begun + 1, hub.log.last + 1)]


async def test_too_many_readers_are_refused_and_a_user_leaves_half_of_the_places_to_others() -> None:
    async with web_under_test(web__max_streams="4") as web, web.client(VIEWER_TOKEN) as viewer, web.client() as other:
        reading = []
        for client, another in ((viewer, viewer), (viewer, viewer), (other, viewer), (other, other)):
            reading.append(asyncio.ensure_future(client.get("/api/v1/events")))
            while web.live.hub.readers < len(reading):
                await asyncio.sleep(0)
            refused = await another.get("/api/v1/events") if len(reading) > 1 else None
            assert refused is None or refused.status_code == (503 if len(reading) == 4 else 429)
        web.live.hub.close()
        assert [(await each).status_code for each in reading] == [200] * 4
        assert (await viewer.get("/api/v1/events")).status_code == 200, "the places are free again"


async def test_readers_that_come_at_once_are_not_more_than_there_are_places() -> None:
    async with web_under_test(web__max_streams="2") as web, web.client() as client:
        reading = [asyncio.ensure_future(client.get("/api/v1/events")) for _ in range(8)]
        while sum(each.done() for each in reading) + web.live.hub.readers < len(reading):
            await asyncio.sleep(0)
        web.live.hub.close()
        assert sorted([(await each).status_code for each in reading]) == [200] + [429] * 7


async def test_a_summon_that_has_ended_is_published_once() -> None:
    async with web_under_test() as web:
        for state in (VmState.STARTING, VmState.BOOTING, VmState.READY):
            status = web.suite.statuses[WWW.uuid].model_copy(update={"state": state})
            web.live.hub.publish([])
            web.suite.statuses[WWW.uuid] = status
            await web.world.followed["vmd vm"].snapshot()
        await settled()
        traces = [each for peer in web.world.peers.values() for each in peer.asked if each.kind == "vmd.trace"]
        assert [each.vm for each in traces] == [WWW.uuid]


async def test_each_commit_of_a_branch_is_published_with_its_author_and_the_vms_that_it_changes() -> None:
    async with web_under_test() as web:
        commit = Commit(id="a" * 40, ts=5.0, author="operator:olga via web", message="Why\n\nRequest-Id: x\n")
        path = f"jitsu/vm/{WWW.uuid}/dns/www.jitsu.test/ttl"
        made = CommitChanges(commit=commit, changes=[Change(path=path, value="5", old="60")])
        web.world.answers[ChangesSince] = lambda _: ChangesList(commits=[made], upto=commit.id, more=False)
        begun = web.live.hub.log.last
        web.world.followed["store heads"].publish(HeadMoved(branch="master", commit=commit.id))
        await settled()
        web.world.followed["store heads"].publish(HeadMoved(branch="master", commit=""))
        await settled()
        events = [each.event for each in web.live.hub.log.after(begun) or ()]
        assert [(each.kind, each.data()) for each in events] == [
            (
                "commit",
                {
                    "branch": "master",
                    "commit": "a" * 40,
                    "author": "operator:olga via web",
                    "message": "Why",
                    "ts": 5.0,
                    "vms": [WWW.uuid],
                },
            ),
            ("commit", {"branch": "master", "commit": "", "author": "", "message": "", "ts": 0.0, "vms": []}),
        ]
