"""`jitsu token`: when a token ends, and how tokens are listed."""

from __future__ import annotations

import pytest

from jitsu.token import end_of, token_lines
from jitsu_protocol.messages.tokens import TokenInfo
from jitsu_protocol.model.errors import BadRequest
from jitsu_protocol.model.tokens import check_token_name, digest_of, token_of


def test_a_token_ends_after_a_duration_or_never() -> None:
    assert end_of("90d", 1000.0) == 1000.0 + 90 * 86_400
    assert end_of("3600", 0.0) == 3600.0
    assert end_of("never", 0.0) is None
    for wrong in ("", "0", "-1d", "soon", "9999999d"):
        with pytest.raises(BadRequest, match="--expires"):
            end_of(wrong, 0.0)


def test_tokens_are_listed_with_what_is_left_of_them() -> None:
    tokens = [
        TokenInfo(name="a", role="viewer", created_ts=0.0, expires_ts=end, author="operator:me")
        for end in (None, 10 * 86_400.0, 3600.0, 0.0)
    ]
    lines = token_lines(tokens, 10.0)
    for line, said in zip(lines, ("never expires", "in 10 d", "in 1.0 h", "has expired"), strict=True):
        assert said in line


def test_what_looks_like_a_token_has_a_digest_and_nothing_else_has() -> None:
    token = token_of(bytes(range(32)))
    assert token.startswith("jitsu_")
    assert len(digest_of(token)) == 64
    for wrong in ("", "jitsu_", token + "x", token[:-1] + "é", token.upper()):
        assert digest_of(wrong) == ""


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "é", "x" * 65, "a\n"])
def test_the_name_of_a_token_can_stand_in_a_log_and_in_a_path(name: str) -> None:
    with pytest.raises(BadRequest):
        check_token_name(name)
