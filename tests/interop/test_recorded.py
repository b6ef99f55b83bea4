"""Moorage over what CNCF Distribution 2.8 and 3 left on Azure and Google, and what it leaves there in their place.

The programs themselves are in `test_stores.py`; here is what they wrote (`recording.py`), so that this runs
everywhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.azure import Container, a_container
from tests.interop.recording import UPLOADS, Recording, held, push_again, replay
from tests.interop.stores import STORES
from tests.interop.volumes import show
from tests.live import Live, start_moorage, start_reference
from tests.storage.gcs.bucket import Bucket, a_bucket
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.reference, pytest.mark.slow]

MORE = b"and the rest of it"


@pytest.fixture(params=STORES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def recording(name: str) -> Recording:
    return Recording.load(name)


@pytest.fixture
def store(name: str) -> Iterator[Container | Bucket]:
    with ExitStack() as stack:
        if name.startswith("azure"):
            yield stack.enter_context(a_container())
        else:
            yield stack.enter_context(a_bucket())


def section(store: Container | Bucket) -> dict[str, Any]:
    return {"azure" if isinstance(store, Container) else "gcs": store.settings()}


def start(path: Path, store: Container | Bucket) -> Live:
    storage = {"filesystem": None, "redirect": {"disable": True}, **section(store)}
    return start_moorage(path / "ours", storage=storage, http={"workers": 1})


def config(path: Path, storage: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": "127.0.0.1:0"}}))
    return path


def moorage(*arguments: str | Path) -> str:
    command = [str(Path(sys.executable).with_name("moorage")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_they_left_is_served_and_goes_on(
    tmp_path: Path, store: Container | Bucket, recording: Recording
) -> None:
    """Every image, then the uploads whose clients had begun them there; nothing of these is left afterwards."""
    replay(recording, store)
    with start(tmp_path, store) as live:
        assert recording.matches(show(live))
        wire = Wire(live.host)
        for name, upload in recording.uploads.items():
            data = UPLOADS[name] + MORE
            assert wire.send("GET", upload.location).headers["range"] == f"0-{upload.size - 1}"
            done = wire.finish(upload.location, Digest.of(data), MORE)
            assert done.status == 201, done
            assert wire.blob(f"begun/{name}", Digest.of(data)).body == data
    assert not [found for found in held(store) if "/_uploads/" in found]
    if isinstance(store, Bucket):
        assert all(session.done is not None for session in store.server.sessions.values())


def test_what_they_left_is_found_whole_and_moved_to_a_volume_that_they_serve(
    tmp_path: Path, store: Container | Bucket, recording: Recording
) -> None:
    """`storage check` has nothing to say of it, and Debian's docker-registry serves what `storage copy` made."""
    replay(recording, store, lambda found: "/_uploads/" not in found)
    here = config(tmp_path / "here.yml", section(store))
    there = config(tmp_path / "there.yml", {"filesystem": {"rootdirectory": str(tmp_path / "volume")}})
    before = held(store)
    assert "0 errors, 0 warnings, 0 notes" in moorage("storage", "check", "--digests", here)
    moorage("storage", "copy", "--from", here, "--to", there)
    assert held(store) == before
    with start_reference(tmp_path / "volume") as live:
        assert recording.matches(show(live))


def test_moorage_leaves_what_they_would_have_left(
    tmp_path: Path, store: Container | Bucket, recording: Recording
) -> None:
    """Of the same requests: the same names with the same content and nothing else, for the day one points back.

    Except additions that CNCF Distribution ignores: records of nodes and of changes of tags.
    """
    if any(found.startswith("/") for found in recording.objects):
        # A container of 2.8 keeps its kind of names; a new one would get those of 3.
        replay(recording, store, lambda found: found.endswith("/library/multi/_manifests/tags/v1/current/link"))
    with start(tmp_path, store) as live:
        push_again(live, recording)
        assert recording.matches(show(live))
    left = {found: item.data for found, item in held(store).items()}
    assert {
        found: data for found, data in left.items() if "/_moorage/" not in found and "/_history/" not in found
    } == recording.finished()
    if isinstance(store, Bucket):
        assert {item.kind for item in held(store).values()} == {"application/octet-stream"}


def test_a_container_that_was_upgraded_shows_what_both_versions_wrote(tmp_path: Path) -> None:
    """2.8 first, then 3, which sees nothing of it: Moorage has all of it, and new names are those of 3."""
    older, newer = Recording.load("azure-2"), Recording.load("azure-3")

    def old(found: str) -> bool:
        return "/blobs/" in found or "/repositories/team/" in found

    def new(found: str) -> bool:
        return "/blobs/" in found or "/repositories/library/" in found

    with a_container() as container:
        replay(older, container, old)
        replay(newer, container, new)
        before = set(held(container))
        with start(tmp_path, container) as live:
            assert newer.matches(show(live))
            Wire(live.host).push_image("team/app", "moved", [b"after the upgrade"])
            assert "with and without a leading slash" in live.logs()
        assert all(not found.startswith("/") for found in set(held(container)) - before)
