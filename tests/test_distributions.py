"""What every wheel and sdist carries: its licence, and metadata from which a reader learns what it is."""

from __future__ import annotations

import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.dist import MEMBERS, ROOT, build

if TYPE_CHECKING:
    from email.message import Message

pytestmark = pytest.mark.wires

LEGAL = ("LICENSE", "NOTICE")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(tmp_path_factory.mktemp("dist"))


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [each for each in opened.namelist() if each.endswith(".dist-info/METADATA")]
        return BytesParser().parsebytes(opened.read(name))


def test_every_distribution_has_a_wheel_and_an_sdist(built: list[Path]) -> None:
    names = {metadata(path)["Name"].replace("-", "_") for path in built if path.suffix == ".whl"}
    assert len(names) == len(MEMBERS)
    assert {path.name.partition("-")[0] for path in built if path.suffix == ".gz"} == names


def test_every_wheel_and_sdist_carries_the_licence_and_the_notice(built: list[Path]) -> None:
    wanted = {(ROOT / name).read_text() for name in LEGAL}
    for path in built:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                texts = {wheel.read(each).decode() for each in wheel.namelist() if Path(each).name in LEGAL}
        else:
            with tarfile.open(path) as sdist:
                members = [each for each in sdist.getmembers() if Path(each.name).name in LEGAL]
                texts = {opened.read().decode() for each in members if (opened := sdist.extractfile(each))}
        assert texts == wanted, path.name


def test_the_metadata_of_every_wheel_says_what_it_is_and_whose(built: list[Path]) -> None:
    descriptions = set()
    for path in built:
        if path.suffix != ".whl":
            continue
        found = metadata(path)
        assert found["License-Expression"] == "ISC", path.name
        assert found.get_all("License-File") == list(LEGAL), path.name
        assert found["Author"] == "The Jitsu developers", path.name
        assert found["Summary"].endswith("."), path.name
        assert found["Keywords"], path.name
        classifiers = found.get_all("Classifier") or []
        assert "Operating System :: POSIX :: Linux" in classifiers, path.name
        assert not [each for each in classifiers if each.startswith("License ::")], "the expression has replaced them"
        urls = dict(each.split(", ") for each in found.get_all("Project-URL") or [])
        assert urls["Original Jitsu"] == "https://github.com/mirage/jitsu", path.name
        assert str(found.get_payload()).strip(), f"{path.name}: no long description"
        descriptions.add(found["Summary"])
    assert len(descriptions) == len(MEMBERS), "each says what it is itself"


def test_no_wheel_carries_tests_or_tools_of_the_checkout(built: list[Path]) -> None:
    for path in built:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                tops = {each.partition("/")[0] for each in wheel.namelist()}
            packages = {each for each in tops if not each.endswith(".dist-info")}
            assert packages == {metadata(path)["Name"].replace("-", "_").replace("jitsu_suite", "jitsu")}, path.name
