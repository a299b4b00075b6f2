"""The guarantees that take time, held to on a simulated suite (docs/explanation/design.md)."""

from __future__ import annotations

import pytest

from jitsu_protocol.messages import History, Log
from jitsu_protocol.model.errors import JitsuError
from tests.simulation.suite import SimulatedSuite, vm

SERVICES = ("store", "vmd", "reaper")


def test_a_vm_is_started_by_a_query_and_stopped_when_it_is_idle() -> None:
    with SimulatedSuite([vm("www", ttl=10)]) as suite:
        asked = suite.ask("www")
        assert asked.addresses == [str(suite.vm("www").addresses[0])]
        assert suite.guest_runs("www")
        suite.run(19.0)
        assert suite.guest_runs("www"), "its idle_timeout is twice its TTL"
        suite.run(3.0)
        assert not suite.guest_runs("www")
        assert suite.state("www") == "off"


def test_g1_queries_at_the_same_time_over_four_replicas_make_one_start() -> None:
    with SimulatedSuite([vm("www", ttl=30, response_delay=0.2)], replicas=4) as suite:
        asked = [suite.query("www", f"dns-{n % 4}") for n in range(200)]
        suite.run(2.0)
        assert {each.rcode for each in asked} == {"NOERROR"}
        assert suite.boots("www") == 1


def test_g3_a_vm_that_is_asked_for_is_not_stopped() -> None:
    with SimulatedSuite([vm("busy", ttl=1), vm("idle", ttl=1)]) as suite:
        suite.ask("idle")
        for _ in range(60):
            assert suite.ask("busy").rcode == "NOERROR"
            suite.run(0.5)
        assert not suite.guest_runs("idle")
        assert suite.stops("busy") == []
        assert suite.boots("busy") == 1


def test_g3_what_was_answered_with_a_longer_ttl_than_now_is_waited_for() -> None:
    with SimulatedSuite([vm("www", ttl=60, idle_timeout=60)]) as suite:
        suite.ask("www")
        suite.run(1.0)
        assert suite.ask("www").ttl == 60
        suite.configure(vm("www", ttl=1, idle_timeout=2))
        suite.run(55.0)
        assert suite.guest_runs("www")
        suite.run(10.0)
        assert not suite.guest_runs("www")


def test_g3_nothing_that_was_answered_within_its_ttl_makes_room_for_another() -> None:
    keys = {"ttl": 5, "idle_timeout": 3600, "evict": True}
    vms = [vm(name, **keys) for name in ("a", "b", "c")]
    with SimulatedSuite(vms, settings={"hypervisor.max_running": "2"}) as suite:
        for name in ("a", "b"):
            assert suite.ask(name).rcode == "NOERROR"
        refused = suite.ask("c")
        assert refused.rcode == "SERVFAIL"
        assert b"c waits for room: 2 VMs are running (hypervisor.max_running)" in refused.data
        assert refused.seconds < 1.3
        assert [suite.state(name) for name in ("a", "b", "c")] == ["ready", "ready", "off"]
        assert suite.statuses()["c"].wants_room
        suite.run_until(lambda: suite.guest_runs("c"), 12.0, "c is started all the same, once there is room")
        suite.run(0.1)
        assert [suite.state(name) for name in ("a", "b")] == ["off", "ready"]


@pytest.mark.parametrize("seed", range(3))
def test_g7_each_process_is_killed_in_turn_while_queries_go_on(seed: int) -> None:
    with SimulatedSuite([vm("www", ttl=60), vm("cold", ttl=60)], seed=seed) as suite:
        assert suite.ask("www").rcode == "NOERROR"
        suite.run(1.5)
        for service in SERVICES:
            suite.kill(service)
            for _ in range(40):
                assert suite.ask("www", limit_s=0.1).rcode == "NOERROR", f"while {service} is away"
                suite.run(0.05)
            suite.start(service)
            for _ in range(40):
                assert suite.ask("www", limit_s=0.1).rcode == "NOERROR", f"while {service} comes back"
                suite.run(0.05)
            assert suite.is_ready(service)
        suite.restart("dns-0")
        suite.run(1.0)
        assert suite.ask("www").rcode == "NOERROR"
        assert suite.state("www") == "ready"
        assert suite.boots("www") == 1
        assert suite.ask("cold").rcode == "NOERROR"
        assert suite.boots("cold") == 1


def test_g7_a_replica_that_is_cut_off_answers_for_its_lease_and_is_right_when_the_link_is_back() -> None:
    with SimulatedSuite([vm("www", ttl=1, idle_timeout=60)], settings={"dns.lease": "2"}) as suite:
        suite.ask("www")
        suite.run(1.0)
        for service in SERVICES:
            suite.simulation.network.cut("dns-0", service)
        begun = suite.simulation.now
        lost = suite.ask_until("www", "SERVFAIL", 6.0)
        assert 0.5 < lost.at - begun < 2.1, "it answered for its lease"
        assert lost.ttl is None
        suite.simulation.network.heal()
        healed_at = suite.simulation.now
        suite.ask_until("www", "NOERROR", 5.0)
        suite.run(1.0)
        assert suite.simulation.now - healed_at < 7.0
        assert suite.boots("www") == 1


def test_g7_a_suite_that_was_suspended_judges_nobody_by_that() -> None:
    vms = [vm("www", ttl=30, response_delay=3.5, max_wait=4, boot_limit=60)]
    with SimulatedSuite(vms, seed=2) as suite:
        asked = suite.query("www")
        suite.run(0.5)
        assert suite.state("www") == "booting"
        suite.suspend(3.0, "store", "vmd", "dns-0", "reaper")
        suite.run(4.0)
        assert asked.rcode == "NOERROR"
        assert suite.boots("www") == 1


