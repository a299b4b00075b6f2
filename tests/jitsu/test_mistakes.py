"""Mistakes that newcomers make, in a file and on the command line, and the messages about them."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import jitsu.main  # noqa: F401  all commands
from jitsu.cli import app
from jitsu.help import run
from jitsu.legacy import parse_strings
from jitsu_protocol.model.vm import uuid_for
from jitsu_runtime.settings.load import SettingsFault, load
from jitsu_runtime.settings.toml_positions import TomlFault, TomlFile
from tests.support.suite import RunningSuite, vm_toml

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = 'dns = "a.test"\nip = "127.0.2.1"\n'
A = f"[vm.a]\n{NAMES}"
B = A.replace("a]", "b]").replace("a.test", "b.test")

FILES = {
    "a wrong key": (A + "wait_for_prot = 80", '4: vm.a.wait_for_prot: unknown key; did you mean "wait_for_port"?'),
    "a wrong section": (f"[dnss]\n{A}", '1: dnss: unknown section; did you mean "dns"?'),
    "a VM that is not below vm": (f"[a]\n{NAMES}", "1: a: unknown section; did you mean [vm.a]?"),
    "text for a number": ('[dns]\nport = "http"', "2: dns.port: 'http' is not a whole number"),
    "a number that is too large": ("[dns]\nport = 99999", "2: dns.port: 99999 is too large: at most 65535 is allowed"),
    "a number that is too small": ("[dns]\nworkers = 0", "2: dns.workers: 0 is too small: it must be at least 1"),
    "a word for true": ('[dns]\nreuse_port = "perhaps"', "2: dns.reuse_port: 'perhaps' is neither true nor false"),
    "an address twice": (A + B, "6: vm.b.ip: 127.0.2.1 belongs to the VM a already"),
    "a name twice": (
        A + A.replace("m.a]", "m.b]").replace("2.1", "2.2"),
        "5: vm.b.dns: a.test belongs to the VM a already; to share it, both need summon",
    ),
    "a section twice": (A + A, "4: vm.a: is not valid TOML: [vm.a] stands in line 1 already; keep one of them"),
    "a key twice": (A + 'dns = "b.test"', "4: vm.a.dns: is not valid TOML: dns stands in line 2 already; keep one"),
    "an unknown unit": (
        A + 'ttl = "10 minutes"',
        "4: vm.a.ttl: '10 minutes' is not a duration; use seconds or a unit, for example 60 or \"1m\"",
    ),
    "idle before the TTL is over": (
        A + "ttl = 60\nidle_timeout = 10",
        "5: vm.a.idle_timeout: 10 s is less than the TTL of 60 s",
    ),
    "a prefix": (
        A.replace("127.0.2.1", "fd00::5/64"),
        "3: vm.a.ip: 'fd00::5/64' is a network; write the address without its prefix: fd00::5",
    ),
    "a scope": (
        A.replace("127.0.2.1", "fe80::1%eth0"),
        "3: vm.a.ip: 'fe80::1%eth0' has a scope, which means nothing to other hosts",
    ),
    "an underscore is no mistake": (A.replace("a.test", "a_b.test"), ""),
    "an address without quotes": (
        '[vm.a]\ndns = "a.test"\n\tip = 127.0.2.1',
        '3: vm.a.ip: is not valid TOML: are quotes missing? write ip = "127.0.2.1"',
    ),
    "a name without quotes": (
        "[vm.a]\ndns = a.test",
        '2: vm.a.dns: is not valid TOML: are quotes missing? write dns = "a.test"',
    ),
    "a duration without quotes": (
        "[vm.a]\nttl = 10m  # long",
        '2: vm.a.ttl: is not valid TOML: are quotes missing? write ttl = "10m"',
    ),
    "a list without quotes": (
        '[vm.a]\ndns = ["a.test", b.test]',
        '2: vm.a.dns: is not valid TOML: is text without quotes in this list? write dns = ["a.test", "b.test"]',
    ),
    "a list without brackets": (
        '[vm.a]\ndns = "a.test", "b.test"',
        '2: vm.a.dns: is not valid TOML: several values stand in brackets: dns = ["a.test", "b.test"]',
    ),
    "a list that is not closed": (
        '[vm.a]\ndns = ["a.test"\nip = "127.0.2.1"',
        "2: vm.a.dns: is not valid TOML: the list that begins here is not closed, or a comma between its values is",
    ),
    "no =": ('[vm.a]\ndns "a.test"', '2: vm.a.dns: is not valid TOML: the = is missing: dns = "a.test"'),
    "a colon for =": (
        "[vm.a]\ndns: a.test",
        '2: vm.a.dns: is not valid TOML: a key and its value are joined by =, not by a colon: dns = "a.test"',
    ),
    "no value": ("[vm.a]\ndns =", "2: vm.a.dns: is not valid TOML: there is no value after the =; for an empty text"),
    "no key": ("[vm.a]\n= 3", "2: vm.a: is not valid TOML: there is no key before the ="),
    "no ]": ("[vm.a\n", "1: vm.a: is not valid TOML: the ] at the end is missing: [vm.a]"),
    "two keys on a line": (
        '[vm.a]\ndns = "a.test" ip = "127.0.2.1"',
        '2: vm.a.dns: is not valid TOML: each key stands on a line of its own; move ip = "127.0.2.1" to the next line',
    ),
    "True": ("[vm.a]\nuse_synjitsu = True", "2: vm.a.use_synjitsu: is not valid TOML: write use_synjitsu = true"),
    "zeros in front": ("[vm.a]\nttl = 060", "2: vm.a.ttl: is not valid TOML: a number has no zeros in front: ttl = 60"),
    "a semicolon": (
        "[vm.a]\nttl = 60;",
        "2: vm.a.ttl: is not valid TOML: remove the ; at the end of the line: ttl = 60",
    ),
    "a section without quotes": ("[vm.büro]", "1: vm.büro: is not valid TOML: a name that has other characters than "),
    "a name that is not ASCII": (
        '[vm.office]\ndns = "büro.test"\nip = "127.0.2.1"',
        "2: vm.office.dns: 'büro.test' is not ASCII: write its xn-- form",
    ),
    "a quote that is not closed": (
        '[vm.a]\ndns = "a.test\nip = "127.0.2.1"',
        "2: vm.a.dns: is not valid TOML: a quote is opened and not closed",
    ),
    "a single quote that is not closed": (
        '[vm.a]\ndns = \'a.test\nip = "127.0.2.1"',
        "2: vm.a.dns: is not valid TOML: a quote is opened and not closed",
    ),
    "three quotes that are not closed": (
        '[vm.a]\ndns = """a.test\nip = "127.0.2.1"',
        "2: vm.a.dns: is not valid TOML: a quote is opened and not closed",
    ),
    "no address": ('[vm.a]\ndns = "a.test"', "1: vm.a.ip: is required"),
    "an unknown stop mode": (
        A + 'stop_mode = "hibernate"',
        "4: vm.a.stop_mode: 'hibernate' is not allowed; use destroy, suspend, shutdown or pause",
    ),
    "an unknown hypervisor": (
        '[hypervisor]\nkind = "vmware"',
        "2: hypervisor.kind: 'vmware' is not allowed; use mock, loopback, bridge, libvirt, ",
    ),
    "a size in MB": (A + 'memory = "512MB"', "4: vm.a.memory: '512MB' is not a size; use KiB or a unit, for example"),
    "a size with a unit is no mistake": (A + 'memory = "512M"\nttl = "1m"\nidle_timeout = "1.5h"', ""),
    "a URL for a name": (A.replace("a.test", "http://a"), "2: vm.a.dns: 'http://a' is"),
    "an address that is none": (A.replace("127.0.2.1", "300.1.1.1"), "3: vm.a.ip: '300.1.1.1' is"),
    "an empty file is no mistake here": ("", ""),
}
"""A file, and what begins the line about it after the file's name; nothing if it is accepted."""


