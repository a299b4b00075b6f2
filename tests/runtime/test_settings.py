from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from jitsu_protocol.model import vm as vm_module
from jitsu_runtime.settings import load as settings_module
from jitsu_runtime.settings import toml_positions as toml_module
from jitsu_runtime.settings.command_line import load_service
from jitsu_runtime.settings.inherited import handed_down
from jitsu_runtime.settings.load import MAX_FAULTS_SHOWN, SettingsFault, VmText, load
from jitsu_runtime.settings.reference import reference
from jitsu_runtime.settings.schema import SECTION_OF
from jitsu_runtime.settings.toml_positions import KeyLines, TomlFile
from jitsu_runtime.settings.values import BusEndpoint


def faults(
    tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, flags: dict[str, str] | None = None
) -> list[str]:
    file = tmp_path / "j.toml"
    file.write_text(text)
    with pytest.raises(SettingsFault) as caught:
        load(file, environ or {}, flags or {})
    return [line.removeprefix(f"{tmp_path}/") for line in caught.value.faults]


def test_flags_count_before_the_environment_and_that_before_the_file_and_that_before_presets(tmp_path: Path) -> None:
    file = tmp_path / "j.toml"
    file.write_text("[dns]\nport = 1\nmax_tcp = 1\nlease = 1\n")
    settings = load(
        file,
        {"JITSU_DNS_PORT": "2", "JITSU_DNS_MAX_TCP": "2"},
        {"dns.port": "3"},
        presets={"dns.port": "4", "dns.lease": "4", "dns.max_waiting": "4"},
    )
    assert (settings.dns.port, settings.dns.max_tcp, settings.dns.lease, settings.dns.max_waiting) == (3, 2, 1.0, 4)


def test_every_fault_is_told_with_its_place(tmp_path: Path) -> None:
    text = '[dns]\nbind = "x"\n[reaper]\ndrain_limit = 0\n[nonsense]\n'
    found = faults(tmp_path, text, {"JITSU_LOG_LEVEL": "loud"}, {"store.colour": "red"})
    assert [line.split(": ")[0:2] for line in found] == [
        ["j.toml:5", "nonsense"],
        ["j.toml:2", "dns.bind"],
        ["j.toml:4", "reaper.drain_limit"],
        ["environment JITSU_LOG_LEVEL", "log.level"],
        ["flag for store.colour", "there is no such setting"],
    ]


def test_settings_and_defaults_may_have_units_in_the_file_in_the_environment_and_in_flags(tmp_path: Path) -> None:
    file = tmp_path / "j.toml"
    file.write_text(
        '[dns]\nlease = "5m"\n[hypervisor]\nmax_memory = "4G"\n[defaults]\nttl = "1m"\nidle_timeout = "1.5h"\n'
        '[vm.www]\ndns = "www.test"\nip = "10.0.0.1"\nname_ttl = ["www.test 2m"]\n'
    )
    read = load(file, {"JITSU_STORE_STATISTICS_INTERVAL": "2m"}, {"defaults.response_delay": "250ms"})
    assert (read.dns.lease, read.hypervisor.max_memory, read.store.statistics_interval) == (300.0, 4194304, 120.0)
    assert (read.defaults.ttl, read.defaults.idle_timeout) == (60, 5400.0)
    (www,) = read.vms
    assert (www.names, www.idle_timeout, www.response_delay) == ({"www.test": 120}, 5400.0, 0.25)
    assert load_service("dns", ["--tcp-idle", "2m"], {}).dns.tcp_idle == 120.0


