"""Header grammar of ranges and conditions; no state.

Downloads: RFC 9110 section 14, with what the conformance suite and clients require beyond it: an inverted range is
416, several ranges get the whole blob (podman's zstd:chunked pull takes that, and a 206 with only the first
range breaks it).  Uploads: distribution-spec 1.1 "Pushing a blob in chunks", `<start>-<end>`, inclusive.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from moorage.errors import PreconditionFailed, RangeInvalid, RangeNotSatisfiable, SizeInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.types import Digest

__all__ = [
    "check_match", "entity_tags", "matches", "parse_chunk", "parse_decimal", "parse_range", "upload_range",
]  # fmt: skip

_ONE: Final = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.ASCII | re.IGNORECASE)
_BYTES: Final = re.compile(r"\s*bytes\s*=", re.ASCII | re.IGNORECASE)
_CHUNK: Final = re.compile(r"(\d+)-(\d+)", re.ASCII)
_ENTITY_TAG: Final = re.compile(r'(W/)?"([^"]*)"|([^\s,"]+)')
_EXACT_DIGITS: Final = 18
_BEYOND: Final = 1 << 62
"""Replaces every larger number: no content has as many bytes, and `len` of a range is limited to 63 bits."""


def parse_decimal(text: str) -> int | None:
    """Parse a number of bytes, at most 2**62; None unless `text` is ASCII digits."""
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    return int(digits or "0") if len(digits) <= _EXACT_DIGITS else _BEYOND


def parse_range(header: str | None, size: int) -> range | None:
    """Parse a `Range` header; None for the whole blob.

    Raises RangeNotSatisfiable if the range is inverted or starts past the end.
    """
    if header is None or not _BYTES.match(header) or "," in header:
        return None
    found = _ONE.fullmatch(header)
    if found is None or not any(found.groups()):
        raise RangeNotSatisfiable(f"the range {header!r} is malformed", size=size)
    first, last = (parse_decimal(digits) for digits in found.groups())
    if first is None:
        start, stop = max(0, size - (last or 0)), size
        unsatisfiable = last == 0
    else:
        start, stop = first, size if last is None else min(last + 1, size)
        unsatisfiable = last is not None and last < start
    if unsatisfiable or start >= size:
        raise RangeNotSatisfiable(f"the range {header!r} lies outside the {size} bytes of the blob", size=size)
    return range(start, stop)


def parse_chunk(header: str | None, length: int | None) -> range | None:
    """Parse `Content-Range: <start>-<end>` of an upload chunk; None without the header.

    Raises RangeInvalid if it is inverted, SizeInvalid if it is malformed or its span is not the `length` of
    the body (None: not announced).
    """
    if header is None:
        return None
    found = _CHUNK.fullmatch(header.strip())
    if found is None:
        raise SizeInvalid(f"Content-Range {header!r} is not <start>-<end>, two byte positions")
    start, end = parse_decimal(found[1]), parse_decimal(found[2])
    assert start is not None
    assert end is not None
    if end < start:
        raise RangeInvalid(f"Content-Range {header} ends before it starts")
    if length is not None and end - start + 1 != length:
        raise SizeInvalid(f"Content-Range {header} spans {end - start + 1} bytes, the body has {length}")
    return range(start, end + 1)


def upload_range(offset: int) -> str:
    """Return `Range` of an upload's response: the last byte is inclusive; an empty upload has `0-0` as well."""
    return f"0-{max(0, offset - 1)}"


def entity_tags(header: str, *, weak: bool = True) -> Iterator[str]:
    """Yield the values of a list of entity tags, quoted or (digests of some clients) bare; `weak` ones too."""
    for found in _ENTITY_TAG.finditer(header):
        if weak or found[1] is None:
            yield found[3] if found[2] is None else found[2]


def matches(header: str | None, digest: Digest, *, weak: bool = True) -> bool:
    """Return True if a list of entity tags holds this digest or `*`; `If-Match` compares without `weak` ones."""
    if header is None:
        return False
    text = str(digest)
    return any(tag in {text, "*"} for tag in entity_tags(header, weak=weak))


def check_match(header: str | None, digest: Digest) -> None:
    """Evaluate `If-Match` for existing content (RFC 9110 section 13.1.1).  Raises PreconditionFailed."""
    if header is not None and not matches(header, digest, weak=False):
        raise PreconditionFailed(f"If-Match does not name {digest}")
