"""Bodies of requests for the fuzz of peers: made from what each message says of its fields, right first, then wrong.

A right body has the right type in each field, and values that exist: UUIDs of the attackers' own VMs, paths, branches
and commits of the store, drains that were begun. So the code behind each request runs, which a body with a wrong type
never reaches. A wrong body is a right one in which one thing was changed: a value's size, depth or type, or how many
elements there are.
"""

from __future__ import annotations

import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from annotated_types import MaxLen
from pydantic import BaseModel

from jitsu_protocol import messages
from jitsu_protocol.messages import Change, Request
from jitsu_protocol.model.identity import via_web
from jitsu_protocol.model.vm_keys import KEYS

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

CLASSES: dict[str, type[Request]] = {
    each.kind: each
    for each in vars(messages).values()
    if isinstance(each, type) and issubclass(each, Request) and each is not Request
}
"""Every request that there is, by its kind."""
LEARNED = 20
"""Commits, branches and drains that are remembered, so that later requests can name them."""
SIZES = (100, 129, 1000, 5_000, 5_000, 70_000, 70_000, 1_000_000, 3_000_000)
COUNTS = (33, 100, 100, 1000, 1000, 1000, 20_000, 300_000)
NUMBERS = (0, 1, 2, 19, 300, 65_535, 2**31 - 1, 2**31, 2**53, 2**63, 2**64 - 1, -1)
FRACTIONS = (0.0, 0.25, 1.0, 30.0, 1e9, 1e300, -1.0, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "x", "a/b", "..", "\0", "\x1b[2J", "ä.b", "a" * 64, "a" * 5000, "\u2028", "-1", "1e9", "127.0.0.1", "::")
VALUES = ("0", "1", "60", "1.5", "true", "destroy", "nowhere.test", "10.77.0.99", "fd77::99", "xyz", "1m", "")


def names_person(kind: str) -> str:
    """Return the field that says for whom a request is sent, on which the right to send it depends; "" if none does."""
    return next((field for field in ("author", "by") if field in CLASSES[kind].model_fields), "")


