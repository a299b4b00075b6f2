"""What Proxmox publishes about its API, from the models of clientapi-pve, which are generated from that description.

`check` holds a request and its answer against it: the path and the method exist, every parameter is one of theirs and
has its type, and so has every field of the answer.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

APIS = ("cluster", "nodes_tasks", "qemu", "lxc")
_METHOD = re.compile(r"    def (\w+)_with_http_info\((.*?)\) -> .*?'200': \"(\w+)\"", re.DOTALL)
_PLACE = re.compile(r"    def _(\w+)_serialize\((.*?)\) -> .*?method='(\w+)',\s+resource_path='([^']+)'", re.DOTALL)
_BODY = re.compile(r"_request: (?:Optional\[)?([A-Z]\w+Request)\b")


@dataclass(frozen=True)
class Operation:
    """A method of a path."""

    method: str
    path: re.Pattern[str]
    query: frozenset[str]
    request: str
    """The model of its body, "" if it has none."""
    answer: str


def check(method: str, path: str, query: Mapping[str, str], form: Mapping[str, str], answer: object) -> None:
    """Raise AssertionError if a request or its answer is not as the description has it."""
    found = [each for each in operations() if each.method == method and each.path.fullmatch(path)]
    assert len(found) == 1, f"the description has no {method} {path}"
    (operation,) = found
    assert query.keys() <= operation.query, f"{path} takes none of the parameters {set(query) - operation.query}"
    if form:
        assert operation.request, f"{method} {path} takes no parameters"
        _hold(operation.request, {key: int(value) if value.isdecimal() else value for key, value in form.items()})
    _hold(operation.answer, answer)


def _hold(name: str, value: object) -> None:
    known = _known(model(name))
    unknown = set(value) - known if isinstance(value, dict) else set()
    assert not unknown, f"{name} has no {unknown}"
    model(name).model_validate(_plain(value))


def _plain(value: object) -> object:
    """Return a record without `net0` and its like: the models split their text, whose form is that of qm.conf(5)."""
    if not isinstance(value, dict):
        return value
    return {key: _plain(each) for key, each in value.items() if not re.fullmatch(r"(net|ipconfig)\d+", key)}


def _known(of: type[BaseModel]) -> set[str]:
    return {field.alias or key for key, field in of.model_fields.items()}


@functools.cache
def model(name: str) -> type[BaseModel]:
    """Return a model by its name, without loading the other fifteen hundred, which takes seconds."""
    home = _home()
    for package, directory in (("clientapi_pve", home), ("clientapi_pve.models", home / "models")):
        if package not in sys.modules:
            stub = ModuleType(package)
            stub.__path__ = [str(directory)]
            sys.modules[package] = stub
    file = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    found: Any = vars(importlib.import_module(f"clientapi_pve.models.{file}"))[name]
    return found  # type: ignore[no-any-return]


@functools.cache
def operations() -> tuple[Operation, ...]:
    """Read the methods of the parts of the API that vmd uses."""
    found = []
    for api in APIS:
        source = (_home() / "api" / f"{api}_api.py").read_text()
        answers = {name: (arguments, answer) for name, arguments, answer in _METHOD.findall(source)}
        for name, arguments, method, path in _PLACE.findall(source):
            parameters = {line.strip(" ,") for line in arguments.splitlines() if line.strip(" ,")} - {"self"}
            body = _BODY.search(answers[name][0])
            pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))
            found.append(Operation(method, pattern, frozenset(parameters), body[1] if body else "", answers[name][1]))
    return tuple(found)


def _home() -> Path:
    spec = importlib.util.find_spec("clientapi_pve") if "clientapi_pve" not in sys.modules else None
    if spec is None or spec.origin is None:
        return Path(sys.modules["clientapi_pve"].__path__[0])
    return Path(spec.origin).parent
