"""What the reaper leaves in the store: statistics, and who is registered."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Applied, Done, Record, Register
from jitsu_protocol.model.errors import JitsuError, Refused, UnknownKind

if TYPE_CHECKING:
    from jitsu_reaper.rules.reaper import Reaper
    from jitsu_reaper.rules.registrations import Registration
    from jitsu_reaper.rules.statistics import Saving
    from jitsu_runtime.world import Caller

CALL_TIMEOUT_S = 2.0

log = structlog.get_logger("reaper")


class Keeper:
    """Sends the store what it is to keep."""

    def __init__(self, store: Caller, reaper: Reaper) -> None:
        self._store = store
        self._statistics = reaper.usage.statistics
        self._registrations = reaper.registrations

    async def register(self, registration: Registration) -> None:
        """Have the store take a registration; raises its error."""
        register = Register(
            replica=registration.name,
            leaves=registration.leaves,
            message=registration.message,
            request=uuid.uuid4().hex,
        )
        try:
            await self._store.call(register, Applied, CALL_TIMEOUT_S)
        except UnknownKind:  # a store of protocol 1.0
            await self._store.call(register.as_apply(), Applied, CALL_TIMEOUT_S)

    async def save(self) -> None:
        """Save what has changed, and have the store forget who is gone."""
        await self.save_totals()
        await self._save_ttls()
        for registration in self._registrations.to_remove():
            try:
                await self.register(registration)
            except JitsuError as error:
                log.debug("still registered", replica=registration.name, reason=str(error))
            else:
                self._registrations.removed(registration.name)
                log.warning("gone: its lease has run out", replica=registration.name)

    async def save_totals(self) -> None:
        """Save totals that have changed, as many as there may be at once."""
        saving = self._statistics.next_totals()
        try:
            await self._record(saving)
        except JitsuError as error:
            self._statistics.not_saved(saving)
            log.warning("statistics are kept until the store answers", reason=str(error))

    async def _save_ttls(self) -> None:
        saving = self._statistics.next_ttls()
        try:
            await self._record(saving)
        except Refused as error:  # a store of protocol 1.1 takes none
            log.debug("the store refuses the TTLs", reason=str(error))
        except JitsuError as error:
            self._statistics.not_saved(saving)
            log.debug("TTLs are kept until the store answers", reason=str(error))

    async def _record(self, saving: Saving) -> None:
        if saving.foreign:
            try:
                await self._store.call(Record(values=saving.foreign, service="reaper"), Done, CALL_TIMEOUT_S)
            except JitsuError as error:
                log.debug("the store takes no statistics of names that are not configured", reason=str(error))
        if saving.own:
            await self._store.call(Record(values=saving.own, service="reaper"), Done, CALL_TIMEOUT_S)
