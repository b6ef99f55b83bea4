"""One container of Azure, one bucket of Google, two registries: CNCF Distribution 2.8 and 3, and Moorage.

What `test_buckets.py` shows of S3 with Debian's docker-registry; see `stores.py` for the programs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.interop.recording import UPLOADS, Recording, Upload, held, push_again
from tests.interop.stores import STORES, Store, a_store
from tests.interop.volumes import fill, show, take_turns
from tests.live import start_moorage, start_reference
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.built, pytest.mark.reference, pytest.mark.slow]

BEGINNING, MIDDLE, END = b"first" * 250_031, b"second" * 50_001, b"third" * 77


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with a_store(request.param, tmp_path) as found:
        assert found.program
        yield found


def keep_its_names(store: Store) -> None:
    """2.8's names are kept in a container of 2.8; a new one gets those of 3."""
    if store.name == "azure-2":
        with store.theirs() as live:
            Wire(live.host).push_image("of/old", "v1", [b"was there before"])


@pytest.mark.parametrize("begins", ["reference", "moorage"])
def test_a_store_looks_the_same_to_the_other(tmp_path: Path, store: Store, begins: str) -> None:
    """Every repository, tag, manifest, config and layer, byte for byte, under the names that the other writes."""
    first, then = (store.theirs, store.ours) if begins == "reference" else (store.ours, store.theirs)
    if begins == "moorage":
        keep_its_names(store)
    with first() as live:
        fill(live, tmp_path)
        before = show(live)
    assert len(before.manifests) == 11 + (begins == "moorage" and store.name == "azure-2")
    slash = "/" if store.name == "azure-2" else ""
    assert all(name.startswith(f"{slash}docker/registry/v2/") for name in store.names())
    assert not [name for name in store.names() if "/_uploads/" in name]

    with then() as live:
        after = show(live)
    assert sorted(after.repositories) == sorted(before.repositories)
    assert after.manifests == before.manifests
    assert after.blobs == before.blobs


@pytest.mark.parametrize("times", [1, 15], ids=["small", "large"])
def test_an_upload_that_the_reference_began_is_finished_by_moorage(store: Store, times: int) -> None:
    """The day of the move interrupts no push: the client continues with the URL that it has."""
    beginning = BEGINNING * times
    data = beginning + MIDDLE + END
    with store.theirs() as live:
        wire = Wire(live.host)
        location = wire.patch(wire.start_upload("begun/there").headers["location"], beginning).headers["location"]

    with store.ours() as live:
        wire = Wire(live.host)
        status = wire.send("GET", location)
        assert status.status == 204, status
        assert status.headers["range"] == f"0-{len(beginning) - 1}"
        patched = wire.patch(location, MIDDLE)
        assert patched.status == 202, patched
        done = wire.finish(patched.headers["location"], Digest.of(data), END)
        assert done.status == 201, done
        assert wire.blob("begun/there", Digest.of(data)).body == data
    with store.theirs() as live:
        assert Wire(live.host).blob("begun/there", Digest.of(data)).body == data


def test_an_upload_that_moorage_began_is_unknown_to_the_reference(store: Store) -> None:
    """Decided: its client sends that layer again, and nothing wrong is stored."""
    keep_its_names(store)
    with store.ours() as live:
        wire = Wire(live.host)
        location = wire.patch(wire.start_upload("begun/here").headers["location"], BEGINNING).headers["location"]
    with store.theirs() as live:
        wire = Wire(live.host)
        answer = wire.finish(location, Digest.of(BEGINNING))
        assert answer.status >= 400, answer
        assert wire.push_blob("begun/here", BEGINNING) == Digest.of(BEGINNING)


@pytest.mark.parametrize("store", ["azure-2", "gcs-2", "gcs-3"], indirect=True)
def test_both_serve_one_store_at_once(store: Store) -> None:
    """A rolling move: old and new behind one load balancer, any image from either, and either moves a tag."""
    keep_its_names(store)
    with store.ours() as here, store.theirs() as there:
        take_turns(here, there)


@pytest.mark.parametrize("store", ["azure-3"], indirect=True)
def test_3_0_to_3_1_1_cannot_write_over_a_link_of_ours_on_azure(store: Store) -> None:
    """Nor over one of 2.8: docs/storage/azure.md documents it.  All else goes, and Moorage writes over theirs."""
    with store.ours() as here, store.theirs() as there:
        ours, theirs = Wire(here.host), Wire(there.host)
        for name, writer, reader in (("of/ours", ours, theirs), ("of/theirs", theirs, ours)):
            pushed = writer.push_image(name, "v1", [b"1"])
            assert reader.manifest(name, "v1").body == pushed
        moved = ours.push_image("of/theirs", "v1", [b"2"])
        assert theirs.manifest("of/theirs", "v1").body == moved
        begun = theirs.start_upload("of/ours").headers["location"]
        refused = theirs.finish(begun, Digest.of(b"{}"), b"{}")
        assert (refused.status, "InvalidBlobType" in refused.body.decode()) == (500, True)
        manifest = theirs.push_image("of/ours", "v2", [b"3"], b'{"new": 1}')
        assert theirs.put_manifest("of/ours", "v1", manifest).status == 500
        assert theirs.delete_manifest("of/ours", "v1").status == 202
        assert theirs.put_manifest("of/ours", "v1", manifest).status == 201
        assert ours.manifest("of/ours", "v1").body == manifest


