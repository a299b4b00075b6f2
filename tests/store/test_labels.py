"""What vmd may bring about by labels: one branch, VMs below the zones. What others have or have changed stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol import messages
from jitsu_protocol.messages import MASTER, Apply, Change, Describe, Described
from jitsu_protocol.model.errors import Forbidden
from jitsu_protocol.model.vm import VM_ROOT, from_config, to_tree, uuid_for
from jitsu_protocol.wire.permissions import ROLES, check
from jitsu_store.git.steps import at_once
from jitsu_store.rules.batch import Batch, Standing
from jitsu_store.rules.labels import fault
from jitsu_store.rules.scratch import ScratchBranches
from jitsu_store.rules.validate import State
from tests.support.store import ME
from tests.support.store_memory import MemoryDisk, MemoryStorage

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM

ZONES = ("lab.test",)
NOW = 1_700_000_000.0


def machine(name: str, address: str = "192.0.2.1", **keys: Any) -> VM:
    config = {"name": name, "dns": f"{name}.lab.test", "ip": address} | keys
    return from_config({key: value if isinstance(value, list) else [value] for key, value in config.items()}, {})


WEB, DB = machine("web"), machine("db", "192.0.2.2")


def leaves_of(vm: VM) -> dict[str, str]:
    start = f"{VM_ROOT}/{vm.uuid}/"
    return {path.removeprefix(start): value for path, value in to_tree(vm).items()}


class LabelledStore:
    """A history in memory, and what vmds and operators ask of it; each request lands before the next."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.start()

    def start(self) -> None:
        """Start the store again."""
        self.history = MemoryStorage(self.disk).repository()
        heads = self.history.branches()
        leaves = self.history.leaves(heads.get(MASTER)) if MASTER in heads else {}
        self.standing = Standing(State(leaves), heads, ScratchBranches())

    def describe(self, *vms: VM, zones: tuple[str, ...] = ZONES, **more: Any) -> Described:
        request = Describe(vms={vm.uuid: leaves_of(vm) for vm in vms}, **more)
        batch = Batch(self.standing, self.history)
        reply = at_once(batch.describe(request, zones, NOW))
        self._land(batch)
        return reply

    def apply(self, vm: VM, *, gone: bool = False, who: str = ME) -> None:
        start = f"{VM_ROOT}/{vm.uuid}/"
        there = self.standing.state.tree.below(start.rstrip("/"))
        wanted = {} if gone else to_tree(vm)
        changes = [Change(path=path, value=wanted.get(path)) for path in {*there, *wanted}]
        self.change(changes, who)

    def change(self, changes: list[Change], who: str = ME) -> None:
        batch = Batch(self.standing, self.history)
        at_once(batch.apply(Apply(changes=changes, author=who, message="By hand", request=""), NOW))
        self._land(batch)

    def _land(self, batch: Batch) -> None:
        moves = batch.moves()
        self.history.land(self.history.staged(), moves)
        self.history.landed()
        self.standing.hidden.clear()
        self.standing.land(batch, {branch: new for branch, (_, new) in moves.items()})

    def set(self, vm: VM, leaf: str, value: str) -> None:
        self.change([Change(path=f"{VM_ROOT}/{vm.uuid}/{leaf}", value=value)])

    def get(self, vm: VM, leaf: str) -> str | None:
        return self.standing.state.tree.get(f"{VM_ROOT}/{vm.uuid}/{leaf}")

    @property
    def names(self) -> list[str]:
        """The names of the VMs of master."""
        paths = self.standing.state.tree.below(VM_ROOT)
        return sorted(value for path, value in paths.items() if path.endswith("config/name/0"))

    def on_branch(self, branch: str = "labels") -> list[str]:
        leaves = self.history.leaves(self.standing.heads.get(branch))
        assert all(path.startswith(f"{VM_ROOT}/") for path in leaves)
        return sorted(value for path, value in leaves.items() if path.endswith("config/name/0"))


@pytest.fixture
def store() -> LabelledStore:
    made = LabelledStore()
    made.apply(machine("mine", "192.0.2.77"))
    return made


def test_what_labels_describe_is_on_the_branch_and_merged_in_one_step(store: LabelledStore) -> None:
    reply = store.describe(WEB, DB)
    assert (reply.changed, reply.refusals) == (2, {})
    assert (store.names, store.on_branch()) == (["db", "mine", "web"], ["db", "web"])
    head = store.standing.heads[MASTER]
    merged = store.history.commit(head)
    assert merged.parents[1] == store.standing.heads["labels"]
    assert (merged.author, reply.commit) == ("service:vmd", head.hex())
    assert "web" in merged.message


def test_the_same_message_again_commits_nothing(store: LabelledStore) -> None:
    first = store.describe(WEB)
    assert store.describe(WEB) == Described(commit=first.commit, changed=0, refusals={})
    store.start()
    assert store.describe(WEB).commit == first.commit


def test_what_is_no_longer_described_disappears_and_others_stay(store: LabelledStore) -> None:
    store.describe(WEB, DB)
    store.start()
    assert store.describe(DB).changed == 1
    assert (store.names, store.on_branch()) == (["db", "mine"], ["db"])


