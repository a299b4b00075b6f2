"""A replica as a whole, without sockets, bus and real time: what it does with what comes, and in which order."""

from __future__ import annotations

from ipaddress import ip_interface
from typing import TYPE_CHECKING

import dns.message
import dns.opcode
import dns.rcode
import pytest
from structlog.testing import capture_logs

from jitsu_dns.rules.cold import SUMMON_AGAIN_S
from jitsu_dns.rules.contents import TRUST_S
from jitsu_dns.rules.notify import GATHER_S
from jitsu_dns.wires import names
from jitsu_dns.wires.interfaces import OwnAddress
from jitsu_protocol.messages import (
    Change,
    ChangesList,
    ChangesSince,
    Done,
    Leaves,
    List,
    Report,
    Summon,
    Summoned,
)
from jitsu_protocol.messages.store import Commit, CommitChanges
from jitsu_protocol.model.errors import BootFailed, JitsuError, Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import VM_ROOT, to_tree
from jitsu_runtime.settings.load import load
from tests.support.dns_replica import serving
from tests.support.dns_sockets import CLIENT
from tests.support.vms import make_vm
from tests.support.world import settled

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.dns_replica import Serving

WWW = make_vm(ttl="10")
OTHER = make_vm("other", "127.0.1.2", ttl="10")
FAR = make_vm("far", "127.0.1.3", host="beta", ttl="10")
SECONDARY = ("192.0.2.53", 53)


async def ready(made: Serving) -> None:
    """Let the reaper acknowledge a report, and the VM be ready."""
    await made.reaper.answer(Done())
    made.state(WWW, VmState.READY)


def address_in(message: dns.message.Message) -> str:
    return str(message.answer[0][0].to_text())


def reason_in(message: dns.message.Message) -> str:
    return str(message.options[0].to_text())


# --- queries ---