def test_a_refused_duration_or_size_says_where_it_stands_and_what_to_write(tmp_path: Path) -> None:
    text = (
        '[dns]\nlease = "10s!"\ntcp_idle = 0\n[hypervisor]\nmax_memory = "4X"\n[defaults]\nmax_wait = "10s"\nttl = -1\n'
        '[vm.www]\ndns = "www.test"\nip = "10.0.0.1"\nttl = -5\n'
    )
    duration, size = 'use seconds or a unit, for example 60 or "1m"', 'use KiB or a unit, for example 65536 or "64MiB"'
    assert sorted(faults(tmp_path, text, environ={"JITSU_STORE_STATISTICS_INTERVAL": "soon"})) == [
        "environment JITSU_STORE_STATISTICS_INTERVAL: store.statistics_interval: 'soon' is not a duration; " + duration,
        f"j.toml:12: vm.www.ttl: -5 is not a duration; {duration}",
        f"j.toml:2: dns.lease: '10s!' is not a duration; {duration}",
        "j.toml:3: dns.tcp_idle: 0 is too short: it must be more than 0s",
        f"j.toml:5: hypervisor.max_memory: '4X' is not a size; {size}",
        "j.toml:7: defaults.max_wait: '10s' is too long: at most 4s is allowed",
        f"j.toml:8: defaults.ttl: -1 is not a duration; {duration}",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[a]\ndns = "a.test"\nip = "10.0.0.1"\n', "j.toml:1: a: unknown section; did you mean [vm.a]?"),
        ('[log1]\nip = "10.0.0.1"\nnonsense = 1\n', "j.toml:1: log1: unknown section; did you mean [vm.log1]?"),
        ('[a.test]\ndns = "a.test"\n', 'j.toml:1: a: unknown section; did you mean [vm."a.test"]?'),
        ("[shop]\nstop_mode = 'pause'\n", "j.toml:1: shop: unknown section; did you mean [vm.shop]?"),
        ("[web]\nstop_mode = 'pause'\n", "j.toml:2: web.stop_mode: unknown key; did you mean [vm.web]?"),
        ("[dnss]\nport = 5\n", 'j.toml:1: dnss: unknown section; did you mean "dns"?'),
        ("[shop]\nport = 5\nother = 6\n", "j.toml:1: shop: unknown section"),
        ("[shop]\n", "j.toml:1: shop: unknown section"),
    ],
)
def test_a_section_with_the_keys_of_a_vm_is_said_to_be_one(tmp_path: Path, text: str, said: str) -> None:
    assert faults(tmp_path, text) == [said]


def test_a_section_and_a_vm_must_be_tables(tmp_path: Path) -> None:
    assert faults(tmp_path, "dns = 3\n") == ["j.toml:1: dns: must be a section: [dns]"]
    assert faults(tmp_path, "[vm]\nwww = 3\n") == ["j.toml:2: vm.www: must be a section: [vm.www]"]
    (line,) = faults(tmp_path, '[vm.www]\ndns = "a.b"\nip = {a = 1}\n')[:1]
    assert line == "j.toml:3: vm.www.ip: must be a value or a list of values"


def test_vms_come_from_the_file_and_from_strings_and_must_agree(tmp_path: Path) -> None:
    file = tmp_path / "j.toml"
    file.write_text('[defaults]\nttl = 7\n[vm.www]\ndns = ["a.b", "c.d"]\nip = "127.0.1.1"\nresponse_delay = 0.25\n')
    text = VmText(config={"dns": ["e.f"], "ip": ["127.0.1.2"]}, where="VM string 1")
    one, two = load(file, {}, {}, [text]).vms
    assert (one.name, one.names, one.response_delay) == ("www", {"a.b": 7, "c.d": 7}, 0.25)
    assert (two.name, two.ttl) == ("e.f", 7)
    clash = VmText(config={"dns": ["C.d"], "ip": ["127.0.1.2"]}, where="VM string 1")
    with pytest.raises(SettingsFault, match=r"VM string 1: dns: c\.d belongs to the VM www already"):
        load(file, {}, {}, [clash])


def test_plain_tcp_beyond_loopback_needs_to_be_said(tmp_path: Path) -> None:
    remote = '[bus]\nvmd_rpc = "tcp://192.0.2.1:5000"\n'
    (line,) = faults(tmp_path, remote)
    assert "bus.allow_plain_tcp = true" in line
    file = tmp_path / "j.toml"
    file.write_text(remote + "allow_plain_tcp = true\n")
    assert load(file, {}, {}).bus.endpoint("vmd", "rpc") == BusEndpoint(host="192.0.2.1", port=5000)
    file.write_text('[bus]\nvmd_rpc = "tcp://127.0.0.1:5000"\nstore_feed = "tcp://[::1]:5001"\n')
    load(file, {}, {})
    assert "neither ipc:// nor tcp://" in faults(tmp_path, '[bus]\nvmd_rpc = "udp://x"\n')[0]


def test_a_runtime_directory_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    assert "too long for a Unix socket" in faults(tmp_path, f'[bus]\nruntime_dir = "/{"x" * 100}"\n')[0]


def test_a_service_has_flags_for_its_own_section_and_the_common_ones() -> None:
    settings = load_service("dns", ["--port", "5353", "--bus-runtime-dir", "/r", "--zones", "a.b,c.d"], {})
    assert (settings.dns.port, settings.dns.zones) == (5353, ["a.b", "c.d"])
    assert settings.bus.endpoint("vmd", "feed") == BusEndpoint("/r/vmd.feed")


