"""Write the manual pages of all commands: python -m deploy.man DIRECTORY.

They are made from the settings models, and from what `jitsu --help` is made from.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import jitsu.main  # noqa: F401  all commands
from jitsu.cli import app
from jitsu.examples import COMMANDS, EXIT_STATUS, GROUPS, WORDS
from jitsu_protocol import __version__
from jitsu_runtime.settings.schema import SECTION_OF, SECTIONS
from jitsu_runtime.settings.section import default_of
from jitsu_runtime.settings.service_help import EXIT_STATUS as SERVICE_EXIT_STATUS
from jitsu_runtime.settings.service_help import SERVICES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main() -> int:
    """Write them."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    target = Path(sys.argv[1])
    pages = {
        "man1/jitsu.1": _tool(),
        "man8/jitsu-solo5.8": _solo5(),
        "man1/jitsu-wake.1": _wake(),
        "man1/jitsu-answers.1": _answers(),
        **{f"man8/jitsu-{service}.8": _service(service) for service in SERVICES},
    }
    for name, page in pages.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)
    return 0


def _service(service: str) -> str:
    name = f"jitsu-{service}"
    lines = [_head(name, 8), ".SH NAME", f"{name} \\- {SERVICES[service].what}", ".SH SYNOPSIS", f".B {name}"]
    lines += ["[\\fB\\-\\-config\\fR \\fIFILE\\fR] [\\fB\\-\\-\\fIKEY\\fR \\fIVALUE\\fR]...", ".SH DESCRIPTION"]
    what = f"{SERVICES[service].what[0].upper()}{SERVICES[service].what[1:]}."
    bus = "One of the five processes of Jitsu; they find each other on the bus (ZeroMQ), where the configuration says."
    lines += [_text(what), _text(bus), ".SH OPTIONS"]
    lines += [".TP", "\\fB\\-\\-config\\fR \\fIFILE\\fR", "jitsu.toml; else that of JITSU_CONFIG."]
    own = SECTION_OF[service]
    for section in (own, "bus", "log"):
        for key, field in SECTIONS[section].model_fields.items():
            flag = (f"--{key}" if section == own else f"--{section}-{key}").replace("_", "-")
            default = default_of(field)
            lines += [".TP", f"\\fB{_text(flag)}\\fR \\fIVALUE\\fR", _text(field.description or "")]
            lines += [_text(f"Default: {default}.")] if default else []
    variables = f"JITSU_<SECTION>_<KEY> for each option, for example JITSU_{own.upper()}_METRICS."
    lines += [".SH ENVIRONMENT", _text(f"{variables} A flag overrides it, and it overrides the file.")]
    lines += [".SH SIGNALS", ".TP", "SIGTERM, SIGINT", "End in good order.", ".TP", "SIGHUP"]
    lines += ["Read the configuration again: some settings change at once; those that need a restart are logged."]
    if service == "dns":
        lines += [".TP", "SIGUSR2", "Begin or end to log queries."]
    lines += [".SH EXIT STATUS"]
    for status, meaning in SERVICE_EXIT_STATUS.items():
        lines += [".TP", status, _text(meaning)]
    lines += [".SH EXAMPLES", *_examples(SERVICES[service].examples), ".SH SEE ALSO", ".BR jitsu (1)", ""]
    return "\n".join(lines)


def _wake() -> str:
    options = {
        "MAC": "The computer's MAC address. Default: $JITSU_MAC.",
        "--near ADDRESS": "The network in which that is; else that of the default route. Default: $JITSU_ADDRESS.",
        "--to ADDRESS": "The broadcast address. Default: 255.255.255.255.",
        "--port PORT": "The UDP port. Default: 9.",
    }
    what = "Broadcasts a magic packet (Wake-on-LAN), three times, as a UDP datagram. It needs no privileges."
    return _small("jitsu-wake", "wake a sleeping computer", "[MAC] [--near ADDRESS]", what, options)


def _answers() -> str:
    options = {
        "--within SECONDS": "How long to wait for an answer. Default: 2.",
        "--service": "A connection that is refused counts as off.",
    }
    what = "Prints running if a TCP connection is accepted or refused, off if nobody answers."
    return _small("jitsu-answers", "print whether a computer answers at a port", "ADDRESS PORT", what, options)


def _small(name: str, does: str, arguments: str, what: str, options: Mapping[str, str]) -> str:
    """Return the page of a program for [command.NAME]."""
    lines = [_head(name, 1), ".SH NAME", f"{name} \\- {does}", ".SH SYNOPSIS", f".B {name}", _text(arguments)]
    lines += [".SH DESCRIPTION", _text(what), ".SH OPTIONS"]
    for option, meaning in options.items():
        lines += [".TP", _text(option), _text(meaning)]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR jitsu-vmd (8)", ""])