def told(path: Path, content: bytes) -> list[str]:
    path.write_bytes(content)
    try:
        load(path, {}, {})
    except SettingsFault as fault:
        return [each.removeprefix(f"{path}:") for each in fault.faults]
    return []


@pytest.mark.parametrize("mistake", FILES)
def test_a_mistake_in_a_file_is_told_with_its_line_its_key_and_what_to_write(tmp_path: Path, mistake: str) -> None:
    text, expected = FILES[mistake]
    lines = told(tmp_path / "jitsu.toml", text.encode())
    if not expected:
        assert lines == []
    else:
        assert any(line.startswith(expected) for line in lines), lines


def test_what_is_proposed_for_a_line_of_toml_can_be_read(tmp_path: Path) -> None:
    for mistake, (_, expected) in FILES.items():
        if "write " in expected and "not valid TOML" in expected:
            proposed = expected.partition("write ")[2]
            assert told(tmp_path / "jitsu.toml", f"[x]\n{proposed}".encode())[0].startswith("1: x: unknown"), mistake


def test_other_encodings_are_named_and_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "jitsu.toml"
    assert told(path, b"\xef\xbb\xbf" + A.encode()) == []
    assert told(path, "\n# büro\n".encode("latin-1")) == ["2: is not UTF-8 text; save the file in that encoding"]


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = (
        '[dns]\nport = -1\nbind = "x"\n[dnss]\n[vm.a]\ndns = "a b"\nip = "x"\nttl = -5\nmemory = "x"\nstop_mode = "x"\n'
    )
    lines = told(tmp_path / "jitsu.toml", text.encode())
    assert sorted(int(line.partition(":")[0]) for line in lines) == [2, 3, 4, 6, 7, 8, 9, 10]


def test_no_damage_to_a_file_is_too_much_for_the_guess(tmp_path: Path) -> None:
    whole = (
        FILES["a list without brackets"][0] + "\n" + A.replace("vm.a", "vm.c") + "text = '''x\n'''\nlist = [1,\n2]\n"
    )
    chance = random.Random(19)
    path = tmp_path / "jitsu.toml"
    for n in range(400):
        text = whole[:n] if n < len(whole) else "".join(chance.sample(whole, 60))
        path.write_text(text)
        with contextlib.suppress(TomlFault):  # anything else is a fault of the guess
            TomlFile.read(path)


