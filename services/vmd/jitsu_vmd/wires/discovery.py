"""What the hypervisors of one vmd have, for `jitsu discover` and for labels (docs/explanation/labels.md).

Machines are described by others: a name, a label or an address may be anything. What is passed on is bounded, and an
address is one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import AskedHypervisor, DiscoveredMachine, Discoveries
from jitsu_protocol.model.errors import JitsuError, TimedOut
from jitsu_protocol.model.vm import value_reasons
from jitsu_protocol.model.vm_keys import MAX_TEXT_CHARACTERS, mac_address
from jitsu_vmd.hypervisor import Discovers
from jitsu_vmd.wires.hypervisors import hypervisor_name
from jitsu_vmd.wires.isolation import isolated

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisor import Discovered, Hypervisor

DISCOVER_LIMIT_S = 5.0
"""Half of what `jitsu discover` waits."""
MAX_MACHINES = 20_000
"""Of one vmd, in one reply: with labels some megabytes."""
MAX_NAME_CHARACTERS = 255
MAX_LABELS = 64
MAX_VALUES = 64
"""Addresses, and ports, of one machine."""

log = structlog.get_logger("vmd")


class Discovery:
    """Asks the connections that can list their machines."""

    def __init__(
        self,
        backends: Mapping[str, Hypervisor],
        kinds: Mapping[str, str],
        limit_s: float = DISCOVER_LIMIT_S,
        zones: Sequence[str] = (),
    ) -> None:
        """`backends` and `kinds` are by the name of the connection."""
        self._backends = backends
        self._kinds = kinds
        self._limit_s = limit_s
        self._zones = list(zones)
        self._silent: dict[str, str] = {}
        """Connection -> why it has not answered the last time."""

    def lists(self, connection: str) -> bool:
        """Say whether a connection can list its machines."""
        return isinstance(self._backends.get(connection), Discovers)

    async def ask(self, connections: Collection[str]) -> dict[str, list[DiscoveredMachine] | JitsuError]:
        """Ask these connections at the same time; return the machines of each, or why it has not answered."""
        asked = [name for name in connections if self.lists(name)]
        answers = await asyncio.gather(*(self._ask(name) for name in asked))
        return dict(zip(asked, answers, strict=True))

    async def _ask(self, connection: str) -> list[DiscoveredMachine] | JitsuError:
        backend = self._backends[connection]
        assert isinstance(backend, Discovers)
        try:
            async with asyncio.timeout(self._limit_s):
                with isolated():
                    found = bounded(connection, await backend.discover())
        except TimeoutError:
            return self._failed(connection, TimedOut(f"it has not answered within {self._limit_s:g} s"))
        except JitsuError as error:
            return self._failed(connection, error)
        self._silent.pop(connection, None)
        return found

    def _failed(self, connection: str, error: JitsuError) -> JitsuError:
        if self._silent.get(connection) != str(error):
            name = self._backends[connection].name
            log.warning("hypervisor does not list its machines", hypervisor=name, reason=str(error))
        self._silent[connection] = str(error)
        return error

    async def everything(self, vms: Iterable[VM]) -> Discoveries:
        """Return what all connections have; `vms` are those that are configured for this vmd's host."""
        answers = await self.ask(self._backends)
        hypervisors = []
        machines: list[DiscoveredMachine] = []
        for connection, backend in self._backends.items():
            answer = answers.get(connection, [])
            hypervisors.append(
                AskedHypervisor(
                    connection=connection,
                    name=backend.name,
                    kind=self._kinds.get(connection, ""),
                    can_list=connection in answers,
                    trouble=str(answer) if isinstance(answer, JitsuError) else "",
                )
            )
            machines += answer if isinstance(answer, list) else []
        shown = with_vms(machines[:MAX_MACHINES], vms)
        return Discoveries(
            machines=shown, hypervisors=hypervisors, left_out=len(machines) - len(shown), zones=self._zones
        )


def with_vms(machines: Iterable[DiscoveredMachine], vms: Iterable[VM]) -> list[DiscoveredMachine]:
    """Return machines with the VM that is configured for each: one of its uuid or its name, on its connection."""
    by_uuid: dict[tuple[str, str], str] = {}
    by_name: dict[tuple[str, str], str] = {}
    for vm in vms:
        by_uuid[hypervisor_name(vm), vm.uuid] = vm.uuid
        by_name[hypervisor_name(vm), vm.name] = vm.uuid
    return [
        each.model_copy(
            update={"vm": by_uuid.get((each.hypervisor, each.uuid)) or by_name.get((each.hypervisor, each.name), "")}
        )
        for each in machines
    ]


def bounded(connection: str, found: Sequence[Discovered]) -> list[DiscoveredMachine]:
    """Return machines as they are passed on, by name. What is too long is cut off; what is not an address is left out.

    A label that is too long keeps one character too many, so that it is refused rather than taken for another value.
    """
    machines = [
        DiscoveredMachine(
            name=_text(each.name, MAX_NAME_CHARACTERS),
            hypervisor=connection,
            uuid=_text(each.uuid, MAX_NAME_CHARACTERS),
            is_running=each.is_running,
            is_read=each.is_read,
            mac=_mac(each),
            bridge=_text(each.nics[0].bridge, MAX_NAME_CHARACTERS) if each.nics else "",
            addresses=_addresses(each.addresses),
            ports=[port for port in each.ports if 0 < port < 65536][:MAX_VALUES],
            keys={
                _text(key, MAX_NAME_CHARACTERS): _text(value, MAX_TEXT_CHARACTERS + 1)
                for key, value in sorted(each.keys.items())[: MAX_LABELS + 1]
            },
        )
        for each in found
    ]
    return sorted(machines, key=lambda each: each.name)


def _text(text: str, limit: int) -> str:
    """Return text that can be sent: what is not Unicode is replaced."""
    return text[:limit].encode("utf-8", "replace").decode()


def _mac(machine: Discovered) -> str:
    with suppress(ValueError):
        return mac_address(machine.nics[0].mac) if machine.nics else ""
    return ""


def _addresses(texts: Iterable[str]) -> list[str]:
    """Return those that a VM may have and that clients on other links can use, as text of one form."""
    found: dict[str, None] = {}
    for text in texts:
        if not value_reasons("ip", text) and not (address := ip_address(text)).is_link_local:
            found[str(address)] = None
        if len(found) >= MAX_VALUES:
            break
    return list(found)
