"""Upgrade from the release before: what it left in a store, recorded, is served and continued.

`test_versions.py` runs the release before itself, and writes the recordings; it needs the repository's history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.interop.recording import Recording
from tests.interop.volumes import show
from tests.migrate.places import PREVIOUS, RECORDED, STORES, Place, a_place
from tests.migrate.populate import SUBJECT, finish_uploads, listed
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow]


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from a_place(request.param, tmp_path)


def test_the_store_of_the_release_before_is_served_and_continued(place: Place) -> None:
    recording = Recording.load(place.name, RECORDED)
    assert recording.made_by == PREVIOUS
    place.restore(recording.objects)
    with place.start("this", http={"workers": 1}) as live:
        assert recording.matches(show(live))
        wire = Wire(live.host)
        name, tag = SUBJECT
        subject = recording.manifests[f"{name}:{tag}"][0]
        kinds = {entry["artifactType"]: entry["annotations"] for entry in listed(wire, name, subject).values()}
        assert kinds == {
            kind: {"made by": kind}
            for kind in ("application/vnd.example.signature", "application/vnd.example.sbom")
        }
        assert wire.manifest("team/deleted", "gone").status == 404
        assert wire.tags("team/deleted") == ["there"]
        finish_uploads(live, recording.uploads)
    assert not [key for key in place.objects() if "/_uploads/" in key]
    status, output = place.check("this", "--digests")
    assert status == 0, output


def test_the_recording_has_every_format_of_the_release_before(place: Place) -> None:
    """A recording that lost one of them would still pass."""
    keys = Recording.load(place.name, RECORDED).objects
    for part in ("/_referrers/", "/_manifests/_deleted/", "/_uploads/"):
        assert any(part in key for key in keys), part
    forms = ("/offset.", "/hashstates/sha256/") if place.name == "files" else ("/state", "/parts/")
    for form in forms:
        assert any(form in key for key in keys), form
