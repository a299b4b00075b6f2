"""What the pages say is so: metrics as listed, commands as written."""

from __future__ import annotations

import re
import shlex
import tomllib
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
import typer

import jitsu.main  # noqa: F401  all commands
from deploy.pages import PAGES, REFERENCE
from jitsu.cli import app
from jitsu_runtime.settings.command_line import load_service
from jitsu_runtime.settings.schema import SECTION_OF
from tests.support.pages import DOCS, OPERATE, ROOT, pages
from tests.support.suite import RunningSuite, beside, free_port, vm_toml

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.wires

SERVICES = tuple(SECTION_OF)


OF_ALL = set(
    re.findall(r"^\| `(\w+)` \|", (ROOT / "runtime/README.md").read_text().partition("## Metrics")[2], re.MULTILINE)
)


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
    listen = {each: f"127.0.0.1:{port}" for each, port in ports.items()}
    toml = "".join(f'[{SECTION_OF[each]}]\nmetrics = "{listen[each]}"\n' for each in SERVICES if each != "web")
    directory = tmp_path_factory.mktemp("suite")
    http = f"unix:{directory}/http"  # jitsu-web is an extra, which needs this to run
    with (
        RunningSuite(directory, toml=toml + vm_toml("www", "127.4.1.1")) as suite,
        beside(suite, "web", JITSU_WEB_LISTEN=http, JITSU_WEB_METRICS=listen["web"]),
    ):
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
    assert listed | OF_ALL == {name for name in kinds if not name.endswith("_created")}


def documented() -> list[str]:
    """Return every command line of the tool in the pages: those on lines of their own, and those in the text."""
    found = set()
    for page in pages():
        if page.name == "commands.md":
            continue  # made from the code; tests/jitsu/test_help.py looks at its examples
        text = page.read_text()
        lines = re.findall(
            r"^ *(?:\$ )?(?:\.venv/bin/)?(jitsu (?!up:)[a-z-].*?)(?: {2,}.*| +#.*)?$", text, re.MULTILINE
        )
        inline = re.findall(r"`(jitsu [a-z][^`\[\n]*)`", text)
        found |= {line for line in (*lines, *inline) if not re.search(r"\.\.\.|\[|\|| / ", line)}
    return sorted(found)


@pytest.mark.parametrize("line", documented())
def test_the_tools_commands_in_the_pages_are_accepted(line: str) -> None:
    words = shlex.split(re.sub(r"^jitsu --as \S+", "jitsu", line))[1:]
    command: Any = typer.main.get_command(app)
    context = command.make_context("jitsu", words[:0], resilient_parsing=True)
    while hasattr(command, "commands"):
        assert words, f"{line}: which command?"
        name, words = words[0], words[1:]
        assert name in command.commands, f"{line}: there is no command {name}"
        command = command.commands[name]
    if words:  # else the text only names it
        command.make_context(command.name, words, parent=context)


def only_named(line: str) -> bool:
    """Say whether the text only names a command that needs an argument."""
    words = re.sub(r"^jitsu --as \S+", "jitsu", line).split()[1:]
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return not words and any(param.required for param in getattr(command, "params", ()))


def all_pages() -> str:
    return "\n".join(page.read_text() for page in [*pages(), ROOT / "guests/README.md"])


def operating(command: str) -> list[str]:
    """Return the lines of docs/how-to/operate.md that are this program's, in their order."""
    return re.findall(rf"^    ({command} .*?)(?: +#.*)?$", OPERATE.read_text(), re.MULTILINE)


RUN_ELSEWHERE = {
    "by CI, or by test_newcomer.py": {"up", "test", "lint", "setup", "docs"},
    "tiers": {"unit", "wires", "suite", "net", "libvirt", "lxd", "systemd", "compose", "newcomer", "xen"},
    "tests/simulation/test_random.py": {"simulate"},
    "test_machine.py": {"install", "deb"},
    "test_install.py": {"dist"},
    "test_benches.py": {"bench", "fuzz"},
    "test_guest_on_a_tap.py": {"guests"},
}


def test_what_make_is_asked_for_in_the_pages_is_run() -> None:
    asked = set(re.findall(r"(?:^    |`)make ([a-z][^`\n#]*)", all_pages(), re.MULTILINE))
    goals = {word for line in asked for word in shlex.split(line) if "=" not in word}
    assert len(goals) >= 12
    for goal in goals:
        kind = goal.removeprefix("test-").partition("-")[0]
        assert any(kind in goals for goals in RUN_ELSEWHERE.values()), goal


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_that_are_made_from_the_code_are_fresh(name: str) -> None:
    assert (REFERENCE / name).read_text() == PAGES[name](), "run `make docs`"


def test_the_picture_of_the_readme_is_readable_in_light_and_dark_and_by_a_screen_reader() -> None:
    (named,) = re.findall(r"!\[[^\]]{40,}\]\((docs/[^)]+\.svg)\)", (ROOT / "README.md").read_text())
    svg = "{http://www.w3.org/2000/svg}"
    picture = ElementTree.parse(ROOT / named).getroot()
    assert picture.findtext(f"{svg}title")
    assert picture.findtext(f"{svg}desc")
    light, dark = re.split(r"@media \(prefers-color-scheme: dark\)", picture.findtext(f"{svg}style", ""))
    colours = set(re.findall(r"([\w.]+) \{[^}]*(?:fill|stroke): #", light))
    assert colours == set(re.findall(r"([\w.]+) \{[^}]*(?:fill|stroke): #", dark)), "each colour has one for dark"


def test_what_pip_is_asked_for_in_the_pages_is_there() -> None:
    asked = re.findall(r'pip install "jitsu-(\w+)\[(\w+)\]"', all_pages())
    assert asked
    for service, extra in asked:
        folder = ROOT if service == "suite" else ROOT / "services" / service
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        assert extra in project["optional-dependencies"], f"jitsu-{service}[{extra}]"


def test_links_between_pages_lead_somewhere() -> None:
    for page in pages():
        for target, _, heading in re.findall(r"\]\(([^)#:]*)(#([^):]*))?\)", page.read_text()):
            meant = page.parent / target if target else page
            assert meant.exists(), f"{page}: {target}"
            if heading:
                assert heading in anchors(meant), f"{page}: {target}#{heading}"


def anchors(page: Path) -> set[str]:
    """Return the names by which links can reach the headings of a page, made as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*?) *$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_of_the_pages_names_each_of_them() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#:]+)", index.read_text())}
    assert set(DOCS.rglob("*.md")) - {index} <= linked


def test_pages_that_messages_and_programs_name_exist() -> None:
    for folder in ("jitsu", "protocol", "runtime", "services", "deploy", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".toml", ".md", ".service", ".sh"} and path != Path(__file__):
                for named in re.findall(r"(?<![\w/])docs/[\w/-]+\.md", path.read_text()):
                    assert (ROOT / named).exists(), f"{path}: {named}"