def test_a_service_neither_builds_the_vms_of_the_file_nor_looks_for_lines_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the store's. Of 10,000 VMs that cost a second of each start, in which nobody was served (G7)."""
    file = tmp_path / "j.toml"
    file.write_text('[dns]\nport = 5353\n[vm.www]\ndns = "www.jitsu.test"\nip = "127.0.1.1"\n')
    calls: list[str] = []

    def counted(what: str) -> dict[tuple[str, ...], int]:
        calls.append(what)
        return {}

    monkeypatch.setattr(settings_module, "from_config", lambda *_: counted("VM"))
    monkeypatch.setattr(toml_module, "KeyLines", lambda _: counted("lines"))
    settings = load_service("dns", ["--config", str(file)], {})
    assert (calls, settings.vms, settings.dns.port) == ([], (), 5353)


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_service("reaper", ["--help"], {})
    assert "--drain-limit" in capsys.readouterr().out


def test_the_reference_page_is_fresh() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"
    assert page.read_text() == reference(), "run `make docs`"


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("mac", "MAC address"),
        ("boot_mac", "MAC address"),
        ("ip", "IP address, repeats"),
        ("dns", "DNS name, repeats"),
        ("alias", "DNS name, repeats"),
        ("uuid", "UUID"),
        ("ttl", "integer (s)"),
        ("response_delay", "number (s)"),
        ("use_synjitsu", "boolean"),
        ("stop_mode", "text"),
        ("zones", "list of DNS names"),
        ("mname", "DNS name"),
        ("records", "list"),
        ("log_queries", "boolean"),
    ],
)
def test_the_reference_page_names_the_type_of_a_key(key: str, kind: str) -> None:
    rows = [line.split(" | ") for line in reference().splitlines() if line.startswith(f"| `{key}` |")]
    assert kind in {row[1] for row in rows}


def test_lines_of_keys_are_found_in_all_forms_of_toml() -> None:
    text = '# c\n[a."b.c"]\nx = 1\n  y.z = 2\n\n[[list]]\nq = """\nnot = a key\n"""\n[d] # e\n"k" = [\n 1,\n]\n'
    lines = KeyLines(text)
    assert lines.find(("d", "k")) == 11
    assert lines.find(("a", "b.c")) == 2
    assert lines.find(("a", "b.c", "x")) == 3
    assert lines.find(("a", "b.c", "y", "z")) == 4
    assert lines.find(("list", "q")) == 7
    assert lines.find(("d", "not there")) is None
    assert (lines.first_below("a"), lines.first_below("e")) == (2, None)


def test_g9_a_long_file_of_nonsense_is_not_searched_for_the_lines_of_all_that_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "j.toml"
    file.write_text("[dns]\n" + "".join(f"x{n} = 1\n" for n in range(5000)))
    with pytest.raises(SettingsFault) as caught:
        load(file, {}, {})
    assert caught.value.faults[0].startswith(f"{file}:2: dns.x0: unknown key")
    assert caught.value.faults[-1] == f"and {5000 - MAX_FAULTS_SHOWN} more"
    toml = TomlFile.read(file)
    assert toml.place("dns", "x3") == f"{file}:5"
    assert len(toml.lines) == 5, "read no further than that"


@pytest.mark.parametrize(
    "value",
    [
        '"""\\n[x]\\na = 1\\n"""',
        "'''\n[x]\na = 1\n'''",
        '"""a\n\\""" b = 2\n[[x]]\n"""""',
        '[\n  "[x]", # ]]]\n  "a = 1",\n]',
        "''''''",
        '"a#b" # "',
        "{ a = [1, 2], 'b' = \"}\" }",
        '"\u2028\x85"',
    ],
)
def test_what_a_value_holds_does_not_shift_the_lines_of_later_keys(value: str) -> None:
    text = f'[first]\nheld = {value}\nafter = 1\n[vm."a.b=c"]\n"x=y".z = 2\n'
    value_lines = value.count("\n")
    assert tomllib.loads(text)["first"]["after"] == 1
    expected = {
        ("vm", "a.b=c", "x=y", "z"): 5 + value_lines,
        ("first",): 1,
        ("first", "held"): 2,
        ("first", "after"): 3 + value_lines,
        ("vm", "a.b=c"): 4 + value_lines,
    }
    lines = KeyLines(text)
    assert {keys: lines.find(keys) for keys in expected} == expected
    assert len(lines) == len(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[vm.büro]\n", ":1: vm.büro: is not valid TOML: .* needs quotes: "),
        ("[vm.a]\nip = 127.0.0.1\n", ':2: vm.a.ip: is not valid TOML: are quotes missing\\? write ip = "127.0.0.1"'),
        ('[vm.a]\nip = "127\n', ":2: vm.a.ip: is not valid TOML: a quote is opened and not closed"),
        ("[vm.a]\n[vm.a]\n", ":2: vm.a: is not valid TOML: \\[vm.a\\] stands in line 1 already; keep one of them$"),
        (
            "\n[vm.a]\nip = 1\n# x\nip = 2\n",
            ":5: vm.a.ip: is not valid TOML: ip stands in line 3 already; keep one of them$",
        ),
        (
            "[vm.a]\nip = [\n1]\nip = [\n2,\n3]\n",
            ":4: vm.a.ip: is not valid TOML: ip stands in line 2 already; keep one of ",
        ),
        (
            "[vm.a]\nip = 1\n[vm]\na.ip = 2\n",
            ":4: vm.a.ip: is not valid TOML: a.ip stands in line 2 already; keep one of them$",
        ),
        (
            "[vm]\na = 1\n[vm.a]\n",
            ":3: vm.a: is not valid TOML: \\[vm.a\\] stands in line 2 already; keep one of them$",
        ),
        ("a = {x = 1, x = 2}\n", ":1: a: is not valid TOML: "),
        ("a.b = 1\n[a]\n", ":2: a: is not valid TOML: .*stands in this file already"),
        ("[vm.a\n", ":1: vm.a: is not valid TOML: "),
        ("a = [1,\n", ":[12]: .*is not valid TOML: "),
        ("a = " + "[" * 5000, ": has too many brackets"),
    ],
)
def test_a_file_that_is_not_toml_is_refused_with_line_and_advice(tmp_path: Path, text: str, said: str) -> None:
    (line,) = faults(tmp_path, text)
    assert re.match(r"j\.toml" + said, line), line


