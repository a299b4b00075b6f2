"""Keeps a bridge from flooding to guests that boot: the shell of rules/ports.py, which follows the ports of one bridge,
and shuts and opens them.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import structlog

from jitsu_synjitsu.rules.ports import Divert, EndDivert, Open, Ports, Shut, Unlearn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_synjitsu.rules.ports import Port, PortAction
    from jitsu_synjitsu.wires.lan import Lan, PortFeed
    from jitsu_synjitsu.wires.ledger import Ledger

TWICE = "what is sent to a VM while it boots may reach it twice"

log = structlog.get_logger("synjitsu")


class BridgePorts:
    """The ports of one bridge."""

    def __init__(self, bridge: str, lan: Lan, ledger: Ledger) -> None:
        self.bridge = bridge
        self._lan = lan
        self._ledger = ledger
        self._rules = Ports()
        self._feed: PortFeed | None = None
        self._booting: dict[str, bytes] = {}
        """VMs -> their MAC address."""
        self._paused: dict[str, bytes] = {}
        self._static: dict[str, bytes] = {}
        """VMs that boot, and whose MAC address has a forwarding entry that an operator has made."""
        self._obstacle = ""

    def attach(self) -> None:
        """Follow the ports of the bridge, which is there now."""
        self._obstacle = ""
        if not self._lan.is_bridge(self.bridge):
            self._note(f"{self.bridge} is not a Linux bridge")
            return
        try:
            self._feed = self._lan.ports(self.bridge, self._appeared, self._gone)
            self._feed.open()
        except OSError as error:
            self._note(f"the ports of {self.bridge} are not known ({error.strerror})")
        for vm, mac in self._booting.copy().items():
            self.boots(vm, mac)
        for vm, mac in self._paused.copy().items():
            self.is_paused(vm, mac)

    def detach(self) -> None:
        """End that: the bridge is gone, or its socket is broken, or it has another name. No port stays shut.

        If it is attached to again, the ports of guests that still boot or are paused are shut again.
        """
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        for port in self._rules.shut():
            self._flood(port, floods=True)
            self._ledger.remove(port)
        self._rules = self._rules.detached()

    def boots(self, vm: str, mac: bytes) -> None:
        """Shut the port of a VM as soon as it is there: the VM is about to boot."""
        self._booting[vm] = mac
        self._static.pop(vm, None)
        actions = self._rules.arm(vm, mac)
        diverted = [self._try(self._lan.learn, each.port, each.mac) for each in actions if isinstance(each, Divert)]
        # An entry that is new leaves no other, so the kernel is asked for one of an operator's only without it.
        if not any(diverted) and self._feed is not None and self._feed.is_static(mac):
            self._static[vm] = mac
        self._do([each for each in actions if not isinstance(each, Divert)])

    def settled(self, vm: str) -> None:
        """Open the port of a VM: its guest is there, or its boot is over."""
        self._booting.pop(vm, None)
        self._do(self._rules.settled(vm))

    def is_paused(self, vm: str, mac: bytes) -> None:
        """Shut the port of a VM that is paused: its frames would wait in the queue."""
        self._paused[vm] = mac
        self._do(self._rules.arm(vm, mac, is_paused=True))

    def is_not_paused(self, vm: str) -> None:
        """Open the port of a VM that was paused, and runs or is off."""
        if vm in self._paused:
            del self._paused[vm]
            self.settled(vm)

    def named(self, vm: str, name: str) -> None:
        """Note the name that vmd gives to the port of a VM, or ""."""
        self._do(self._rules.named(vm, name))

    def open_all(self) -> None:
        """Leave no port shut."""
        for port in self._rules.shut():
            self._flood(port, floods=True)

    def notes(self) -> list[str]:
        """Return why a guest may get something twice, each with what to do about it."""
        notes = [f"{self._obstacle}: {TWICE}"] if self._obstacle else []
        for mac in sorted(set(self._static.values())):
            notes.append(f"{self.bridge} has a static entry for {mac.hex(':')}: {TWICE}; see bridge fdb show")
        return notes

    def _appeared(self, port: Port) -> None:
        self._do(self._rules.appeared(port))

    def _gone(self, index: int) -> None:
        for port in self._rules.shut():
            if port.index == index:
                self._ledger.remove(port)
        self._do(self._rules.gone(index))

    def _do(self, actions: Sequence[PortAction]) -> None:
        for action in actions:
            match action:
                case Shut(port):
                    self._ledger.add(port)
                    self._flood(port, floods=False)
                case Open(port):
                    self._flood(port, floods=True)
                case Divert(port, mac):
                    self._try(self._lan.learn, port, mac)
                case EndDivert(port, mac):
                    self._try(self._lan.unlearn, port, mac)
                case Unlearn(port, mac):
                    if self._feed is None or not self._feed.is_static(mac):
                        self._try(self._lan.unlearn, port, mac)

    def _flood(self, port: Port, *, floods: bool) -> None:
        try:
            self._lan.set_flood(port.index, floods)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP):  # it is gone, or no longer a port
                need = "; Synjitsu needs CAP_NET_ADMIN" if error.errno == errno.EPERM else ""
                self._note(
                    f"flooding to {port.name} cannot be turned {'on' if floods else 'off'} ({error.strerror}{need})"
                )
        else:
            log.debug("flooding", port=port.name, on=floods)
        if floods:
            self._ledger.remove(port)

    @staticmethod
    def _try(change: Callable[[int, bytes], None], port: Port, mac: bytes) -> bool:
        """Change what the bridge knows of a MAC address; return whether it did not know better already."""
        try:
            change(port.index, mac)
        except OSError as error:
            log.debug("the bridge knows better", port=port.name, mac=mac.hex(":"), reason=error.strerror)
            return False
        return True

    def _note(self, obstacle: str) -> None:
        if obstacle != self._obstacle:
            self._obstacle = obstacle
            log.warning(TWICE, bridge=self.bridge, reason=obstacle)