def _solo5() -> str:
    what = "starts the tenders of Solo5 unikernels for jitsu-vmd"
    why = (
        "A process beside jitsu-vmd, which asks it to start, signal and end tenders (hypervisor.kind = solo5). It runs "
        "as root, gives each tender a user of its own, and needs no configuration. Tenders run on when it ends; the "
        "next one finds them."
    )
    lines = [_head("jitsu-solo5", 8), ".SH NAME", f"jitsu-solo5 \\- {what}", ".SH SYNOPSIS", ".B jitsu-solo5"]
    lines += ["\\fB\\-\\-directory\\fR \\fIDIRECTORY\\fR [\\fB\\-\\-stay\\fR]", ".SH DESCRIPTION", _text(why)]
    lines += [".SH OPTIONS", ".TP", "\\fB\\-\\-directory\\fR \\fIDIRECTORY\\fR"]
    lines += [_text("Where its socket and its records are; hypervisor.connect of jitsu-vmd is the same.")]
    lines += [".TP", "\\fB\\-\\-stay\\fR", _text("Go on even without guests and without a jitsu-vmd.")]
    lines += [".SH EXIT STATUS", ".TP", "0", "stopped by a signal, or needed no longer"]
    lines += [
        ".TP",
        "2",
        "another one serves that directory, or it is not root",
        ".SH SEE ALSO",
        ".BR jitsu-vmd (8)",
        "",
    ]
    return "\n".join(lines)


def _tool() -> str:
    group: Any = typer.main.get_command(app)
    lines = [_head("jitsu", 1), ".SH NAME", "jitsu \\- start virtual machines when their names are looked up"]
    flags = "[\\fB\\-\\-config\\fR \\fIFILE\\fR] [\\fB\\-\\-runtime\\-dir\\fR \\fIDIR\\fR]"
    lines += [".SH SYNOPSIS", ".B jitsu", f"{flags} \\fICOMMAND\\fR ..."]
    lines += [".SH DESCRIPTION", _text(group.help), ".SH OPTIONS", *_options(group)]
    for title in GROUPS:
        lines += [f".SH COMMANDS: {title.upper()}"]
        for name, more in COMMANDS.items():
            if more.group == title and name in group.commands:
                lines += _command(name, group.commands[name])
    lines += [".SH WORDS"]
    for word, meaning in WORDS:
        lines += [".TP", f"\\fI{word}\\fR", _text(meaning)]
    lines += [".SH EXIT STATUS"]
    for status, meaning in EXIT_STATUS.items():
        lines += [".TP", status, _text(meaning)]
    lines += [".SH FILES", ".TP", "/etc/jitsu/jitsu.toml", "The configuration that the units read.", ".SH SEE ALSO"]
    lines += [", ".join(f"\\fBjitsu\\-{service}\\fR(8)" for service in SERVICES), ""]
    return "\n".join(lines)


def _command(name: str, command: Any) -> list[str]:
    lines = []
    if hasattr(command, "commands"):
        for sub, each in command.commands.items():
            lines += _command(f"{name} {sub}", each)
        return lines
    words = [param.metavar or param.name.upper() for param in command.params if param.param_type_name == "argument"]
    arguments = " ".join(words)
    head = f".SS {_text(f'jitsu {name} {arguments}'.strip())}"
    return [head, _text(command.help or ""), *_options(command), *_examples(COMMANDS[name].examples)]


def _examples(examples: Sequence[tuple[str, str]]) -> list[str]:
    lines = []
    for command, what in examples:
        lines += [".TP", f"\\fB{_text(command)}\\fR", _text(what)]
    return lines


def _options(command: Any) -> list[str]:
    lines = []
    for param in command.params:
        if param.param_type_name == "option" and not param.hidden and param.help:
            flags = ", ".join([*param.opts, *param.secondary_opts])
            value = "" if param.is_flag else f" \\fI{_text(param.metavar or 'VALUE')}\\fR"
            lines += [".TP", f"\\fB{_text(flags)}\\fR{value}", _text(param.help)]
    return lines


def _head(name: str, section: int) -> str:
    return f'.TH {name.upper()} {section} "" "Jitsu {__version__}" "Jitsu"'


def _text(text: str) -> str:
    """Return text as roff(7) takes it."""
    plain = re.sub(r"\s+", " ", re.sub(r"[`*]", "", text)).strip()
    escaped = plain.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.exit(main())
