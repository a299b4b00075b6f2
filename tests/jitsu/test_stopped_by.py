"""`jitsu set` asks nobody, but says whose guest is stopped for the new value."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from jitsu.consent import stopped_by
from jitsu_protocol.messages import Change, VmStatus
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import to_tree
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from jitsu.link import Link

WWW, DB = make_vm(), make_vm("db", "127.0.1.2")
LEAVES = to_tree(WWW) | to_tree(DB)
IP = f"jitsu/vm/{WWW.uuid}/config/ip/0"


class PlayedLink:
    """vmd, which says in which state www is; `asked` counts how often."""

    def __init__(self, state: VmState) -> None:
        self.state, self.asked = state, 0

    async def vms_of_all_hosts(self) -> tuple[list[VmStatus], list[str]]:
        self.asked += 1
        return [VmStatus(uuid=WWW.uuid, name="www", state=self.state)], []


async def said(link: PlayedLink, path: str, value: str, branch: str = "master") -> list[str]:
    ip = next(path for path, held in LEAVES.items() if held == "127.0.1.1")
    change = Change(path=ip if path == IP else path, value=value)
    return await stopped_by(cast("Link", link), LEAVES, [change], branch)


@pytest.mark.parametrize("state", [VmState.READY, VmState.BOOTING, VmState.DRAINING])
async def test_a_vm_that_runs_and_gets_another_address_is_said_to_be_stopped(state: VmState) -> None:
    assert await said(PlayedLink(state), IP, "127.0.1.9") == [f"www is {state}; it is stopped for that"]


async def test_nothing_is_said_and_nobody_asked_where_no_guest_is_stopped() -> None:
    for state in (VmState.OFF, VmState.SUSPENDED, VmState.FAILED):
        assert await said(PlayedLink(state), IP, "127.0.1.9") == []
    link = PlayedLink(VmState.READY)
    assert await said(link, f"jitsu/vm/{WWW.uuid}/stop_mode", "pause") == []
    assert await said(link, IP, "127.0.1.9", branch="mine") == []
    assert link.asked == 0
