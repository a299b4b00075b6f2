"""What `make dist` builds is installed as its page says, while an index offers hostile packages of our names."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.dist import MEMBERS, ROOT
from tests.support.dns import ask
from tests.support.suite import READY_LINE, START_LIMIT_S, free_port, vm_toml, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.suite, pytest.mark.alone, pytest.mark.timeout(400)]
OURS = ("protocol", "runtime", "store", "vmd", "dns", "synjitsu", "reaper", "web", "suite")
LIMIT_S = 300


def pinned() -> set[str]:
    """Return the libraries that requirements.txt has for this platform."""
    found = re.findall(r"^([\w.-]+)==[^;\n]*?( ;.*)?\\?$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    return {normal(name) for name, marker in found if "win32" not in marker}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def make(*arguments: str) -> None:
    done = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that has only dist/."""
    place = tmp_path_factory.mktemp("place")
    make("dist", f"DIST={place}/dist")
    return place


class Index:
    """A package index on loopback that has the libraries, and packages of our names that are not ours."""

    def __init__(self, port: int, asked: list[str]) -> None:
        self.url = f"http://127.0.0.1:{port}/simple"
        self.asked = asked


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of an index, filled."""
    root = tmp_path_factory.mktemp("index")
    fetched = root / "fetched"
    fetch = [sys.executable, "-m", "pip", "download", "-qq", "--require-hashes", "-d", str(fetched), "-r"]
    subprocess.run([*fetch, str(ROOT / "requirements.txt")], check=True, capture_output=True, timeout=LIMIT_S)
    for each in fetched.iterdir():
        offer(root, each.name.partition("-")[0]).joinpath(each.name).symlink_to(each)
    for name in ("jitsu", *(f"jitsu_{each}" for each in OURS)):
        for version in ("0.1.0", "99.0"):
            info = f"{name}-{version}.dist-info"
            with zipfile.ZipFile(offer(root, name) / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
                wheel.writestr("hostile.py", "")
                wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
                wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
                wheel.writestr(f"{info}/RECORD", "")
    for page in (root / "simple").iterdir():
        links = "".join(f'<a href="{each.name}">{each.name}</a>\n' for each in page.iterdir())
        page.joinpath("index.html").write_text(links)
    return root


def offer(root: Path, name: str) -> Path:
    page = root / "simple" / normal(name)
    page.mkdir(parents=True, exist_ok=True)
    return page


@pytest.fixture
def index(libraries: Path) -> Iterator[Index]:
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            asked.append(self.path)

        def log_error(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(libraries))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Index(server.server_port, asked)
        finally:
            server.shutdown()
            thread.join()


def environment(home: Path, index: Index) -> dict[str, str]:
    """Return the environment of somebody whose only index is that one."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP", "UV", "VIRTUAL", "PYTHON"))
    }
    tools, python = ROOT / "build" / "tools" / "bin", Path(sys.base_prefix) / "bin"
    return kept | {
        "HOME": str(home),
        "PATH": f"{python}:/usr/bin:/bin:{tools}",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index.url,
        "PIP_NO_CACHE_DIR": "1",
        "UV_DEFAULT_INDEX": index.url,
        "UV_NO_CONFIG": "1",
        "UV_NO_CACHE": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


COMMANDS = re.findall(
    r"^    (.* dist/\S*\.whl\b.*)$", (ROOT / "docs" / "how-to" / "install.md").read_text(), re.MULTILINE
)


@pytest.mark.parametrize("command", COMMANDS, ids=["pip", "uv", "pipx", "pip-hashed"])
def test_no_index_is_asked_for_a_name_of_ours(place: Path, index: Index, tmp_path: Path, command: str) -> None:
    given = environment(tmp_path, index)
    done = subprocess.run(
        ["bash", "-c", command], cwd=place, env=given, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert any("/pyzmq" in path for path in index.asked), "the libraries are from there"
    assert [path for path in index.asked if "jitsu" in path] == []
    (tool,) = {*tmp_path.glob("jitsu/bin/jitsu"), *tmp_path.glob(".local/bin/jitsu")}
    python = tool.resolve().parent / "python"
    look = "import importlib.util as i, jitsu_protocol; print(i.find_spec('hostile'), jitsu_protocol.__version__)"
    said = subprocess.run([python, "-c", look], env=given, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert said.stdout.split() == ["None", "0.1.0"]
    with running(tool, tmp_path, given) as port:
        assert asyncio.run(ask("www.jitsu.test", port)).addresses == ["127.2.60.1"]


@contextmanager
def running(tool: Path, directory: Path, given: dict[str, str]) -> Iterator[int]:
    """Run `jitsu up` where no program can be found by its name, and give the port of its DNS server."""
    port = free_port()
    directory.joinpath("jitsu.toml").write_text(f"[dns]\nport = {port}\n" + vm_toml("www", "127.2.60.1"))
    command = [str(tool), "--config", "jitsu.toml", "--runtime-dir", "run", "up"]
    with (directory / "said").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=given | {"PATH": "/nowhere"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        text = (directory / "said").read_text
        wait_for(lambda: READY_LINE in text() or process.poll() is not None, START_LIMIT_S, "jitsu up")
        assert process.poll() is None, text()
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert process.returncode == 0, text()


def test_the_bill_of_materials_names_every_component_and_no_path(place: Path) -> None:
    text = (place / "dist" / "jitsu-sbom.cdx.json").read_text()
    bill = json.loads(text)
    assert bill["bomFormat"] == "CycloneDX"
    components = {normal(each["name"]): each for each in (*bill["components"], bill["metadata"]["component"])}
    ours = {f"jitsu-{each}" for each in OURS}
    assert len(ours) == len(MEMBERS)
    assert set(components) == pinned() | ours
    for name in ours:
        assert components[name]["licenses"][0]["license"]["id"] == "ISC", name
        assert "purl" not in components[name], f"{name}: what an index calls so is not this one"
    assert str(place) not in text
    assert "file:" not in text


def test_what_was_built_before_is_replaced(place: Path) -> None:
    """Two versions side by side would make `dist/*.whl` ask for both."""
    assert len(list((place / "dist").glob("*.whl"))) == len(MEMBERS)
    older = place / "dist" / "jitsu_dns-0.0.9-py3-none-any.whl"
    older.touch()
    subprocess.run([sys.executable, "-m", "deploy.dist", place / "dist"], cwd=ROOT, check=True, capture_output=True)
    assert not older.exists()
