"""The start time of an upload, as CNCF Distribution's purger reads it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from moorage.storage.start_times import started_at, text_of

MOMENT = datetime(2026, 11, 23, 14, 59, 9, tzinfo=UTC)


def test_it_is_written_as_the_reference_writes_it_and_read_back() -> None:
    """20 bytes: an upload whose time it cannot read is kept by it for ever."""
    assert text_of(MOMENT) == b"2026-11-23T14:59:09Z"
    assert started_at(text_of(MOMENT)) == MOMENT


@pytest.mark.parametrize("text", [b"2026-11-23T14:59:09Z\n", b"2026-11-23T16:59:09+02:00"])
def test_other_hands_write_it_otherwise(text: bytes) -> None:
    """Files changed by an editor, and by a host with another clock."""
    assert started_at(text) == MOMENT


@pytest.mark.parametrize("text", [b"", b"yesterday", b"2026-11-23T14:59:09", b"\xff\xfe"])
def test_what_is_no_moment_is_told_apart(text: bytes) -> None:
    """A torn file must not make an upload look as old as the world, unless its driver chooses so."""
    assert started_at(text) is None
