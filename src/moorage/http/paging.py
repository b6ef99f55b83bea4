"""`n`, `last` and the `Link` to the next page (distribution-spec 1.1 "Listing Tags"; RFC 8288)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from moorage.errors import PageSizeInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["next_link", "page_size"]


def page_size(text: str | None) -> int | None:
    """Parse `n`; None if it is absent.  Raises PageSizeInvalid."""
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text.lstrip("0")) <= 18):  # noqa: PLR2004  fits 64 bits
        raise PageSizeInvalid(f"n={text}", detail={"n": text})
    return int(text.lstrip("0") or "0")


def next_link(path: str, query: Iterable[tuple[str, str]]) -> str:
    """Return a path-absolute link: crane and oras refuse another scheme or host, and a proxy may change both."""
    pairs = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(query))
    return f'<{quote(path)}?{pairs}>; rel="next"'
