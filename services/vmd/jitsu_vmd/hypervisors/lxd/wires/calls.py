"""The calls that start and stop an instance: each looks first at what the instance does, and then asks for a change.

A call that fails because the cluster's database has lost its leader, because a member does not answer and the cluster
has not noticed yet, or because LXD is busy with the instance, is made again after a look, for as long as the VM's
`boot_limit` allows. LXD itself starts no instance twice: a start that has
been carried out although its answer was lost is answered "already running".
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.model.errors import BootFailed, NotFound, Refused, Unavailable
from jitsu_runtime.clock import sleep
from jitsu_vmd.hypervisors.lxd.rules.answers import LxdError, Meaning, first_error
from jitsu_vmd.hypervisors.lxd.rules.states import DISCARDED, RESTORING, config_of, state_of
from jitsu_vmd.hypervisors.lxd.wires.client import instance_path
from jitsu_vmd.hypervisors.lxd.wires.cluster import Unsure
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.clock import Clock
    from jitsu_vmd.hypervisors.lxd.wires.client import LxdClient
    from jitsu_vmd.hypervisors.lxd.wires.cluster import Cluster
    from jitsu_vmd.hypervisors.lxd.wires.making import Making

AGAIN_S = 0.5
"""Between two tries of a call that LXD could not carry out just then."""
PRESS_S = 5
"""LXD waits that long for a guest to shut down, before it is asked again (shared/shutdown.py)."""
STOP_LIMIT_S = 20.0
"""For that long a stop is tried again."""
LOG_LIMIT_S = 2.0
WAITED_OUT = frozenset({Meaning.NO_LEADER, Meaning.BUSY})
MARKED = "true"

log = structlog.get_logger("vmd")


class InstanceCalls:
    """What may be done to the instances of one server or cluster."""

    def __init__(self, client: LxdClient, cluster: Cluster, making: Making, clock: Clock) -> None:
        self._client = client
        self._cluster = cluster
        self._making = making
        self._clock = clock
        self._cannot_suspend: dict[str, str] = {}
        """Type of an instance -> why the server could not suspend one."""

    # --- starting ---

    async def start(self, vm: VM) -> None:
        """Let an instance run, from whatever state it is in."""
        await self._again(vm, self._start_once, vm.boot_limit)

    async def _start_once(self, vm: VM) -> None:
        instance = await self._making.ready(vm, await self._instance(vm))
        if instance is None:
            raise NotFound(f"LXD has no instance {vm.name}", hint="`lxc list` shows those that it has; or use image")
        match self._state(instance):
            case GuestState.OFF:
                await self._set_state(vm, "start")
                await self._mark(vm, instance, DISCARDED, is_set=False)
                await self._mark(vm, instance, RESTORING, is_set=False)
            case GuestState.PAUSED:
                await self._set_state(vm, "unfreeze")
            case GuestState.SUSPENDED:
                await self._restore(vm, instance)

    async def _restore(self, vm: VM, instance: dict[str, Any]) -> None:
        """Restore an instance from its saved state, of which LXD notes only afterwards that it is used."""
        if note := self.note(vm, instance):
            raise BootFailed(note)
        await self._mark(vm, instance, RESTORING, is_set=True)
        try:
            await self._set_state(vm, "start", stateful=True)
        except LxdError:
            after = await self._instance(vm)
            if after is not None and self._state(after) is GuestState.SUSPENDED:
                await self._mark(vm, after, RESTORING, is_set=False)  # the guest has not run
            raise
        await self._mark(vm, instance | {"config": {RESTORING: MARKED}}, RESTORING, is_set=False)

    def note(self, vm: VM, instance: dict[str, Any]) -> str:
        """Return why the saved state of an instance is not used, "" if it may be."""
        if config_of(instance).get(RESTORING) != MARKED:
            return ""
        return (
            f"the saved state of {vm.name} may have been used before: LXD was asked to restore it, and what came of "
            f"that is not known; `jitsu start {vm.name} --discard-saved-state` boots it from its disk"
        )

    # --- stopping ---

    async def destroy(self, vm: VM) -> None:
        """Stop an instance at once, unless it is paused: then its memory is saved state."""
        await self._again(vm, self._destroy_once, STOP_LIMIT_S)

    async def _destroy_once(self, vm: VM) -> None:
        instance = await self._instance(vm)
        match None if instance is None else self._state(instance):
            case GuestState.PAUSED:
                raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")
            case GuestState.RUNNING:
                await self._set_state(vm, "stop", force=True)

    async def is_off(self, vm: VM) -> bool:
        """Say whether an instance has stopped."""
        instance = await self._existing(vm)
        return self._state(instance) not in (GuestState.RUNNING, GuestState.PAUSED)

    async def press(self, vm: VM) -> None:
        """Ask a guest to shut down; raises Unavailable if it has not after a few seconds."""
        try:
            await self._set_state(vm, "stop", timeout=PRESS_S)
        except LxdError as error:
            raise Unavailable(str(error)) from None

    async def suspend(self, vm: VM) -> None:
        """Save an instance's memory on disk; raises Refused if the server cannot."""
        instance = await self._existing(vm)
        try:
            await self._set_state(vm, "stop", stateful=True)
        except LxdError as error:
            if error.meaning is not Meaning.CANNOT_SUSPEND:
                raise await self._cluster.why(vm.name, error) from None
            self._cannot_suspend[_type(instance)] = str(error)
            self.check_suspend(instance)

    def check_suspend(self, instance: dict[str, Any] | None) -> None:
        """Raise Refused if it is known that an instance cannot be suspended."""
        if instance is None:
            return
        config, kind = instance.get("expanded_config"), _type(instance)
        is_allowed = isinstance(config, dict) and config.get("migration.stateful") == "true"
        if kind == "virtual-machine" and not is_allowed:
            name = instance.get("name")
            raise Refused(
                "stop_mode: this virtual machine may not be suspended",
                hint=f"`lxc config set {name} migration.stateful=true` while it is off, or use pause or shutdown",
            )
        if why := self._cannot_suspend.get(kind):
            raise Refused(f"stop_mode: the server cannot suspend: {why}", hint="use pause or shutdown")

    async def pause(self, vm: VM) -> None:
        """Freeze an instance."""
        await self._existing(vm)
        try:
            await self._set_state(vm, "freeze")
        except LxdError as error:
            raise await self._cluster.why(vm.name, error) from None

    async def discard(self, vm: VM) -> None:
        """Stop a frozen instance, or have its saved state deleted by the next start."""
        instance = await self._existing(vm)
        state = self._state(instance)
        try:
            if state is GuestState.RUNNING:
                raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
            if state is GuestState.PAUSED:
                await self._set_state(vm, "stop", force=True)
            if state is GuestState.SUSPENDED:
                await self._mark(vm, instance, DISCARDED, is_set=True)
        except LxdError as error:
            raise await self._cluster.why(vm.name, error) from None

    # --- what these have in common ---

    async def _again(self, vm: VM, call: Callable[[VM], Awaitable[None]], limit: float) -> None:
        """Make a call, and make it again for as long as LXD cannot carry it out; raises BootFailed, Unavailable."""
        ends, was_told = self._clock.now() + limit, False
        while True:
            try:
                await call(vm)
            except (LxdError, Unsure) as error:
                if not await self._may_pass(vm, error) or self._clock.now() + AGAIN_S >= ends:
                    raise await self._failed(vm, error) from None
                if not was_told:
                    log.warning("LXD cannot do this just now: it is tried again", vm=vm.name, reason=str(error))
                was_told = True
                await sleep(self._clock, AGAIN_S)
            else:
                return

    async def _may_pass(self, vm: VM, error: LxdError | Unsure) -> bool:
        """Say whether the same call may succeed a little later."""
        if isinstance(error, Unsure) or error.meaning in WAITED_OUT:
            return True
        return error.meaning is Meaning.UNREACHABLE and isinstance(await self._cluster.why(vm.name, error), Unsure)

    async def _failed(self, vm: VM, error: LxdError | Unsure) -> BootFailed | Unavailable:
        if isinstance(error, Unsure):
            return error
        if error.meaning is Meaning.EVACUATED:
            return Unavailable(
                "its cluster member is evacuated",
                hint=f"`lxc cluster restore MEMBER`, or `lxc move {vm.name} --target MEMBER` if its storage can move",
            )
        if error.meaning in (Meaning.UNREACHABLE, Meaning.NO_LEADER):
            return await self._cluster.why(vm.name, error)
        why = ""
        with suppress(Unavailable):
            why = first_error(await self._client.get_text(instance_path(vm.name, "logs", "lxc.log"), LOG_LIMIT_S))
        return BootFailed(f"{error}{': ' if why else ''}{why}", hint=f"`lxc info --show-log {vm.name}` has more")

    async def _set_state(self, vm: VM, action: str, **more: object) -> None:
        """Change the state of an instance; that it is so already is success."""
        body = {"action": action, "timeout": 30, "force": False, "stateful": False} | more
        wanted = Meaning.IS_STOPPED if action == "stop" else Meaning.IS_RUNNING
        try:
            await self._client.change(
                "PUT", instance_path(vm.name, "state"), body, between_waits=partial(self._cluster.check_heard, vm.name)
            )
        except LxdError as error:
            if error.meaning is not wanted:
                raise
        except Unavailable as error:
            raise await self._cluster.why(vm.name, error) from None

    async def _mark(self, vm: VM, instance: dict[str, Any], key: str, *, is_set: bool) -> None:
        """Write a mark into an instance's configuration, or remove it; nothing is done if it is so already."""
        if (config_of(instance).get(key) == MARKED) is not is_set:
            await self._client.change("PATCH", instance_path(vm.name), {"config": {key: MARKED if is_set else ""}})

    async def _instance(self, vm: VM) -> dict[str, Any] | None:
        """Return an instance's record; raises Unavailable with the reason if it cannot be had."""
        try:
            return await self._cluster.instance(vm.name)
        except LxdError as error:
            if error.meaning in WAITED_OUT:
                raise
            raise await self._cluster.why(vm.name, error) from None
        except Unavailable as error:
            raise await self._cluster.why(vm.name, error) from None

    async def _existing(self, vm: VM) -> dict[str, Any]:
        try:
            instance = await self._instance(vm)
        except LxdError as error:
            raise self._cluster.unavailable(error) from None
        if instance is None:
            raise NotFound(f"LXD has no instance {vm.name}", hint="`lxc list` shows those that it has")
        return instance

    def _state(self, instance: dict[str, Any]) -> GuestState:
        """Return what an instance does; raises Unavailable if that is not known: then nothing is done to it."""
        state = state_of(instance, self._cluster.members)
        if state.guest is None:
            raise Unavailable(state.unseen)
        return state.guest


def _type(instance: dict[str, Any]) -> str:
    return str(instance.get("type") or "container")
