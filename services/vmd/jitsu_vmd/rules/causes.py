"""Why a VM was started and stopped the last time, for `jitsu why`; nothing depends on it.

the VM enters               then
starting                    a boot begins: its trigger, and who asked
ready, from booting         that boot is over, and was ready
failed, from a boot         a stop because it has failed, with the error
stopping                    a stop begins, for the reason that was given before
off, suspended or paused    from stopping: that stop is over. From ready, draining or unknown: it has ended without
                            us, or has crashed if that was given as the reason
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_protocol.messages import VmBoot, VmStop
from jitsu_protocol.model.states import VmState

if TYPE_CHECKING:
    from jitsu_vmd.rules.events import SummonRequested

_S = VmState
MAX_CHARACTERS = 255


@dataclass(frozen=True)
class StopReason:
    """Why it is stopped, as a VmStop has it."""

    why: str = "unknown"
    by: str = ""
    note: str = ""


@dataclass
class Causes:
    """Of one VM. The ages in what it keeps are filled in by `boot_at` and `stop_at`."""

    _boot: VmBoot | None = None
    _stop: VmStop | None = None
    _reason: StopReason | None = None

    def begins(self, event: SummonRequested, now: float) -> None:
        """Note that a summon starts the VM."""
        asked_at = now - event.queued_s - event.waited_s
        self._boot = VmBoot(trigger=event.trigger, by=event.by[:MAX_CHARACTERS], begun_mono=asked_at, age_s=0.0)

    def joined(self) -> None:
        """Note that another request waits for the same boot."""
        if self._boot is not None:
            self._boot = self._boot.model_copy(update={"joined": self._boot.joined + 1})

    def will_stop(self, why: str, by: str = "", note: str = "") -> None:
        """Note why the VM is about to be stopped, or has ended."""
        self._reason = StopReason(why, by[:MAX_CHARACTERS], note[:MAX_CHARACTERS])

    def asked_by(self) -> str:
        """Return who asked for the last boot."""
        return "" if self._boot is None else self._boot.by

    def entered(self, before: VmState, state: VmState, now: float, error: str) -> None:
        """Note a change of state."""
        boot = self._boot
        if state is _S.READY and before is _S.BOOTING and boot is not None and boot.took_s is None:
            self._boot = boot.model_copy(update={"took_s": now - boot.begun_mono})
        elif state is _S.FAILED and before in (_S.STARTING, _S.BOOTING):
            self._begin_stop(StopReason("failed", note=error[:MAX_CHARACTERS]), now, took_s=0.0)
        elif state is _S.STOPPING:
            self._begin_stop(self._reason or StopReason(), now)
        elif state in (_S.OFF, _S.SUSPENDED, _S.PAUSED) and before is _S.STOPPING and self._stop is not None:
            self._stop = self._stop.model_copy(update={"took_s": now - self._stop.begun_mono})
        elif state in (_S.OFF, _S.SUSPENDED, _S.PAUSED) and self._was_up(before):
            self._begin_stop(self._reason or StopReason("ended"), now, took_s=0.0)
        else:
            return
        self._reason = None

    def _was_up(self, before: VmState) -> bool:
        if before is _S.UNKNOWN:
            boot, stop = self._boot, self._stop
            return boot is not None and (stop is None or stop.begun_mono < boot.begun_mono)
        return before in (_S.READY, _S.DRAINING)

    def _begin_stop(self, reason: StopReason, now: float, took_s: float | None = None) -> None:
        self._stop = VmStop(why=reason.why, by=reason.by, note=reason.note, begun_mono=now, age_s=0.0, took_s=took_s)

    def boot_at(self, now: float) -> VmBoot | None:
        """Return the last boot, for a status that is sent now."""
        return None if self._boot is None else self._boot.model_copy(update={"age_s": now - self._boot.begun_mono})

    def stop_at(self, now: float) -> VmStop | None:
        """Return the last stop, for a status that is sent now."""
        return None if self._stop is None else self._stop.model_copy(update={"age_s": now - self._stop.begun_mono})
