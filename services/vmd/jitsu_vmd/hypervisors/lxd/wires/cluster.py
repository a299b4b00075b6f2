"""The server or the cluster that answers, and the instances that it has: what is asked, and what is kept of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import Unavailable
from jitsu_vmd.hypervisors.lxd.rules.answers import LxdError, Meaning
from jitsu_vmd.hypervisors.lxd.rules.instances import NetworkRecords, networks_of
from jitsu_vmd.hypervisors.lxd.rules.states import Member, members_of, offline
from jitsu_vmd.hypervisors.lxd.wires.client import instance_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_vmd.hypervisors.lxd.wires.client import LxdClient

FEW = 16
"""Up to this many instances are asked for one by one; beyond that, the list of all costs less."""
LOOK_LIMIT_S = 10.0
MEMBER_LIMIT_S = 3.0
"""In a cluster, the list of all instances waits for each member. One that has just died is not offline yet, and would
delay it for 20 s."""
PER_INSTANCE_S = 0.002
"""What each instance adds to these: a server looks at one after the other."""


class Unsure(Unavailable):
    """A part of a cluster does not answer, and the cluster has not noticed yet: a little later, more is known."""


class Cluster:
    """What is known of a server, or of the members of a cluster."""

    def __init__(self, client: LxdClient) -> None:
        self._client = client
        self.is_clustered = False
        self.server_name = ""
        self.server = "LXD"
        """What it is, and its version."""
        self.members: dict[str, Member] = {}
        self.locations: dict[str, str] = {}
        """Name of an instance -> the member that had it."""

    async def greet(self) -> None:
        """Ask who answers; raises Unavailable if it does not let us in."""
        about = await self.read("/1.0", LOOK_LIMIT_S)
        if about.get("auth") != "trusted":
            raise Unavailable(
                f"{self._client.where} does not know our certificate",
                hint="`lxc config trust add CERTIFICATE` there lets it in; see certificate_file",
            )
        environment = about.get("environment") or {}
        self.is_clustered = bool(environment.get("server_clustered"))
        self.server_name = str(environment.get("server_name") or "")
        self.server = f"{environment.get('server') or 'lxd'} {environment.get('server_version') or ''}"
        await self.refresh_members()

    async def read(self, path: str, limit: float, **query: str) -> Any:
        """Return what there is at a path; every failure is Unavailable."""
        try:
            return await self._client.get(path, limit, **query)
        except LxdError as error:
            raise self.unavailable(error) from None

    @staticmethod
    def unavailable(error: LxdError) -> Unavailable:
        """Return an error as one of Jitsu's."""
        if error.meaning is Meaning.NO_LEADER:
            return Unavailable(f"the cluster's database has no leader at the moment: {error}")
        return Unavailable(str(error))

    async def refresh_members(self) -> None:
        """Ask which members are online."""
        if not self.is_clustered:
            return
        records = await self.read("/1.0/cluster/members", MEMBER_LIMIT_S, recursion="1")
        self.members = members_of(records)
        self._client.know([member.url for member in self.members.values()])

    def is_here(self, instance: dict[str, Any], *, by_socket: bool) -> bool:
        """Say whether an instance runs on this host: the one whose socket is used."""
        return by_socket and (not self.is_clustered or instance.get("location") == self.server_name)

    # --- instances ---

    async def instance(self, name: str) -> dict[str, Any] | None:
        """Return the record of an instance, None if there is none; raises LxdError, Unavailable.

        A member that is offline is not asked, as that takes 10 s. The list of all instances says at once that the
        instance is still there, or where the cluster has moved it to.
        """
        if self._is_offline(name):
            await self.refresh_members()
        if self._is_offline(name):
            listed: list[dict[str, Any]] = []
            await self.each([name], lambda _, record: listed.append(record) if isinstance(record, dict) else None)
            return listed[0] if listed else None
        limit = MEMBER_LIMIT_S if self.is_clustered else LOOK_LIMIT_S
        try:
            found = await self._client.get(instance_path(name), limit)
        except LxdError as error:
            if error.is_absence:
                self.locations.pop(name, None)
                return None
            raise
        if not isinstance(found, dict):
            raise Unavailable(f"{self._client.where} has answered what is not an instance")
        self.located(name, found.get("location"))
        return found

    def _is_offline(self, name: str) -> bool:
        member = self.members.get(self.locations.get(name, ""))
        return member is not None and not member.is_heard

    async def check_heard(self, name: str) -> None:
        """Raise Unavailable if the member that has an instance is offline."""
        await self.refresh_members()
        if self._is_offline(name):
            raise Unavailable(offline(self.members[self.locations[name]]))

    def located(self, name: str, location: object) -> None:
        """Note where an instance is."""
        if self.is_clustered and isinstance(location, str) and location:
            self.locations[name] = location

    async def why(self, name: str, error: Exception) -> Unavailable:
        """Return what is said of an instance that could not be asked for: is its member gone?"""
        if self.is_clustered:
            try:
                await self.refresh_members()
            except Unavailable as away:
                return Unsure(str(away))
        member = self.members.get(self.locations.get(name, ""))
        if member is not None and not member.is_heard:
            return Unavailable(offline(member))
        if isinstance(error, LxdError) and error.meaning is not Meaning.UNREACHABLE:
            return self.unavailable(error)
        if member is not None:
            return Unsure(f"its cluster member {member.name} does not answer, or the cluster itself: {error}")
        if self.is_clustered:
            return Unsure(str(error))
        return error if isinstance(error, Unavailable) else Unavailable(str(error))

    async def each(self, names: Sequence[str], take: Callable[[str, dict[str, Any] | Unavailable], None]) -> None:
        """Pass on the record of each of these instances that there is, or why it cannot be had.

        Raises Unavailable if the server is silent; in a cluster, it may be a member that is.
        """
        if len(names) <= FEW and all(member.is_heard for member in self.members.values()):
            await asyncio.gather(*(self._one(name, take) for name in names))
            return
        wanted = set(names)
        there: set[str] = set()

        def listed(record: dict[str, Any]) -> None:
            name = str(record.get("name"))
            there.add(name)
            self.located(name, record.get("location"))
            if name in wanted:
                take(name, record)

        limit = (MEMBER_LIMIT_S if self.is_clustered else LOOK_LIMIT_S) + PER_INSTANCE_S * len(names)
        await self.list_all(limit, listed, recursion="1")
        self.locations = {name: location for name, location in self.locations.items() if name in there}

    async def list_all(self, limit: float, take: Callable[[dict[str, Any]], None], recursion: str = "2") -> None:
        """Pass on the records of all instances; with recursion 2 they have the addresses of each."""
        try:
            await self._client.get_list("/1.0/instances", limit, take, recursion=recursion)
        except LxdError as error:
            raise self.unavailable(error) from None

    async def _one(self, name: str, take: Callable[[str, dict[str, Any] | Unavailable], None]) -> None:
        try:
            found = await self.instance(name)
        except (LxdError, Unavailable) as error:
            if isinstance(error, Unavailable) and not self.is_clustered:
                raise
            take(name, await self.why(name, error))
        else:
            if found is not None:
                take(name, found)

    async def networks(self) -> NetworkRecords:
        """Return the networks that an instance may be joined to."""
        networks = await self.read("/1.0/networks", LOOK_LIMIT_S, recursion="1")
        profile = await self.read("/1.0/profiles/default", LOOK_LIMIT_S)
        return networks_of(networks, profile if isinstance(profile, dict) else {})
