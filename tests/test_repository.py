"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.wires

ROOT = Path(__file__).parents[1]
SERVICES = sorted(f"services/{path.name}" for path in (ROOT / "services").iterdir())
MEMBERS = ["protocol", "runtime", *SERVICES]
MAX_FILE_LINES = 500
MAX_TEST_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
MAX_CLASS_LINES, MAX_METHODS, MAX_ATTRIBUTES = 250, 25, 12
MAX_PARAMETERS = 6


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


def project(folder: str) -> dict[str, object]:
    table = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    assert isinstance(table, dict)
    return table


def test_all_distributions_have_one_version() -> None:
    from jitsu_protocol import __version__

    assert {str(project(folder)["version"]) for folder in [*MEMBERS, "."]} == {__version__}
    for folder in SERVICES:
        dependencies = project(folder)["dependencies"]
        assert isinstance(dependencies, list)
        assert {f"jitsu-protocol=={__version__}", f"jitsu-runtime=={__version__}"} <= set(dependencies)


def test_tests_are_no_packages_and_nothing_is_loose() -> None:
    assert tracked("tests/**/__init__.py", "tests/__init__.py") == []
    for folder in MEMBERS:
        assert list((ROOT / folder).glob("*.py")) == []
    # What a page is generated into must not be committed, whatever directory a slip has named.
    assert tracked("*.[18]", "*.new", "*.log") == []
    assert [path for path in tracked() if re.search(r"(^|/)[-~ ]", str(path.relative_to(ROOT)))] == []


def test_no_file_and_no_function_grows_without_end() -> None:
    for path in tracked("*.py"):
        text = path.read_text()
        is_product = path.relative_to(ROOT).parts[0] in ("jitsu", "protocol", "runtime", "services")
        assert text.count("\n") <= (MAX_FILE_LINES if is_product else MAX_TEST_FILE_LINES), path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "tests" not in path.parts:
                assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, f"{path}: {node.name}"


