"""skopeo and a registry whose storage is a bucket of Google's, or a test server in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.clients.stores import go_there_and_back, push_in_pieces, serve
from tests.live import Live, NotStarted, start_moorage
from tests.storage.gcs.bucket import Bucket, a_bucket
from tests.wire import Wire, image

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.storage.gcs.server import Request

pytestmark = [pytest.mark.client, pytest.mark.slow]


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_bucket() as bucket:
        yield bucket


def start(path: Path, bucket: Bucket, *, redirect: bool = True, **gcs: Any) -> Live:
    return serve(path, "gcs", bucket.settings(**gcs), workers=2, redirect=redirect)


@pytest.mark.parametrize("redirect", [True, False], ids=["redirected", "through-the-registry"])
def test_images_go_there_and_back(tmp_path: Path, bucket: Bucket, redirect: bool) -> None:
    """A layer of more chunks than one compose takes."""
    with start(tmp_path, bucket, redirect=redirect, chunksize=256 * 1024, rootdirectory="/reg/") as live:
        go_there_and_back(live, tmp_path, layer=13_000_000, redirected=redirect)
        logs = live.logs()
    assert any(request.what == "compose" for request in bucket.server.requests)
    assert all(request.what != "signed" for request in bucket.server.requests) != redirect
    assert not [key for key in bucket.objects if "/_uploads/" in key]
    assert all(key.startswith("reg/docker/registry/v2/") for key in bucket.objects)
    assert not [token for token in bucket.server.tokens if token in logs]


def test_a_layer_in_pieces_is_cancelled_or_finished(tmp_path: Path, bucket: Bucket) -> None:
    """What was cancelled is gone."""
    with start(tmp_path, bucket, redirect=False, chunksize=256 * 1024) as live:
        sizes = (1, 700, 1_000_000, 600_001, 0, 9)
        push_in_pieces(live, sizes, range(700, 1_000_501), cancelled=1_600_000)
    assert sorted(key.rpartition("/")[2] for key in bucket.objects) == ["data", "link"]


def test_a_failing_store_is_503_and_a_full_one_507(tmp_path: Path, bucket: Bucket) -> None:
    """Clients retry after the one and report the other to their user; the log has the store's answer."""
    with start(tmp_path, bucket) as live:
        wire = Wire(live.host)
        manifest = wire.push_image("a/b", "v1", [b"a layer"])
        for reason, expected in (("forbidden", 503), ("quotaExceeded", 507)):

            def trouble(request: Request, reason: str = reason) -> tuple[int, str] | None:
                return None if request.what == "token" else (403, reason)

            bucket.server.trouble = trouble
            assert wire.start_upload("a/b").status == expected
            live.logged(reason)
        bucket.server.trouble = None
        assert wire.manifest("a/b", "v1").body == manifest


def test_what_a_push_and_a_pull_cost(tmp_path: Path, bucket: Bucket) -> None:
    """Each is 20 to 40 ms on a real store and has its price: docs/storage/gcs.md has the table."""
    layers = [bytes([number]) * size for number, size in enumerate((300_000, 5_000_000, 25_000_000))]

    def counted() -> int:
        """Without requests of the clock: for a token, and for the state of a collection every five seconds."""
        count = sum(
            request.what != "token" and "_moorage/collection" not in request.query.get("prefix", "")
            for request in bucket.server.requests
        )
        bucket.server.requests.clear()
        return count

    storage = {"filesystem": None, "gcs": bucket.settings()}
    with start_moorage(tmp_path / "registry", storage=storage, http={"workers": 1}) as live:
        wire = Wire(live.host)
        wire.push_image("warm/up", "v1", [b"a layer"])
        counted()
        for data in (*layers, b"{}"):
            wire.blob("a/b", Digest.of(data), "HEAD")
            patched = wire.patch(wire.start_upload("a/b").headers["location"], data)
            assert wire.finish(patched.headers["location"], Digest.of(data)).status == 201
        assert wire.put_manifest("a/b", "v1", image(b"{}", layers)).status == 201
        pushed = counted()
        wire.manifest("a/b", "v1")
        for data in (*layers, b"{}"):
            assert wire.blob("a/b", Digest.of(data)).status == 307
        pulled = counted()
    assert (pushed <= 56, pulled <= 6) == (True, True), (pushed, pulled)


def test_a_key_that_is_none_ends_the_start(tmp_path: Path, bucket: Bucket) -> None:
    """By name, in one line, before any port is open to clients."""
    with pytest.raises(NotStarted, match=r"storage\.gcs\.credentials: credentials of type 'magic' cannot be used"):
        start(tmp_path, bucket, credentials={"type": "magic", "private_key": "hush"})
    assert "hush" not in (tmp_path / "registry.log").read_text()
