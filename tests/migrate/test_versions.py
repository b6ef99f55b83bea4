"""The release before and this one on one store: side by side, upgraded, downgraded.  `python3 dev.py versions`

Both share `http.secret`.  A directory, and a bucket of moto or of the store that MOORAGE_S3_ENDPOINT names.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
from tests.interop.volumes import show, take_turns
from tests.migrate.places import PREVIOUS, RECORDED, STORES, Place, a_place, previous_source
from tests.migrate.populate import artifact, finish_uploads, listed, populate, recorded
from tests.redis_servers import a_redis
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.previous, pytest.mark.slow]

ORDERS = [("previous", "this"), ("this", "previous")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return previous_source(tmp_path_factory.mktemp("previous"))


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path, source: Path) -> Iterator[Place]:
    yield from a_place(request.param, tmp_path, source)


@pytest.fixture
def both(place: Place) -> Iterator[dict[str, Wire]]:
    """Clients of either version, which serve one store."""
    with place.start("previous") as old, place.start("this") as new:
        yield {"previous": Wire(old.host), "this": Wire(new.host)}


def test_uploads_go_from_one_to_the_other_and_back(both: dict[str, Wire]) -> None:
    """A load balancer does not distinguish versions: any request of an upload reaches any node."""
    for first, then in ORDERS:
        for size in (7, 1_250_155, 11 << 20):
            pieces = [bytes([65 + number]) * size for number in range(4)]
            location = both[first].start_upload("mixed/uploads").headers["location"]
            for number, piece in enumerate(pieces):
                turn, other = (first, then)[number % 2], (then, first)[number % 2]
                answer = both[turn].patch(location, piece)
                assert answer.status == 202, (turn, size, number, answer)
                location = answer.headers["location"]
                status = both[other].send("GET", location)
                assert status.headers["range"] == f"0-{size * (number + 1) - 1}", (other, size, status)
            digest = Digest.of(b"".join(pieces))
            done = both[then].finish(location, digest)
            assert done.status == 201, (then, size, done)
            for wire in both.values():
                assert Digest.of(wire.blob("mixed/uploads", digest).body) == digest


def test_an_upload_that_one_cancels_is_gone_for_the_other(both: dict[str, Wire]) -> None:
    for first, then in ORDERS:
        location = both[first].start_upload("mixed/cancelled").headers["location"]
        location = both[first].patch(location, b"bytes").headers["location"]
        assert both[then].send("DELETE", location).status == 204
        assert both[first].patch(location, b"more").status == 404


def test_tags_images_and_deletions_of_one_are_those_of_the_other(both: dict[str, Wire]) -> None:
    for first, then in ORDERS:
        here, there, name = both[first], both[then], f"mixed/{first}"
        image = here.push_image(name, "v1", [b"layer of %s" % first.encode()])
        other = here.push_image(name, "v2", [b"other of %s" % first.encode()])
        assert there.put_manifest(name, "again", image).status == 201
        for wire in (here, there):
            assert wire.manifest(name, "v1").body == wire.manifest(name, "again").body == image
            assert wire.tags(name) == ["again", "v1", "v2"]
        assert there.delete_manifest(name, "v2").status == 202
        assert here.manifest(name, "v2").status == 404
        assert here.manifest(name, Digest.of(other)).status == 200
        # By digest: all tags are dead for both, and stay dead when the image is pushed again.
        assert here.delete_manifest(name, Digest.of(image)).status == 202
        for wire in (there, here):
            assert wire.manifest(name, Digest.of(image)).status == 404
            assert wire.manifest(name, "v1").status == 404
            assert wire.tags(name) == []
        assert there.put_manifest(name, "v1", image).status == 201
        for wire in (here, there):
            assert wire.tags(name) == ["v1"]
            assert wire.manifest(name, "again").status == 404


def test_a_blob_that_one_deletes_is_gone_for_the_other(both: dict[str, Wire]) -> None:
    """Each remembers sizes, and in a bucket links for two seconds, which the deletion waits for."""
    for first, then in ORDERS:
        digest = both[first].push_blob("mixed/blobs", b"blob of %s" % first.encode())
        for wire in both.values():
            for _ in range(3):
                assert wire.blob("mixed/blobs", digest).status == 200
        assert both[first].send("DELETE", f"/v2/mixed/blobs/blobs/{digest}").status == 202
        assert both[then].blob("mixed/blobs", digest).status == 404


def test_sizes_in_a_redis_that_both_share(place: Place, tmp_path: Path) -> None:
    """Either reads what the other wrote, and neither serves what the other deleted."""
    with a_redis(tmp_path / "redis") as redis:
        sections = {"storage": {"cache": {"blobdescriptor": "redis"}}, "redis": {"addrs": [redis.address]}}
        with place.start("previous", **sections) as old, place.start("this", **sections) as new:
            wires = {"previous": Wire(old.host), "this": Wire(new.host)}
            for first, then in ORDERS:
                digest = wires[first].push_blob("mixed/redis", b"blob of %s" % first.encode())
                assert wires[first].blob("mixed/redis", digest).status == 200
                assert redis.hash(f"blobs::{digest}")["digest"] == str(digest)
                assert wires[then].blob("mixed/redis", digest).status == 200
                assert wires[then].send("DELETE", f"/v2/mixed/redis/blobs/{digest}").status == 202
                assert wires[first].blob("mixed/redis", digest).status == 404


def test_referrers_of_either_are_listed_by_both(both: dict[str, Wire]) -> None:
    """This version's links hold descriptors, those of the one before do not; the lists are equal."""
    old, new = both["previous"], both["this"]
    subject = old.push_image("mixed/artifacts", "v1", [b"subject"])
    made = {
        artifact(wire, "mixed/artifacts", subject, f"application/vnd.example.{version}"): version
        for version, wire in both.items()
    }
    subject_digest = Digest.of(subject)
    before, after = (listed(wire, "mixed/artifacts", subject_digest) for wire in (old, new))
    assert before == after
    assert {Digest.parse(text) for text in before} == set(made)
    for digest, version in made.items():
        other = both["this" if version == "previous" else "previous"]
        assert other.delete_manifest("mixed/artifacts", digest).status == 202
        lists = [listed(wire, "mixed/artifacts", subject_digest) for wire in (old, new)]
        assert lists[0] == lists[1]
        assert str(digest) not in lists[0]