async def test_a_cold_query_is_answered_when_vmd_has_summoned_the_vm(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        assert made.world.is_ready
        made.ask("www.jitsu.test")
        assert made.answered() == []
        summon = await made.vmd.answer(Summoned())
        assert summon == Summon(vm=WWW.uuid, ttl=10, by=summon.by), "the token that the next report explains"
        assert summon.by.startswith("dns-0#")
        (answer,) = made.answered()
        assert address_in(answer) == "127.0.1.1"


async def test_a_cold_query_over_tcp_is_answered_and_one_whose_client_left_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        made.ask("www.jitsu.test", udp=False)
        made.sockets.close(CLIENT)
        await made.vmd.answer(Summoned())
        assert made.answered() == []
        made.ask("www.jitsu.test", id=2, udp=False)
        await made.vmd.answer(Summoned())
        assert [message.id for message in made.answered()] == [2]


async def test_a_cold_query_is_told_why_its_vm_does_not_boot(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        made.ask("www.jitsu.test")
        await made.vmd.answer(BootFailed("www: no memory"))
        (answer,) = made.answered()
        assert (answer.rcode(), "no memory" in reason_in(answer)) == (dns.rcode.SERVFAIL, True)


async def test_g2_a_cold_query_is_answered_when_its_time_is_over_whatever_vmd_does(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        made.ask("www.jitsu.test")
        made.world.time.advance(WWW.max_wait)
        (answer,) = made.answered()
        assert (answer.rcode(), "does not answer" in reason_in(answer)) == (dns.rcode.SERVFAIL, True)
        made.state(WWW, VmState.BOOTING)
        made.ask("www.jitsu.test", id=2)
        made.world.time.advance(WWW.max_wait)
        (answer,) = made.answered()
        assert address_in(answer) == "127.0.1.1"
        made.world.followed["vmd vm"].heard = False
        made.ask("www.jitsu.test", id=3)
        made.world.time.advance(WWW.max_wait)
        (answer,) = made.answered()
        assert answer.rcode() == dns.rcode.SERVFAIL, "what vmd said before it fell silent may be long over"


async def test_a_vm_of_a_host_that_is_not_listed_is_not_reachable(tmp_path: Path) -> None:
    async with serving(tmp_path, FAR) as made:
        made.ask("far.jitsu.test")
        await settled()
        (answer,) = made.answered()
        assert "host beta is not listed in bus.hosts" in reason_in(answer)


async def test_vmd_is_asked_again_while_its_guest_has_other_addresses_than_are_configured(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, WWW) as made:
        made.ask("www.jitsu.test")
        await made.vmd.answer(Summoned(addresses=["127.0.9.9"]))
        assert made.answered() == []
        made.world.time.advance(SUMMON_AGAIN_S)
        await made.vmd.answer(Summoned(addresses=["127.0.1.1"]))
        assert [address_in(message) for message in made.answered()] == ["127.0.1.1"]


async def test_a_packet_that_is_no_query_is_not_answered(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        made.sockets.query(b"\0")
        made.sockets.query(bytes(12))
        (answer,) = made.answered()
        assert answer.rcode() == dns.rcode.FORMERR


async def test_g10_responses_over_the_limit_are_dropped_and_that_is_logged_with_the_queries(tmp_path: Path) -> None:
    with capture_logs() as logs:
        settings = {"dns.response_rate": "1", "dns.log_queries": "true", "dns.zones": "jitsu.test"}
        async with serving(tmp_path, WWW, settings=settings) as made:
            for id in range(2):
                made.ask("nobody.jitsu.test", id=id)
            made.ask("www.jitsu.test", id=3)
            assert len(made.answered()) == 1
    queries = [(line["name"], line["answer"]) for line in logs if line["event"] == "query"]
    assert queries == [
        ("nobody.jitsu.test", "NXDOMAIN"),
        ("nobody.jitsu.test", "dropped"),
        ("www.jitsu.test", "waits"),
    ]


async def test_queries_are_logged_while_that_is_switched_on(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with serving(tmp_path, WWW) as made:
            await ready(made)
            for _ in range(3):
                made.ask("www.jitsu.test")
                made.replica.switch_query_log()
    assert len([line for line in logs if line["event"] == "query"]) == 1, "also those with a warm answer"


# --- the reaper ---


async def test_g3_it_answers_warm_only_after_the_reaper_has_acknowledged_a_report(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        made.state(WWW, VmState.READY)
        made.ask("www.jitsu.test")
        assert made.answered() == []
        await made.vmd.answer(Summoned())
        made.answered()
        report = await made.reaper.answer(Done())
        assert isinstance(report, Report)
        assert (report.replica, report.address) == ("dns-0", "127.0.0.1:53")
        made.ask("www.jitsu.test", id=2)
        (answer,) = made.answered()
        assert answer.id == 2
        await settled()
        assert made.vmd.waiting == []


async def test_g3_it_answers_warm_no_longer_than_its_lease(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW, settings={"dns.lease": "20"}) as made:
        await ready(made)
        made.world.time.advance(19.9)
        made.ask("www.jitsu.test")
        assert len(made.answered()) == 1
        made.world.time.advance(0.1)
        made.ask("www.jitsu.test", id=2)
        assert made.answered() == []


async def test_the_use_of_a_warm_answer_is_in_the_next_report(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        await ready(made)
        for id in range(3):
            made.ask("www.jitsu.test", id=id)
        made.world.time.advance(1.0)
        report = await made.reaper.answer(Done())
        assert [(use.vm, use.count, use.age_s) for use in report.uses] == [(WWW.uuid, 3, 1.0)]


async def test_a_drain_is_reported_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        await ready(made)
        made.state(WWW, VmState.DRAINING, drain="d1")
        report = await made.reaper.answer(Done())
        assert report.drains == ["d1"]


async def test_warnings_are_reported_each_time_and_logged_once(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with serving(tmp_path, WWW) as made:
            await made.reaper.answer(Done())
            made.sockets.warnings.append("too few files")
            for _ in range(2):
                made.world.time.advance(1.0)
                report = await made.reaper.answer(Done())
                assert "too few files" in report.warnings
    assert [line["event"] for line in logs].count("too few files") == 1


async def test_a_replica_that_stops_reports_what_is_left_and_that_it_leaves(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        await ready(made)
        made.ask("www.jitsu.test")
        stopping = made.world.spawn(made.world.stop())
        assert [use.count for use in (await made.reaper.answer(Done())).uses] == [1]
        assert (await made.reaper.answer(Done())).leaving
        await stopping


async def test_a_replica_that_stops_while_the_reaper_is_away_says_so(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with serving(tmp_path, WWW) as made:
            await ready(made)
            stopping = made.world.spawn(made.world.stop())
            await made.reaper.answer(Unavailable("away"))
            await stopping
    (line,) = [line for line in logs if line["event"].startswith("cannot report to the reaper")]
    assert line["reason"] == "away"


async def test_a_replica_on_sockets_of_the_service_manager_answers_what_it_has_read_before_it_stops(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, WWW) as made:
        await made.reaper.answer(Done())
        made.sockets.is_inherited = True
        made.ask("www.jitsu.test")
        stopping = made.world.spawn(made.world.stop())
        await settled()
        assert not made.sockets.is_reading
        assert made.reaper.waiting == [], "it still has a query to answer"
        await made.vmd.answer(Summoned())
        assert len(made.answered()) == 1
        while not stopping.done():
            await made.reaper.answer(Done())


# --- settings and surroundings ---


async def test_settings_that_change_while_it_runs_limit_who_may_start_vms(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        flags = {"dns.forward": "off", "dns.summon_for": "198.51.100.0/24", "bus.runtime_dir": str(tmp_path)}
        made.world.on_reload(load(None, {}, flags))
        made.ask("www.jitsu.test")
        (answer,) = made.answered()
        assert (answer.rcode(), "may not start" in reason_in(answer)) == (dns.rcode.REFUSED, True)


async def test_the_name_server_of_a_zone_has_the_addresses_that_the_host_has_now(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW, address="0.0.0.0", settings={"dns.zones": "jitsu.test"}) as made:
        for text in ("192.0.2.7", "192.0.2.8"):
            made.sockets.own = [OwnAddress(ip_interface(f"{text}/24"))]
            made.sockets.changed.set()
            await settled()
            made.ask("ns.jitsu.test")
            assert [address_in(message) for message in made.answered()] == [text]


async def test_an_operator_who_has_set_no_zones_is_shown_the_line_that_keeps_those_of_earlier_versions(
    tmp_path: Path,
) -> None:
    with capture_logs() as logs:
        async with serving(tmp_path, WWW) as made:
            made.replica.log_what_changed()
    assert [line["like"] for line in logs if "like" in line] == ['zones = ["jitsu.test"]']


# --- names of others, and secondaries ---


async def test_a_name_of_others_is_asked_of_another_server_and_again_of_the_next(tmp_path: Path) -> None:
    forward = {"dns.forward": "192.0.2.54,192.0.2.55", "dns.forward_for": "192.0.2.0/24"}
    async with serving(tmp_path, WWW, settings=forward) as made:
        made.ask("www.example.org")
        ((first, server, _, tcp),) = made.sockets.asked
        assert (server, tcp) == (("192.0.2.54", 53), False)
        made.sockets.fail(first, "Connection refused")
        (_, (second, server, data, _)) = made.sockets.asked
        assert (server, made.sockets.forgotten) == (("192.0.2.55", 53), [first])
        reply = dns.message.make_response(dns.message.from_wire(data), recursion_available=True)
        made.sockets.respond(second, reply.to_wire())
        assert [message.rcode() for message in made.answered()] == [dns.rcode.NOERROR]


async def test_a_server_that_this_host_has_become_is_not_asked_any_more(tmp_path: Path) -> None:
    forward = {"dns.forward": "192.0.2.54", "dns.forward_for": "192.0.2.0/24"}
    async with serving(tmp_path, WWW, address="0.0.0.0", settings=forward) as made:
        made.sockets.own = [OwnAddress(ip_interface("192.0.2.54/24"))]
        made.world.on_hangup()
        made.ask("www.example.org")
        (answer,) = made.answered()
        assert "there is no server to forward to" in reason_in(answer)


async def test_secondaries_are_notified_and_may_transfer_the_zone(tmp_path: Path) -> None:
    settings = {"dns.secondaries": "192.0.2.53", "dns.zones": "jitsu.test"}
    async with serving(tmp_path, WWW, settings=settings) as made:
        made.world.time.advance(GATHER_S)
        ((server, data),) = made.sockets.notified
        assert (server, dns.message.from_wire(data).opcode()) == (SECONDARY, dns.opcode.NOTIFY)
        made.sockets.acknowledge(SECONDARY, data[:2] + b"\xa4" + data[3:])
        made.world.time.advance(60.0)
        assert len(made.sockets.notified) == 1
        transfer = dns.message.make_query("jitsu.test", "AXFR").to_wire()
        made.sockets.query(transfer, SECONDARY, udp=False)
        (message,) = made.answered()
        assert any(rrset.name.to_text() == "www.jitsu.test." for rrset in message.answer)


async def test_a_secondary_that_never_answers_is_logged(tmp_path: Path) -> None:
    settings = {"dns.secondaries": "192.0.2.53", "dns.zones": "jitsu.test"}
    with capture_logs() as logs:
        async with serving(tmp_path, WWW, settings=settings) as made:
            made.world.time.advance(300.0)
    assert any("did not acknowledge a NOTIFY" in line["event"] for line in logs)


# --- what the store says ---


def of(*vms: object) -> dict[str, str]:
    return {path: value for vm in vms for path, value in to_tree(vm).items()}  # type: ignore[arg-type]


async def test_a_change_in_the_store_is_served_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, WWW) as made:
        await ready(made)
        made.ask("other.jitsu.test")
        made.commit(of(OTHER), 8)
        made.ask("other.jitsu.test", id=2)
        (answer,) = made.answered()
        assert answer.id == 1, "the second one waits for the VM"
        made.commit(dict.fromkeys(of(OTHER)), 9)
        (answer,) = made.answered()
        assert "no longer configured" in reason_in(answer)


async def test_a_store_that_says_nothing_yet_lets_queries_wait_and_then_fail(tmp_path: Path) -> None:
    async with serving(tmp_path, learns=False) as made:
        await settled()
        made.ask("www.jitsu.test")
        assert made.answered() == []
        made.world.time.advance(2.0)
        (answer,) = made.answered()
        assert "does not know all names yet" in reason_in(answer)


async def kept_by_an_earlier_run(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "SAVE_AFTER_S", 0.0)
    async with serving(directory, WWW, OTHER) as made:
        await settled()
        assert made.replica.names.completed.is_set()


async def test_a_replica_that_is_started_again_answers_from_its_file_when_the_store_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept_by_an_earlier_run(tmp_path, monkeypatch)
    async with serving(tmp_path, learns=False, settings={"dns.zones": "jitsu.test"}) as made:
        await settled()
        await ready(made)
        made.ask("www.jitsu.test")
        assert made.answered() == []
        made.world.time.advance(TRUST_S)
        assert [address_in(message) for message in made.answered()] == ["127.0.1.1"]
        made.sockets.query(dns.message.make_query("www.jitsu.test", "AAAA").to_wire())
        (answer,) = made.answered()
        assert answer.authority[0][0].serial == 7, "that of the file, not 0"


async def test_a_store_that_has_what_the_file_has_is_asked_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept_by_an_earlier_run(tmp_path, monkeypatch)
    async with serving(tmp_path, learns=False) as made:
        await settled()
        head = await made.store.answer(Leaves(leaves={}, commit="c1", epoch="e", number=3, serial=7))
        assert head == List(prefix=VM_ROOT, topic="vm", limit=1)
        await made.world.followed["store vm"].synced.wait()
        made.ask("nobody.jitsu.test")
        assert [message.rcode() for message in made.answered()] == [dns.rcode.REFUSED]


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_store_that_has_something_else_is_asked_for_the_changes_or_else_for_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    await kept_by_an_earlier_run(tmp_path, monkeypatch)
    async with serving(tmp_path, learns=False) as made:
        await settled()
        await made.store.answer(Leaves(leaves={}, commit="c2", epoch="e", number=3, serial=8))
        gone = [Change(path=path, value=None) for path in of(OTHER)]
        commit = CommitChanges(commit=Commit(id="c2", author="", message="", ts=1.0), changes=gone)
        changes = ChangesList(commits=[commit], upto="c2", more=False)
        asked = await made.store.answer(changes if is_known else JitsuError("no such commit"))
        assert (type(asked), asked.since) == (ChangesSince, "c1")
        if not is_known:
            first = Leaves(leaves={}, commit="c2", epoch="e", number=3, serial=8, upto="x")
            await made.store.answer(first)
            await made.store.answer(Leaves(leaves=of(WWW), commit="c2", epoch="e", number=3, serial=8))
        await made.world.followed["store vm"].synced.wait()
        made.ask("other.jitsu.test")
        assert [message.rcode() for message in made.answered()] == [dns.rcode.REFUSED]


async def test_many_vms_are_made_between_queries(tmp_path: Path) -> None:
    vms = [make_vm(f"n{n}", f"127.9.0.{n + 1}") for n in range(100)]
    async with serving(tmp_path, *vms) as made:
        await settled()
        assert made.replica.names.completed.is_set()
        made.ask("n99.jitsu.test")
        assert isinstance(await made.vmd.answer(Summoned()), Summon)
