"""Objects and packs, with stock git as the judge."""

from __future__ import annotations

import subprocess
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pygit2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_store.git import objects
from jitsu_store.git.commits import CommitDraft, Trailers, make_commit, parse_commit
from jitsu_store.git.objects import EMPTY, Directories, ObjectKind, make
from jitsu_store.git.packfile import Ids, PackfileReader, PackfileWriter, delta, stored, stored_small
from jitsu_store.rules import repack_plan
from jitsu_store.rules.repack_plan import FAN_IN, Bases, Packfile, choose

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_store.git.objects import GitObject


def patched(base: bytes, difference: bytes) -> bytes:
    """Apply a delta as gitformat-pack(5) describes it."""
    at, sizes = 0, []
    for _ in range(2):
        size = shift = 0
        while True:
            byte = difference[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        sizes.append(size)
    assert sizes[0] == len(base)
    out = bytearray()
    while at < len(difference):
        code = difference[at]
        at += 1
        if code & 0x80:
            numbers = []
            for bits in ((0x01, 0x02, 0x04, 0x08), (0x10, 0x20, 0x40)):
                number = 0
                for place, bit in enumerate(bits):
                    if code & bit:
                        number |= difference[at] << (8 * place)
                        at += 1
                numbers.append(number)
            out += base[numbers[0] : numbers[0] + (numbers[1] or 0x10000)]
        else:
            assert code
            out += difference[at : at + code]
            at += code
    assert len(out) == sizes[1]
    return bytes(out)


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 299), st.binary(max_size=30)), max_size=4))
def test_a_delta_makes_the_target_of_the_base(base: bytes, edits: list[tuple[int, bytes]]) -> None:
    same_size, other_size = bytearray(base), base
    for at, new in edits:
        same_size[at : at + len(new)] = new[: max(0, len(same_size) - at)]
        other_size = other_size[:at] + new + other_size[at:]
    for target in (bytes(same_size), other_size, b"", base):
        assert patched(base, delta(base, target)) == target


def test_a_large_tree_in_which_one_id_changed_costs_some_fifty_bytes() -> None:
    base = bytes(range(256)) * 2500
    target = bytearray(base)
    target[300_000:300_020] = b"\0" * 20
    target[600_000:600_020] = b"\0" * 20
    difference = delta(base, bytes(target))
    assert patched(base, difference) == bytes(target)
    assert len(difference) < 90
    far = b"x" * (2**24 + 5) + b"y"
    assert patched(far, delta(far, far)) == far  # a copy of more than 16 MiB is two


@given(st.binary(max_size=100) | st.integers(65_500, 200_000).map(lambda size: b"ab" * size))
def test_what_is_stored_uncompressed_is_a_zlib_stream(data: bytes) -> None:
    assert zlib.decompress(stored(data)) == data
    small = data[:0xFFFF]
    assert zlib.decompress(stored_small(small)) == small


def written(things: list[GitObject]) -> tuple[bytes, bytes]:
    parts: list[bytes] = []
    writer = PackfileWriter(lambda data: parts.append(bytes(data)), Ids(sorted(each.id for each in things)))
    for each in things:
        writer.add(each)
    return b"".join(parts), writer.finish()


def test_git_takes_our_packs_for_its_own(tmp_path: Path) -> None:
    blobs = [make(ObjectKind.BLOB, b"x" * size) for size in (0, 1, 15, 16, 2047, 2048, 70_000, 1_000_000)]
    base = blobs[-1]
    parts: list[bytes] = []
    other = make(ObjectKind.BLOB, b"y" + base.data[1:])
    writer = PackfileWriter(lambda data: parts.append(bytes(data)), Ids(sorted(each.id for each in [*blobs, other])))
    for each in blobs:
        writer.add(each)
    writer.add_delta(other.id, base.id, delta(base.data, other.data))
    index = writer.finish()
    (tmp_path / "p.pack").write_bytes(b"".join(parts))
    (tmp_path / "p.idx").write_bytes(index)
    verified = subprocess.run(["git", "verify-pack", "-v", "p.idx"], cwd=tmp_path, capture_output=True, text=True)
    assert verified.returncode == 0, verified.stderr
    assert "chain length = 1: 1 object" in verified.stdout
    read = list(PackfileReader(memoryview(b"".join(parts)), memoryview(index)).entries())
    assert [id for id, _, _ in read] == [each.id for each in [*blobs, other]]
    assert [entry.size for _, _, entry in read[:-1]] == [len(each.data) for each in blobs]
    assert (read[-1][2].base, read[-1][2].is_base_here) == (base.id, True)


