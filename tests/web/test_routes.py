"""The API's routes, each as every role; and what they ask of the other services."""

from __future__ import annotations

from typing import Any

import pytest

from jitsu_protocol.messages import Apply, Check, Checked, Diff, Difference, List, OperatorStop, Summon
from jitsu_protocol.messages.store import CreateBranch, DeleteBranch, Merge
from jitsu_protocol.messages.tokens import CreateToken
from jitsu_protocol.model.errors import BackingOff, Conflict, Unavailable
from jitsu_protocol.model.holds import KEEP_ROOT
from jitsu_protocol.model.states import VmState
from tests.support.web import COMMIT, OPERATOR_TOKEN, VIEWER_TOKEN, WWW, web_under_test

BODIES: dict[str, Any] = {
    "POST /api/v1/session": {"token": OPERATOR_TOKEN},
    "POST /api/v1/vms": {"name": "new", "keys": {"dns": "new.jitsu.test", "ip": "127.0.1.9"}},
    "PUT /api/v1/vms/{name}": {"keys": {"dns": "www.jitsu.test", "ip": "127.0.1.1"}},
    "PATCH /api/v1/vms/{name}": {"keys": {"ttl": 30}},
    "POST /api/v1/vms/{name}/keep": {"for_s": 60},
    "POST /api/v1/vms/{name}/revert": {"to": COMMIT},
    "POST /api/v1/config/branches": {"name": "b"},
    "POST /api/v1/config/merge": {"branch": "b"},
    "POST /api/v1/config/revert": {"to": COMMIT},
    "PUT /api/v1/config/branches/{branch}/tree/{path}": {"value": "1"},
    "POST /api/v1/tokens": {"name": "zoe"},
}
OPEN = {"POST /api/v1/session"}
OWN = {"DELETE /api/v1/session"}
ENDLESS = {"GET /api/v1/events"}
FOR_OPERATORS_TO_READ = {"GET /api/v1/tokens"}


async def every_route(web: Any) -> list[tuple[str, str, str]]:
    """Return the method, the path with values in it, and `METHOD PATH` of each route, from OpenAPI."""
    async with web.client("") as client:
        described = (await client.get("/api/v1/openapi.json")).json()
    assert described["openapi"].startswith("3.1")
    found = []
    for path, methods in described["paths"].items():
        for method in methods:
            filled = path.replace("{name}", "www").replace("{branch}", "master").replace("{path}", "jitsu/vm/x")
            assert "{" not in filled, path
            found.append((method.upper(), filled, f"{method.upper()} {path}"))
    return found


async def test_a_viewer_is_refused_whatever_changes_something_and_without_a_token_nobody_gets_anything() -> None:
    async with web_under_test() as web:
        routes = await every_route(web)
        assert len(routes) > 30
        for method, path, name in routes:
            if name in ENDLESS | OPEN:
                continue
            body = BODIES.get(name)
            async with web.client("") as nobody, web.client(VIEWER_TOKEN) as viewer:
                refused = await nobody.request(method, path, json=body)
                seen = await viewer.request(method, path, json=body)
            assert refused.status_code == 401, name
            assert refused.headers["content-type"] == "application/problem+json", name
            may_see = (method == "GET" and name not in FOR_OPERATORS_TO_READ) or name in OWN
            assert (seen.status_code != 403) is may_see, (name, seen.text)
        assert web.suite.applied == []
        assert web.suite.asked(Summon) == web.suite.asked(OperatorStop) == web.suite.asked(CreateToken) == []


async def test_an_operator_is_let_through_everywhere_and_no_route_fails() -> None:
    async with web_under_test() as web:
        for method, path, name in await every_route(web):
            if name in ENDLESS:
                continue
            async with web.client() as operator:
                answer = await operator.request(method, path, json=BODIES.get(name))
            assert answer.status_code not in (401, 403), (name, answer.text)
            assert answer.status_code < 500, (name, answer.text)
            # Of what is asked for in vain there is a problem document with all its members.
            if answer.status_code >= 400:
                assert {"type", "title", "status", "detail", "hint"} <= answer.json().keys(), name


async def test_vms_are_listed_in_pages_that_begin_where_the_last_one_ended() -> None:
    async with web_under_test() as web, web.client() as client:
        first = (await client.get("/api/v1/vms?limit=1")).json()
        assert [vm["name"] for vm in first["items"]] == ["db"]
        second = (await client.get("/api/v1/vms", params={"limit": 1, "cursor": first["next"]})).json()
        assert [vm["name"] for vm in second["items"]] == ["www"]
        assert second["next"] is None
        assert (await client.get("/api/v1/vms?cursor=nonsense")).status_code == 400
        assert [vm["name"] for vm in (await client.get("/api/v1/vms?name=w*")).json()["items"]] == ["www"]
        assert (await client.get("/api/v1/vms?state=ready")).json()["items"] == []


