"""`jitsu why` in made-up situations, each with the exact text."""

from __future__ import annotations

import pytest

from jitsu_protocol.messages import Connected, Peer
from jitsu_protocol.model.errors import NotFound
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.drain import DrainEnded
from jitsu_reaper.rules.why_text import spoken
from tests.support.vms import make_vm
from tests.support.why import NAME, TOKEN, WALL, Situation, boot, stop


def test_nothing_is_known_of_a_vm_that_there_is_not() -> None:
    with pytest.raises(NotFound, match="nothing is known of a VM 'x'"):
        Situation().reaper.recorder.why("x", 1000.0, WALL)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0, "0 s"), (0.4, "0.4 s"), (59, "59 s"), (60, "1 min"), (250, "4 min 10 s"), (7500, "2 h 5 min")],
        *[(86400, "1 day"), (2 * 86400 + 3600, "2 days 1 h"), (-3, "0 s")],
    ],
)
def test_a_time_span_has_two_units_at_most(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


# --- why it booted: one situation for each trigger ---


@pytest.mark.parametrize("reported_first", [False, True])
def test_1_a_query_woke_it_in_whatever_order_that_is_heard(reported_first: bool) -> None:
    made = Situation()
    if reported_first:
        made.asked(30.25, token=TOKEN)
    made.ready(30.0)
    if not reported_first:
        made.asked(30.25, token=TOKEN)
    assert made.why().why_booted == (
        "www booted 30 s ago, because a client in 192.0.2.0/24 asked for www.jitsu.test A (dns-0). "
        "It was ready 250 ms later."
    )


def test_2_a_query_woke_it_and_its_replica_died_before_it_said_whose() -> None:
    made = Situation()
    made.ready(30.0)
    assert made.why().why_booted == (
        "www booted 30 s ago, because somebody asked for its name (dns-0), and the client is not recorded. "
        "It was ready 250 ms later."
    )


def test_3_a_packet_woke_it() -> None:
    made = Situation()
    made.ready(30.0, boot=boot(30.25, trigger="traffic", by="synjitsu#9-1"))
    made.asked(30.25, "packet", "tcp/22", token="synjitsu#9-1", replica="synjitsu", service="synjitsu", host="")
    assert made.why().why_booted == (
        "www booted 30 s ago, because a client in 192.0.2.0/24 sent a packet to tcp/22 (synjitsu). "
        "It was ready 250 ms later."
    )


def test_4_a_magic_packet_of_a_client_that_is_not_recorded_woke_it() -> None:
    made = Situation()
    made.ready(30.0, boot=boot(30.25, trigger="traffic", by="s#9-1"))
    made.asked(30.25, "magic packet", "udp/9", token="s#9-1", client="", replica="s", service="synjitsu", host="")
    assert made.why().why_booted == (
        "www booted 30 s ago, because a client sent a magic packet for it (s). It was ready 250 ms later."
    )


def test_5_an_operator_started_it() -> None:
    made = Situation()
    made.ready(30.0, boot=boot(30.25, trigger="operator", by="operator:alice via web"))
    assert made.why().why_booted == (
        "www booted 30 s ago, because operator:alice via web started it. It was ready 250 ms later."
    )


def test_6_it_was_found_running() -> None:
    made = Situation()
    made.state(VmState.READY, 30.0, up_s=7200.0)
    assert made.why().why_booted == ("www was found running. Jitsu did not start it, and it has run since 2 h ago.")


def test_7_a_boot_that_failed() -> None:
    made = Situation()
    failed = stop("failed", 3.0, note="no memory", begun_mono=6.0)
    made.state(VmState.FAILED, 3.0, boot=boot(4.0, took_s=None), stop=failed, last_error="no memory", retry_after_s=7.0)
    made.asked(4.0, token=TOKEN)
    why = made.why()
    assert why.why_booted == (
        "www tried to boot 4 s ago, because a client in 192.0.2.0/24 asked for www.jitsu.test A (dns-0). "
        "That boot failed: no memory."
    )
    assert why.why_up == "www has been failed for 3 s. No memory."
    assert why.when_stops == "It does not run. A query can start it again in 7 s."
    assert [(each.what, each.outcome) for each in why.events] == [("boot", "failed: no memory")]


# --- why it stays up ---


def test_8_an_answer_is_within_its_ttl_and_it_was_used() -> None:
    made = Situation()
    made.ready(400.0)
    made.used(20.0)
    made.asked(20.0)
    why = made.why()
    assert why.why_up == (
        "www has been ready for 6 min 40 s. It stays up because an answer that was given for it is "
        "valid for 40 s more; "
        "it was used 20 s ago, and it may be idle for 5 min. The client noticed last was a client in 192.0.2.0/24, "
        "20 s ago: a query, www.jitsu.test A (dns-0)."
    )
    assert why.when_stops == "It stops in 4 min 40 s unless it is used."
    assert why.stops_ts == WALL + 1000.0 + 280.0
    assert [reason.kind for reason in why.reasons] == ["answers", "used"]


def test_9_an_answer_with_a_ttl_that_was_lowered_since_keeps_it_up_longest() -> None:
    made = Situation()
    made.ready(4000.0)
    made.used(301.0, ttl=3600)
    why = made.why()
    assert why.why_up == (
        "www has been ready for 1 h 6 min. It stays up because an answer that was given for it is valid for "
        "54 min 59 s more."
    )
    assert why.when_stops == "It stops in 54 min 59 s unless it is used."


def test_10_clients_are_connected() -> None:
    made = Situation()
    made.ready(400.0)
    peers = [Peer("10.0.0.0/24", "tcp/22", 1), Peer("192.0.2.0/24", "tcp/80", 2)]
    made.connected(Connected(made.vm.uuid, 3, False, peers))
    why = made.why()
    assert why.why_up == (
        "www has been ready for 6 min 40 s. It stays up because 3 connections are open: from 10.0.0.0/24 to tcp/22 and "
        "from 192.0.2.0/24 to tcp/80; it was used 0 s ago, and it may be idle for 5 min."
    )
    assert why.when_stops == "It stops 5 min after the last packet to it or the end of its last connection."
    assert why.stops_ts is None
    assert (why.connections_open, len(why.connections)) == (3, 2)


def test_11_connections_may_be_open_that_nobody_saw() -> None:
    made = Situation()
    made.ready(400.0)
    made.connected(Connected(made.vm.uuid, 0, True, []))
    assert made.why().why_up == (
        "www has been ready for 6 min 40 s. It stays up because clients may be connected to it, because Synjitsu did "
        "not see all of its connections begin; it was used 0 s ago, and it may be idle for 5 min."
    )


def test_12_it_is_held() -> None:
    made = Situation()
    made.ready(4000.0, hold="held by operator:alice: new disk")
    why = made.why()
    assert why.why_up == (
        "www has been ready for 1 h 6 min. It stays up because it is held by operator:alice: new disk."
    )
    assert why.when_stops == "It does not stop by itself while it is held."


def test_13_it_is_kept_up() -> None:
    made = Situation()
    made.ready(4000.0, kept="kept up until 2026-11-28 21:00:00 UTC by operator:alice: demo")
    why = made.why()
    assert why.why_up == (
        "www has been ready for 1 h 6 min. It stays up because it is kept up until 2026-11-28 21:00:00 UTC by "
        "operator:alice: demo."
    )
    assert why.when_stops == "It does not stop as long as it is kept up."


def test_14_g8_a_dns_replica_is_silent() -> None:
    made = Situation()
    for second in range(1001, 1011):
        made.now = float(second)
        made.reaper.tick(made.now)
    made.ready(4000.0)
    why = made.why()
    assert why.why_up == (
        "www has been ready for 1 h 6 min. It stays up because the reaper does not know enough to stop anything: dns "
        "replica dns-0 is silent and may still answer; dns-0 was not heard 0 s ago, so that it counts as used then, "
        "and it may be idle for 5 min."
    )
    assert why.when_stops == (
        "It does not stop before the reaper hears what it needs, or its lease is over in 4 min 50 s."
    )


@pytest.mark.parametrize(
    ("store", "vmds", "why"), [(False, {"": True}, "the store is silent"), (True, {"": False}, "vmd is silent")]
)
def test_15_g8_the_store_or_vmd_is_silent(store: bool, vmds: dict[str, bool], why: str) -> None:
    made = Situation()
    made.ready(4000.0)
    made.ears.store, made.ears.vmds = store, vmds
    assert made.why().why_up == (
        f"www has been ready for 1 h 6 min. It stays up because the reaper does not know enough to "
        f"stop anything: {why}."
    )


def test_16_g8_no_replica_has_reported_yet() -> None:
    made = Situation(dns=False)
    made.ready(4000.0)
    why = made.why()
    assert why.why_up == (
        "www has been ready for 1 h 6 min. It stays up because the reaper does not know enough to stop anything: no "
        "dns replica has reported yet."
    )
    assert why.when_stops == "It does not stop before the reaper hears what it needs."


def test_17_a_replica_was_started_again() -> None:
    made = Situation()
    made.ready(4000.0)
    made.report(instance="another")
    made.now += 1.0
    why = made.why()
    assert why.why_up == (
        "www has been ready for 1 h 6 min. It stays up because dns-0 was started again 1.0 s ago, so that it counts as "
        "used then, and it may be idle for 5 min."
    )
    assert why.when_stops == "It stops in 4 min 59 s unless it is used."


def test_18_a_stop_came_to_nothing() -> None:
    made = Situation()
    made.ready(4000.0)
    made.reaper.tick(made.now)
    made.reaper.handle(DrainEnded(made.vm.uuid, "www is not idle: it was summoned 0.5 s ago"), made.now)
    why = made.why()
    assert why.why_up == (
        "www has been ready for 1 h 6 min. It stays up because a stop came to nothing (www is not "
        "idle: it was summoned "
        "0.5 s ago), and it is tried again in 5 s."
    )
    assert why.when_stops == "It stops in 5 s unless it is used."


def test_19_it_drains() -> None:
    made = Situation()
    made.ready(4000.0)
    made.reaper.tick(made.now)
    made.state(VmState.DRAINING, 0.1, boot=boot(4000.0), drain="d1")
    why = made.why()
    assert why.why_up == (
        "www has been draining for 0.1 s. It stays up because it is being drained at this moment, "
        "and a use still saves it."
    )
    assert why.when_stops == "It stops now unless it is used."


def test_20_it_still_boots() -> None:
    made = Situation()
    made.state(VmState.BOOTING, 3.0, boot=boot(3.0, took_s=None))
    why = made.why()
    assert why.why_up == (
        "www has been booting for 3 s. It stays up because it still boots, and only a VM that is "
        "ready is stopped when idle."
    )
    assert why.when_stops == "It stops once it is ready and has not been used for 5 min."


def test_21_it_may_have_to_give_way_to_another() -> None:
    made = Situation(make_vm(ttl="60", idle_timeout="300", evict="true"))
    made.ready(400.0)
    made.used(20.0)
    assert made.why().when_stops == (
        "It stops in 4 min 40 s unless it is used. It gives way earlier if another VM needs room, "
        "1 min after its last use."
    )


def test_24_its_schedule_started_it_and_keeps_it_up() -> None:
    made = Situation()
    awake = "awake until Fri 2026-11-27 18:00 CET, by its schedule"
    made.ready(9.75, boot=boot(10.0, trigger="schedule", by=""), kept=awake)
    why = made.why()
    assert why.why_booted == "www booted 10 s ago, because its schedule has it awake (vmd). It was ready 250 ms later."
    assert f"It stays up because it is {awake}" in why.why_up


def test_25_it_is_asleep() -> None:
    made = Situation()
    asleep = "asleep until Mon 2026-11-30 08:00 CET, by its schedule"
    made.state(VmState.OFF, 9.0, asleep=asleep)
    assert made.why().when_stops == f"It does not run, and no query starts it: it is {asleep}."


# --- why it stopped ---


@pytest.mark.parametrize(
    ("fact", "text"),
    [
        (stop("idle", 9.0), "The reaper stopped it because it was idle."),
        (stop("operator", 9.0, by="operator:bob"), "It was stopped by operator:bob."),
        (stop("changed", 9.0, note="memory is 64 MiB now"), "Vmd stopped it because its configuration has changed: "),
        (stop("removed", 9.0), "Vmd stopped it because it is no longer configured."),
        (stop("ended", 9.0), "It ended by itself, or somebody stopped it without Jitsu."),
        (stop("crashed", 9.0, note="kernel panic"), "It crashed: kernel panic."),
        (None, "Why it stopped is not recorded."),
    ],
)
def test_22_each_reason_to_stop(fact: object, text: str) -> None:
    made = Situation()
    made.ready(400.0)
    made.state(VmState.OFF, 9.0, boot=boot(400.0) if fact else None, stop=fact)
    why = made.why()
    said = text[0].upper() + text[1:]
    assert why.why_up.startswith(f"www has been off for 9 s. {said}")
    assert why.when_stops == "It does not run. The next query for its name starts it."
    assert [each.what for each in why.events] == ["stop", "boot"]
    assert (why.reasons, why.stops_ts) == ([], None)


@pytest.mark.parametrize(("room", "text"), [(False, "it was idle"), (True, "to make room for another VM")])
def test_23_the_reaper_says_for_what_it_stopped_a_vm(room: bool, text: str) -> None:
    made = Situation()
    made.ready(4000.0)
    made.recorded.decided(made.vm.uuid, "room" if room else "idle", "unused for 5 min")
    made.state(VmState.STOPPING, 0.5, boot=boot(4000.0), stop=stop("idle", 0.5, took_s=None))
    made.state(VmState.OFF, 0.0, boot=boot(4000.0), stop=stop("idle", 0.5))
    why = made.why()
    assert f"{text}: unused for 5 min" in why.why_up
    latest = why.events[0]
    assert (latest.cause, latest.decided_by, latest.took_s) == ("room" if room else "idle", "the reaper", 0.5)


def test_the_name_of_a_client_stays_out_of_it_if_none_is_recorded() -> None:
    made = Situation()
    made.asked(30.25, token=TOKEN, client="")
    made.ready(30.0)
    assert f"because a client asked for {NAME} A (dns-0)" in made.why().why_booted


def test_ages_go_on_after_vmd_has_published_them() -> None:
    made = Situation()
    made.state(VmState.FAILED, 3.0, last_error="no memory", retry_after_s=7.0)
    made.now += 4.0
    why = made.why()
    assert (why.why_up, why.when_stops) == (
        "www has been failed for 7 s. No memory.",
        "It does not run. A query can start it again in 3 s.",
    )
    made.now += 4.0
    assert made.why().when_stops == "It does not run. The next query for its name starts it."
