"""What Synjitsu holds, and the traffic that keeps VMs up, on a simulated suite."""

from __future__ import annotations

import pytest

from tests.simulation.suite import SimulatedSuite, lan_vm

IDLE = {"ttl": 1, "idle_timeout": 2}


def test_g4_a_connection_attempt_before_the_guest_is_there_reaches_it_once() -> None:
    with SimulatedSuite([lan_vm("www", 10, ttl=30)], synjitsu=True) as suite:
        assert suite.ask("www").addresses == ["10.77.0.10"]
        client = suite.connect("www")
        suite.run(2.0)
        assert client.connected_at is not None
        assert suite.syns("www") >= 1
        assert suite.state("www") == "ready"


def test_g3_an_open_but_silent_connection_keeps_a_vm_up_and_without_it_it_stops() -> None:
    with SimulatedSuite([lan_vm("www", 10, **IDLE)], synjitsu=True) as suite:
        suite.ask("www")
        client = suite.connect("www")
        suite.run(60.0)
        assert client.connected_at is not None
        assert suite.guest_runs("www")
        client.close()
        closed_at = suite.simulation.now
        suite.run_until(lambda: not suite.guest_runs("www"), 90.0, "the VM is stopped")
        assert suite.simulation.now - closed_at > 1.9, "not before its idle_timeout"


def test_g7_synjitsu_dies_and_a_silent_connection_still_keeps_the_vm_up() -> None:
    with SimulatedSuite([lan_vm("www", 10, **IDLE)], synjitsu=True) as suite:
        suite.ask("www")
        client = suite.connect("www")
        suite.run(3.0)
        for away_s in (0.0, 20.0):
            suite.kill("synjitsu")
            suite.run(away_s)
            suite.start("synjitsu")
            suite.run(30.0)
            assert suite.guest_runs("www")
        client.close()
        suite.run_until(lambda: not suite.guest_runs("www"), 90.0, "the VM is stopped")


def test_g8_while_synjitsu_is_silent_nothing_is_stopped() -> None:
    with SimulatedSuite([lan_vm("www", 10, **IDLE)], synjitsu=True) as suite:
        suite.ask("www")
        suite.run(1.5)
        suite.suspend(30.0, "synjitsu")
        suite.run(29.0)
        assert suite.guest_runs("www")
        assert "stops nothing: synjitsu is silent, and a client may be connected" in suite.notes("reaper")
        suite.run_until(lambda: not suite.guest_runs("www"), 30.0, "the VM is stopped")


@pytest.mark.parametrize("seed", range(3))
def test_g7_a_synjitsu_that_dies_costs_what_it_kept_and_no_more(seed: int) -> None:
    with SimulatedSuite([lan_vm("www", 10, ttl=30)], synjitsu=True, seed=seed) as suite:
        suite.ask("www")
        client = suite.connect("www")
        suite.run(0.05)
        suite.restart("synjitsu")
        suite.run(8.0)
        assert client.connected_at is not None, "its client sends the SYN again"
        assert suite.boots("www") == 1
        assert suite.state("www") == "ready"