async def test_a_start_and_a_stop_name_the_user_who_asked() -> None:
    async with web_under_test() as web, web.client() as client:
        started = await client.post("/api/v1/vms/www.jitsu.test/start?wait_s=0.05")
        await client.post(f"/api/v1/vms/{WWW.uuid}/stop?wait_s=0.05")
        assert started.status_code == 202
        assert [(each.vm, each.trigger, each.by) for each in web.suite.asked(Summon)] == [
            (WWW.uuid, "operator", "operator:olga via web")
        ]
        assert [each.by for each in web.suite.asked(OperatorStop)] == ["operator:olga via web"]


async def test_a_start_that_is_seen_to_have_ended_is_answered_with_the_vm_as_it_is_then() -> None:
    async with web_under_test() as web, web.client() as client:
        web.suite.statuses[WWW.uuid] = web.suite.statuses[WWW.uuid].model_copy(update={"state": VmState.READY})
        await web.world.followed["vmd vm"].snapshot()
        started = await client.post("/api/v1/vms/www/start")
        assert (started.status_code, started.json()["state"]) == (200, "ready")


async def test_changes_are_commits_of_the_user_with_what_was_read_as_precondition() -> None:
    async with web_under_test() as web, web.client() as client:
        changed = await client.patch("/api/v1/vms/www", json={"keys": {"ttl": 30}, "message": "shorter"})
        assert changed.status_code == 200, changed.text
        [applied] = web.suite.applied
        assert (applied.author, applied.message) == ("operator:olga via web", "shorter")
        assert applied.expect[f"jitsu/vm/{WWW.uuid}/dns/www.jitsu.test/ttl"] == "60"
        assert web.suite.tree[f"jitsu/vm/{WWW.uuid}/dns/www.jitsu.test/ttl"] == "30"


async def test_a_vm_that_changed_since_it_was_read_is_a_failed_precondition() -> None:
    def clash(_: Apply) -> Any:
        raise Conflict("ttl is 5 now")

    async with web_under_test() as web, web.client() as client:
        web.world.answers[Apply] = clash
        answer = await client.patch("/api/v1/vms/www", json={"keys": {"ttl": 30}})
        assert answer.status_code == 412
        assert (
            await client.patch("/api/v1/vms/www", json={"keys": {}}, headers={"If-Match": '"zz"'})
        ).status_code == 412
        etag = (await client.get("/api/v1/vms/www")).headers["etag"]
        assert etag == f'"{COMMIT}"'
        matched = await client.patch("/api/v1/vms/www", json={"keys": {}}, headers={"If-Match": etag})
        assert (matched.status_code, matched.json()["changed"]) == (200, 0)


async def test_mistakes_in_a_vm_are_listed_key_by_key_and_nothing_is_committed() -> None:
    async with web_under_test() as web, web.client() as client:
        answer = await client.post("/api/v1/vms", json={"name": "x", "keys": {"dns": "x.test", "ip": "nonsense"}})
        assert answer.status_code == 422
        assert [each["key"] for each in answer.json()["details"]] == ["ip"]
        web.world.answers[Check] = lambda request: Checked(refusals=dict.fromkeys(request.vms, "no such disk"))
        body = {"name": "x", "keys": {"dns": "x.test", "ip": "127.0.1.7"}}
        refused = await client.post("/api/v1/vms", json=body)
        assert (refused.status_code, refused.json()["detail"]) == (422, "no such disk")
        assert "force" in refused.json()["hint"]
        assert web.suite.applied == []
        assert (await client.post("/api/v1/vms?force=true", json=body)).status_code == 201


async def test_a_vm_that_writes_to_a_disk_is_shut_down_unless_somebody_has_said_how_it_is_stopped() -> None:
    async with web_under_test() as web, web.client() as client:
        web.world.answers[Check] = lambda request: Checked(refusals={}, writes_to_disk=dict.fromkeys(request.vms, True))
        body: dict[str, Any] = {"name": "x", "keys": {"dns": "x.test", "ip": "127.0.1.7"}}
        await client.post("/api/v1/vms", json=body)
        [applied] = web.suite.applied
        assert [each.value for each in applied.changes if "stop_mode" in each.path] == ["shutdown"]


async def test_a_vm_is_kept_up_until_a_moment_and_started() -> None:
    async with web_under_test() as web, web.client() as client:
        await client.post("/api/v1/vms/www/keep?wait_s=0.05", json={"for_s": 60, "reason": "demo"})
        until = 1_700_000_060 + round(web.world.clock.now())
        assert web.suite.tree[f"{KEEP_ROOT}/{WWW.uuid}"] == f"{until} operator:olga via web demo"
        assert len(web.suite.asked(Summon)) == 1
        for wrong in (
            {"until": "soon"},
            {"until": "2001-01-01T00:00:00Z"},
            {"until": "2030-01-01T00:00:00"},
            {"for_s": 0},
        ):
            assert (await client.post("/api/v1/vms/www/keep", json=wrong)).status_code == 422, wrong
        await client.delete("/api/v1/vms/www/keep")
        assert f"{KEEP_ROOT}/{WWW.uuid}" not in web.suite.tree


