"""What a replica knows of the states of the VMs."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jitsu_dns.rules.states import States
from jitsu_protocol.messages import VmStatus
from jitsu_protocol.model.states import VmState
from tests.support.front import front
from tests.support.vms import make_vm

UUIDS = [f"00000000-0000-0000-0000-{number:012}" for number in range(4)]


class WatchedStatus(VmStatus):
    """A status that counts how often its drain is read."""

    def __getattribute__(self, name: str) -> Any:
        if name == "drain":
            READS.append(name)
        return super().__getattribute__(name)


READS: list[str] = []


@given(st.lists(st.tuples(st.sampled_from(UUIDS), st.sampled_from(["", "d1", "d2"]), st.booleans())))
def test_the_drains_are_those_of_the_latest_states(changes: list[tuple[str, str, bool]]) -> None:
    states = States()
    expected: dict[str, str] = {}
    for uuid, drain, forgotten in changes:
        if forgotten:
            states.forget(uuid)
            expected.pop(uuid, None)
        else:
            states.put(VmStatus(uuid=uuid, name="www", state=VmState.READY, drain=drain))
            expected[uuid] = drain
    assert sorted(states.drains()) == sorted(drain for drain in expected.values() if drain)


def test_a_report_does_not_look_at_vms_that_do_not_drain() -> None:
    vms = [make_vm(f"vm{number}", f"10.0.0.{number + 1}") for number in range(50)]
    made = front(*vms)
    for number, vm in enumerate(vms):
        draining = number == 7
        state = VmState.DRAINING if draining else VmState.READY
        made.state(WatchedStatus(uuid=vm.uuid, name=vm.name, state=state, drain="d7" if draining else ""), 0.0)
    READS.clear()
    assert made.drains() == ["d7"]
    assert not READS, "all VMs were looked at for one report"
