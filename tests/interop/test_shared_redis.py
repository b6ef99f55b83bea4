"""One volume and one Redis under Moorage and Debian's docker-registry 2.8 at the same time, as during a migration.

That a registry used the other's entry is seen by what only the entry can say: the size of bytes that are gone.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from tests.cache.test_nodes import PATIENT
from tests.live import start_moorage, start_reference, with_customized
from tests.redis_servers import RedisServer, a_redis
from tests.wire import Wire

from moorage.cache.redis_sizes import RedisSizes
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.reference, pytest.mark.slow]

NAME = "library/app"
DATA = b"a layer" * 1000


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with a_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def ours(tmp_path: Path, redis: RedisServer) -> Iterator[Wire]:
    cache = {"cache": {"blobdescriptor": "redis"}}
    section = {"addrs": [redis.address]}
    with start_moorage(
        tmp_path / "volume", config=tmp_path / "ours.yml", storage=cache, redis=section,
        environment=with_customized(PATIENT),
    ) as live:  # fmt: skip
        yield Wire(live.host)


@pytest.fixture
def theirs(tmp_path: Path, redis: RedisServer) -> Iterator[Wire]:
    cache = {"cache": {"blobdescriptor": "redis"}}
    section = {"addr": redis.address}
    with start_reference(
        tmp_path / "volume", config=tmp_path / "theirs.yml", storage=cache, redis=section
    ) as live:
        yield Wire(live.host)


def push(wire: Wire) -> Digest:
    digest = Digest.of(DATA)
    assert wire.finish(wire.start_upload(NAME).headers["location"], digest, DATA).status == 201
    return digest


def head(wire: Wire, digest: Digest) -> tuple[int, str]:
    answer = wire.send("HEAD", f"/v2/{NAME}/blobs/{digest}")
    return answer.status, answer.headers["content-length"] if answer.status == 200 else ""


def take_away(tmp_path: Path, digest: Digest) -> None:
    shutil.rmtree(tmp_path / "volume/docker/registry/v2/blobs/sha256" / digest.hex[:2] / digest.hex)


def test_a_size_that_the_reference_wrote_is_compared_with_the_file(
    tmp_path: Path, redis: RedisServer, ours: Wire, theirs: Wire
) -> None:
    digest = push(theirs)
    assert head(theirs, digest) == (200, "7000")
    assert redis.hash(f"blobs::{digest}") == {
        "digest": str(digest), "size": "7000", "mediatype": "application/octet-stream",
    }  # fmt: skip
    take_away(tmp_path, digest)
    assert head(ours, digest)[0] == 404
    assert "size" not in redis.hash(f"blobs::{digest}"), "nor does the reference report it any more"


def test_the_reference_reads_what_we_wrote(tmp_path: Path, redis: RedisServer, ours: Wire, theirs: Wire) -> None:
    digest = push(ours)
    assert head(ours, digest) == (200, "7000")
    assert redis.ask("KEYS", "*") == f"blobs::{digest}"
    take_away(tmp_path, digest)
    assert head(theirs, digest) == (200, "7000")
    assert redis.ask("SMEMBERS", f"repository::{NAME}::blobs") == str(digest), "its own, after it read the link"


def test_our_deletion_ends_what_the_reference_remembers(redis: RedisServer, ours: Wire, theirs: Wire) -> None:
    """It decides by its keys in Redis alone, so they have to go."""
    digest = push(theirs)
    assert head(theirs, digest)[0] == 200
    assert ours.send("DELETE", f"/v2/{NAME}/blobs/{digest}").status == 202
    assert head(ours, digest)[0] == 404
    assert head(theirs, digest)[0] == 404


def test_its_deletion_does_not_deceive_us(redis: RedisServer, ours: Wire, theirs: Wire) -> None:
    """2.8 leaves the repository's keys behind, and itself serves the blob again once another one was pushed."""
    digest = push(theirs)
    assert head(theirs, digest)[0] == 200
    assert head(ours, digest)[0] == 200
    assert theirs.send("DELETE", f"/v2/{NAME}/blobs/{digest}").status == 202
    assert redis.ask("SISMEMBER", f"repository::{NAME}::blobs", str(digest)) == "1"
    assert head(ours, digest)[0] == 404


def test_a_deleted_manifest_is_gone_for_the_reference_as_well(
    redis: RedisServer, ours: Wire, theirs: Wire
) -> None:
    """Its cache makes no difference between manifests and layers."""
    digest = Digest.of(theirs.push_image(NAME, "t", [DATA]))
    assert theirs.manifest(NAME, digest).status == 200
    known = f"repository::{NAME}::blobs"
    redis.ask("SADD", known, str(digest))  # as 3.x does when a manifest is read
    assert ours.delete_manifest(NAME, digest).status == 202
    assert theirs.manifest(NAME, digest).status == 404
    assert redis.ask("SISMEMBER", known, str(digest)) == "0"


async def test_what_we_collect_is_unknown_to_the_reference(
    tmp_path: Path, redis: RedisServer, ours: Wire, theirs: Wire
) -> None:
    """The mark that keeps sizes from coming back reads as an entry without content."""
    digest = push(theirs)
    assert head(theirs, digest)[0] == 200
    sizes = RedisSizes(redis.options(), timeout_s=20)
    await sizes.collecting([digest])
    assert head(theirs, digest)[0] == 200, "the bytes are still there"
    await sizes.collecting([digest])
    take_away(tmp_path, digest)
    await sizes.close()
    assert head(ours, digest)[0] == 404
    assert head(theirs, digest)[0] == 404