async def test_branches_and_merges_name_the_user() -> None:
    async with web_under_test() as web, web.client() as client:
        await client.post("/api/v1/config/branches", json={"name": "b"})
        await client.post("/api/v1/config/merge", json={"branch": "b"})
        authors = [each.author for kind in (CreateBranch, Merge) for each in web.suite.asked(kind)]
        assert authors == ["operator:olga via web"] * 2
        moved = await client.post("/api/v1/config/merge", json={"branch": "master", "into": "b", "commit": "0" * 40})
        assert moved.status_code == 412


async def test_history_shows_what_each_commit_changed_and_no_id_of_a_request() -> None:
    async with web_under_test() as web, web.client() as client:
        [item] = (await client.get("/api/v1/vms/www/history")).json()["items"]
        assert item["message"] == "First"
        assert {"path": f"jitsu/vm/{WWW.uuid}/config/ip/0", "old": None, "value": "127.0.1.1"} in item["changes"] or (
            {"path": f"jitsu/vm/{WWW.uuid}/ip", "old": None, "value": "127.0.1.1"} in item["changes"]
        )


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unavailable("the store does not answer"), 503),
        (BackingOff("it failed before", retry_after=7.0), 503),
    ],
)
async def test_an_error_of_a_service_becomes_a_problem_with_its_hint(error: Exception, status: int) -> None:
    def fail(_: Summon) -> Any:
        raise error

    async with web_under_test() as web, web.client() as client:
        web.world.answers[Summon] = fail
        answer = await client.post("/api/v1/vms/www/start")
        assert answer.status_code == status
        assert answer.json()["hint"]
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_vmd_that_is_not_heard_is_not_waited_for() -> None:
    async with web_under_test() as web, web.client() as client:
        web.world.followed["vmd vm"].live = False
        answer = await client.post("/api/v1/vms/www/start?wait_s=100")
        assert answer.status_code == 503
        assert answer.json()["hint"]
        assert web.suite.asked(Summon) == []


async def test_a_branch_may_have_a_slash_in_its_name() -> None:
    async with web_under_test() as web, web.client() as client:
        read = await client.get(f"/api/v1/config/branches/labels/host/tree/jitsu/vm/{WWW.uuid}/ip")
        assert read.status_code == 200, read.text
        assert (await client.delete("/api/v1/config/branches/labels/host")).status_code == 204
        assert [each.name for each in web.suite.asked(DeleteBranch)] == ["labels/host"]
        listed = web.suite.asked(List)
        assert ("labels/host", f"jitsu/vm/{WWW.uuid}/ip") in [(each.branch, each.prefix) for each in listed]


async def test_a_value_is_removed_from_a_branch_and_the_branch_stays() -> None:
    path = f"jitsu/vm/{WWW.uuid}/ip"
    async with web_under_test() as web, web.client() as client:
        removed = await client.delete(f"/api/v1/config/branches/labels/host/tree/{path}")
        assert (removed.status_code, web.suite.asked(DeleteBranch)) == (200, [])
        [applied] = web.suite.applied
        assert (applied.branch, [(each.path, each.value) for each in applied.changes]) == (
            "labels/host",
            [(path, None)],
        )


async def test_a_changed_key_leaves_what_the_store_alone_knows_yet_of_the_others() -> None:
    async with web_under_test() as web, web.client() as client:
        for keys in ({"memory": "64MiB"}, {"ttl": 30}):  # no feed has brought the first commit when the second comes
            assert (await client.patch("/api/v1/vms/www", json={"keys": keys})).status_code == 200
        first, second = ({each.path for each in applied.changes} for applied in web.suite.applied)
        assert first
        assert second
        assert not first & second


@pytest.mark.parametrize(
    ("method", "place", "body"),
    [
        ("PUT", "vms/www", {"keys": {"dns": "www.jitsu.test", "ip": "127.0.1.9"}}),
        ("PATCH", "vms/www", {"keys": {"ip": "127.0.1.9"}}),
        ("DELETE", "vms/www", None),
        ("PUT", f"config/branches/master/tree/jitsu/vm/{WWW.uuid}/ip", {"value": "127.0.1.9"}),
        ("DELETE", f"config/branches/master/tree/jitsu/vm/{WWW.uuid}/ip", None),
    ],
)
async def test_what_is_committed_after_if_match_was_checked_fails_the_change(
    method: str, place: str, body: Any
) -> None:
    path = f"jitsu/vm/{WWW.uuid}/ip"
    async with web_under_test() as web, web.client() as client:

        def checked(_: Diff) -> Difference:
            web.suite.tree[path] = "127.0.1.7"  # somebody else, at once
            return Difference(changes=[])

        web.world.answers[Diff] = checked
        await client.request(method, f"/api/v1/{place}", json=body, headers={"If-Match": f'"{COMMIT}"'})
        assert [each.expect.get(path) for each in web.suite.applied] == ["127.0.1.1"]