def test_both_take_turns_at_one_tag(place: Place) -> None:
    with place.start("previous") as old, place.start("this") as new:
        take_turns(new, old)


def findings(output: str) -> set[str]:
    """The kinds of what `storage check` reports."""
    return set(re.findall(r"^(?:error|warning|note): [^ ]+: ([a-z0-9-]+): ", output, re.MULTILINE))


def test_upgrade_and_downgrade_by_one_release(place: Place) -> None:
    """Old, new, old again: what either left is served, continued, and found whole by the other's check."""

    def turn(version: str) -> None:
        status, output = place.check(version, "--digests", "--notes")
        reported.setdefault(version, set()).update(findings(output))
        assert status == 0 or findings(output) == {"referrer-torn"}, output

    reported: dict[str, set[str]] = {}
    with place.start("previous") as live:
        uploads = populate(live)
        first = show(live)
    turn("this")
    with place.start("this") as live:
        assert show(live) == first
        finish_uploads(live, uploads)
        wire = Wire(live.host)
        subject = wire.push_image("after/upgrade", "v1", [b"new"])
        artifact(wire, "after/upgrade", subject, "application/vnd.example.after")
        begun = wire.patch(wire.start_upload("after/upgrade").headers["location"], b"first" * 250_031)
        second = show(live)
        referrers = listed(wire, "after/upgrade", Digest.of(subject))
    turn("previous")
    with place.start("previous") as live:
        assert show(live) == second
        wire = Wire(live.host)
        assert listed(wire, "after/upgrade", Digest.of(subject)) == referrers
        data = b"first" * 250_031 + b"rest"
        done = wire.finish(begun.headers["location"], Digest.of(data), b"rest")
        assert done.status == 201, done
    # docs/formats.md: the release before takes descriptors in referrer links for damage, and nothing else.
    assert "referrer-torn" in reported["previous"]
    assert reported["this"] <= {"referrer-bare"}
    status, output = place.check("this", "--digests")
    assert status == 0, output


@pytest.mark.skipif(os.environ.get("MOORAGE_RECORD") != "1", reason="MOORAGE_RECORD=1 writes the recordings anew")
def test_recording(place: Place) -> None:
    recorded(place, PREVIOUS).save(place.name, RECORDED)
    assert (RECORDED / f"{place.name}.json").stat().st_size < 64 << 10
