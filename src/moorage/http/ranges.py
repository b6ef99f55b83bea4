"""Header grammar of ranges and conditions; no state.

Downloads: RFC 9110 section 14, with what the conformance suite and clients want beyond it: an inverted range is
416, several ranges get the whole blob (podman's zstd:chunked pull takes that, and a 206 with only the first
range breaks it).  Uploads: distribution-spec 1.1 "Pushing a blob in chunks", `<start>-<end>`, inclusive.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from moorage.errors import RangeInvalid, RangeNotSatisfiable, SizeInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.types import Digest

__all__ = ["entity_tags", "matches", "parse_chunk", "parse_range", "upload_range"]

_ONE: Final = re.compile(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.ASCII | re.IGNORECASE)
_BYTES: Final = re.compile(r"\s*bytes\s*=", re.ASCII | re.IGNORECASE)
_CHUNK: Final = re.compile(r"(\d{1,19})-(\d{1,19})", re.ASCII)
_ENTITY_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"|([^\s,"]+)')


def parse_range(header: str | None, size: int) -> range | None:
    """The bytes that a `Range` header asks for; None for the whole.

    Raises RangeNotSatisfiable if the range is inverted or starts past the end.
    """
    if header is None or not _BYTES.match(header) or "," in header:
        return None
    found = _ONE.fullmatch(header)
    if found is None or not any(found.groups()):
        raise RangeNotSatisfiable(f"the range {header!r} is malformed", size=size)
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
        unsatisfiable = int(last) == 0
    else:
        start, stop = int(first), min(int(last) + 1 if last else size, size)
        unsatisfiable = bool(last) and int(last) < start
    if unsatisfiable or start >= size:
        raise RangeNotSatisfiable(f"the range {header!r} lies outside the {size} bytes of the blob", size=size)
    return range(start, stop)


def parse_chunk(header: str | None, length: int | None) -> range | None:
    """The bytes an upload chunk covers, by `Content-Range: <start>-<end>`; None without the header.

    Raises RangeInvalid if it is inverted, SizeInvalid if it is malformed or its span is not the `length` of
    the body (None: not announced).
    """
    if header is None:
        return None
    found = _CHUNK.fullmatch(header.strip())
    if found is None:
        raise SizeInvalid(f"Content-Range {header!r} is not <start>-<end>, two byte positions")
    start, end = int(found[1]), int(found[2])
    if end < start:
        raise RangeInvalid(f"Content-Range {header} ends before it starts")
    if length is not None and end - start + 1 != length:
        raise SizeInvalid(f"Content-Range {header} spans {end - start + 1} bytes, the body has {length}")
    return range(start, end + 1)


def upload_range(offset: int) -> str:
    """`Range` of an upload's answers: the last byte is inclusive, and an empty upload says `0-0` as well."""
    return f"0-{max(0, offset - 1)}"


def entity_tags(header: str) -> Iterator[str]:
    """The values of a list of entity tags, weak ones too, quoted or (as some clients send digests) bare."""
    for found in _ENTITY_TAG.finditer(header):
        yield found[1] if found[1] is not None else found[2]


def matches(header: str | None, digest: Digest) -> bool:
    """Does an `If-None-Match` or `If-Range` header name this digest, or everything?"""
    if header is None:
        return False
    text = str(digest)
    return any(tag in {text, "*"} for tag in entity_tags(header))
