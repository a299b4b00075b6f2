"""The tokens of the HTTP API in the store: what is kept, who may change it, and what survives."""

from __future__ import annotations

import pytest

from jitsu_protocol.messages.tokens import CreateToken, ListTokens, ReadDigests, RevokeToken
from jitsu_protocol.model.errors import Conflict, Refused, Unavailable
from jitsu_protocol.model.tokens import MAX_TOKENS, digest_of, token_of
from jitsu_store.wires.tokens import FILE, TokenKeeper
from tests.support.clock import VirtualClock
from tests.support.store_memory import MemoryDisk, MemoryStorage
from tests.support.world import PlayedFeed

TOKEN = token_of(b"t" * 32)
ME = "operator:me"


def tokens_feed() -> PlayedFeed:
    return PlayedFeed(("tokens",))


def keeper(disk: MemoryDisk, feed: PlayedFeed | None = None, clock: VirtualClock | None = None) -> TokenKeeper:
    return TokenKeeper(MemoryStorage(disk), feed or tokens_feed(), clock or VirtualClock())


def create(name: str = "alice", token: str = TOKEN, author: str = ME, expires_ts: float | None = None) -> CreateToken:
    return CreateToken(name=name, role="viewer", digest=digest_of(token), author=author, expires_ts=expires_ts)


async def test_a_token_is_kept_as_its_hash_only_and_survives_a_restart() -> None:
    disk, feed = MemoryDisk(), tokens_feed()
    await keeper(disk, feed).create(create())
    assert TOKEN.encode() not in disk.files[FILE]
    [known] = keeper(disk).digests(ReadDigests()).tokens
    assert (known.name, known.role, known.digest, known.author) == ("alice", "viewer", digest_of(TOKEN), ME)
    assert len(feed.of("tokens")) == 1
    listed = keeper(disk).list(ListTokens())
    assert known.digest not in listed.model_dump_json()


async def test_a_token_that_is_made_twice_is_made_once_and_another_one_of_that_name_is_refused() -> None:
    tokens = keeper(MemoryDisk(), feed := tokens_feed())
    await tokens.create(create())
    await tokens.create(create())
    assert len(feed.of("tokens")) == 1
    with pytest.raises(Conflict, match="a token alice already"):
        await tokens.create(create(token=token_of(b"u" * 32)))


async def test_a_revoked_token_is_gone_and_the_feed_says_so() -> None:
    tokens = keeper(MemoryDisk(), feed := tokens_feed())
    await tokens.create(create())
    assert not (await tokens.revoke(RevokeToken(name="alice", author=ME))).note
    assert tokens.digests(ReadDigests()).tokens == []
    assert len(feed.of("tokens")) == 2
    assert (await tokens.revoke(RevokeToken(name="alice", author=ME))).note


async def test_only_operators_make_and_revoke_tokens() -> None:
    tokens = keeper(MemoryDisk())
    for author in ("service:web", "vm:11111111-1111-1111-1111-111111111111"):
        with pytest.raises(Refused):
            await tokens.create(create(author=author))
        with pytest.raises(Refused):
            await tokens.revoke(RevokeToken(name="alice", author=author))


async def test_the_place_of_an_expired_token_is_free_and_their_number_is_bounded() -> None:
    clock = VirtualClock()
    tokens = keeper(MemoryDisk(), clock=clock)
    await tokens.create(create(expires_ts=clock.wall() + 1.0))
    clock.advance(2.0)
    await tokens.create(create(token=token_of(b"u" * 32)))
    for number in range(MAX_TOKENS - 1):
        await tokens.create(create(f"n{number}", token_of(f"{number:032}".encode())))
    with pytest.raises(Refused, match="already"):
        await tokens.create(create("one-more", token_of(b"x" * 32)))


async def test_a_token_that_could_not_be_written_does_not_count() -> None:
    disk = MemoryDisk()
    tokens = keeper(disk)
    disk.failures.append(OSError("no space"))
    with pytest.raises(Unavailable, match="cannot be written"):
        await tokens.create(create())
    assert tokens.digests(ReadDigests()).tokens == []


async def test_a_damaged_file_lets_nobody_in_and_is_not_overwritten() -> None:
    disk = MemoryDisk()
    disk.files[FILE] = b"nonsense"
    tokens = keeper(disk)
    assert "no token counts" in tokens.fault
    with pytest.raises(Unavailable):
        await tokens.create(create())
    assert disk.files[FILE] == b"nonsense"
