"""Two registries, one volume, one Redis: nothing that is done at one of them is answered wrongly by the other."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.live import Live, start_moorage, with_customized
from tests.redis_servers import RedisServer, a_redis
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

NAME = "library/app"
PATIENT = Path(__file__).parent / "patient"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with a_redis(tmp_path / "redis") as server:
        yield server


def node(tmp_path: Path, redis: RedisServer, name: str, **section: Any) -> Live:
    return start_moorage(
        tmp_path / "volume",
        config=tmp_path / f"{name}.yml",
        http={"workers": 1},
        storage={"cache": {"blobdescriptor": "redis"}},
        redis=section or {"addrs": [redis.address]},
        environment=with_customized(PATIENT),
    )


def head(wire: Wire, digest: Digest) -> tuple[int, str | None]:
    answer = wire.send("HEAD", f"/v2/{NAME}/blobs/{digest}")
    return answer.status, answer.headers.get("content-length") if answer.status == 200 else None


def push(wire: Wire, data: bytes) -> Digest:
    digest = Digest.of(data)
    done = wire.finish(wire.start_upload(NAME).headers["location"], digest, data)
    assert done.status == 201, done
    return digest


def blob_folder(tmp_path: Path, digest: Digest) -> Path:
    return tmp_path / "volume/docker/registry/v2/blobs/sha256" / digest.hex[:2] / digest.hex


def test_a_deletion_at_one_node_shows_at_once_at_the_other(tmp_path: Path, redis: RedisServer) -> None:
    """Also with keys of CNCF Distribution in Redis that still have it, and with Redis silent or dead."""
    with node(tmp_path, redis, "a") as a, node(tmp_path, redis, "b") as b:
        first, second = Wire(a.host), Wire(b.host)
        for state in ("up", "silent", "dead"):
            digest = push(first, f"layer {state}".encode())
            assert head(second, digest) == (200, str(len(f"layer {state}")))
            if state == "up":
                assert redis.hash(f"blobs::{digest}")["size"] == "8"
                redis.ask("SADD", f"repository::{NAME}::blobs", str(digest))
            if state == "silent":
                redis.freeze()
            if state == "dead":
                redis.thaw()
                redis.kill()
            assert first.send("DELETE", f"/v2/{NAME}/blobs/{digest}").status == 202
            assert head(second, digest)[0] == 404
            assert second.blob(NAME, digest).status == 404
            assert push(second, f"layer {state}".encode()) == digest
            assert head(first, digest)[0] == 200


def test_a_size_in_redis_is_not_believed_against_the_file(tmp_path: Path, redis: RedisServer) -> None:
    """Bytes that were removed behind the registry's back are unknown on every node from the next request on."""
    with node(tmp_path, redis, "a") as a, node(tmp_path, redis, "b") as b:
        first, second = Wire(a.host), Wire(b.host)
        digest = push(first, b"a layer" * 20_000)
        assert head(first, digest)[0] == 200
        assert redis.hash(f"blobs::{digest}")["size"] == "140000"
        shutil.rmtree(blob_folder(tmp_path, digest))
        assert head(second, digest)[0] == 404
        assert second.blob(NAME, digest).status == 404
        assert [head(wire, digest)[0] for wire in (first, second)] == [404, 404]


def test_a_push_that_misses_the_bytes_removes_their_size_for_all_nodes(tmp_path: Path, redis: RedisServer) -> None:
    """HEAD would report the layer as present, and no client would upload it again."""
    from moorage.testing.builders import image

    with node(tmp_path, redis, "a") as a:
        wire, built = Wire(a.host), image()
        for part in built.closure:
            push(wire, part.data)
            head(wire, part.digest)
        layer = built.closure[0].digest
        shutil.rmtree(blob_folder(tmp_path, layer))
        put = {"content-type": built.media_type}
        refused = wire.send("PUT", f"/v2/{NAME}/manifests/t", built.data, put)
        assert refused.status == 400
        assert str(layer) in refused.body.decode()
        assert head(wire, layer)[0] == 404


@pytest.mark.parametrize("size", ["3", "90000000"])
def test_a_size_that_lies_tears_no_answer(tmp_path: Path, redis: RedisServer, size: str) -> None:
    """Another program wrote to the registry's Redis; the file decides."""
    with node(tmp_path, redis, "a") as a:
        wire = Wire(a.host)
        for data in (b"a small layer", b"a large layer" * 10_000):
            digest = push(wire, data)
            redis.ask("HSET", f"blobs::{digest}", "digest", str(digest), "size", size)
            assert head(wire, digest) == (200, str(len(data)))
            redis.ask("HSET", f"blobs::{digest}", "digest", str(digest), "size", size)
            assert wire.blob(NAME, digest).body == data


def test_a_redis_that_is_not_there_fails_no_request(tmp_path: Path, redis: RedisServer) -> None:
    """The registry starts without it, answers while it is frozen, and uses it when it comes."""
    port = redis.port
    redis.kill()
    with node(tmp_path, redis, "a") as a:
        wire = Wire(a.host)
        digest = push(wire, b"a layer")
        assert head(wire, digest) == (200, "7")
        redis.start(port)
        deadline = time.monotonic() + 60
        while redis.hash(f"blobs::{digest}").get("size") != "7":
            assert time.monotonic() < deadline, a.logs()
            assert head(wire, digest) == (200, "7")
            time.sleep(0.05)
        redis.freeze()
        for _ in range(5):
            assert head(wire, digest) == (200, "7")
            assert wire.blob(NAME, digest).body == b"a layer"
        redis.thaw()
    assert "Redis does not answer" in a.logs()
    assert "Redis answers again" in a.logs()


def test_the_section_of_a_file_of_2_8(tmp_path: Path, redis: RedisServer) -> None:
    """As its documentation has it, nearly all files look like this."""
    old = {
        "addr": redis.address, "password": "", "db": 1, "dialtimeout": "10ms", "readtimeout": "10ms",
        "writetimeout": "10ms", "pool": {"maxidle": 16, "maxactive": 64, "idletimeout": "300s"},
    }  # fmt: skip
    with node(tmp_path, redis, "a", **old) as a:
        wire = Wire(a.host)
        digest = push(wire, b"a layer")
        assert head(wire, digest) == (200, "7")
    assert "is deprecated; use redis.addrs" in a.logs()
