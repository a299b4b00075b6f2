from __future__ import annotations

from jitsu_vmd.rules.masking import Masking
from tests.support.vms import make_vm


def test_a_delay_counts_from_the_start() -> None:
    assert Masking(make_vm(response_delay="0.5"), 10.0, False).met_at() == 10.5


def test_a_signal_counts_before_the_delay_and_only_the_first() -> None:
    masking = Masking(make_vm(response_delay="0.5", wait_for_port="80"), 10.0, False)
    assert masking.met_at() is None
    masking.signalled(11.0)
    masking.signalled(12.0)
    assert masking.met_at() == 11.5


def test_a_key_counts_only_where_it_can_be_watched() -> None:
    vm = make_vm(response_delay="0.5", wait_for_key="data/status")
    assert Masking(vm, 10.0, False).met_at() == 10.5
    assert Masking(vm, 10.0, True).met_at() is None
