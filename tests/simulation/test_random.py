"""A suite to which anything may happen: processes die, are suspended, cut off from each other and started again.

`make simulate SEEDS=1000` tries more seeds, `make simulate SEED=17` one again. At every moment G1 and G3 hold; at the
end, when everything is up and heard, each VM is answered as its guest is (G7), and those that nobody asks for stop.
"""

from __future__ import annotations

import os
from random import Random

import pytest

from jitsu_protocol.model.states import VmState
from tests.simulation.suite import SimulatedSuite, vm
from tests.support.examples import ALL

FIRST_SEED = int(os.environ.get("JITSU_SIMULATION_SEED", "0"))
SEEDS = int(os.environ.get("JITSU_SIMULATION_SEEDS", "0")) or (100 if ALL else 3)
EVENTS = 60
NAMES = ("a", "b", "c", "d")
PROCESSES = ("store", "vmd", "dns-0", "dns-1", "reaper")
REPLICAS = ("dns-0", "dns-1")
PAIRS = tuple((one, other) for n, one in enumerate(PROCESSES) for other in PROCESSES[n + 1 :])
MAX_WAIT_S = 1.2
SERVING = {VmState.READY, VmState.DRAINING}


class Course:
    """One course of events, by its seed."""

    def __init__(self, suite: SimulatedSuite) -> None:
        self.suite = suite
        self.chance = Random(f"{suite.seed} course")

    def run(self) -> None:
        """Let anything happen for a while, then heal everything and see that all is well."""
        for _ in range(EVENTS):
            self.event()
            self.suite.run(self.chance.choice((0.003, 0.05, 0.4, 2.0)))
        self.heal()
        self.see_that_all_is_well()

    def event(self) -> None:
        """Let one thing happen."""
        chance, suite = self.chance, self.suite
        kind = chance.random()
        process = chance.choice(PROCESSES)
        if kind < 0.40:
            suite.query(chance.choice(NAMES), chance.choice(REPLICAS))
        elif kind < 0.55:
            self.ask_when_it_is_about_to_stop(chance.choice(NAMES))
        elif kind < 0.67:
            if suite.runs(process):
                suite.kill(process)
        elif kind < 0.77:
            self.start_all()
        elif kind < 0.85:
            suite.suspend(chance.choice((0.1, 1.0, 3.0, 8.0)), process)
        elif kind < 0.90:
            suite.simulation.network.cut(*chance.choice(PAIRS))
        elif kind < 0.94:
            suite.simulation.network.heal()
        elif kind < 0.96:
            suite.simulation.network.loss = chance.choice((0.01, 0.2))
        elif kind < 0.97:
            suite.simulation.network.reorders = True
        elif kind < 0.985:
            suite.simulation.network.delay_s = (0.0005, chance.choice((0.02, 0.3)))
        else:
            suite.guests[""].die(suite.vm(chance.choice(NAMES)))

    def ask_when_it_is_about_to_stop(self, name: str) -> None:
        """Ask several times around the moment at which a VM becomes idle: just then it is drained."""
        suite, chance = self.suite, self.chance
        idle_at = suite.answered_at.get(name, 0.0) + suite.vm(name).idle_timeout
        suite.run(max(0.0, idle_at - suite.simulation.now + chance.uniform(-0.05, 0.2)))
        for _ in range(chance.randrange(1, 5)):
            suite.query(name, chance.choice(REPLICAS))
            suite.run(chance.choice((0.001, 0.01, 0.05)))

    def start_all(self) -> None:
        """Start what does not run, as its supervisor does."""
        for name in PROCESSES:
            if not self.suite.runs(name):
                self.suite.start(name)

    def heal(self) -> None:
        """Bring everything back."""
        self.suite.simulation.network.heal()
        self.start_all()
        self.suite.run(20.0)

    def see_that_all_is_well(self) -> None:
        """See that each VM is answered, and started once for that; and that all stop when nobody asks any longer."""
        suite = self.suite
        assert all(map(suite.is_ready, PROCESSES))
        for name in NAMES:
            for replica in REPLICAS:
                assert suite.ask_until(name, "NOERROR", 70.0, replica).seconds < MAX_WAIT_S + 0.1
            ran = suite.boots(name)
            assert suite.guest_runs(name)
            assert suite.ask(name).rcode == "NOERROR"
            assert suite.boots(name) == ran
        suite.run(1.0)
        for status in suite.statuses().values():  # a drain may have begun, which the replicas' next reports end
            assert (status.state in SERVING) is suite.guest_runs(status.name), f"{status.name} is {status.state}"
        suite.run(120.0)
        assert [name for name in NAMES if suite.guest_runs(name)] == [], "nobody asks for them any longer"


def course(seed: int) -> str:
    """Run the course of a seed; return its fingerprint."""
    vms = [vm(name, ttl=3 + 4 * n, response_delay=n * 0.2) for n, name in enumerate(NAMES)]
    with SimulatedSuite(vms, seed=seed, replicas=2, settings={"dns.lease": "15"}) as suite:
        Course(suite).run()
        return suite.simulation.digest()


@pytest.mark.property
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_g1_g3_g7_whatever_happens_no_vm_is_stopped_too_early_and_all_is_well_in_the_end(seed: int) -> None:
    course(seed)
