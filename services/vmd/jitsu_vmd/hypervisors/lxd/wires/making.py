"""The instances that are made for VMs: made when the VM is configured, so that a summon finds that done.

An instance that was made is kept when its VM is removed, unless it has never run: its disk may hold what is nowhere
else. What was made differently than the VM says now is changed while the instance is off.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.model.errors import BootFailed, JitsuError, Refused, Unavailable
from jitsu_vmd.hypervisors.lxd.rules.answers import LxdError
from jitsu_vmd.hypervisors.lxd.rules.instances import OWNER, PARTS, check_owner, has_run, made_of
from jitsu_vmd.hypervisors.lxd.rules.keys import check, is_made
from jitsu_vmd.hypervisors.lxd.rules.states import config_of, state_of
from jitsu_vmd.hypervisors.lxd.wires.client import instance_path, path_of
from jitsu_vmd.rules.events import GuestState
from jitsu_vmd.wires.isolation import isolated

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisors.lxd.wires.client import LxdClient
    from jitsu_vmd.hypervisors.lxd.wires.cluster import Cluster

MAX_AT_ONCE = 4

log = structlog.get_logger("vmd")


class Making:
    """What is being made."""

    def __init__(
        self, client: LxdClient, cluster: Cluster, spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._spawn = spawn
        self._under_way: dict[str, asyncio.Lock] = {}
        """By the name of the instance."""
        self._tried: dict[str, tuple[str, ...]] = {}
        """uuid of a VM -> as what it was tried to make its instance, so that a look does not try that again."""
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)

    def wanted(self, vms: Sequence[VM], found: dict[str, dict[str, Any]]) -> None:
        """Begin to make what is missing, or differs, as a look has found."""
        for vm in vms:
            if not is_made(vm) or _is_refused(vm):
                continue
            made = tuple(vm.config[key][0] for key in ("image", "memory", "vcpus", "mac") if key in vm.config)
            made += (*vm.config.get("nic", ()), *map(str, vm.addresses))
            if self._tried.get(vm.uuid) != made:
                self._tried[vm.uuid] = made
                self._spawn(self._try(vm, found.get(vm.name)))

    async def _try(self, vm: VM, instance: dict[str, Any] | None) -> None:
        try:
            async with self._at_once:
                with isolated():
                    await self.ready(vm, instance)
        except JitsuError as error:
            log.warning("the instance of a VM could not be made: its start tries again", vm=vm.name, reason=str(error))

    async def ready(self, vm: VM, instance: dict[str, Any] | None) -> dict[str, Any] | None:
        """Have the instance of a VM as the VM says, and return its record; raises Refused, BootFailed, Unavailable."""
        if not is_made(vm):
            return instance
        async with self._under_way.setdefault(vm.name, asyncio.Lock()):
            try:
                if instance is None:
                    instance = await self._cluster.instance(vm.name)
                networks = await self._cluster.networks()
                config, devices = made_of(vm, networks)
                if instance is None:
                    return await self._make(vm, config, devices)
                check_owner(vm, instance)
                if config_of(instance).get(PARTS) == config[PARTS]:
                    return instance
                if state_of(instance, self._cluster.members).guest is not GuestState.OFF:
                    return instance  # what runs is changed when it is off
                return await self._change(vm, instance, config, devices)
            except LxdError as error:
                raise BootFailed(f"image {vm.key('image')}: {error}") from None

    async def _make(self, vm: VM, config: dict[str, str], devices: dict[str, dict[str, str]]) -> dict[str, Any] | None:
        fingerprint, kind = await self._image(vm)
        body = {
            "name": vm.name,
            "type": kind,
            "source": {"type": "image", "fingerprint": fingerprint},
            "config": config,
            "devices": devices,
        }
        await self._client.change("POST", "/1.0/instances", body)
        log.info("made an instance", vm=vm.name, image=vm.key("image"))
        return await self._cluster.instance(vm.name)

    async def _change(
        self, vm: VM, instance: dict[str, Any], config: dict[str, str], devices: dict[str, dict[str, str]]
    ) -> dict[str, Any] | None:
        own = {key: value for key, value in config_of(instance).items() if not key.startswith("limits.")}
        parts = instance.get("devices")
        kept = parts.items() if isinstance(parts, dict) else ()
        body = {key: instance.get(key) for key in ("architecture", "ephemeral", "profiles", "description")}
        body |= {"config": own | config}
        body |= {"devices": {name: device for name, device in kept if device.get("type") != "nic"} | devices}
        await self._client.change("PUT", instance_path(vm.name), body)
        log.info("changed an instance to what its VM says", vm=vm.name)
        return await self._cluster.instance(vm.name)

    async def _image(self, vm: VM) -> tuple[str, str]:
        """Return fingerprint and type of a VM's image; raises LxdError, Unavailable."""
        name = vm.key("image")
        try:
            alias = await self._client.get(path_of("images/aliases", name))
            return str(alias["target"]), str(alias.get("type") or "container")
        except LxdError as error:
            if not error.is_absence:
                raise
        try:
            image = await self._client.get(path_of("images", name))
            return str(image["fingerprint"]), str(image.get("type") or "container")
        except LxdError as error:
            if not error.is_absence:
                raise
            raise BootFailed(
                f"image: the server has no image {name}",
                hint=f"`lxc image list` shows them; `lxc image copy REMOTE:IMAGE local: --alias {name}` gets one",
            ) from None

    async def check_image(self, vm: VM) -> None:
        """Raise BootFailed if the server does not have a VM's image."""
        try:
            await self._image(vm)
        except LxdError as error:
            raise Unavailable(str(error)) from None

    async def forget(self, vm: VM) -> None:
        """Delete the instance that was made for a VM, if it is off and has never run; raises Unavailable."""
        self._tried.pop(vm.uuid, None)
        self._under_way.pop(vm.name, None)
        try:
            instance = await self._cluster.instance(vm.name)
            if instance is None or config_of(instance).get(OWNER) != vm.uuid:
                return
            state = state_of(instance, self._cluster.members)
            if state.guest is not GuestState.OFF:
                raise Unavailable(
                    f"its instance is kept, as it is {state.guest or 'not known whether it runs'}",
                    hint=f"lxc delete --force {vm.name}",
                )
            if has_run(instance):
                raise Unavailable("its instance is kept, because of what is on its disk", hint=f"lxc delete {vm.name}")
            await self._client.change("DELETE", instance_path(vm.name), None)
        except LxdError as error:
            raise Unavailable(f"its instance is kept: {error}", hint=f"lxc delete {vm.name}") from None


def _is_refused(vm: VM) -> bool:
    """Say whether a VM's keys are refused: then nothing of it goes into a request."""
    try:
        check(vm)
    except Refused:
        return True
    return False
