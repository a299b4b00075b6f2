"""Which clients a dns replica or a Synjitsu has noticed, until its next report to the reaper has them (`jitsu why`).

    a client                     is noted                                      and its token
    causes a summon              always, at most MAX_CAUSES until reported     goes to vmd with the summon
    is answered at once,         as a sample: at most MAX_SAMPLES until        is ""
    or has sent a packet         reported, one in SAMPLE_S for each VM name

More than that is not noted. What is recorded of an address is decided here, so that the whole of it is never kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from jitsu_protocol.messages import NotedClient
from jitsu_protocol.model.privacy import Privacy

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    What = Literal["query", "packet", "magic packet"]

MAX_CAUSES = 500
MAX_SAMPLES = 64
"""In a report, which is made once a second."""
SAMPLE_S = 5.0
MAX_ABOUT_CHARACTERS = 255


class Note(NamedTuple):
    """A client, as an NotedClient has it; `at` is a time of this process."""

    vm: str
    token: str
    what: What
    about: str
    client: str
    at: float

    def asked(self, now: float) -> NotedClient:
        """Return it for a report that is sent now."""
        return NotedClient(self.vm, self.token, self.what, self.about, self.client, max(0.0, now - self.at))


@dataclass
class Askers:
    """Those of one process."""

    reporter: str
    instance: str
    """Changes at each start, so that no token is used twice."""
    privacy: Privacy = Privacy.NETWORK
    _causes: list[Note] = field(default_factory=list)
    _samples: list[Note] = field(default_factory=list)
    _count: int = 0

    def caused(self, vm: str, what: What, about: str, address: bytes, at: float) -> str:
        """Note a client that causes a summon; return the token of that summon."""
        self._count += 1
        token = f"{self.reporter[:200]}#{self.instance[:8]}-{self._count}"
        if len(self._causes) < MAX_CAUSES:
            about = about[:MAX_ABOUT_CHARACTERS]
            self._causes.append(Note(vm, token, what, about, self.privacy.recorded(address), at))
        return token

    def samples(self) -> bool:
        """Return whether there is room for a sample."""
        return len(self._samples) < MAX_SAMPLES

    def noticed(self, vm: str, what: What, about: str, address: bytes, at: float) -> None:
        """Note a client that causes no summon; only while `samples` says so."""
        about = about[:MAX_ABOUT_CHARACTERS]
        self._samples.append(Note(vm, "", what, about, self.privacy.recorded(address), at))

    def take(self) -> list[Note]:
        """Return what is noted since this was called last."""
        notes = self._causes + self._samples
        self._causes, self._samples = [], []
        return notes


def asked(notes: Iterable[Note], now: float) -> list[NotedClient]:
    """Return notes for a report that is sent now."""
    return [note.asked(now) for note in notes]
