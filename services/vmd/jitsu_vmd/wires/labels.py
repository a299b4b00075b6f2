"""Labels of machines become VMs: asks the hypervisors, reports to the store, and shows what is refused.

rules/labelling.py decides when, rules/labels.py what. docs/explanation/labels.md has the whole course.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Describe, Described
from jitsu_protocol.model.errors import JitsuError, UnknownKind
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.driver import Driver
from jitsu_vmd.rules import labelling
from jitsu_vmd.rules.labels import LabelRules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import World
    from jitsu_vmd.rules.labels import LabelFault, LabelReading
    from jitsu_vmd.wires.discovery import Discovery

DESCRIBE_LIMIT_S = 60.0
"""As long as `jitsu apply` waits for a commit."""
MAX_NOTED = 5
"""`jitsu status` shows this many refusals, and counts the others."""
MAX_LOGGED = 20
"""Of new refusals, so many are logged at a time: thousands of containers may be wrong at once, again and again."""
MAX_REASON_CHARACTERS = 400

log = structlog.get_logger("vmd")


def rules_of(settings: Settings) -> LabelRules:
    """Return what the settings allow labels to say."""
    hypervisor, modes = settings.hypervisor, {}
    if "stop_mode" not in settings.defaults.model_fields_set:
        shuts_down = [each.name for each in hypervisor.all_connections if each.kind.about.can_shut_down]
        modes = dict.fromkeys(shuts_down, StopMode.SHUTDOWN.value)
    return LabelRules(
        hypervisor.label_zones_of,
        hypervisor.label_networks,
        hypervisor.host,
        settings.defaults.as_texts(),
        modes,
    )


class Labels:
    """The labels of one vmd's machines."""

    def __init__(self, world: World, discovery: Discovery, known: Callable[[], Mapping[str, VM]]) -> None:
        """`known` returns the VMs of this host, by UUID."""
        self._world = world
        self._discovery = discovery
        self._store = world.client("store")
        self._host = world.host
        self.machine = labelling.LabellingMachine(rules_of(world.settings), known)
        self._driver = Driver[labelling.LabellingEvent, labelling.LabellingAction](
            self.machine, self._perform, world.clock
        )
        self._logged: dict[str, LabelFault] = {}
        self._runs = False
        world.metrics.gauge("labelled", "Machines that labels describe.", lambda: float(len(self.machine.reading.vms)))
        world.metrics.gauge(
            "refused_labels", "Machines whose labels are refused.", lambda: float(len(self.machine.faults))
        )

    def start(self) -> None:
        """Begin, when all VMs of this host are known."""
        self._runs = True
        self._driver.tick()

    def hint(self) -> None:
        """Note that a hypervisor has reported a change."""
        if self._runs:
            self._driver.handle(labelling.HintHeard())

    def configured(self, changes: Sequence[VmChanged]) -> None:
        """Note that VMs were configured differently."""
        if self._runs:
            both = (vm for change in changes for vm in (change.old, change.new))
            self._driver.handle(labelling.TreeMoved(frozenset(vm.uuid for vm in both if vm is not None)))

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        machine = self.machine
        described = len(machine.reading.vms)
        notes = [f"labels describe {described} VM{'' if described == 1 else 's'}"] if machine.rules.connections else []
        notes += [
            f"labels of {name or 'the first hypervisor'} are not used: this kind of hypervisor cannot list its machines"
            for name in machine.rules.connections
            if not self._discovery.lists(name)
        ]
        if machine.trouble and (machine.rules.connections or machine.reading):
            notes.append(f"the store does not have what labels say: {machine.trouble}")
        shown = sorted(machine.faults.values(), key=lambda fault: (fault.machine, fault.connection))
        for fault in shown[:MAX_NOTED]:
            at = f" ({fault.connection})" if fault.connection else ""
            notes.append(f"labels of {fault.machine}{at} are refused: {fault.reason[:MAX_REASON_CHARACTERS]}")
        if len(shown) > MAX_NOTED:
            notes.append(f"the labels of {len(shown) - MAX_NOTED} more machines are refused; the log has the reasons")
        return notes

    def _perform(self, actions: Sequence[labelling.LabellingAction]) -> None:
        for action in actions:
            match action:
                case labelling.AskMachines(connections):
                    self._world.spawn(self._ask(connections), "labels")
                case labelling.TellStore(reading):
                    self._world.spawn(self._tell(reading), "labels")

    async def _ask(self, connections: Sequence[str]) -> None:
        self._driver.handle(labelling.MachinesListed(await self._discovery.ask(connections)))
        self._log_faults()

    async def _tell(self, reading: LabelReading) -> None:
        request = Describe(
            host=self._host,
            vms={vm: dict(leaves) for vm, leaves in reading.vms.items()},
            kept=list(reading.kept),
            silent=list(reading.silent),
        )
        try:
            described = await self._store.call(request, Described, DESCRIBE_LIMIT_S)
        except UnknownKind:
            reason = "this jitsu-store is of a release that knows no labels; bring it up to date"
            if self.machine.rules.connections:
                log.warning("labels are not used", reason=reason)
                self._driver.handle(labelling.StoreFailed(reason))
            else:  # it cannot have any VMs of labels
                self._driver.handle(labelling.StoreAgreed({}))
            return
        except JitsuError as error:
            if self.machine.trouble != str(error):
                log.warning("the store does not have what labels say", reason=str(error))
            self._driver.handle(labelling.StoreFailed(str(error)))
            return
        if described.changed:
            log.info("labels have changed VMs", vms=described.changed, commit=described.commit[:10])
        self._driver.handle(labelling.StoreAgreed(described.refusals))
        self._log_faults()

    def _log_faults(self) -> None:
        """Log each refusal once."""
        faults = self.machine.faults
        new = [fault for vm, fault in faults.items() if self._logged.get(vm) != fault]
        self._logged = dict(faults)
        for fault in new[:MAX_LOGGED]:
            reason = fault.reason[:MAX_REASON_CHARACTERS]
            log.warning("labels are refused", machine=fault.machine, hypervisor=fault.connection, reason=reason)
        if len(new) > MAX_LOGGED:
            log.warning("labels of more machines are refused", machines=len(new) - MAX_LOGGED)
