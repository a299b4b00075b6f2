"""Access to the API by token, session and Unix socket, and the requests that browsers may not make."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.messages import Summon
from jitsu_protocol.messages.tokens import TokensChanged
from jitsu_protocol.model.tokens import digest_of
from jitsu_web.rules.callers import ApiCaller
from jitsu_web.rules.tokens import TRUST_S
from jitsu_web.wires.gate import MAX_BODY_BYTES
from jitsu_web.wires.serving import UNIX
from tests.support.web import OPERATOR_TOKEN, VIEWER_TOKEN, known_token, web_under_test
from tests.support.world import settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START = "/api/v1/vms/www/start?wait_s=0.05"


async def test_a_revoked_token_counts_no_longer_and_neither_do_its_sessions() -> None:
    async with web_under_test() as web, web.client() as client, web.client("") as page:
        assert (await client.get("/api/v1/session")).json()["name"] == "olga"
        await page.post("/api/v1/session", json={"token": OPERATOR_TOKEN})
        assert (await page.get("/api/v1/vms")).status_code == 200
        del web.suite.tokens["olga"]
        web.world.followed["store tokens"].publish(TokensChanged())
        await settled()
        assert (await client.get("/api/v1/vms")).status_code == 401
        assert (await page.get("/api/v1/vms")).status_code == 401


async def test_a_token_made_again_under_the_same_name_does_not_bring_old_sessions_back() -> None:
    async with web_under_test() as web, web.client("") as page:
        await page.post("/api/v1/session", json={"token": OPERATOR_TOKEN})
        web.suite.tokens["olga"] = known_token("olga", "operator", VIEWER_TOKEN)
        web.world.followed["store tokens"].publish(TokensChanged())
        await settled()
        assert (await page.get("/api/v1/vms")).status_code == 401


async def test_an_expired_token_does_not_count() -> None:
    async with web_under_test() as web, web.client() as client:
        web.suite.tokens["olga"] = known_token("olga", "operator", OPERATOR_TOKEN, web.world.clock.wall() + 5.0)
        await web.world.followed["store tokens"].snapshot()
        assert (await client.get("/api/v1/vms")).status_code == 200
        web.world.time.advance(6.0)
        assert (await client.get("/api/v1/vms")).status_code == 401


async def test_tokens_count_no_longer_when_the_store_was_not_heard_for_too_long() -> None:
    async with web_under_test() as web, web.client() as client:
        web.world.followed["store tokens"].live = False
        web.world.time.advance(TRUST_S - 1.0)
        assert (await client.get("/api/v1/session")).status_code == 200
        web.world.time.advance(2.0)
        silent = await client.get("/api/v1/session")
        assert silent.status_code == 503
        assert silent.json()["hint"]


async def test_who_reads_events_is_no_longer_let_in_when_the_store_was_not_heard_for_too_long() -> None:
    async with web_under_test() as web:
        olga = ApiCaller("olga", "operator", "token", digest_of(OPERATOR_TOKEN))
        web.world.followed["store tokens"].live = False
        web.world.time.advance(TRUST_S - 1.0)
        assert web.api.is_still(olga)
        web.world.time.advance(2.0)
        assert not web.api.is_still(olga)


async def test_a_session_changes_nothing_without_the_header_that_a_foreign_page_cannot_send() -> None:
    async with web_under_test() as web, web.client("") as page:
        logged_in = await page.post("/api/v1/session", json={"token": OPERATOR_TOKEN})
        cookie = logged_in.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert OPERATOR_TOKEN.lower() not in cookie
        assert (await page.post(START)).status_code == 403
        csrf = (await page.get("/api/v1/session")).json()["csrf"]
        assert csrf == logged_in.json()["csrf"]
        assert (await page.post(START, headers={"X-CSRF-Token": csrf[:-1] + "?"})).status_code == 403
        assert web.suite.asked(Summon) == []
        assert (await page.post(START, headers={"X-CSRF-Token": csrf})).status_code == 202


async def test_a_cookie_that_was_changed_does_not_count() -> None:
    async with web_under_test() as web, web.client("") as page:
        await page.post("/api/v1/session", json={"token": VIEWER_TOKEN})
        cookie = page.cookies["jitsu"]
        for wrong in (cookie[:-1] + ("0" if cookie[-1] != "0" else "1"), cookie.replace("v1.", "v2."), "v1....", "é"):
            answer = await page.get("/api/v1/vms", headers={"Cookie": f"jitsu={wrong}".encode()})
            assert answer.status_code == 401, wrong


async def test_a_session_ends_with_its_cookie() -> None:
    async with web_under_test() as web, web.client("") as page:
        csrf = (await page.post("/api/v1/session", json={"token": VIEWER_TOKEN})).json()["csrf"]
        assert (await page.delete("/api/v1/session", headers={"X-CSRF-Token": csrf})).status_code == 204
        assert (await page.get("/api/v1/session")).status_code == 401


async def test_a_wrong_token_is_not_repeated_in_the_answer() -> None:
    async with web_under_test() as web, web.client("") as page:
        wrong = await page.post("/api/v1/session", json={"token": "jitsu_secret"})
        assert wrong.status_code == 401
        assert "jitsu_secret" not in wrong.text
        malformed = await page.post("/api/v1/session", json={"token": ["jitsu_secret"]})
        assert malformed.status_code == 422
        assert "jitsu_secret" not in malformed.text


async def test_a_request_for_another_host_is_refused() -> None:
    async with web_under_test(web__hosts="jitsu.example.org") as web:
        for host, status in (
            ("evil.example", 421),
            ("localhost:8080", 200),
            ("jitsu.example.org", 200),
            ("[::1]", 200),
        ):
            async with web.client(host="127.0.0.1") as client:
                answer = await client.get("/api/v1/session", headers={"Host": host})
            assert answer.status_code == status, host


async def test_a_page_of_another_site_changes_nothing() -> None:
    async with web_under_test() as web, web.client() as client:
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            assert (await client.post(START, headers=headers)).status_code == 403, headers
        own = {"Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"}
        assert (await client.post(START, headers=own)).status_code == 202


async def test_one_address_cannot_ask_without_limit_and_others_are_not_hindered() -> None:
    async with (
        web_under_test(web__request_rate="1", web__request_burst="3") as web,
        web.client("", peer="10.0.0.1") as greedy,
        web.client("", peer="10.0.0.2") as other,
    ):
        statuses = [(await greedy.get("/api/v1/session")).status_code for _ in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        assert (await other.get("/api/v1/session")).status_code == 401
        web.world.time.advance(1.0)
        assert (await greedy.get("/api/v1/session")).status_code == 401


async def test_nobody_uses_up_what_another_user_of_the_same_address_may_ask_for() -> None:
    async with (
        web_under_test(web__request_rate="1", web__request_burst="3") as web,
        web.client("") as nobody,
        web.client("jitsu_" + "x" * 43) as guesser,
        web.client(VIEWER_TOKEN) as viewer,
        web.client() as operator,
    ):
        for greedy, status in ((nobody, 401), (guesser, 429), (viewer, 200)):
            assert (await greedy.get("/api/v1/session")).status_code in (status, 429)
            for _ in range(5):
                last = await greedy.get("/api/v1/session")
            assert last.status_code == 429
        assert (await operator.get("/api/v1/session")).status_code == 200


async def test_a_long_body_is_refused() -> None:
    async with web_under_test() as web, web.client() as client:
        headers = {"Content-Type": "application/json"}
        long = await client.patch("/api/v1/vms/www", content=b" " * (MAX_BODY_BYTES + 1), headers=headers)
        assert long.status_code == 413

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(MAX_BODY_BYTES // 65_536 + 1):
                yield b" " * 65_536

        assert (await client.patch("/api/v1/vms/www", content=pieces(), headers=headers)).status_code == 413


async def test_somebody_who_may_change_nothing_has_nothing_read_but_a_login() -> None:
    read = []

    async def pieces() -> AsyncIterator[bytes]:
        read.append(True)
        yield b"{}"

    async with web_under_test() as web, web.client("") as client, web.client(VIEWER_TOKEN) as viewer:
        headers = {"Content-Type": "application/json"}
        assert (await client.patch("/api/v1/vms/www", content=pieces(), headers=headers)).status_code == 401
        assert (await viewer.patch("/api/v1/vms/www", content=pieces(), headers=headers)).status_code == 403
        assert read == []
        long = await client.post("/api/v1/session", content=b" " * 5000, headers=headers)
        assert long.status_code == 413


async def test_a_user_of_this_machine_needs_no_token_at_the_unix_socket() -> None:
    async with web_under_test(web__listen="unix:/run/web.http") as web, web.client("", peer=UNIX) as client:
        assert (await client.get("/api/v1/session")).json()["via"] == "socket"


async def test_every_answer_has_the_headers_that_keep_browsers_from_what_nobody_meant() -> None:
    async with web_under_test() as web, web.client("") as client:
        for path in ("/", "/api/v1/session", "/nothing"):
            answer = await client.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await client.get("/api/v1/session")).headers["cache-control"] == "no-store"
