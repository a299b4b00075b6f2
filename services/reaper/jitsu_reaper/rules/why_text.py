"""What `jitsu why` says, in sentences for people (why.py has the facts)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.states import AT_REST, VmState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.messages import Connected, WhyEvent, WhyReason
    from jitsu_reaper.rules.why import Explanation

PEERS_SHOWN = 3
_UP = (VmState.READY, VmState.DRAINING)
_UNITS = ((86400, "days", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def spoken(seconds: float) -> str:
    """Return a time span with two units at most: `2 h 5 min`."""
    whole = round(max(seconds, 0.0))
    for size, unit, smaller, rest_unit in _UNITS:
        if whole >= size:
            rest = whole % size // smaller
            first = f"{whole // size} {'day' if unit == 'days' and whole < 2 * size else unit}"
            return f"{first} {rest} {rest_unit}" if rest else first
    return f"{seconds:.1f} s" if 0 < seconds < 2 else f"{whole} s"


def list_of(parts: Sequence[str]) -> str:
    """Return a list as one writes it: `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def connections(connected: Connected) -> str:
    """Return who is connected: `2 connections are open: from 10.0.0.0/24 to tcp/22`."""
    count = "1 connection is" if connected.open == 1 else f"{connected.open} connections are"
    shown = [f"{_from(each.client)}to {each.about}" for each in connected.peers[:PEERS_SHOWN]]
    more = len(connected.peers) - PEERS_SHOWN
    shown += [f"{more} more peers"] if more > 0 else []
    return f"{count} open{': ' + list_of(shown) if shown else ''}"


# --- why it booted ---


def why_booted(about: Explanation, events: Sequence[WhyEvent]) -> str:
    """Return why the guest that runs was started, or why the last one was."""
    boot = next((each for each in events if each.what == "boot"), None)
    if boot is None:
        return f"No boot of {about.name} is recorded."
    ago = spoken(about.moment.wall - boot.ts)
    if boot.cause == "found":
        return f"{about.name} was found running. Jitsu did not start it, and it has run since {ago} ago."
    runs = about.state in (*_UP, VmState.STARTING, VmState.BOOTING)
    first = f"{about.name} booted {ago} ago" if runs else f"{about.name} booted last {ago} ago"
    if boot.outcome.startswith("failed"):
        first = f"{about.name} tried to boot {ago} ago"
    return f"{first}, because {_cause(boot)}.{_ended(boot)}"


def _cause(boot: WhyEvent) -> str:
    match boot.cause:
        case "query":
            return f"{_client(boot.client)} asked for {boot.about} ({boot.decided_by})"
        case "packet":
            return f"{_client(boot.client)} sent a packet to {boot.about} ({boot.decided_by})"
        case "magic packet":
            return f"{_client(boot.client)} sent a magic packet for it ({boot.decided_by})"
        case "operator":
            return f"{boot.decided_by} started it"
        case "schedule":
            return f"its schedule has it awake ({boot.decided_by})"
        case "dns":
            return f"somebody asked for its name ({boot.decided_by}), and the client is not recorded"
        case "traffic":
            return f"somebody sent it a packet ({boot.decided_by}), and the client is not recorded"
        case _:
            return f"of {boot.cause} ({boot.decided_by})"


def _ended(boot: WhyEvent) -> str:
    if boot.outcome.startswith("failed"):
        return f" That boot {boot.outcome}."
    return "" if boot.took_s is None else f" It was ready {_brief(boot.took_s)} later."


def _client(client: str) -> str:
    return f"a client in {client}" if "/" in client else client or "a client"


def _from(client: str) -> str:
    return f"from {client} " if client else ""


def _brief(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else spoken(seconds)


# --- why it is up ---


def why_up(about: Explanation, reasons: Sequence[WhyReason], events: Sequence[WhyEvent]) -> str:
    """Return what keeps it up, or why it is not."""
    status, name = about.status, about.name
    if status is None:
        return f"The state of {name} is not known: its vmd is not heard."
    since = spoken(status.state_age_s + about.heard_ago)
    if about.state in AT_REST:
        return f"{name} has been {about.state} for {since}.{_why_off(about, events)}"
    if about.state is VmState.STOPPING:
        return f"{name} has been stopping for {since}.{_why_off(about, events)}"
    if about.state is VmState.UNKNOWN:
        error = f": {status.last_error}" if status.last_error else ""
        return f"Whether {name} runs is not known{error}."
    if not reasons:
        return f"{name} has been {about.state} for {since}. Nothing keeps it up."
    because = "; ".join(reason.text for reason in reasons)
    return f"{name} has been {about.state} for {since}. It stays up because {because}.{_latest_client(about)}"


def _latest_client(about: Explanation) -> str:
    """Name the client that was noticed last, if anybody was."""
    clients = about.clients()
    if not clients:
        return ""
    last = clients[0]
    ago = spoken(about.moment.wall - last.ts)
    what = f"a {last.what}, {last.about} ({last.reporter})"
    return f" The client noticed last was {_client(last.client)}, {ago} ago: {what}."


def _why_off(about: Explanation, events: Sequence[WhyEvent]) -> str:
    last = next(iter(events), None)
    error = about.status.last_error if about.status is not None else ""
    if about.state is VmState.FAILED:
        return f" {_sentence(error)}" if error else ""
    if last is None or last.what == "boot":
        return ""
    return f" {_sentence(stop_cause(last))}"


def stop_cause(stop: WhyEvent) -> str:
    """Return why it was stopped, as a clause."""
    about = f": {stop.about}" if stop.about else ""
    match stop.cause:
        case "idle":
            return f"the reaper stopped it because it was idle{about}"
        case "room":
            return f"the reaper stopped it to make room for another VM{about}"
        case "operator":
            return f"it was stopped by {stop.decided_by}"
        case "changed":
            return f"vmd stopped it because its configuration has changed{about}"
        case "removed":
            return "vmd stopped it because it is no longer configured"
        case "ended":
            return f"it ended by itself, or somebody stopped it without Jitsu{about}"
        case "crashed":
            return f"it crashed{about}"
        case "unknown":
            return f"why it stopped is not recorded{about}"
        case _:
            return f"it was stopped: {stop.cause}{about}"


def _sentence(text: str) -> str:
    """Return a clause as a sentence."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


# --- when it stops ---


def when_stops(about: Explanation, reasons: Sequence[WhyReason], stops: float | None) -> str:
    """Return when it is stopped, or what has to happen before that is known."""
    if about.state not in (*_UP, VmState.STARTING, VmState.BOOTING):
        return _when_off(about)
    kinds = {reason.kind for reason in reasons}
    room = ""
    if about.configured is not None and about.configured.evict:
        after = spoken(about.configured.evict_timeout)
        room = f" It gives way earlier if another VM needs room, {after} after its last use."
    if "unconfigured" in kinds:
        return "The reaper does not stop what is not configured."
    if "held" in kinds:
        return "It does not stop by itself while it is held."
    if "kept" in kinds:
        return f"It does not stop as long as it is kept up.{room}"
    if stops is not None:
        left = stops - about.moment.wall
        return f"It stops {f'in {spoken(left)}' if left >= 1 else 'now'} unless it is used.{room}"
    timeout = "" if about.configured is None else spoken(about.configured.idle_timeout)
    if "silence" in kinds:
        lease = next((each.until_ts for each in reasons if each.kind == "silence" and each.until_ts is not None), None)
        when = "" if lease is None else f", or its lease is over in {spoken(max(lease - about.moment.wall, 0.0))}"
        return f"It does not stop before the reaper hears what it needs{when}."
    if "connections" in kinds:
        return f"It stops {timeout} after the last packet to it or the end of its last connection.{room}"
    return f"It stops once it is ready and has not been used for {timeout}."


def _when_off(about: Explanation) -> str:
    status = about.status
    if status is not None and status.hold:
        return f"It does not start by itself: it is {status.hold}."
    if about.state in AT_REST and status is not None and status.asleep:
        return f"It does not run, and no query starts it: it is {status.asleep}."
    wait = 0.0 if status is None or status.retry_after_s is None else status.retry_after_s - about.heard_ago
    if about.state in AT_REST and wait > 0:
        return f"It does not run. A query can start it again in {spoken(wait)}."
    if about.state in AT_REST:
        return "It does not run. The next query for its name starts it."
    return "When it stops is not known."