PRODUCT = ("jitsu/**/*.py", "protocol/**/*.py", "runtime/**/*.py", "services/**/*.py")


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield the classes of the product with the names of their files."""
    for path in tracked(*PRODUCT):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield path.relative_to(ROOT).as_posix(), node


def methods(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]


def attributes(node: ast.ClassDef) -> set[str]:
    """Return what a class declares, and what its methods assign to `self`."""
    declared = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
    found = {target.id for target in declared if isinstance(target, ast.Name)}
    for method in methods(node):
        for each in ast.walk(method):
            if (
                isinstance(each, ast.Attribute)
                and isinstance(each.ctx, ast.Store)
                and ast.unparse(each.value) == "self"
            ):
                found.add(each.attr)
    return found


DECLARE_KEYS = {"HypervisorSettings", "VM"}
"""Sections of a file and the model of a VM have as many fields as there are keys; none of the others has methods."""


def test_no_class_grows_without_end() -> None:
    found = {}
    for path, node in classes():
        fields = len(attributes(node)) if methods(node) and node.name not in DECLARE_KEYS else 0
        sizes = ((node.end_lineno or 0) - node.lineno + 1, len(methods(node)), fields)
        if any(size > most for size, most in zip(sizes, (MAX_CLASS_LINES, MAX_METHODS, MAX_ATTRIBUTES), strict=True)):
            found[f"{path}: {node.name}"] = sizes
    assert found == {}, "lines, methods and attributes"


def test_a_class_name_exists_once() -> None:
    files: dict[str, set[str]] = {}
    for path, node in classes():
        if not node.name.startswith("_"):
            files.setdefault(node.name, set()).add(path)
    assert {name: where for name, where in files.items() if len(where) > 1} == {}


COMMANDS = {"jitsu/running.py": "up", "jitsu/changing.py": "apply"}
"""Functions whose parameters are the options of a command: typer reads them from there."""


def test_a_function_has_few_parameters() -> None:
    found = []
    for path in tracked(*PRODUCT):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and COMMANDS.get(name) != node.name:
                every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if len([each for each in every if each.arg not in ("self", "cls")]) > MAX_PARAMETERS:
                    found.append(f"{name}: {node.name}")
    assert found == []


BROAD = re.compile(r"except \(?(Base)?Exception\b|except:|except\*|suppress\((Base)?Exception\)")
BROAD_EXCEPTS = {
    "runtime/jitsu_runtime/bus/rpc_server.py": 1,  # a handler of any service failed: logged, counted, and replied
    "runtime/jitsu_runtime/service.py": 1,  # a task of any service failed: logged, and the process exits
    "runtime/jitsu_runtime/threads.py": 1,  # a call on a thread failed: raised again where it is awaited
    "services/vmd/jitsu_vmd/wires/isolation.py": 1,  # a hypervisor's code failed: logged, and raised as a JitsuError
}
"""How many handlers a file may have that catch every exception, counted by path. `except*` counts as one of them."""


def test_every_exception_is_caught_in_fewer_than_five_places() -> None:
    assert sum(BROAD_EXCEPTS.values()) < 5
    for path in tracked(*PRODUCT):
        found = len(BROAD.findall(path.read_text()))
        assert found <= BROAD_EXCEPTS.get(path.relative_to(ROOT).as_posix(), 0), path


READS_THE_CLOCK = re.compile(r"\btime\.(monotonic|time)\b|from time import [^\n]*\b(monotonic|time)\b")
CLOCK_FILE = "runtime/jitsu_runtime/clock.py"
LAUNCHER = "services/vmd/jitsu_vmd/hypervisors/solo5/wires/loop.py"
"""The launcher of tenders imports no asyncio, which the clock module does: that takes longer than a guest to boot."""


def test_only_the_clock_module_reads_the_time() -> None:
    for path in tracked(*PRODUCT):
        name = path.relative_to(ROOT).as_posix()
        if name not in (CLOCK_FILE, LAUNCHER):
            assert READS_THE_CLOCK.search(path.read_text()) is None, path


TIERS_THAT_WAIT = re.compile(r"pytest\.mark\.(wires|suite|net|libvirt|qemu|xen)\b")
PLAYED_SLEEPS = {"test_journal.py"}
"""There `asyncio.sleep` is played on a virtual clock; in tests/simulation/ all of time is."""


def test_unit_tests_do_not_sleep() -> None:
    """`sleep(0)` lets other tasks run and does not wait."""
    unit = [*SERVICES, "jitsu", "protocol", "runtime"]
    for path in tracked(*(f"tests/{Path(folder).name}/*.py" for folder in unit)):
        text = path.read_text()
        if TIERS_THAT_WAIT.search(text) is None and path.name not in PLAYED_SLEEPS:
            assert re.search(r"\bsleep\((?!0\))", text) is None, path


PRIVATE = re.compile(r"_[a-z]\w*")
SELF = {"self", "cls"}
OF_PYTHON = {
    "tests/simulation/loop.py",  # runs callbacks as asyncio does, in which there is no public way to do so
    "tests/vmd/test_commands.py",  # a machine on which tempfile finds no directory
}
"""Tests that use what Python itself keeps private."""


def private_uses(tree: ast.Module) -> Iterator[str]:
    """Yield the private names of other objects and modules that a file reads, sets, imports or patches."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=owner, attr=name) if PRIVATE.fullmatch(name):
                if ast.unparse(owner) not in SELF and (ast.unparse(owner), name) != ("os", "_exit"):
                    yield ast.unparse(node)
            case ast.ImportFrom(names=names):
                yield from (each.name for each in names if PRIVATE.fullmatch(each.name))
            case ast.Call(func=ast.Attribute(attr="setattr" | "delattr"), args=arguments):
                for each in arguments[:2]:
                    if isinstance(each, ast.Constant) and PRIVATE.fullmatch(str(each.value).rpartition(".")[2]):
                        yield ast.unparse(node)


def test_no_test_uses_what_is_private_to_a_module() -> None:
    """Then the code behind an interface may change, and only a test of the interface fails."""
    found = {
        path.relative_to(ROOT).as_posix(): uses
        for path in tracked("tests/**/*.py", "bench/**/*.py")
        if (uses := sorted(set(private_uses(ast.parse(path.read_text())))))
    }
    assert {path: uses for path, uses in found.items() if path not in OF_PYTHON} == {}
    assert found.keys() >= OF_PYTHON, "remove those that need it no longer"


def test_requirements_are_hashed_and_name_no_index() -> None:
    text = (ROOT / "requirements-dev.txt").read_text()
    assert "--hash=sha256:" in text
    assert not re.search(r"https?://|--index-url|--find-links|file:", text)


@pytest.mark.parametrize("folder", SERVICES)
def test_every_service_documents_itself_in_one_form(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["What it does", "Settings", "Metrics", "Run it alone"]
    assert text.startswith(f"# jitsu-{Path(folder).name}\n")


def test_there_is_no_machine_path_in_what_is_committed() -> None:
    above = ROOT.parent if ROOT.parent != Path(tempfile.gettempdir()) else ROOT  # whose name stands in the docs
    top = above.as_posix() + "/"
    for path in tracked():
        if len(ROOT.parts) > 2 and path.suffix in {".py", ".md", ".toml", ".txt", ""}:
            assert top not in path.read_text(errors="ignore"), path
