"""`jitsu up`: the five processes as children of one, on this machine (see children.py for how they are kept).

store and vmd are started
the changes are drafted  -> synjitsu and the reaper are started
the store is ready       -> what jitsu.toml or the command line says is committed
that is acknowledged     -> dns is started; it is ready when it has read the VMs and serves the port
all are ready            -> it prints what to do next

With thousands of VMs the order is what makes the start short on a machine with few cores: the changes are drafted while
the store starts, and the services that nobody waits for yet start while the store commits.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from typing import TYPE_CHECKING

from jitsu.apply import changes_for, commit, mistakes_of, operator
from jitsu.link import connect
from jitsu.restart import record
from jitsu.runtime_directory import FIRST_STORE, RuntimeDirectory
from jitsu.stop_modes import stop_modes_at_up
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_runtime.service import EXIT_SETUP
from jitsu_runtime.supervise import Child, Children

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pydantic import JsonValue

    from jitsu_protocol.messages import Change
    from jitsu_runtime.settings.load import Settings

READY_LIMIT_S = 120.0
MAX_EXAMINED = 1000
"""VMs that hypervisors look through for mistakes at the start; `jitsu apply` looks at more."""
STOP_ORDER = (("dns",), ("reaper", "vmd", "synjitsu"), ("store",))
"""A service stops before those to which it says goodbye."""
STARTED_LATER = ("synjitsu", "reaper")
"""These have nothing to do before there are VMs."""
STOP_LIMIT_S = 0.8
"""For each group of STOP_ORDER: all are gone within 3 s."""


def _end_with_the_suite(settings: Settings) -> bool:
    """Return whether all guests end with `jitsu up`, as those of the mock and of solo5 do."""
    return all(each.kind.about.ends_with_suite and not each.uri for each in settings.hypervisor.all_connections)


class LocalSuite:
    """The five services as children of this process."""

    def __init__(self, settings: Settings, say: Callable[[str], None], strings: int = 0) -> None:
        """The last VMs of the settings, as many as `strings`, were given as the original's strings."""
        self._settings = settings
        self._strings = strings
        self._say = say
        self._directory = RuntimeDirectory(settings.bus.directory)
        self._children = Children([], say)
        self._drafted = asyncio.Event()
        """Set when it is known what would be committed to an empty store."""
        self._configured = asyncio.Event()
        """Set when the configuration that was given is committed."""

    def _make_children(self) -> None:
        settings, directory = self._settings, self._directory
        base = settings.as_values()
        base["bus.runtime_dir"] = str(directory.path)
        base["store.path"] = settings.store.path or str(self._new_store())
        base["dns.cookie_secret"] = settings.dns.cookie_secret or secrets.token_hex(16)
        environment = {"JITSU_BUS_RUNTIME_DIR": str(directory.path)}
        """Lets `ps e` show which processes belong together."""
        children = [Child(service, service, base, environment) for service in ("store", "vmd", "synjitsu", "reaper")]
        replicas = settings.dns.replicas
        for number in range(replicas):
            own: dict[str, JsonValue] = {"dns.replica": f"dns-{number}"}
            if replicas > 1:
                own["dns.reuse_port"] = True
            own["dns.metrics"] = str(settings.dns.metrics.numbered(number * settings.dns.workers))
            children.append(Child(f"dns-{number}" if replicas > 1 else "dns", "dns", base | own, environment))
        self._children.children += children

    def _new_store(self) -> Path:
        path = self._directory.new_store()
        if path.name != FIRST_STORE:
            earlier = path.with_name(FIRST_STORE)
            self._say(f"note: {earlier} is left as it is; serve it with --persistdb {earlier}, or move it away")
        return path

    async def run(self, next_steps: Callable[[], Sequence[str]]) -> int:
        """Run until a signal; returns the exit status. Raises SetupFault if the directory is in use."""
        children, stop = self._children, self._children.stop
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        self._directory.claim()
        try:
            record(self._directory.path, self._settings)
            self._make_children()
            self._say(f"jitsu up: {len(children.children)} processes in {self._directory.path}")
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(self._keep(child)) for child in children.children]
                starting = group.create_task(self._start(next_steps))
                await stop.wait()
                starting.cancel()
                self._say("stopping")
                for services in STOP_ORDER:
                    stopping = [child for child in children.children if child.service in services]
                    await children.terminate(stopping, STOP_LIMIT_S)
                for keeper in keepers:
                    keeper.cancel()
        finally:
            if not await children.let_go(STOP_LIMIT_S):
                self._directory.kill_mock_host()
            self._directory.release(guests_ended=_end_with_the_suite(self._settings))
        return children.status

    async def _keep(self, child: Child) -> None:
        """Run a child until all are to end; each from when it has something to do.

        A dns that serves before the configuration of this start is committed tells resolvers that names do not exist,
        which they remember.
        """
        if child.service == "dns":
            await self._configured.wait()
        elif child.service in STARTED_LATER:
            await self._drafted.wait()
        await self._children.keep(child)

    async def _start(self, next_steps: Callable[[], Sequence[str]]) -> None:
        children = self._children.children
        try:
            draft = await asyncio.to_thread(changes_for, self._settings.vms, {})
            self._drafted.set()
            async with asyncio.timeout(READY_LIMIT_S):
                await children[0].ready.wait()
            await self._configure(draft)  # as long as it takes: 100,000 names take a minute
            self._configured.set()
            async with asyncio.timeout(READY_LIMIT_S):
                for child in children:
                    await child.ready.wait()
        except TimeoutError:
            waiting = ", ".join(child.name for child in children if not child.ready.is_set())
            self._say(f"not ready after {READY_LIMIT_S:g} s: {waiting}; see the log above")
            self._children.fail(1)
        except JitsuError as error:
            self._say(f"the configuration is refused: {error}")
            self._children.fail(EXIT_SETUP)
        else:
            for line in (*await self._mistakes(), *next_steps()):
                self._say(line)

    async def _mistakes(self) -> list[str]:
        """Return a note for each VM that was given and of which its hypervisor says that something is a mistake."""
        vms = self._settings.vms
        if not 0 < len(vms) <= MAX_EXAMINED:
            return []
        async with connect(self._settings.bus) as link:
            return await mistakes_of(link, vms)

    async def _configure(self, draft: list[Change]) -> None:
        """Commit the VMs that were given; `draft` has the changes that make them in an empty store."""
        if self._settings.vms:
            async with connect(self._settings.bus) as link:
                leaves = await link.leaves(VM_ROOT)
                vms, notes = await stop_modes_at_up(link, self._settings, self._strings, leaves)
                for line in notes:
                    self._say(line)
                is_drafted = not leaves and vms == list(self._settings.vms)
                if changes := draft if is_drafted else changes_for(vms, leaves):
                    await commit(link, changes, "Configuration given to jitsu up", operator())
