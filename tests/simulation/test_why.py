"""`jitsu why` on a simulated suite: who asked, over processes that die and reports that come late."""

from __future__ import annotations

from jitsu_protocol.messages import Done as Answered
from jitsu_protocol.messages import ForgetClients, Why, WhyReport
from tests.simulation.suite import SimulatedSuite, lan_vm

IDLE = {"ttl": 1, "idle_timeout": 2}


def why(suite: SimulatedSuite, name: str = "www") -> WhyReport:
    return suite.call("reaper", Why(vm=suite.vm(name).uuid), WhyReport)


def test_a_query_a_connection_and_a_stop_are_explained() -> None:
    with SimulatedSuite([lan_vm("www", 10, **IDLE)], synjitsu=True) as suite:
        suite.ask("www")
        client = suite.connect("www")
        suite.run(40.0)
        found = why(suite)
        assert "asked for www" in found.why_booted
        assert [event.cause for event in found.events] == ["query"]
        assert "connections" in {reason.kind for reason in found.reasons}
        assert (found.connections_open, found.connections[0].about) == (1, "tcp/80")
        assert found.connections[0].client.endswith(".0/24")
        client.close()
        suite.run_until(lambda: not suite.guest_runs("www"), 90.0, "the VM is stopped")
        suite.run(1.0)
        stopped = why(suite).events[0]
        assert (stopped.what, stopped.cause, stopped.decided_by) == ("stop", "idle", "the reaper")


def test_boots_and_stops_while_no_reaper_runs_are_known_to_the_next_one() -> None:
    with SimulatedSuite([lan_vm("www", 10, ttl=1, idle_timeout=600)]) as suite:
        suite.ask("www")
        suite.run(2.0)
        suite.kill("reaper")
        suite.run(1.0)
        suite.start("reaper")
        suite.run(3.0)
        first = why(suite)
        assert [(event.what, event.cause) for event in first.events] == [("boot", "query")]
        suite.kill("vmd")
        suite.run(1.0)
        suite.start("vmd")
        suite.run(3.0)
        assert why(suite).events == first.events, "the guest is found running: it is the same boot"
        suite.call("reaper", ForgetClients(), Answered)
        assert why(suite).clients == []
