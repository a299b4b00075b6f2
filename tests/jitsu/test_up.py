"""In which order `jitsu up` lets the services begin."""

from __future__ import annotations

import pytest

from jitsu.up import MANY, order_of_start
from jitsu_runtime.settings.load import VmText, load


@pytest.mark.parametrize(
    ("kind", "vms", "first"),
    [
        ("mock", 1, ("store", "vmd")),
        ("mock", MANY - 1, ("store", "vmd")),
        ("mock", MANY, ("store",)),
        ("libvirt", MANY, ("store", "vmd")),
    ],
)
def test_vmd_begins_after_the_commit_if_there_are_many_vms_and_it_is_not_asked_about_them_before(
    kind: str, vms: int, first: tuple[str, ...]
) -> None:
    texts = [
        VmText({"name": [f"v{n}"], "dns": [f"v{n}.test"], "ip": [f"10.0.{n // 250}.{n % 250 + 1}"]}, "here")
        for n in range(vms)
    ]
    begins, later = order_of_start(load(None, {}, {"hypervisor.kind": kind}, texts))
    assert begins == first
    assert sorted([*begins, *later]) == ["dns", "store", "vmd"]