names = st.text("abc.", min_size=1, max_size=4).filter(lambda name: name.strip("."))
paths = st.lists(names, min_size=1, max_size=3).map("/".join)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> pygit2.Repository:
    return pygit2.init_repository(str(tmp_path_factory.mktemp("judge")), bare=True)


@given(steps=st.lists(st.dictionaries(paths, st.none() | st.text(max_size=5), max_size=8), max_size=5))
def test_trees_are_those_that_libgit2_would_write(judge: pygit2.Repository, steps: list[dict[str, str | None]]) -> None:
    known: dict[bytes, bytes] = {}
    directories = Directories(known.__getitem__)
    root, model = EMPTY, dict[str, str]()
    for step in steps:
        clean = {p: v for p, v in step.items() if not any(_blocks(p, q) for q in [*step, *model])}
        root, made = objects.write(directories, root, clean)
        known |= {each.id: each.data for each in made if each.kind is ObjectKind.TREE}
        model = {p: v for p, v in (model | clean).items() if v is not None}
        index = pygit2.Index()
        for path, value in model.items():
            index.add(pygit2.IndexEntry(path, judge.create_blob(value.encode()), pygit2.enums.FileMode.BLOB))
        tree = make(ObjectKind.TREE, root.raw)
        known[tree.id] = root.raw
        assert tree.id.hex() == str(index.write_tree(judge))
        assert {path for path, _, _ in objects.differing(directories, None, tree.id)} == set(model)


def _blocks(path: str, other: str) -> bool:
    return path != other and ((other + "/").startswith(path + "/") or (path + "/").startswith(other + "/"))


def test_a_commit_is_read_as_it_was_written_and_text_cannot_break_out_of_its_line() -> None:
    tree = make(ObjectKind.TREE, b"")
    parent = b"\1" * 20
    made = make_commit(
        tree.id, CommitDraft((parent,), "operator:a <b>\nc", "Why\n\nBecause", 1_700_000_000, Trailers("r1\n"))
    )
    record = parse_commit(made.id, made.data)
    assert (record.tree, record.parents, record.ts) == (tree.id, (parent,), 1_700_000_000.0)
    assert (record.author, record.request) == ("operator:a bc", "r1")
    assert record.message == "Why\n\nBecause\n\nRequest-Id: r1\n"
    assert record.serial == 1_700_000_000


def test_a_serial_ahead_of_the_time_stands_in_the_commit_whatever_else_others_write_there() -> None:
    tree = make(ObjectKind.TREE, b"")
    for request in ("", "r1"):
        ahead = make_commit(tree.id, CommitDraft((), "a", "Why", 100, Trailers(request, 103)))
        record = parse_commit(ahead.id, ahead.data)
        assert (record.serial, record.request) == (103, request)
    for number in ("9" * 5000, "-1", "x", "99"):
        odd = make_commit(tree.id, CommitDraft((), "a", f"Why\n\nZone-Serial: {number}", 100))
        assert parse_commit(odd.id, odd.data).serial == 100
    data = ahead.data.replace(b" 100 +", b" " + b"9" * 5000 + b" +")
    assert parse_commit(ahead.id, data).ts == 0.0


def test_packs_of_a_tier_become_one_and_the_rest_when_it_is_quiet() -> None:
    small = [Packfile(f"s{n}", 6, n) for n in range(FAN_IN)]
    assert choose(small[:-1], quiet=False) == []
    assert choose(small, quiet=False) == small
    large = Packfile("large", 100_000, -1)
    assert choose([*small[:3], large], quiet=True) == small[:3]
    assert choose([small[0], large], quiet=True) == []
    bulky = Packfile("statistics", 10_000, 1, size=1_400_000)
    assert choose([bulky, replace(large, size=9_000_000)], quiet=True) == [replace(large, size=9_000_000), bulky]
    assert choose([bulky, replace(large, size=90_000_000)], quiet=True) == []
    assert choose([small[0], Packfile("middle", 50_000, 99), large], quiet=True) == [
        large,
        small[0],
        Packfile("middle", 50_000, 99),
    ]
    assert choose([Packfile("huge", repack_plan.MAX_MERGED_OBJECTS, 0), small[0]], quiet=True) == []


def test_chains_of_large_trees_end() -> None:
    kin, steps = Bases(), dict[bytes, int]()
    shared = bytes(20_000)
    for number in range(3 * repack_plan.MAX_CHAIN):
        id = number.to_bytes(20, "big")
        base = kin.base_for(id, number.to_bytes(4, "big") + shared, number)
        steps[id] = 0 if base is None else steps[base] + 1
    assert [id for id, far in steps.items() if far == 0] == [bytes(20)]
    assert max(steps.values()) <= repack_plan.MAX_CHAIN + 3
