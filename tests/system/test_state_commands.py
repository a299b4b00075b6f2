"""The commands on the state tree, as an operator and as a script use them."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.suite import JITSU, RunningSuite, vm_toml, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    with RunningSuite(tmp_path_factory.mktemp("suite"), toml=vm_toml("www", "127.2.40.1", ttl=30)) as running:
        yield running


@pytest.fixture
def vm(suite: RunningSuite) -> str:
    return "jitsu/vm/" + str(suite.status()["www"]["uuid"])


def test_every_listing_has_a_form_for_scripts(suite: RunningSuite, vm: str) -> None:
    assert {row["name"] for row in json.loads(suite.jitsu("status", "--json"))["vms"]} == set(suite.status())
    assert json.loads(suite.jitsu("tree", vm, "--json"))[f"{vm}/ip"] == "127.2.40.1"
    (commit, *_) = json.loads(suite.jitsu("log", vm, "--json"))
    assert commit["author"].startswith("operator:")
    suite.jitsu("branch", "scripted")
    assert {each["name"] for each in json.loads(suite.jitsu("branch", "--json"))} >= {"master", "scripted"}
    suite.jitsu("set", f"{vm}/response_delay", "300ms", "--branch", "scripted")
    (change,) = json.loads(suite.jitsu("diff", "master", "scripted", vm, "--json"))
    assert change == {"path": f"{vm}/response_delay", "value": "0.3", "old": "0.1"}
    suite.jitsu("set", f"{vm}/response_delay", "0.4")
    refused = json.loads(suite.jitsu("merge", "scripted", "--json", check=False))
    assert refused["error"] == "conflict"
    assert refused["details"] == [{"path": f"{vm}/response_delay", "base": "0.1", "ours": "0.4", "theirs": "0.3"}]
    suite.jitsu("set", f"{vm}/response_delay", "0.4", "--branch", "scripted")
    assert json.loads(suite.jitsu("merge", "scripted", "--json"))["changed"] == 0
    assert suite.jitsu("branch", "scripted", "--delete") == "scripted is deleted\n"


def test_what_a_change_does_has_a_form_for_scripts(suite: RunningSuite) -> None:
    assert json.loads(suite.jitsu("export", "--json"))["www"]["ip"] == ["127.2.40.1"]
    file = suite.directory / "changed.toml"
    file.write_text(vm_toml("www", "127.2.40.1", ttl=31) + vm_toml("new", "127.2.40.9"))

    def told(*words: str) -> dict[str, Any]:
        command = [*JITSU, "--runtime-dir", str(suite.directory / "run"), *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    shown = told("apply", str(file), "--dry-run")
    assert (shown["summary"]["added"], "commit" in shown) == (["new"], False)
    (changed,) = shown["summary"]["changed"]
    assert (changed["name"], "ttl 30 -> 31" in changed["differences"]) == ("www", True)
    assert told("apply", str(file), "--yes")["changed"] > 0
    removed = told("unset", "new", "--yes")
    assert ([each["name"] for each in removed["summary"]["removed"]], "commit" in removed) == (["new"], True)
    suite.jitsu("set", "www.ttl", "30")


def test_a_status_without_vmd_says_what_there_is(suite: RunningSuite) -> None:
    pid = suite.pid("vmd")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        told = suite.jitsu("status", check=False)
        assert "\nvmd       does not answer\n" in told
        assert "\nstore     up " in told
        (row,) = (line for line in told.splitlines() if line.startswith("www "))
        assert row.split()[1] == "unknown"
        assert row.endswith("vmd does not answer")
        with pytest.raises(AssertionError):
            suite.jitsu("status")  # the exit status says so too
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "www" in suite.jitsu("status")


def test_errors_say_what_is_near_and_what_to_do(suite: RunningSuite, vm: str) -> None:
    for arguments, told in (
        (("get", f"{vm}/pi"), f"{vm}/pi does not exist (did you mean {vm}/ip?)"),
        (("tree", "jitsu/mv"), "jitsu/mv does not exist (did you mean "),
        (("get", vm), f"{vm} is not a value: it has "),
        (("set", f"{vm}/stop_mod", "destroy"), f"nothing reads {vm}/stop_mod; did you mean {vm}/stop_mode?"),
        (("set", "www.stop_mod", "destroy"), "'stop_mod' is not a key of a VM; did you mean \"www.stop_mode\"?"),
        (
            ("set", f"{vm}/stop_mode", "explode"),
            "stop_mode: 'explode' is not allowed; use destroy, suspend, ",
        ),
        (("set", f"{vm}/ip", "127.2.40.9", "--expect", "127.2.40.8"), f'{vm}/ip is "127.2.40.1", not "127.2.40.8"'),
        (("merge", "nowhere"), "there is no branch 'nowhere' (`jitsu branch` lists them"),
        (("diff", "nowhere"), "'nowhere' is neither a branch nor a commit"),
        (("branch", "a b"), "'a b' cannot be the name of a branch"),
        (("watch", "--branch", "mastre"), "there is no branch 'mastre'; did you mean \"master\"?"),
        (("unset", "jitsu/nothing"), "jitsu/nothing does not exist"),
        (("push", "/nowhere/at/all"), "/nowhere/at/all"),
        (("--as", "vm:www", "branch", "x"), "'www' is not a UUID (a VM is named by its UUID)"),
    ):
        said = suite.jitsu(*arguments, check=False)
        assert said.startswith("jitsu: "), arguments
        assert told in said, arguments


def test_a_vm_that_is_unset_is_gone(suite: RunningSuite) -> None:
    other = "jitsu/vm/4d47be4e-9cd2-5d84-a20e-7b966138fbe2"
    assert f"no VM has the UUID {other[9:]}" in suite.jitsu("set", f"{other}/ip", "127.2.40.7", check=False)
    file = suite.directory / "more.toml"
    file.write_text(vm_toml("www", "127.2.40.1", ttl=30) + vm_toml("more", "127.2.40.8"))
    suite.jitsu("apply", str(file))
    wait_for(lambda: "more" in suite.status(), 5, "vmd follows")
    suite.jitsu("start", "more")
    refused = suite.jitsu("unset", "more", check=False)
    assert refused.splitlines() == [
        "REMOVED  more: is ready and will be stopped",
        "jitsu: this removes more, so nothing is changed (give --yes if that is what you want)",
    ]
    assert suite.jitsu("unset", "more", "--dry-run") == "REMOVED  more: is ready and will be stopped\n"
    assert "more" in suite.status()
    suite.jitsu("unset", "more", "--yes")
    wait_for(lambda: "more" not in suite.status(), 5, "vmd follows")


def test_a_value_that_says_the_default_can_be_removed(suite: RunningSuite, vm: str) -> None:
    assert suite.jitsu("get", "www.stop_mode") == "destroy\n"
    assert "1 value changed" in suite.jitsu("unset", "www.stop_mode")
    assert "does not exist" in suite.jitsu("get", f"{vm}/stop_mode", check=False)
    suite.jitsu("set", "www.stop_mode", "destroy")


def test_who_is_asked_on_a_terminal_can_say_no(suite: RunningSuite) -> None:
    nothing = suite.directory / "nothing.toml"
    nothing.write_text("[dns]\nmax_tcp = 7\n")
    status, shown = on_a_terminal(suite, ["apply", str(nothing)], answer="n\n")
    assert status == 1
    lines = shown.replace("\r", "").splitlines()
    assert f"dns.max_tcp is 7 in {nothing} and 1000 in what runs" in "".join(lines)
    assert [line.rstrip() for line in lines[-3:]] == [
        "removed  www",
        "Remove 1 VM? [y/N] n",
        "nothing is changed",
    ]
    assert "www" in suite.status()
    status, shown = on_a_terminal(suite, ["set", "www.ttl", "30"])
    assert status == 0
    status, shown = on_a_terminal(suite, ["unset", "www.response_delay"], answer="\x03")
    assert status == 130
    assert suite.jitsu("get", "www.response_delay") == "0.1\n"
    suite.jitsu("branch", "asked")
    suite.jitsu("set", "www.ttl", "31", "--branch", "asked")
    status, shown = on_a_terminal(suite, ["merge", "asked"], answer="y\n")
    assert status == 0
    assert "changed  www: ttl 30 -> 31" in shown
    suite.jitsu("set", "www.ttl", "30")
    suite.jitsu("branch", "asked", "--delete")


@pytest.mark.parametrize("command", ["merge", "pull"])
def test_a_vm_that_a_merge_or_a_pull_removes_is_asked_for_on_a_terminal(suite: RunningSuite, command: str) -> None:
    suite.jitsu("apply", "dns=gone.jitsu.test,ip=127.2.40.30,name=gone")
    wait_for(lambda: "gone" in suite.status(), 5, "it is there")
    words = [command, "without"]
    if command == "merge":
        suite.jitsu("branch", "without")
        suite.jitsu("unset", "gone", "--branch", "without", "--yes")
    else:
        remote = suite.directory / "remote.git"
        subprocess.run(["git", "init", "-q", "--bare", str(remote)], check=True)
        words = ["pull", str(remote)]
        suite.jitsu("push", str(remote))
        remove_in_a_commit(remote, f"jitsu/vm/{suite.status()['gone']['uuid']}")
    for answer, expected in (("n\n", 1), ("\x03", 130)):
        status, shown = on_a_terminal(suite, words, answer=answer)
        assert status == expected, shown
        assert "removed  gone" in shown
        assert "Remove 1 VM? [y/N]" in shown
        assert "gone" in suite.status()
    status, shown = on_a_terminal(suite, words, answer="y\n")
    assert status == 0, shown
    wait_for(lambda: "gone" not in suite.status(), 5, "it is gone")
    assert "www" in suite.status()
    if command == "merge":
        suite.jitsu("branch", "without", "--delete")


def remove_in_a_commit(repository: Path, path: str) -> None:
    """Commit to master of a bare repository that nothing is below a path any longer."""
    who = {f"GIT_{role}_{field}": "a@b" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}
    environ = os.environ | who | {"GIT_DIR": str(repository), "GIT_WORK_TREE": str(repository)}

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], env=environ, check=True, capture_output=True, text=True).stdout.strip()

    git("read-tree", "master")
    listed = git("ls-files", path).splitlines()
    assert listed
    git("update-index", "--force-remove", "--", *listed)
    made = git("commit-tree", git("write-tree"), "-p", "master", "-m", "Remove a VM")
    git("update-ref", "refs/heads/master", made)


def on_a_terminal(suite: RunningSuite, words: list[str], answer: str = "") -> tuple[int, str]:
    """Run a command on a terminal of 80 columns, type an answer when it asks, and return its status and output."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # who starts tests in the background has it ignored
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.execv(JITSU[0], [*JITSU, "--runtime-dir", str(suite.directory / "run"), *words])
    shown = b""
    with suppress(OSError):  # its end
        while data := os.read(terminal, 4096):
            shown += data
            if answer and shown.endswith(b"[y/N] "):
                os.write(terminal, answer.encode())
                answer = ""
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def test_vms_come_as_the_originals_strings_and_leave_as_a_file(suite: RunningSuite) -> None:
    strings = (
        "dns=a.jitsu.test,dns=b.jitsu.test,ip=127.2.40.20,name=two,ttl=9",
        "dns=c.jitsu.test,ip=127.2.40.21,name=c",
    )
    assert suite.jitsu("apply", *strings).splitlines()[:2] == ["added    c", "added    two"]
    wait_for(lambda: {"www", "two", "c"} <= set(suite.status()), 5, "they are there, and others stay")
    assert suite.jitsu("apply", *strings) == "nothing to change\n"
    assert "'ip' is not key=value" in suite.jitsu("apply", "dns=x.jitsu.test,ip", check=False)
    shown = suite.jitsu("export")
    assert '[vm.two]\ndns = ["a.jitsu.test", "b.jitsu.test"]\nip = "127.2.40.20"\nttl = 9\n' in shown
    file = suite.directory / "exported.toml"
    file.write_text(shown)
    assert suite.jitsu("apply", str(file), "--dry-run") == "nothing to change\n"
    uuid = suite.status()["c"]["uuid"]
    suite.jitsu("set", f"jitsu/vm/{uuid}/dns/c.jitsu.test/ttl", "77")
    suite.jitsu("set", f"jitsu/vm/{uuid}/stop_mode", "suspend")
    changed = suite.jitsu("export")
    assert "ttl = 77" in changed
    assert 'stop_mode = "suspend"' in changed
    for name in ("two", "c"):
        suite.jitsu("unset", name, "--yes")