def test_what_moorage_deletes_is_gone_for_the_reference(tmp_path: Path, store: Store) -> None:
    """A tag and its manifest, in a store that the reference filled; what is left is whole."""
    with store.theirs() as live:
        fill(live, tmp_path)
        gone = Wire(live.host).push_image("team/app", "gone", [b"nobody else has this layer"])
        before = show(live)
    with store.ours() as live:
        wire = Wire(live.host)
        for reference in ("gone", Digest.of(gone)):
            assert wire.delete_manifest("team/app", reference).status == 202
        assert (
            wire.push_image("team/app", "moved", [b"moved by the other"])
            == wire.manifest("team/app", "moved").body
        )
        after = show(live)
    assert before.manifests.keys() - after.manifests.keys() == {"team/app:gone"}
    with store.theirs() as live:
        shown = show(live)
        assert Wire(live.host).manifest("team/app", "gone").status == 404
    assert (shown.manifests, shown.blobs) == (after.manifests, after.blobs)


def test_the_references_collector_keeps_what_moorage_stored(tmp_path: Path, store: Store) -> None:
    """`registry garbage-collect` over our store neither stumbles over our names nor eats anything."""
    keep_its_names(store)
    with store.ours() as live:
        fill(live, tmp_path)
        gone = Wire(live.host).push_image("team/app", "gone", [b"nobody else has this layer"])
        assert Wire(live.host).delete_manifest("team/app", Digest.of(gone)).status == 202
        Wire(live.host).patch(Wire(live.host).start_upload("in/flight").headers["location"], b"unfinished")
        before = show(live)

    with store.theirs():
        """Only its configuration file is wanted."""
    collect = [store.program, "garbage-collect", str(store.path / "theirs.yml")]
    environment = {"PATH": "/usr/bin:/bin", **store.environment}
    done = subprocess.run(collect, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Digest.of(b"nobody else has this layer").hex in done.stdout

    with store.ours() as live:
        assert show(live) == before


def test_check_and_copy_find_the_references_store_whole(tmp_path: Path, store: Store) -> None:
    """`moorage storage check` has nothing to say of it, and `copy` moves it to a volume that 2.8 serves."""
    with store.theirs() as live:
        fill(live, tmp_path)
        before = show(live)
    with store.ours():
        """Only its configuration file is wanted."""
    checked = moorage("storage", "check", "--digests", str(store.path / "ours.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    target = tmp_path / "volume"
    with start_moorage(target):
        """As above."""
    moved = moorage(
        "storage", "copy", "--from", str(store.path / "ours.yml"), "--to", str(tmp_path / "volume.yml")
    )
    assert moved.returncode == 0, moved.stdout + moved.stderr
    with start_reference(target) as live:
        after = show(live)
    assert (after.manifests, after.blobs) == (before.manifests, before.blobs)


def moorage(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("moorage")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_recording_is_what_the_reference_writes(tmp_path: Path, store: Store) -> None:
    """`test_recorded.py` depends on it: the same requests leave the same objects, of the same kinds."""
    if os.environ.get("MOORAGE_RECORD") == "1":
        record(tmp_path, store)
    recording = Recording.load(store.name)
    with a_store(store.name, tmp_path) as fresh, fresh.theirs() as live:
        push_again(live, recording)
        now = held(fresh.held)
    then = {name: recording.objects[name] for name in recording.finished()}
    assert now.keys() == then.keys()
    assert {name: item.data for name, item in now.items()} == recording.finished()
    assert {name: item.kind for name, item in now.items()} == {name: item.kind for name, item in then.items()}


def record(tmp_path: Path, store: Store) -> None:
    uploads = {}
    with store.theirs() as live:
        fill(live, tmp_path)
        shown = show(live)
        wire = Wire(live.host)
        for name, data in UPLOADS.items():
            begun = wire.start_upload(f"begun/{name}")
            location = wire.patch(begun.headers["location"], data).headers["location"]
            uploads[name] = Upload(location.removeprefix(live.url), len(data))
    version = subprocess.run([store.program, "--version"], capture_output=True, text=True, check=True)
    Recording.of(version.stdout.partition(" ")[2].strip(), store.held, uploads, shown).save(store.name)
