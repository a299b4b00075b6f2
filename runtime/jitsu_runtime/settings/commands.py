"""The sections [command.NAME] of jitsu.toml: the commands that start, stop and look at VMs of the kind `command`.

They are written in a file of the host and nowhere else. There is neither a flag nor a variable for them, and no message
of the bus carries one: whoever may change the state tree cannot change what is run. A VM names such a section, and that
is all that it can say.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from jitsu_protocol.model.vm import nearest, reason
from jitsu_protocol.model.vm_keys import Limit, command_name
from jitsu_runtime.settings.section import Section, unit_of
from jitsu_runtime.settings.values import usable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from jitsu_runtime.settings.toml_positions import TomlFile

PLACEHOLDERS = ("name", "uuid", "address")
"""What `{...}` in an argument may stand for. Their values cannot begin with a hyphen."""
OF_ALL = ("states", "watch")
"""Commands that are about all VMs: their arguments are taken as they are."""
_BRACES = re.compile(r"\{\{\w+\}\}|\{(\w+)\}")
MAX_SECTIONS = 1000

Word = Literal["running", "starting", "stopping", "off", "crashed", "paused", "suspended"]


def _one_text(value: object) -> object:
    return [value] if isinstance(value, str) and value else value


def _own_variables(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name[:100]!r} cannot be the name of a variable")
        if name.startswith("JITSU_"):
            raise ValueError(f"{name[:100]} is set by Jitsu; choose a name that does not begin with JITSU_")
        usable(text)
    return value


Argv = Annotated[list[str], BeforeValidator(_one_text), Field(min_length=1)]
OptionalArgv = Annotated[list[str], BeforeValidator(_one_text)]
Variables = Annotated[dict[str, str], AfterValidator(_own_variables)]


def _argument_list(key: str, words: list[str], *, shell: bool) -> None:
    """Refuse a command that cannot be run; raises ValueError."""
    if shell:
        if len(words) > 1:
            raise ValueError(f"{key} is a list, but shell = true takes one text that /bin/sh reads")
        return
    if not words[0]:
        raise ValueError(f"{key} has no program: its first word is empty")
    if len(words) == 1 and re.search(r"\s", words[0]):
        raise ValueError(f'{key} is one text; write its words as a list, ["...", "..."], or set shell = true')
    if "{" in words[0]:
        raise ValueError(f"{key}: the program {words[0]!r} must be written out; only arguments may have {{...}}")
    if key in OF_ALL:
        if meant := next((each for each in PLACEHOLDERS if any(f"{{{each}}}" in word for word in words)), ""):
            raise ValueError(f"{key}: it is run once for all VMs, so there is nothing to fill in for {{{meant}}}")
        return
    for found in (each for word in words for each in _BRACES.finditer(word)):
        if found[1] is not None and found[1] not in PLACEHOLDERS:
            known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
            raise ValueError(
                f"{key}: {found[0]} is not filled in; use {known}, or {{{found[0]}}} for the text {found[0]}"
            )


class CommandSettings(Section):
    """Commands that drive machines of any kind; a VM of a hypervisor of the kind `command` names one of these sections.

    A command is a list of arguments, in which {name}, {uuid} and {address} are filled in. With `shell = true` it is one
    text for /bin/sh, which finds the same in $JITSU_NAME, $JITSU_UUID and $JITSU_ADDRESS.
    """

    start: Argv = Field(description="Lets the VM run. It must do no harm if the VM runs already. Required.")
    stop: Argv = Field(description="Ends the VM at once (stop_mode destroy). Required.")
    state: OptionalArgv = Field(
        default_factory=list,
        description="Prints the state of the VM: running, starting, stopping, off, crashed, paused or suspended, and "
        "after that word perhaps a reason. It or `states` is required.",
    )
    states: OptionalArgv = Field(
        default_factory=list,
        description="Prints a line `NAME STATE` for each machine that there is, once for all VMs of the section; those "
        "that it does not print are off.",
    )
    shutdown: OptionalArgv = Field(
        default_factory=list,
        description="Asks the VM to shut down (stop_mode shutdown). If it is not off after its shutdown_limit, `stop` "
        "is run.",
    )
    pause: OptionalArgv = Field(default_factory=list, description="Stops its processors (stop_mode pause).")
    suspend: OptionalArgv = Field(default_factory=list, description="Saves its memory (stop_mode suspend).")
    resume: OptionalArgv = Field(
        default_factory=list, description="Lets a paused or suspended VM go on; without it `start` does that."
    )
    discard: OptionalArgv = Field(
        default_factory=list, description="Deletes what was saved of a VM; without it `stop` does that."
    )
    watch: OptionalArgv = Field(
        default_factory=list,
        description="Runs all the time and prints a line `NAME STATE` for each change, or `NAME` for a VM whose state "
        "is to be asked for. If it ends, it is started again.",
    )
    shell: bool = Field(False, description="Each command is one text, which /bin/sh -c is given.")
    words: dict[str, Word] = Field(
        default_factory=dict,
        description="What `state` and `states` print -> the state that it means, where they do not print such a word "
        'themselves. "exit N" stands for an exit status, "*" for anything else that is printed with status 0.',
    )
    environment: Variables = Field(
        default_factory=dict,
        description="Variables that the commands find in their environment. No secrets: use files.",
    )
    interval: Limit = Field(
        10.0, description="How often the state of the VMs is asked for.", json_schema_extra={"unit": "s"}
    )
    limit: Limit = Field(
        30.0, description="A command that takes longer is killed, and has failed.", json_schema_extra={"unit": "s"}
    )
    appears_within: Limit = Field(
        60.0,
        description="How long the state may still be off after `start` has ended.",
        json_schema_extra={"unit": "s"},
    )
    stops_within: Limit = Field(
        30.0,
        description="How long the state may be what it was after a command that stops has ended.",
        json_schema_extra={"unit": "s"},
    )


def commands_of(section: CommandSettings) -> dict[str, list[str]]:
    """Return the commands that a section has, by their key."""
    every = {
        "start": section.start,
        "stop": section.stop,
        "state": section.state,
        "states": section.states,
        "shutdown": section.shutdown,
        "pause": section.pause,
        "suspend": section.suspend,
        "resume": section.resume,
        "discard": section.discard,
        "watch": section.watch,
    }
    return {key: words for key, words in every.items() if words}


def _check(section: CommandSettings) -> None:
    """Refuse commands that cannot be run, or too few of them; raises ValueError."""
    for key, words in commands_of(section).items():
        _argument_list(key, words, shell=section.shell)
    if not section.state and not section.states:
        raise ValueError("state is required (or states): how else would be known whether a VM runs")


def read_commands(
    toml: TomlFile | None, inherited: Mapping[str, JsonValue], faults: list[str]
) -> dict[str, CommandSettings]:
    """Return the sections of a file, or those that `jitsu up` has passed on; what is wrong is added to the faults."""
    given: Any = inherited.get("command")
    if given is not None:
        return {name: CommandSettings.model_validate(table) for name, table in given.items()}
    tables = {} if toml is None else toml.data.get("command", {})
    if toml is None or not tables:
        return {}
    if not isinstance(tables, dict) or len(tables) > MAX_SECTIONS:
        faults.append(f"{toml.at('command')}: must be at most {MAX_SECTIONS} sections: [command.NAME]")
        return {}
    found = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            faults.append(f"{toml.at('command', name)}: must be a section: [command.{name}]")
            continue
        try:
            command_name(name)
            found[name] = CommandSettings.model_validate(table)
            _check(found[name])
        except ValidationError as error:
            faults += [_fault(toml, name, each) for each in error.errors()]
        except ValueError as error:
            faults.append(f"{toml.at('command', name)}: {error}")
    return found


def _fault(toml: TomlFile, name: str, error: Any) -> str:
    """Return what is wrong with a section as a line that says where it is written."""
    place = [str(each) for each in error["loc"][:1]]
    where = toml.at("command", name, *place)
    key = place[0] if place else ""
    field = CommandSettings.model_fields.get(key)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key{nearest(key, CommandSettings.model_fields)}"
    if error["type"] == "missing":
        return f"{where}: is required"
    if error["type"] in ("list_type", "too_short"):
        return f'{where}: must be a list of arguments, for example ["systemctl", "{key}", "{{name}}"]'
    return f"{where}: {reason(error, unit_of(field) if field else '')}"
