"""What the pages say is so: metrics as listed, commands as written."""

from __future__ import annotations

import re
import shlex
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.sections import SECTION_OF
from jitsu_protocol.settings import load_service
from tests.support.suite import RunningSuite, free_port, vm_toml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SERVICES = tuple(SECTION_OF)


def readme(service: str) -> str:
    return (ROOT / "services" / service / "README.md").read_text()


@pytest.mark.parametrize("service", SERVICES)
def test_the_commands_in_each_readme_are_accepted(service: str) -> None:
    commands = re.findall(rf"^    (jitsu-{service} .+)$", readme(service), re.MULTILINE)
    assert commands
    for command in commands:
        load_service(service, shlex.split(command)[1:], {})


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What each service exposes, in a suite with metrics on."""
    ports = {service: free_port() for service in SERVICES}
    toml = "".join(f'[{SECTION_OF[each]}]\nmetrics = "127.0.0.1:{port}"\n' for each, port in ports.items())
    with RunningSuite(tmp_path_factory.mktemp("suite"), toml=toml + vm_toml("www", "127.4.1.1")):
        found = {}
        for service, port in ports.items():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
                found[service] = response.read().decode()
        yield found


@pytest.mark.suite
@pytest.mark.parametrize("service", SERVICES)
def test_the_metrics_in_each_readme_are_those_that_are_exposed(service: str, exposed: dict[str, str]) -> None:
    listed = set(re.findall(r"^\| `(jitsu_\w+)` \|", readme(service), re.MULTILINE))
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", exposed[service], re.MULTILINE))
    assert listed == {name for name in kinds if not name.endswith("_created")}


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("services/*/README.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
