"""One volume, two registries: Moorage and Debian's docker-registry 2.8, in either order and side by side.

Whoever moves to Moorage points it at the old volume; the day they dislike it, the old binary takes over again.
Everything here runs against the real binary.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.interop.volumes import fill, show, take_turns
from tests.live import require, start_moorage, start_reference
from tests.wire import OCI_INDEX, OCI_MANIFEST, Wire, image

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.live import Live

pytestmark = [pytest.mark.reference, pytest.mark.slow]

# Over a MiB: below that Moorage keeps no hash state, since a few bytes are sooner read again.
BEGINNING, MIDDLE, END = b"first" * 250_031, b"second" * 50_001, b"third" * 77
"""Pieces of an upload that fit no block of SHA-256, so that the carried state holds an unfinished one."""

WAYS = [
    pytest.param(start_reference, start_moorage, id="reference-then-moorage"),
    pytest.param(start_moorage, start_reference, id="moorage-then-reference"),
]


def upload_of(root: Path) -> Path:
    """The folder of the only upload in the volume."""
    (home,) = root.glob("docker/registry/v2/repositories/**/_uploads/*")
    return home


@pytest.mark.parametrize(("first", "then"), WAYS)
def test_a_volume_looks_the_same_to_the_other(
    first: Callable[[Path], Live], then: Callable[[Path], Live], tmp_path: Path
) -> None:
    """Every repository, tag, manifest, config and layer, byte for byte."""
    root = tmp_path / "volume"
    with first(root) as live:
        fill(live, tmp_path)
        before = show(live)
    assert len(before.manifests) == 11

    with then(root) as live:
        after = show(live)
    assert after.repositories == before.repositories
    assert after.manifests == before.manifests
    assert after.blobs == before.blobs


@pytest.mark.parametrize(("first", "then"), WAYS)
def test_an_upload_begun_by_one_is_finished_by_the_other(
    first: Callable[[Path], Live], then: Callable[[Path], Live], tmp_path: Path
) -> None:
    """The day of the move interrupts no push: the client continues with the URL that it has."""
    root, data = tmp_path / "volume", BEGINNING + MIDDLE + END
    with first(root) as live:
        wire = Wire(live.host)
        location = wire.patch(wire.start_upload("begun/there").headers["location"], BEGINNING).headers["location"]

    with then(root) as live:
        wire = Wire(live.host)
        status = wire.send("GET", location)
        assert status.status == 204, status
        assert status.headers["range"] == f"0-{len(BEGINNING) - 1}"
        patched = wire.patch(location, MIDDLE)
        assert patched.status == 202, patched
        done = wire.finish(patched.headers["location"], Digest.of(data), END)
        assert done.status == 201, done
        assert wire.blob("begun/there", Digest.of(data)).body == data


@pytest.mark.parametrize(("first", "then"), WAYS)
def test_the_other_goes_on_from_the_hash_state_and_reads_nothing_again(
    first: Callable[[Path], Live], then: Callable[[Path], Live], tmp_path: Path
) -> None:
    """A 10 GB layer is not read again for its last byte.  Shown by what only a carried state can do: the digest
    is still that of the bytes sent, after one of them was changed behind the registry's back.
    """
    root, data = tmp_path / "volume", BEGINNING + MIDDLE
    with first(root) as live:
        wire = Wire(live.host)
        location = wire.patch(wire.start_upload("begun/state").headers["location"], BEGINNING).headers["location"]
    assert (upload_of(root) / "hashstates" / "sha256" / str(len(BEGINNING))).stat().st_size == 108
    with (upload_of(root) / "data").open("r+b") as file:
        file.write(b"F")

    with then(root) as live:
        wire = Wire(live.host)
        patched = wire.patch(location, MIDDLE)
        assert patched.status == 202, patched
        done = wire.finish(patched.headers["location"], Digest.of(data))
        assert done.status == 201, done


@pytest.mark.parametrize(
    "left", [None, b"", bytes(108), b"sha\x03" + bytes(50)], ids=["no", "empty", "zero", "torn"]
)
def test_an_upload_with_spoilt_hash_states_is_finished_by_reading_it(left: bytes | None, tmp_path: Path) -> None:
    """Hash states are an optimisation; a volume restored without them, or a power cut, must not spoil uploads."""
    root, data = tmp_path / "volume", BEGINNING + END
    with start_reference(root) as live:
        wire = Wire(live.host)
        location = wire.patch(wire.start_upload("begun/bare").headers["location"], BEGINNING).headers["location"]
    for state in (upload_of(root) / "hashstates" / "sha256").iterdir():
        if left is None:
            state.unlink()
        else:
            state.write_bytes(left)

    with start_moorage(root) as live:
        wire = Wire(live.host)
        done = wire.finish(location, Digest.of(data), END)
        assert done.status == 201, done
        assert wire.blob("begun/bare", Digest.of(data)).body == data


@pytest.mark.parametrize(("first", "then"), WAYS)
def test_a_sha512_layer_is_readable_by_either(
    first: Callable[[Path], Live], then: Callable[[Path], Live], tmp_path: Path
) -> None:
    """The reference keeps a sha512 link that names a sha256 digest, Moorage the content under sha512 itself."""
    root, data = tmp_path / "volume", b"a layer named by sha512" * 100
    digest = Digest.of(data, "sha512")
    with first(root) as live:
        wire = Wire(live.host)
        wire.push_blob("long/digests", data, digest)
        wire.push_blob("long/digests", b"{}")
        manifest = image(b"{}", [data]).replace(str(Digest.of(data)).encode(), str(digest).encode())
        assert wire.put_manifest("long/digests", "v1", manifest).status == 201

    with then(root) as live:
        wire = Wire(live.host)
        assert wire.manifest("long/digests", "v1").body == manifest
        answer = wire.blob("long/digests", digest)
        assert (answer.status, answer.body) == (200, data), answer
        assert wire.put_manifest("long/digests", "v2", manifest).status == 201
        if then is start_moorage:
            assert answer.headers["docker-content-digest"] == str(digest)


def test_what_moorage_deleted_is_deleted_for_the_reference_and_may_come_back(tmp_path: Path) -> None:
    """Moorage's marks never hide what the reference has stored, nor make it serve what Moorage has deleted."""
    root = tmp_path / "volume"
    with start_moorage(root) as ours, start_reference(root) as theirs:
        here, there = Wire(ours.host), Wire(theirs.host)
        manifest = here.push_image("come/back", "v1", [b"a layer"])
        here.push_image("come/back", "other", [b"another layer"])
        assert here.delete_manifest("come/back", Digest.of(manifest)).status == 202
        for wire in (here, there):
            assert wire.manifest("come/back", "v1").status == 404
            assert wire.manifest("come/back", Digest.of(manifest)).status == 404
            assert wire.manifest("come/back", "other").status == 200
        assert here.tags("come/back") == ["other"]

        assert there.put_manifest("come/back", "v1", manifest).status == 201
        for wire in (there, here):
            assert wire.manifest("come/back", "v1").body == manifest
            assert sorted(wire.tags("come/back")) == ["other", "v1"]


