"""Whatever the reference accepts and serves, Moorage serves from the same volume, with the same bytes and type."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from http.client import HTTPException
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from tests.interop.odd_manifests import BLOB, TYPES, documents
from tests.live import start_moorage, start_reference
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.reference, pytest.mark.slow]

NAME = "odd/manifests"


def test_what_the_reference_serves_is_served_alike(tmp_path: Path) -> None:
    """An image that could be pulled yesterday must not be unknown after the move, or be something else."""
    root = tmp_path / "volume"
    outcomes: Counter[str] = Counter()
    with (
        start_reference(root) as theirs,
        start_moorage(root, http={"workers": 1}) as ours,
        closing(Wire(theirs.host, keep=True)) as their,
        closing(Wire(ours.host, keep=True)) as our,
    ):
        their.push_blob(NAME, BLOB.data)

        @settings(
            max_examples=400,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(data=documents())
        def compare(data: bytes) -> None:
            if all(their.put_manifest(NAME, "v1", data, media_type).status != 201 for media_type in TYPES):
                outcomes["refused"] += 1
                return
            try:
                expected = their.manifest(NAME, "v1")
            except (HTTPException, ConnectionError):  # it panics: its own type assertion on an error
                outcomes["not served"] += 1
                return
            if expected.status != 200:
                outcomes["not served"] += 1
                return
            found = our.manifest(NAME, "v1")
            assert (found.status, found.body) == (200, data), (data[:2000], str(expected), str(found))
            assert found.headers["content-type"] == expected.headers["content-type"], (data[:2000], str(expected))
            outcomes["served"] += 1

        compare()
    assert outcomes["served"] > 50, outcomes