def test_a_watcher_prints_each_change_once_though_the_store_dies_meanwhile(suite: RunningSuite, vm: str) -> None:
    since = json.loads(suite.jitsu("log", "-n", "1", "--json"))[0]["id"]
    lines: list[str] = []
    where = str(suite.directory / "run")
    argv = [*JITSU, "--runtime-dir", where, "watch", f"{vm}/max_wait", "--json", "--since", since]

    def change(value: str) -> None:
        told = len(lines)
        wait_for(lambda: "changed" in suite.jitsu("set", f"{vm}/max_wait", value, check=False), 10, f"set {value}")
        wait_for(lambda: len(lines) == told + 1, 10, f"{value} is told")

    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as watcher:
        reader = threading.Thread(target=lambda: lines.extend(watcher.stdout or ()), daemon=True)
        reader.start()
        for value in ("0.5", "0.6", "0.7"):
            change(value)
            suite.kill("store")  # its repository lives as long as `jitsu up`
        watcher.terminate()
        reader.join(5)
    told = [json.loads(line)["changes"][0] for line in lines]
    assert [change["value"] for change in told] == ["0.5", "0.6", "0.7"]
    assert [change["old"] for change in told][1:] == ["0.5", "0.6"]


def test_a_shell_completes_paths_branches_and_vms(suite: RunningSuite, vm: str) -> None:
    suite.jitsu("branch", "completed")

    def completed(words: str) -> set[str]:
        environment = {**os.environ, "_JITSU_COMPLETE": "complete_bash", "COMP_WORDS": f"jitsu {words}"}
        environment["COMP_CWORD"] = str(len(f"jitsu {words}".split(" ")) - 1)
        environment["JITSU_BUS_RUNTIME_DIR"] = str(suite.directory / "run")
        done = subprocess.run(JITSU, env=environment, capture_output=True, text=True, timeout=30)
        return set(done.stdout.split())

    assert completed("get jitsu/v") == {"jitsu/vm/"}
    assert completed(f"get {vm}/stop") == {f"{vm}/stop_mode"}
    assert completed("merge comp") == {"completed"}
    assert completed("stop w") == {"www"}