def test_referrers_of_the_old_volume_are_found(tmp_path: Path) -> None:
    """Signatures pushed to the reference are listed by a fallback tag; a move requires no new signatures."""
    root = tmp_path / "volume"
    with start_reference(root) as live:
        wire = Wire(live.host)
        subject = wire.push_image("signed/app", "v1", [b"an app"])
        digest = Digest.of(subject)
        described = {
            "mediaType": OCI_MANIFEST, "digest": str(digest), "size": len(subject)
        }  # fmt: skip
        signature = image(b"{}", [], subject=described, artifactType="application/signature")
        assert wire.put_manifest("signed/app", "signature", signature).status == 201
        entry = (
            b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":'
            b'"application/vnd.oci.image.manifest.v1+json","artifactType":"application/signature","digest":"%s","size":%d}]}'
            % (str(Digest.of(signature)).encode(), len(signature))
        )
        fallback = f"sha256-{digest.hex}"
        assert wire.put_manifest("signed/app", fallback, entry, OCI_INDEX).status == 201

    with start_moorage(root) as live:
        listed = Wire(live.host).send("GET", f"/v2/signed/app/referrers/{digest}").json()
        assert [entry["digest"] for entry in listed["manifests"]] == [str(Digest.of(signature))]


def test_both_serve_one_volume_at_once_and_take_turns_at_an_upload(tmp_path: Path) -> None:
    """A rolling move: old and new behind one load balancer, any request to either."""
    root, pieces = tmp_path / "volume", [bytes([65 + number]) * (1000 * number + 7) for number in range(6)]
    with start_moorage(root) as ours, start_reference(root) as theirs:
        turns = [Wire(live.host) for live in (ours, theirs)]
        location = turns[0].start_upload("taking/turns").headers["location"]
        for number, piece in enumerate(pieces):
            answer = turns[(number + 1) % 2].patch(location, piece)
            assert answer.status == 202, answer
            location = answer.headers["location"]
        digest = Digest.of(b"".join(pieces))
        done = turns[0].finish(location, digest)
        assert done.status == 201, done
        for wire in turns:
            assert wire.blob("taking/turns", digest).body == b"".join(pieces)
        take_turns(ours, theirs)


def test_the_references_collector_keeps_what_moorage_stored(tmp_path: Path) -> None:
    """`docker-registry garbage-collect` over our volume neither stumbles over our keys nor eats anything."""
    root = tmp_path / "volume"
    with start_moorage(root) as live:
        fill(live, tmp_path)
        gone = Wire(live.host).push_image("team/app", "gone", [b"nobody else has this layer"])
        assert Wire(live.host).delete_manifest("team/app", Digest.of(gone)).status == 202
        before = show(live)

    collect = [require("docker-registry"), "garbage-collect", str(root.with_name("volume.yml"))]
    done = subprocess.run(collect, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Digest.of(b"nobody else has this layer").hex in done.stdout

    with start_moorage(root) as live:
        assert show(live) == before