def test_a_vmd_that_was_suspended_for_longer_than_a_boot_may_take_fails_none() -> None:
    with SimulatedSuite([vm("www", response_delay=1, max_wait=0.1, boot_limit=2, idle_timeout=60, ttl=10)]) as suite:
        suite.ask("www")
        suite.suspend(4.0, "vmd")
        suite.run(8.0)
        status = suite.statuses()["www"]
        assert (str(status.state), status.last_error) == ("ready", "")
        assert suite.boots("www") == 1


def test_g7_vmd_is_killed_at_any_moment_of_a_start_and_the_vm_is_started_once() -> None:
    for seed in range(20):
        with SimulatedSuite([vm("www", ttl=30)], seed=seed) as suite:
            suite.query("www")
            suite.run(0.002 * seed)
            suite.restart("vmd")
            suite.run(1.0)
            suite.ask_until("www", "NOERROR", 5.0)
            assert suite.boots("www") == 1


def test_g8_a_reaper_that_does_not_hear_the_replica_stops_nothing() -> None:
    with SimulatedSuite([vm("www", ttl=1)]) as suite:
        suite.ask("www")
        suite.suspend(60.0, "dns-0")
        suite.run(59.0)
        assert suite.guest_runs("www")
        assert any("silent" in note for note in suite.notes("reaper"))
        suite.run(10.0)
        assert not suite.guest_runs("www")


@pytest.mark.parametrize("service", ["store", "vmd"])
def test_g8_a_reaper_that_does_not_hear_the_store_or_vmd_stops_nothing(service: str) -> None:
    with SimulatedSuite([vm("www", ttl=5)]) as suite:
        suite.ask("www")
        suite.run(5.0)
        suite.simulation.network.cut("reaper", service)
        suite.run(30.0)
        assert suite.guest_runs("www")
        assert f"stops nothing: {'the ' if service == 'store' else ''}{service} is silent" in suite.notes("reaper")
        suite.simulation.network.heal()
        suite.run(10.0)
        assert not suite.guest_runs("www")


def test_g8_a_reaper_that_is_back_counts_everything_as_used() -> None:
    with SimulatedSuite([vm("www", ttl=10)]) as suite:
        suite.ask("www")
        suite.run(18.0)
        suite.restart("reaper")
        suite.run(19.0)
        assert suite.guest_runs("www")
        suite.run(8.0)
        assert not suite.guest_runs("www")


def test_g8_a_replica_that_died_stands_in_the_way_until_its_lease_is_over() -> None:
    with SimulatedSuite([vm("www", ttl=1, idle_timeout=2)]) as suite:
        suite.add_replica("extra", lease="8")
        suite.start("extra")
        suite.run_until(lambda: suite.is_ready("extra"), 5.0)
        suite.run(1.5)
        suite.kill("extra")
        suite.ask("www")
        suite.run(6.0)
        assert "stops nothing: dns replica extra is silent and may still answer" in suite.notes("reaper")
        assert suite.guest_runs("www")
        suite.run(8.0)
        assert not suite.guest_runs("www")
        messages = [commit.message.split("\n")[0] for commit in suite.call("store", Log(), History).commits]
        assert "Replica extra gone: its lease has run out" in messages
        suite.restart("reaper")
        suite.run(3.0)
        assert not any("extra" in note for note in suite.notes("reaper")), "and the next reaper does not wait for it"


def test_g7_g8_a_host_that_is_not_heard_keeps_its_vms_and_delays_no_other() -> None:
    vms = [
        vm("near", ttl=1, idle_timeout=2),
        vm("far", ttl=1, host="beta", idle_timeout=4),
        vm("later", ttl=1, host="beta", idle_timeout=60),
    ]
    with SimulatedSuite(vms, hosts=("", "beta")) as suite:
        for name in ("near", "far"):
            assert suite.ask(name).rcode == "NOERROR"
        suite.run(0.1)
        suite.kill("vmd-beta")
        assert suite.ask("far").rcode == "NOERROR", "it runs, and is answered warm"
        assert suite.ask("later").rcode == "SERVFAIL"
        suite.run(10.0)
        assert not suite.guest_runs("near")
        assert suite.guest_runs("far")
        assert "stops nothing on beta: its vmd is silent" in suite.notes("reaper")
        suite.start("vmd-beta")
        suite.run(1.0)
        assert suite.boots("far") == 1, "found running, not started again"
        suite.run(10.0)
        assert not suite.guest_runs("far")
        assert suite.ask("later").rcode == "NOERROR"


def test_g5_what_was_acknowledged_survives_kill_9_of_everything() -> None:
    with SimulatedSuite([vm("www", ttl=30)]) as suite:
        suite.configure(vm("www", ttl=7))
        for name in ("store", "vmd", "dns-0", "reaper"):
            suite.kill(name)
        for name in ("store", "vmd", "dns-0", "reaper"):
            suite.start(name)
        suite.run(3.0)
        suite.ask("www")
        suite.run(1.0)
        assert suite.ask("www").ttl == 7


def test_an_owner_that_is_away_is_an_error_of_the_call() -> None:
    with SimulatedSuite([vm("www", ttl=30)]) as suite:
        suite.kill("store")
        with pytest.raises(JitsuError):
            suite.configure(vm("www", ttl=7))