class Bodies:
    """Makes bodies; the attackers of one process share what they have learned."""

    def __init__(self, chance: random.Random, stable: Sequence[str], clay: Sequence[str], remote: str) -> None:
        """`stable` are VMs of the attackers that stay as they are configured, `clay` those that they change."""
        self._chance = chance
        *self._stable, self.quiet = stable
        """The last one is left alone, so that it is idle and can be drained."""
        self._clay, self._remote = list(clay), remote
        self._commits: list[str] = []
        self._branches: list[str] = []
        self._drains: list[tuple[str, str]] = []
        self._count = 0

    def learn(self, request: str, sent: dict[str, Any], reply: dict[str, Any]) -> None:
        """Take from a reply what later requests can name."""
        for known, new in (
            (self._commits, [reply["commit"]] if reply.get("commit") else []),
            (self._branches, [sent["name"]] if request == "store.branch" else []),
            (self._branches, [sent["into"]] if request == "store.fetch" else []),
        ):
            known.extend(new)
            del known[:-LEARNED]
        if "drain" in reply:
            self._drains = [*self._drains, (sent["vm"], reply["drain"])][-LEARNED:]

    # --- right ---

    def right(self, kind: str, role: str) -> dict[str, Any]:
        """Return a body that is right in all its fields, names what there is, and whom a role's key may speak for."""
        cls, body = CLASSES[kind], dict[str, Any]()
        for name, about in cls.model_fields.items():
            if about.is_required() or self._chance.random() < 0.5:
                body[name] = self._of_type(about.annotation, about.metadata)
                if (named := self._named(name)) is not None:
                    body[name] = named
        self._make_fit(kind, body)
        if (person := names_person(kind)) and role == "web":
            body[person] = via_web("mallory")
        elif kind == "vmd.summon" and role not in ("operator", "web"):
            body |= {"trigger": "dns", "by": ""}
        return body

    def _make_fit(self, kind: str, body: dict[str, Any]) -> None:
        """Have the fields of one body fit to each other."""
        body.pop("base", None)
        body.pop("expect", None)
        match kind:
            case "vmd.drain":
                body["vm"] = self.quiet
            case "vmd.stop-drained" | "vmd.cancel-drain" if self._drains:
                body["vm"], body["drain"] = self._drains[-1]
            case "synjitsu.arm":
                body["bridge"] = "jt0"
            case "store.apply":
                body["branch"] = self._chance.choice(["master", *self._branches])
            case "store.merge":
                body["branch"] = self._chance.choice(self._branches or ["master"])
                body["into"] = "master"
            case "store.record":
                vm, body["service"] = self._chance.choice(self._stable), self._chance.choice(["vmd", "reaper"])
                leaf = "total_starts" if body["service"] == "vmd" else "dns/a.jitsu.test/total_requests"
                body["values"] = {f"jitsu/stats/{vm}/{leaf}": "5"}
            case "store.log" | "store.list" | "store.read":
                body["branch"] = self._chance.choice(["master", "master", *self._branches])
                if kind == "store.read":
                    body |= {"path": f"jitsu/vm/{self._stable[0]}/config/ip/0", "branch": "master"}
            case "store.changes":
                body |= {"since": self._chance.choice([*self._commits, ""]), "branch": "master"}
            case "store.diff":
                body |= {"old": "master", "new": self._chance.choice([*self._commits, "master"])}
            case "store.push" | "store.pull" | "store.fetch":
                body["branch"] = "master"
            case "store.branch":
                body["start"] = "master"
            case "store.delete-branch" if self._branches:
                body["name"] = self._branches.pop(0)
            case "reaper.report":
                body["leaving"] = self._chance.random() < 0.3
                body.pop("host", None)

    def _named(self, name: str) -> Any:
        chance = self._chance
        self._count += 1
        match name:
            case "vm":
                return chance.choice(self._stable)
            case "vms":
                config = {"config/dns/0": "check.jitsu.test", "config/ip/0": "10.77.0.98", "ttl": "60"}
                return {f"{self._count:08x}-0000-4000-8000-000000000000": config}
            case "addresses":
                return [f"10.77.1.{chance.randrange(1, 255)}", f"fd77::1:{chance.randrange(1, 0xFFFF):x}"]
            case "mac":
                return f"02:00:5e:00:54:{chance.randrange(256):02x}"
            case "bridge":
                return "jt0"
            case "handover":
                return "replay"
            case "limit_s" | "lease_s":
                return chance.choice([0.5, 1.0, 5.0])
            case "ttl":
                return chance.choice([0, 1])
            case "changes":
                return [self._change() for _ in range(chance.choice([1, 2, 5]))]
            case "leaves":
                return {"lease_s": "1", "address": None}
            case "author":
                return "operator:fuzz"
            case "request" | "replica" | "instance" | "message":
                return f"fuzz-{self._count % 50 if name == 'replica' else self._count}"
            case "name" | "into":
                return f"fuzz-{self._count}"
            case "remote":
                return self._remote
            case "path" | "prefix":
                return chance.choice(["", f"jitsu/vm/{chance.choice(self._stable)}"])
            case "topic":
                return "vm"
            case "after" | "branch":
                return "" if name == "after" else "master"
            case "limit":
                return chance.choice([1, 20, 100])
            case "batch":
                return self._count
            case "uses":
                return [[chance.choice(self._stable), "a.jitsu.test", 1, 0.5] for _ in range(chance.choice([1, 50]))]
            case "ttls":
                return [1]
        return None

    def _change(self) -> dict[str, Any]:
        """Return a change of one of the VMs that may change, or of what belongs to nobody."""
        chance, vm = self._chance, self._chance.choice(self._clay)
        key = chance.choice(sorted(KEYS))
        path = chance.choice([f"jitsu/vm/{vm}/config/{key}/0", f"jitsu/vm/{vm}/{key}", f"fuzz/{self._count % 500}"])
        return {"path": path, "value": chance.choice([*VALUES, None])}

    def _of_type(self, wanted: Any, metadata: Sequence[Any] = ()) -> Any:
        chance = self._chance
        origin, parts = get_origin(wanted), get_args(wanted)
        if origin is Annotated:
            return self._of_type(parts[0], parts[1:])
        if origin is Literal:
            return chance.choice(parts)
        if origin in (typing.Union, types.UnionType):
            return self._of_type(chance.choice(parts))
        if origin is list:
            most = min([each.max_length for each in metadata if isinstance(each, MaxLen)], default=3)
            return [self._of_type(parts[0]) for _ in range(chance.randrange(min(most, 3) + 1))]
        if origin is dict:
            return {self._of_type(parts[0]): self._of_type(parts[1]) for _ in range(chance.randrange(3))}
        if wanted is Change:
            return self._change()
        if isinstance(wanted, type) and issubclass(wanted, BaseModel):
            return {name: self._of_type(each.annotation) for name, each in wanted.model_fields.items()}
        if isinstance(wanted, type) and issubclass(wanted, tuple):
            return [self._of_type(each) for each in typing.get_type_hints(wanted, include_extras=True).values()]
        plain: dict[Any, Any] = {
            bool: chance.random() < 0.5,
            int: chance.choice([1, 2, 5]),
            float: chance.choice([0.5, 1.0]),
            str: "x",
            type(None): None,
        }
        return plain[wanted]

    # --- wrong ---

    def wrong(self, kind: str, role: str) -> dict[str, Any]:
        """Return a body in which one thing is not as it should be; some of these are still allowed."""
        body = self.right(kind, role)
        name = self._chance.choice([*CLASSES[kind].model_fields, "a field that there is not"])
        body[name] = self._changed(body.get(name))
        if self._chance.random() < 0.1:
            body.pop(self._chance.choice(list(body)), None)
        return body

    def _changed(self, value: Any) -> Any:
        """Return a value changed by type, size, count or depth, or in what is inside of it."""
        match self._chance.randrange(6):
            case 0:
                return self._chance.choice([None, True, b"\0\xff", [], {}, *NUMBERS, *FRACTIONS, *TEXTS])
            case 1:
                return self._larger(value)
            case 2:
                return self._more(value)
            case 3:
                return self._deeper(value)
            case 4 if isinstance(value, dict) and value:
                key = self._chance.choice(list(value))
                inside = {**value, key: self._changed(value[key])}
                return {
                    self._chance.choice(TEXTS) if k == key and self._chance.random() < 0.3 else k: inside[k]
                    for k in inside
                }
            case 4 | 5 if isinstance(value, list) and value:
                at = self._chance.randrange(len(value))
                return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
            case _:
                return self._alike(value)

    def _alike(self, value: Any) -> Any:
        """Return another value of the same type."""
        if isinstance(value, bool) or value is None:
            return not value
        kinds: tuple[tuple[type, Sequence[Any]], ...] = ((int, NUMBERS), (float, FRACTIONS), (str, TEXTS))
        for kind, others in kinds:
            if isinstance(value, kind):
                return self._chance.choice(others)
        return value

    def _larger(self, value: Any) -> Any:
        size = self._chance.choice(SIZES)
        if isinstance(value, list):
            return [*value[:1], "x" * size]
        return {"x" * size: value} if isinstance(value, dict) else "x" * size

    def _more(self, value: Any) -> Any:
        """Return as many elements as fit into some megabytes: the same ones, or all different."""
        count = self._chance.choice(COUNTS)
        if isinstance(value, list) and value:
            if self._chance.random() < 0.5:
                return value[:1] * count
            return [self._numbered(value[0], n) for n in range(min(count, 20_000))]
        if isinstance(value, dict) and value:
            (key, inside), *_ = value.items()
            return {self._numbered(key, n): inside for n in range(min(count, 30_000))}
        return [value] * count

    def _numbered(self, value: Any, number: int) -> Any:
        if isinstance(value, str):
            return f"{value}{number}"
        if isinstance(value, list) and value:
            return [self._numbered(value[0], number), *value[1:]]
        if isinstance(value, dict) and "path" in value:
            return {**value, "path": f"{value['path']}/{number}"}
        return value

    def _deeper(self, value: Any) -> Any:
        for _ in range(self._chance.choice([1, 10, 200])):
            value = [value] if self._chance.random() < 0.5 else {"x": value}
        return value