def test_vms_of_silent_hypervisors_and_of_machines_whose_labels_are_wrong_stay(store: LabelledStore) -> None:
    other = machine("other", "192.0.2.3", hypervisor="lxd")
    store.describe(WEB, DB, other)
    store.describe(kept=[DB.uuid], silent=["lxd"])
    assert store.names == ["db", "mine", "other"]
    store.describe(silent=[""])
    assert store.names == ["db", "mine"]


def test_each_host_has_a_branch_of_its_own(store: LabelledStore) -> None:
    store.describe(WEB)
    there = machine("db", "192.0.2.2", host="b")
    store.describe(there, host="b")
    assert (store.on_branch(), store.on_branch("labels-b")) == (["web"], ["db"])
    reply = store.describe(machine("web", "192.0.2.9", host="b"), there, host="b")
    assert "configured already" in reply.refusals[WEB.uuid]
    assert store.get(WEB, "ip") == "192.0.2.1"


# --- clashes


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (machine("new", "192.0.2.77"), "192.0.2.77 belongs to the VM mine already"),
        (machine("new", "192.0.2.5", dns="mine.lab.test"), "mine.lab.test belongs to the VM mine already"),
        (machine("mine", "192.0.2.5", dns="x.lab.test"), "this VM is configured already"),
    ],
)
def test_what_an_operator_has_configured_stays_and_the_others_go_on(store: LabelledStore, new: VM, reason: str) -> None:
    reply = store.describe(new, WEB)
    assert list(reply.refusals) == [new.uuid]
    assert reason in reply.refusals[new.uuid]
    assert (store.names, store.on_branch()) == (["mine", "web"], ["web"])


def test_of_two_new_ones_the_first_name_has_it_and_later_whoever_is_there(store: LabelledStore) -> None:
    one, two = machine("b", "192.0.2.5", dns="x.lab.test"), machine("c", "192.0.2.6", dns="x.lab.test")
    assert list(store.describe(two, one).refusals) == [two.uuid]
    earlier = machine("a", "192.0.2.7", dns="x.lab.test")
    assert set(store.describe(earlier, two, one).refusals) == {earlier.uuid, two.uuid}
    assert store.names == ["b", "mine"]
    assert set(store.describe(earlier, two).refusals) == {two.uuid}
    assert store.names == ["a", "mine"]


def test_a_name_may_move_from_one_machine_to_another_in_one_message(store: LabelledStore) -> None:
    store.describe(WEB)
    moved = machine("web2", "192.0.2.1", dns="web.lab.test")
    assert store.describe(moved).refusals == {}
    assert store.names == ["mine", "web2"]
    swapped = [machine("web2", "192.0.2.1", dns="db.lab.test"), machine("db", "192.0.2.2", dns="web.lab.test")]
    store.describe(moved, DB)
    assert store.describe(*swapped).refusals == {}


# --- what an operator does to them


def test_a_value_that_an_operator_has_set_stays_until_labels_change_it_too_and_that_is_refused(
    store: LabelledStore,
) -> None:
    store.describe(WEB)
    store.set(WEB, "idle_timeout", "900")
    slower = machine("web", response_delay="0.5")
    assert store.describe(slower).refusals == {}
    assert (store.get(WEB, "idle_timeout"), store.get(WEB, "response_delay")) == ("900", "0.5")
    clash = machine("web", response_delay="0.5", idle_timeout="300")
    refused = store.describe(clash).refusals[WEB.uuid]
    assert refused.startswith("idle_timeout: labels say '300', and somebody has set '900'")
    assert store.get(WEB, "idle_timeout") == "900"
    store.set(WEB, "idle_timeout", "300")
    assert store.describe(clash).refusals == {}


def test_a_vm_that_an_operator_has_changed_stays_when_its_machine_goes(store: LabelledStore) -> None:
    store.describe(WEB)
    store.set(WEB, "idle_timeout", "900")
    assert "it stays, because idle_timeout was changed by hand" in store.describe().refusals[WEB.uuid]
    assert (store.names, store.on_branch()) == (["mine", "web"], [])


def test_a_vm_that_has_only_set_its_own_keys_goes_with_its_machine(store: LabelledStore) -> None:
    store.describe(WEB)
    store.set(WEB, "dns/web.lab.test/ttl", "5")
    assert store.describe().refusals == {}
    assert store.names == ["mine"]


def test_a_vm_that_an_operator_has_removed_comes_back_while_its_labels_say_so(store: LabelledStore) -> None:
    store.describe(WEB)
    store.apply(WEB, gone=True)
    assert store.names == ["mine"]
    assert store.describe(WEB).changed == 1
    assert store.names == ["mine", "web"]
    store.apply(WEB, gone=True)
    store.describe()
    assert (store.names, store.on_branch()) == (["mine"], [])