STRINGS = {
    "no =": (["dns=a.test,ip"], "VM string 1: 'ip' is not key=value"),
    "no address": (["dns=a.test"], "VM string 1: ip: is required"),
    "a wrong key": (["dns=a.test,ip=127.0.2.1,colour=red"], "VM string 1: colour: unknown key"),
}


@pytest.mark.parametrize("mistake", STRINGS)
def test_a_mistake_in_a_string_is_told_with_its_number_and_key(mistake: str) -> None:
    strings, expected = STRINGS[mistake]
    with pytest.raises(SettingsFault) as fault:
        load(None, {}, {}, parse_strings(strings))
    assert expected in str(fault.value)


LIVE: dict[str, tuple[list[str], str]] = {
    "set www.ttl 30 is no mistake": (["set", "www.ttl", "30"], ""),
    "a path without its beginning": (["set", "www/ttl", "30"], "nothing reads www/ttl; did you mean www.ttl?"),
    "vm/NAME/KEY": (["set", "vm/www/ttl", "30"], "nothing reads vm/www/ttl; did you mean www.ttl?"),
    "nonsense": (["set", "foo", "bar"], "'foo' is neither a path nor a VM"),
    "the TTL beside its name": (
        ["set", "jitsu/vm/www/ttl", "30"],
        "did you mean jitsu/vm/UUID/dns/www.jitsu.test/ttl?",
    ),
    "an unknown key below config": (
        ["set", "jitsu/vm/www/config/nonsense/0", "1"],
        "nothing reads jitsu/vm/UUID/config",
    ),
    "a scope": (["set", "www.ip", "fe80::1%eth0"], "has a scope, which means nothing to other hosts"),
    "an address that is none": (["set", "www.ip", "300.1.1.1"], "'300.1.1.1' is"),
    "a statistic that is none": (
        ["set", "jitsu/stats/www/dns/www.jitsu.test/total_requests", "abc"],
        "'abc' is not a whole number",
    ),
    "a lease": (["set", "jitsu/replica/dns-0/lease_s", "-4"], "is written by the reaper only"),
    "a replica that is none": (["set", "jitsu/replica/ghost/address", "x"], "is written by the reaper only"),
    "a TTL below zero": (["set", "www.ttl", "-5"], "www.ttl: -5 is not a duration; use seconds or a unit"),
    "an address twice": (["set", "www.ip", "127.3.9.2"], "belongs to the VM api already"),
    "an unknown stop mode": (["set", "www.stop_mode", "kill"], "'kill' is not allowed; use destroy, suspend, shutdown"),
    "a key that is misspelt": (["set", "www.stop_mod", "pause"], 'did you mean "www.stop_mode"?'),
    "a VM that is misspelt": (["set", "wwww.ttl", "9"], "no VM is called 'wwww'; did you mean \"www\"?"),
    "all VMs": (["unset", "jitsu/vm"], "this removes api, www, so nothing is changed"),
    "a file without the VMs": (["apply", "empty.toml"], "this removes api, www, so nothing is changed"),
    "a branch with a space": (["branch", "bad name"], "'bad name' cannot be the name of a branch"),
    "deleting master": (["branch", "master", "--delete"], "master"),
    "a branch that is none": (["merge", "nonexist"], "there is no branch 'nonexist' (`jitsu branch` lists them"),
    "a type that is none": (["dig", "www.jitsu.test", "FOO"], "'FOO' is not a type of DNS record to ask for"),
    "a name with a space": (["dig", "a b"], "'a b' is not a DNS name"),
    "a file that is not there": (["apply", "none.toml"], "none.toml: cannot be read: No such file or directory"),
    "a command that is misspelt": (["stauts"], "no such command 'stauts'. Did you mean 'status'"),
}
"""Words after `jitsu`, and what is said on standard error, with UUID for that of www; nothing if it is accepted."""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    toml = vm_toml("www", "127.3.9.1") + vm_toml("api", "127.3.9.2")
    with RunningSuite(tmp_path_factory.mktemp("mistakes"), toml=toml) as running:
        yield running


@pytest.mark.suite
def test_a_mistake_on_the_command_line_is_told_and_changes_nothing(
    suite: RunningSuite, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody can be asked
    Path("empty.toml").write_text("")
    for mistake, (words, expected) in LIVE.items():
        with pytest.raises(SystemExit) as end:
            run(app, ["--runtime-dir", str(suite.directory / "run"), *words])
        text = capsys.readouterr().err.replace(uuid_for("www"), "UUID")
        assert expected in text, (mistake, text)
        assert (end.value.code == 0) is (expected == ""), (mistake, text)
        assert text.count("\n") <= 2, (mistake, text)
    assert suite.jitsu("get", "www.stop_mode") == "destroy\n"
    assert {row["state"] for row in suite.status().values()} == {"off"}
