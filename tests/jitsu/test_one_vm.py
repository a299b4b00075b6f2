"""What `jitsu status NAME` shows of one VM, whichever service answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from jitsu.one_vm import OneVm, describe
from jitsu_protocol.messages import Commit, History, Leaves, List, ListVms, Log, Timeline, Timelines, VmList, VmStatus
from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import STATS_ROOT, to_tree
from jitsu_protocol.vm_names import VmNames
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from jitsu.link import Link

VM_WWW = make_vm(stop_mode="suspend", idle_timeout="600", ttl="60")
STATUS = VmStatus(
    uuid=VM_WWW.uuid,
    name="www",
    state=VmState.READY,
    state_age_s=250.0,
    up_s=252.0,
    starts=3,
    mac="02:00:00:00:00:01",
    bridge="br0",
    interface="vnet3",
)


class FakeLink:
    """Answers as the services would; a service that is in `silent` does not."""

    def __init__(self, *silent: str, leaves: dict[str, str] | None = None) -> None:
        self.silent = silent
        self.own = to_tree(VM_WWW) if leaves is None else leaves

    async def find_vm(self, word: str) -> Any:
        return VmNames.in_leaves(to_tree(VM_WWW)).find(word)

    async def call(self, owner: str, request: Any, reply: Any, host: str = "") -> Any:
        if owner in self.silent:
            raise Unavailable(f"{owner} does not answer")
        match request:
            case ListVms():
                return VmList(vms=[STATUS], epoch="e", number=1)
            case List(prefix=prefix) if prefix.startswith(STATS_ROOT):
                return Leaves(
                    leaves={f"{prefix}/dns/www.jitsu.test/total_requests": "12"}, commit="c", epoch="e", number=1
                )
            case List():
                return Leaves(leaves=self.own, commit="c", epoch="e", number=1)
            case Log():
                return History(commits=[Commit(id="0123456789abcdef", ts=0.0, author="operator:eve", message="Grow")])
        stages = [("query", 10.0), ("ready", 10.25)]
        return Timelines(
            timelines=[Timeline(summon="s", vm=VM_WWW.uuid, name="www", trigger="dns", ts=0.0, stages=stages)]
        )


async def known(*silent: str, leaves: dict[str, str] | None = None) -> OneVm:
    return await describe(cast("Link", FakeLink(*silent, leaves=leaves)), "www")


async def test_everything_is_shown_of_a_vm() -> None:
    lines = (await known()).lines()
    assert lines[:10] == [
        "www is ready, for 4 min",
        "  names          www.jitsu.test, kept by clients for 60.0 s",
        "  address        127.0.1.1",
        "  MAC            02:00:00:00:00:01",
        "  bridge         br0, vnet3",
        "  up             for 4 min",
        "  starts         3",
        "  queries        12",
        "  when idle      suspend after 10 min without use",
        "",
    ]
    text = "\n".join(lines)
    assert "The latest summons:\n" in text
    assert "ready              250.0 ms" in text
    assert "operator:eve Grow" in text
    assert 'Its configuration:\n  [vm.www]\n  dns = "www.jitsu.test"' in text


async def test_a_script_gets_the_same() -> None:
    shown = (await known()).as_json()
    assert (shown["name"], shown["state"], shown["queries"]) == ("www", "ready", 12)
    assert shown["configuration"]["stop_mode"] == ["suspend"]
    assert shown["status"]["interface"] == "vnet3"
    assert [each["author"] for each in shown["changes"]] == ["operator:eve"]


async def test_what_the_store_has_is_shown_while_vmd_is_silent_and_the_other_way_round() -> None:
    without_vmd = await known("vmd")
    assert without_vmd.lines()[0] == "www is unknown"
    assert without_vmd.row["last_error"] == "vmd does not answer"
    without_store = await known("store")
    assert without_store.lines()[0] == "www is ready, for 4 min"
    assert without_store.as_json()["configuration"] is None


async def test_if_neither_answers_that_is_an_error() -> None:
    with pytest.raises(Unavailable, match="neither the store nor vmd answers"):
        await known("vmd", "store")


async def test_a_vm_that_cannot_be_used_says_why() -> None:
    broken = to_tree(VM_WWW) | {f"jitsu/vm/{VM_WWW.uuid}/stop_mode": "explode"}
    shown = await known(leaves=broken)
    assert shown.vm is None
    assert "Its configuration:" not in shown.lines()
