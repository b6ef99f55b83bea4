"""Headers by name: which line counts, and that what is removed is gone for every later look."""

from __future__ import annotations

from typing import Any

from moorage.http.headers import first_header, headers_of, lines_of, remove_headers


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"headers": list(headers)}


def test_the_first_line_counts() -> None:
    """A proxy that inspects the first line of a header and a registry that obeys another would disagree."""
    request = scope((b"range", b"bytes=0-1"), (b"host", b"h"), (b"range", b"bytes=5-9"))
    assert headers_of(request) == {b"range": b"bytes=0-1", b"host": b"h"}
    assert first_header(request, b"range") == "bytes=0-1"
    assert first_header(request, b"accept") == ""
    assert lines_of(request, b"range") == [b"bytes=0-1", b"bytes=5-9"]
    assert lines_of(request, b"accept") == []


def test_what_is_removed_is_gone_also_after_a_first_look() -> None:
    """Addresses that a client makes up would else reach what decides by address."""
    request = scope((b"x-forwarded-for", b"192.0.2.1"), (b"host", b"h"), (b"x-forwarded-for", b"192.0.2.2"))
    assert first_header(request, b"x-forwarded-for") == "192.0.2.1"
    remove_headers(request, frozenset({b"x-forwarded-for", b"forwarded"}))
    assert first_header(request, b"x-forwarded-for") == ""
    assert lines_of(request, b"x-forwarded-for") == []
    assert request["headers"] == [(b"host", b"h")]
