"""`jitsu up`: the services as children of one, on this machine (see supervise.py for how they are kept).

the settings are read    -> the programs of all are loaded, one after the other, and wait
the VMs are built        -> store and vmd begin; programs that are not loaded yet are, all at once
the changes are drafted  -> synjitsu, the reaper and, if it is wanted, jitsu-web begin
the store is ready       -> what jitsu.toml or the command line says is committed
that is acknowledged     -> dns begins, and with thousands of VMs vmd; dns is ready when it has read the VMs and serves
all are ready            -> it prints what to do next

With thousands of VMs the order is what makes the start short on a machine with two cores: one of them builds the VMs
and drafts the changes, and the other loads the programs in the meantime. Services that nobody waits for yet begin while
the store commits.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from typing import TYPE_CHECKING

from jitsu.apply import commit, mistakes_of, operator
from jitsu.kinds import kind_of
from jitsu.link import connect
from jitsu.restart import record
from jitsu.runtime_directory import FIRST_STORE, RuntimeDirectory
from jitsu.stop_modes import stop_modes_at_up
from jitsu_protocol.changes import changes_for
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_runtime.service import EXIT_SETUP
from jitsu_runtime.settings.load import SettingsFault
from jitsu_runtime.supervise import Child, Children

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pydantic import JsonValue

    from jitsu_protocol.messages import Change
    from jitsu_runtime.settings.load import Settings, Written

READY_LIMIT_S = 120.0
MAX_EXAMINED = 1000
"""VMs that hypervisors look through for mistakes at the start; `jitsu apply` looks at more."""
STOP_ORDER = (("dns", "web"), ("reaper", "vmd", "synjitsu"), ("store",))
"""A service stops before those to which it says goodbye."""
STARTED_LATER = ("synjitsu", "reaper", "web")
"""These begin when the changes are drafted."""
MANY = 500
"""vmd takes longer to learn this many VMs one by one than to read them all from the store."""
STOP_LIMIT_S = 0.8
"""For each group of STOP_ORDER: all are gone within 3 s."""


def _end_with_the_suite(settings: Settings) -> bool:
    """Return whether all guests end with `jitsu up`, as those of the mock and of solo5 do."""
    return all(each.kind.about.ends_with_suite and not each.uri for each in settings.hypervisor.all_connections)


def order_of_start(settings: Settings) -> tuple[Sequence[str], Sequence[str]]:
    """Return which services begin when the VMs are built, and which when they are committed.

    A vmd that runs already looks at thousands of new VMs one by one, and publishes each; one that begins later reads
    them all, and is asked for all. But where hypervisors have VMs of their own, vmd is asked about these before the
    commit.
    """
    vms = settings.vms
    is_asked = len(vms) < MANY or any(kind_of(vm, settings).about.has_own_vms for vm in vms)
    return (("store", "vmd"), ("dns",)) if is_asked else (("store",), ("vmd", "dns"))


class LocalSuite:
    """The services as children of this process."""

    def __init__(self, written: Written, say: Callable[[str], None], strings: int = 0) -> None:
        """The last VMs that are written, as many as `strings`, were given as the original's strings.

        Raises SettingsFault if the settings are wrong.
        """
        self._written = written
        self.settings = written.without_vms()
        """Until the VMs are built, without them."""
        self._strings = strings
        self._say = say
        self._directory = RuntimeDirectory(self.settings.bus.directory)
        self._children = Children([], say)
        self._built = asyncio.Event()
        """Set when the VMs that are written are known."""

    def _make_children(self) -> None:
        settings, directory = self.settings, self._directory
        base = settings.as_values()
        base["bus.runtime_dir"] = str(directory.path)
        base["store.path"] = settings.store.path or str(self._new_store())
        base["dns.cookie_secret"] = settings.dns.cookie_secret.hex() or secrets.token_hex(16)
        environment = {"JITSU_BUS_RUNTIME_DIR": str(directory.path)}
        """Lets `ps e` show which processes belong together."""
        services = ["store", "vmd", "synjitsu", "reaper", *(["web"] if settings.web.listen else [])]
        children = [Child(service, service, base, environment) for service in services]
        replicas = settings.dns.replicas
        for number in range(replicas):
            own: dict[str, JsonValue] = {"dns.replica": f"dns-{number}"}
            if replicas > 1:
                own["dns.reuse_port"] = True
            own["dns.metrics"] = str(settings.dns.metrics.numbered(number * settings.dns.workers))
            children.append(Child(f"dns-{number}" if replicas > 1 else "dns", "dns", base | own, environment))
        for child in children:
            child.may_begin.clear()
        self._children.children += children

    def _new_store(self) -> Path:
        path = self._directory.new_store()
        if path.name != FIRST_STORE:
            earlier = path.with_name(FIRST_STORE)
            self._say(f"note: {earlier} is left as it is; serve it with --persistdb {earlier}, or move it away")
        return path

    async def run(self, next_steps: Callable[[Settings], Sequence[str]]) -> int:
        """Run until a signal; returns the exit status. Raises SetupFault if the directory is in use."""
        children, stop = self._children, self._children.stop
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        self._directory.claim()
        try:
            record(self._directory.path, self.settings)
            self._make_children()
            async with asyncio.TaskGroup() as group:
                keepers = [
                    group.create_task(self._keep(child, before))
                    for before, child in zip([None, *children.children], children.children, strict=False)
                ]
                starting = group.create_task(self._start(next_steps))
                await stop.wait()
                starting.cancel()
                if self._built.is_set():
                    self._say("stopping")
                for services in STOP_ORDER:
                    stopping = [child for child in children.children if child.service in services]
                    await children.terminate(stopping, STOP_LIMIT_S)
                for keeper in keepers:
                    keeper.cancel()
        finally:
            if not await children.let_go(STOP_LIMIT_S):
                self._directory.kill_mock_host()
            self._directory.release(guests_ended=_end_with_the_suite(self.settings))
        return children.status

    async def _keep(self, child: Child, before: Child | None) -> None:
        """Run a child until all are to end; its program is loaded after that of the one before it.

        More of them at a time would take the cores from what builds the VMs.
        """
        loaded = asyncio.ensure_future(before.loaded.wait()) if before is not None else None
        if loaded is not None:
            built = asyncio.ensure_future(self._built.wait())
            try:
                await asyncio.wait((loaded, built), return_when=asyncio.FIRST_COMPLETED)
            finally:
                loaded.cancel()
                built.cancel()
        await self._children.keep(child)

    def _begin(self, services: Sequence[str]) -> None:
        """Let services begin.

        A dns that serves before the configuration of this start is committed tells resolvers that names do not exist,
        which they remember.
        """
        for child in self._children.children:
            if child.service in services:
                child.may_begin.set()

    async def _start(self, next_steps: Callable[[Settings], Sequence[str]]) -> None:
        children = self._children.children
        try:
            await self._build()
            first, last = order_of_start(self.settings)
            self._begin(first)
            draft = await asyncio.to_thread(changes_for, self.settings.vms, {})
            self._begin(STARTED_LATER)
            async with asyncio.timeout(READY_LIMIT_S):
                await children[0].ready.wait()
            await self._configure(draft)  # as long as it takes: 100,000 names take a minute
            self._begin(last)
            async with asyncio.timeout(READY_LIMIT_S):
                for child in children:
                    await child.ready.wait()
        except TimeoutError:
            waiting = ", ".join(child.name for child in children if not child.ready.is_set())
            self._say(f"not ready after {READY_LIMIT_S:g} s: {waiting}; see the log above")
            self._children.fail(1)
        except SettingsFault as error:
            print(error, file=sys.stderr)
            self._children.fail(EXIT_SETUP)
        except JitsuError as error:
            self._say(f"the configuration is refused: {error}")
            self._children.fail(EXIT_SETUP)
        else:
            for line in (*await self._mistakes(), *next_steps(self.settings)):
                self._say(line)

    async def _build(self) -> None:
        """Build the VMs; raises SettingsFault with every mistake in them."""
        self.settings = await asyncio.to_thread(self._written.with_vms)
        has_labels = bool(self.settings.hypervisor.all_label_zones)
        if not self.settings.vms and not self.settings.store.path and not has_labels:
            raise SettingsFault(["there is no VM: give a [vm.NAME] in jitsu.toml, or a key=value,... string"])
        self._built.set()
        self._say(f"jitsu up: {len(self._children.children)} processes in {self._directory.path}")

    async def _mistakes(self) -> list[str]:
        """Return a note for each VM that was given and of which its hypervisor says that something is a mistake."""
        vms = self.settings.vms
        if not 0 < len(vms) <= MAX_EXAMINED:
            return []
        async with connect(self.settings.bus) as link:
            return await mistakes_of(link, vms)

    async def _configure(self, draft: list[Change]) -> None:
        """Commit the VMs that were given; `draft` has the changes that make them in an empty store."""
        if self.settings.vms:
            async with connect(self.settings.bus) as link:
                leaves = await link.leaves(VM_ROOT)
                vms, notes = await stop_modes_at_up(link, self.settings, self._strings, leaves)
                for line in notes:
                    self._say(line)
                is_drafted = not leaves and vms == list(self.settings.vms)
                if changes := draft if is_drafted else changes_for(vms, leaves):
                    await commit(link, changes, "Configuration given to jitsu up", operator())
