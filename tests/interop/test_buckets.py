"""One bucket, two registries: Moorage and Debian's docker-registry 2.8, in either order and side by side.

What `test_both_ways.py` shows of a volume, for S3.  One thing differs by decision: an upload that Moorage began is
not continued by the reference (docs/reference/object-storage.md, section 4).
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from tests.interop.volumes import fill, show, take_turns
from tests.live import Live, require, start_moorage, start_reference
from tests.s3 import Bucket, a_bucket
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.reference, pytest.mark.slow]

BEGINNING, MIDDLE, END = b"first" * 250_031, b"second" * 50_001, b"third" * 77


@pytest.fixture(params=["", "some/root"], ids=["no-root", "root"])
def bucket(request: pytest.FixtureRequest) -> Iterator[tuple[Bucket, str]]:
    with a_bucket() as found:
        yield found, request.param


BELOW_A_ROOT = pytest.mark.parametrize("bucket", ["some/root"], ids=["root"], indirect=True)
"""Where the place of the keys changes nothing: that both find the same keys is shown for both places."""


def sections(bucket: tuple[Bucket, str], **more: Any) -> dict[str, Any]:
    """The storage section for either registry; blobs come through it, so that one client sees them all."""
    found, root = bucket
    return {"filesystem": None, "s3": found.settings(rootdirectory=root), "redirect": {"disable": True}, **more}


def ours(path: Path, bucket: tuple[Bucket, str]) -> Live:
    return start_moorage(path / "ours", storage=sections(bucket), http={"workers": 2})


def theirs(path: Path, bucket: tuple[Bucket, str]) -> Live:
    return start_reference(path / "theirs", storage=sections(bucket))


WAYS = [
    pytest.param(theirs, ours, id="reference-then-moorage"),
    pytest.param(ours, theirs, id="moorage-then-reference"),
]


@pytest.mark.parametrize(("first", "then"), WAYS)
def test_a_bucket_looks_the_same_to_the_other(first: Any, then: Any, tmp_path: Path, bucket: Any) -> None:
    """Every repository, tag, manifest, config and layer, byte for byte, under the same keys."""
    with first(tmp_path, bucket) as live:
        # The reference cannot store an empty layer in S3 (500: a multipart upload of one empty part).
        fill(live, tmp_path, empty=first is ours)
        before = show(live)
    assert len(before.manifests) == 11
    found, root = bucket
    assert all(key.startswith(f"{root}/docker/registry/v2/".lstrip("/")) for key in found.keys())  # noqa: SIM118
    assert not [key for key in found.keys() if "/_uploads/" in key or "/conditions/" in key]  # noqa: SIM118

    with then(tmp_path, bucket) as live:
        after = show(live)
    assert sorted(after.repositories) == sorted(before.repositories)
    assert after.manifests == before.manifests
    assert after.blobs == before.blobs


@pytest.mark.parametrize("small", [True, False], ids=["small", "large"])
def test_an_upload_that_the_reference_began_is_finished_by_moorage(
    tmp_path: Path, bucket: Any, small: bool
) -> None:
    """The day of the move interrupts no push: the client continues with the URL that it has."""
    beginning = BEGINNING if small else BEGINNING * 15
    data = beginning + MIDDLE + END
    with theirs(tmp_path, bucket) as live:
        wire = Wire(live.host)
        location = wire.patch(wire.start_upload("begun/there").headers["location"], beginning).headers["location"]

    with ours(tmp_path, bucket) as live:
        wire = Wire(live.host)
        status = wire.send("GET", location)
        assert status.status == 204, status
        assert status.headers["range"] == f"0-{len(beginning) - 1}"
        patched = wire.patch(location, MIDDLE)
        assert patched.status == 202, patched
        done = wire.finish(patched.headers["location"], Digest.of(data), END)
        assert done.status == 201, done
        assert wire.blob("begun/there", Digest.of(data)).body == data
    assert bucket[0].in_progress() == []
    assert not [key for key in bucket[0].keys() if "/_uploads/" in key]  # noqa: SIM118  no dict


def test_an_upload_that_moorage_began_is_unknown_to_the_reference(tmp_path: Path, bucket: Any) -> None:
    """Decided: its client sends that layer again, and nothing wrong is stored."""
    with ours(tmp_path, bucket) as live:
        wire = Wire(live.host)
        location = wire.patch(wire.start_upload("begun/here").headers["location"], BEGINNING).headers["location"]
    with theirs(tmp_path, bucket) as live:
        wire = Wire(live.host)
        answer = wire.finish(location, Digest.of(BEGINNING))
        assert answer.status >= 400, answer
        assert wire.push_blob("begun/here", BEGINNING) == Digest.of(BEGINNING)


@BELOW_A_ROOT
def test_both_serve_one_bucket_at_once(tmp_path: Path, bucket: Any) -> None:
    """A rolling move: old and new behind one load balancer, any image from either."""
    with ours(tmp_path, bucket) as here, theirs(tmp_path, bucket) as there:
        take_turns(here, there)


@BELOW_A_ROOT
def test_the_references_collector_keeps_what_moorage_stored(tmp_path: Path, bucket: Any) -> None:
    """`docker-registry garbage-collect` over our bucket neither stumbles over our keys nor eats anything."""
    with ours(tmp_path, bucket) as live:
        fill(live, tmp_path)
        gone = Wire(live.host).push_image("team/app", "gone", [b"nobody else has this layer"])
        assert Wire(live.host).delete_manifest("team/app", Digest.of(gone)).status == 202
        Wire(live.host).patch(Wire(live.host).start_upload("in/flight").headers["location"], b"unfinished")
        before = show(live)

    with theirs(tmp_path, bucket):
        """Only its configuration file is wanted."""
    collect = [require("docker-registry"), "garbage-collect", str(tmp_path / "theirs.yml")]
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(collect, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Digest.of(b"nobody else has this layer").hex in done.stdout

    with ours(tmp_path, bucket) as live:
        assert show(live) == before