def test_a_failure_between_the_two_branches_is_made_good_by_the_next_message(store: LabelledStore) -> None:
    store.describe(WEB)
    batch = Batch(store.standing, store.history)
    at_once(batch.describe(Describe(vms={DB.uuid: leaves_of(DB)}), ZONES, NOW))
    first, *_ = moves = batch.moves()
    assert (first, len(moves)) == (MASTER, 2)
    store.history.land(store.history.staged(), {first: moves[first]})
    store.start()
    assert (store.names, store.on_branch()) == (["db", "mine"], ["web"])
    assert store.describe(DB).refusals == {}
    assert (store.names, store.on_branch()) == (["db", "mine"], ["db"])


# --- what vmd may not do


@pytest.mark.parametrize("role", sorted({*ROLES} - {"operator", "vmd"}))
def test_only_vmd_and_operators_may_describe(role: str) -> None:
    check("vmd", Describe.kind)
    with pytest.raises(Forbidden):
        check(role, Describe.kind)


@pytest.mark.parametrize(
    "other", [messages.Apply, messages.Merge, messages.CreateBranch, messages.DeleteBranch, messages.Register]
)
def test_describing_is_all_that_the_key_of_vmd_may_write_of_the_configuration(other: type[messages.Request]) -> None:
    with pytest.raises(Forbidden):
        check("vmd", other.kind)


@pytest.mark.parametrize(
    ("vm", "reason"),
    [
        (machine("web", dns="web.example.org"), "dns: web.example.org is not below a label zone (lab.test)"),
        (machine("web", dns="lab.test"), "dns: lab.test is not below"),
        (machine("web", dns="*.lab.test"), "dns: *.lab.test is not below"),
        (machine("web", dns="evillab.test"), "dns: evillab.test is not below"),
        (machine("web", alias="www.example.org"), "alias: www.example.org is not below"),
        (machine("web", host="b"), "host: b is not the host of the vmd"),
        (machine("web", uuid=uuid_for("other")), "uuid: labels may not set it"),
        *(
            (machine("web", **{key: value}), f"{key}: labels may not set it")
            for key, value in (
                ("kernel", "/boot/vmlinuz"),
                ("disk", "/dev/sda@xvda"),
                ("script", "/bin/sh"),
                ("domain_xml", "/etc/shadow"),
                ("cmdline", "init=/bin/sh"),
                ("memory", "1"),
                ("priority", "1000"),
                ("summon", "one"),
            )
        ),
    ],
)
def test_what_labels_may_not_say_is_refused_by_the_store_whatever_vmd_sends(
    store: LabelledStore, vm: VM, reason: str
) -> None:
    reply = store.describe(vm, DB)
    assert reason in reply.refusals[vm.uuid]
    assert (store.names, store.on_branch()) == (["db", "mine"], ["db"])


def test_a_vm_that_labels_describe_has_the_uuid_of_its_name() -> None:
    assert fault(uuid_for("other"), leaves_of(WEB), "", ZONES).startswith("uuid: a VM that labels describe has the one")
    assert fault(WEB.uuid, leaves_of(WEB), "", ZONES) == ""


def test_a_wildcard_below_a_name_of_the_zone_is_accepted(store: LabelledStore) -> None:
    assert store.describe(machine("web", dns=["web.lab.test", "*.web.lab.test"])).refusals == {}


def test_without_zones_the_store_accepts_nothing_and_takes_out_what_was_there(store: LabelledStore) -> None:
    store.describe(WEB)
    reply = store.describe(DB, zones=())
    assert "hypervisor.label_zones is empty in the store's settings" in reply.refusals[DB.uuid]
    assert store.names == ["mine"]


_LEAF = st.one_of(
    st.sampled_from(["config/name/0", "config/dns/0", "config/ip/0", "ip", "host", "config/hypervisor/0", "../x", ""]),
    st.text(st.characters(exclude_categories=()), max_size=30),
)


@given(st.dictionaries(_LEAF, st.text(st.characters(exclude_categories=()), max_size=40), max_size=8))
def test_whatever_is_sent_is_refused_with_a_reason_or_is_below_the_zones(leaves: dict[str, str]) -> None:
    vm = uuid_for(leaves.get("config/name/0", "web"))
    if not fault(vm, leaves, "", ZONES):
        assert all(value.endswith(".lab.test") for leaf, value in leaves.items() if leaf.startswith("config/dns/"))


@given(st.lists(st.sampled_from(["web", "db", "mine", "a", "b"]), max_size=4), st.booleans())
def test_an_operators_vm_is_never_touched(names: list[str], kept: bool) -> None:
    made = LabelledStore()
    made.apply(machine("mine", "192.0.2.77"))
    before = made.standing.state.tree.below(f"{VM_ROOT}/{uuid_for('mine')}")
    for name in names:
        made.describe(machine(name, f"192.0.2.{len(name)}", ttl="5"), kept=[uuid_for(name)] if kept else [])
        assert made.standing.state.tree.below(f"{VM_ROOT}/{uuid_for('mine')}") == before


def test_thousands_of_machines_are_one_step_and_one_clash_among_them_is_found(store: LabelledStore) -> None:
    vms = [machine(f"m{n}", f"10.0.{n // 250}.{n % 250 + 1}") for n in range(500)]
    clashing = machine("zz", "192.0.2.77")
    reply = store.describe(*vms, clashing)
    assert (reply.changed, list(reply.refusals)) == (500, [clashing.uuid])
