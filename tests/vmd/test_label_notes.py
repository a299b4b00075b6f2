"""What `jitsu status` says about labels."""

from __future__ import annotations

from typing import Any, cast

from jitsu_vmd.wires.discovery import Discovery
from jitsu_vmd.wires.labels import Labels
from tests.support.world import played_world


async def test_a_connection_whose_labels_should_count_and_that_cannot_list_its_machines_is_shown() -> None:
    async with played_world("vmd", hypervisor__kind="mock", hypervisor__label_zones="lab.test") as world:
        labels = Labels(cast("Any", world), Discovery({"": cast("Any", object())}, {"": "solo5"}), dict)
        assert labels.notes() == [
            "labels describe 0 VMs",
            "labels of the first hypervisor are not used: this kind of hypervisor cannot list its machines",
        ]
