"""The files of the page: what is true of them without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import jitsu_web

PAGE = Path(jitsu_web.__file__).parent / "page"
MODULES = sorted((PAGE / "js").glob("*.js"))
STYLES = sorted((PAGE / "css").glob("*.css"))
INDEX = (PAGE / "index.html").read_text()
MAX_LINES = 320
MAX_BYTES = 150_000
"""Of all that a browser loads, so that the page is there at once also over a slow line."""
PURE = ("words", "rows", "states", "stream", "diff")
"""Modules without a document, a clock or a request; those that they import are among them."""


def test_no_file_makes_markup_or_code_from_text() -> None:
    for path in MODULES:
        found = re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|"
            r"\beval\(|new Function|setTimeout\(['\"]|srcdoc|javascript:",
            path.read_text(),
        )
        assert found is None, f"{path.name}: {found}"


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    assert re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", INDEX) is None
    for path in (*MODULES, *STYLES, PAGE / "index.html"):
        links = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text())
        assert [link for link in links if not link.startswith(("http://www.w3.org", "//www.w3.org"))] == [], path.name
    for path in STYLES:
        assert "@import" not in path.read_text(), path.name


def test_everything_that_the_page_loads_exists() -> None:
    named = re.findall(r'(?:src|href)="\./([^"]+)"', INDEX)
    assert len(named) > 10
    for name in named:
        assert (PAGE / name).is_file(), name
    for path in MODULES:
        for name in re.findall(r'(?:from|import\()\s*"\./([^"]+)"', path.read_text()):
            assert (PAGE / "js" / name).is_file(), f"{path.name}: {name}"


def imports_of(name: str) -> set[str]:
    return set(re.findall(r'^import .* from "\./(\w+)\.js"', (PAGE / "js" / f"{name}.js").read_text(), re.MULTILINE))


def test_what_the_first_screen_needs_is_asked_for_at_once() -> None:
    """A module that is not named in the page is only found when the one that imports it has arrived."""
    needed, waiting = set(), {"main"}
    while waiting:
        needed |= waiting
        waiting = {each for name in waiting for each in imports_of(name)} - needed
    assert set(re.findall(r'rel="modulepreload" href="\./js/(\w+)\.js"', INDEX)) == needed


def test_the_modules_that_decide_touch_no_document() -> None:
    for name in PURE:
        text = re.sub(r"//.*|/\*.*?\*/", "", (PAGE / "js" / f"{name}.js").read_text(), flags=re.DOTALL)
        assert re.search(r"\b(document|window|fetch|localStorage|Date\.now)\b", text) is None, name
        assert imports_of(name) <= set(PURE), name


def test_no_module_grows_without_end_and_all_of_it_is_small() -> None:
    for path in (*MODULES, *STYLES):
        assert path.read_text().count("\n") <= MAX_LINES, path.name
    assert sum(path.stat().st_size for path in PAGE.rglob("*") if path.is_file()) < MAX_BYTES
