"""The command line of a service: a flag for each of its settings, derived from the sections."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu_runtime.settings.help import Group, HelpPage, Parser, version_text
from jitsu_runtime.settings.inherited import inherited_settings
from jitsu_runtime.settings.load import Settings, SettingsFault, load_without_vms
from jitsu_runtime.settings.schema import SECTION_OF, SECTIONS
from jitsu_runtime.settings.section import default_of
from jitsu_runtime.settings.service_help import EXIT_STATUS, SERVICES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def load_service(service: str, argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings of a service from its command line, without VMs.

    Exits for --help, --version and a command line that is wrong; raises SettingsFault.
    """
    flags = dict(vars(service_parser(service).parse_args(argv)))
    if "dns.version" in flags and flags["dns.version"] is None:
        flags["version"] = True
    if flags.pop("version", False):
        print(version_text(f"jitsu-{service}"))
        raise SystemExit(0)
    flags.pop("check", None)  # of the service's main
    file = flags.pop("config", environ.get("JITSU_CONFIG"))
    try:
        return load_without_vms(Path(file) if file else None, environ, flags, inherited_settings(environ))
    except OSError as error:
        raise SettingsFault([f"the settings that `jitsu up` passes on cannot be read: {error.strerror}"]) from None


def service_parser(service: str) -> Parser:
    """Return the parser of a service's command line: a flag for each setting of its own, of the bus and of the log."""
    own, about = SECTION_OF[service], SERVICES[service]
    parser = Parser(prog=f"jitsu-{service}", allow_abbrev=False, argument_default=argparse.SUPPRESS)
    general = [("--config FILE", "The jitsu.toml that is read; else the one that JITSU_CONFIG names.")]
    parser.add_argument("--config", metavar="FILE")
    groups: list[Group] = []
    for name in (own, "bus", "log"):
        rows = []
        for key, field in SECTIONS[name].model_fields.items():
            flag = (f"--{key}" if name == own else f"--{name}-{key}").replace("_", "-")
            parser.add_argument(flag, dest=f"{name}.{key}", nargs="?" if flag == "--version" else None)
            default = default_of(field)
            rows.append((f"{flag} VALUE", f"{field.description} [{default}]" if default else field.description or ""))
        groups.append(Group(f"Settings of [{name}]", rows))
    if service != "dns":  # whose --version VALUE is a setting, and without a value prints the version too
        parser.add_argument("--version", action="store_true")
    if about.check:
        parser.add_argument("--check", action="store_true")
        general.append(("--check", about.check))
    general += [("--version", "Print the version, and exit."), ("-h, --help", "Show this message and exit.")]
    parser.page = HelpPage(
        f"jitsu-{service} [OPTION]...",
        (
            f"{about.what[0].upper()}{about.what[1:]}. It is one of the five processes of Jitsu, which find each other "
            "as [bus] says.",
            f"Each setting has a variable too, such as JITSU_{own.upper()}_METRICS. A flag counts before it, and it "
            "before jitsu.toml.",
        ),
        (Group("Options", general), *groups, Group("Exit status", list(EXIT_STATUS.items()))),
        about.examples,
        f"{about.page}, docs/reference/configuration.md",
    )
    return parser