def test_a_file_that_an_editor_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "j.toml").write_bytes(b"\xef\xbb\xbf[dns]\r\nport = 5\r\n")
    assert load(tmp_path / "j.toml", {}, {}).dns.port == 5
    (tmp_path / "j.toml").write_bytes(b"[dns]\nversion = '\xfc'\n")
    with pytest.raises(SettingsFault, match=r"j\.toml:2: is not UTF-8 text"):
        load(tmp_path / "j.toml", {}, {})


def test_a_child_inherits_exactly_the_settings_of_its_parent_however_large(tmp_path: Path) -> None:
    records = [f'n{number}.example.org. 300 IN TXT "a,b \\; {number}"' for number in range(20_000)]
    (tmp_path / "j.toml").write_text(
        f"[dns]\nrecords = {json.dumps(records)}\n[bus]\nhosts = ['b']\n[hypervisor]\nmax_booting = 3\n"
        "[defaults]\nidle_timeout = 1e6\nstop_mode = 'pause'\n"
    )
    parent = load(tmp_path / "j.toml", {}, {"dns.port": "5353"})
    with handed_down(parent.as_values()) as descriptor:
        environment = {"JITSU_SETTINGS_FD": str(descriptor), "JITSU_DNS_PORT": "53"}
        for _ in range(2):  # again at SIGHUP
            assert load_service("dns", [], environment) == parent
    with pytest.raises(SettingsFault, match="that `jitsu up` passes on cannot be read: Bad file descriptor"):
        load_service("dns", [], environment)


def test_the_nearest_known_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "j.toml"
    file.write_text("[a]\nb = {c = 1}\n")
    assert TomlFile.read(file).at("a", "b", "c") == f"{file}:2: a.b.c"


@pytest.mark.parametrize("header", ["[dns]\n", "[vm.www]\n", "[hypervisor.a]\n", ""])
def test_g9_a_file_of_nonsense_is_refused_without_a_look_at_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    looked = 0

    def counted(word: str, known: Any) -> str:
        nonlocal looked
        looked += 1
        return ""

    for module in (settings_module, vm_module):
        monkeypatch.setattr(module, "nearest", counted)
    file = tmp_path / "jitsu.toml"
    file.write_text(header + "".join(f"key{n} = 1\n" if header else f"[s{n}]\n" for n in range(4_000)))
    with pytest.raises(SettingsFault) as caught:
        load(file, {}, {})
    assert looked <= 400
    assert len(str(caught.value)) < 50_000
    assert "unknown" in str(caught.value)
    file.write_text("# " + "x" * 17_000_000)
    with pytest.raises(SettingsFault, match="is longer than"):
        load(file, {}, {})


@pytest.mark.parametrize("service", SECTION_OF)
def test_live_settings_are_adopted_and_the_others_are_named(service: str, tmp_path: Path) -> None:
    bus = {"bus.runtime_dir": str(tmp_path)}
    before, read = load(None, {}, bus), load(None, {}, bus | {"hypervisor.max_booting": "7", "bus.keys": str(tmp_path)})
    adopted, waiting = before.with_live(read, service)
    assert adopted.hypervisor.max_booting == (7 if service == "vmd" else before.hypervisor.max_booting)
    assert waiting == ["bus.keys"]
