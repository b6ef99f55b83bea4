"""Blobs out: GET, HEAD and DELETE of `/v2/<name>/blobs/<digest>`.

Source: distribution-spec 1.1 "Pulling blobs", "Deleting Blobs"; RFC 9110 sections 13 and 14.
"""

from __future__ import annotations

from functools import partial
from io import FileIO
from typing import TYPE_CHECKING, Final

from moorage.http.ranges import check_match, matches, parse_range
from moorage.http.reply import Reply
from moorage.http.streaming import FileResponse, GrowingFileResponse, PiecesResponse
from moorage.registry.interface import BlobRedirect, GrowingFile

if TYPE_CHECKING:
    from moorage.http.context import Call
    from moorage.http.reply import Answer

__all__ = ["delete_blob", "get_blob"]

_HEADERS: Final = (
    (b"content-type", b"application/octet-stream"),
    (b"accept-ranges", b"bytes"),
    (b"cache-control", b"max-age=31536000"),
)


async def get_blob(call: Call) -> Answer:
    """end-2, GET or HEAD: 200 whole, 206 one range, 304, 307 to the URL of the bytes.

    Preconditions are evaluated in the order of RFC 9110 section 13.2.2.
    Refuses: NAME_INVALID, DIGEST_INVALID, BLOB_UNKNOWN, DENIED (412), RANGE_INVALID.
    """
    name, digest = call.name(), call.digest()
    blobs = call.registry.blobs
    text = str(digest).encode()
    headers = [(b"docker-content-digest", text), (b"etag", b'"%b"' % text), *_HEADERS]
    given = call.headers
    if b"if-match" in given or b"if-none-match" in given:
        if_match = call.list_header(b"if-match")
        unchanged = matches(call.list_header(b"if-none-match"), digest)
        fails = if_match is not None and not matches(if_match, digest, weak=False)
        if fails or unchanged:  # else the blob is looked up once, below
            await blobs.stat(name, digest)
            check_match(if_match, digest)
            return Reply(304, headers)
    if call.method == "HEAD":
        headers.append(_length((await blobs.stat(name, digest)).size))
        return Reply(200, headers)

    select = None
    if b"range" in given and _range_counts(call.header(b"if-range"), str(digest)):
        select = partial(parse_range, call.header(b"range"))
    # A client repeats If-Match where it is redirected to, and a store has other entity tags.
    found = await blobs.fetch(
        name,
        digest,
        select=select,
        redirect=b"if-match" not in given,
        files=FileResponse.offered(call.scope),
        caller=call.caller(),
    )
    if isinstance(found, BlobRedirect):
        return Reply(307, [(b"location", found.url.encode("latin-1")), (b"content-length", b"0")])
    status, span = 200, found.span
    if span is None:
        span = range(found.size)
    else:
        status = 206
        headers.append((b"content-range", b"bytes %d-%d/%d" % (span.start, span.stop - 1, found.size)))
    headers.append(_length(len(span)))
    content = found.content
    if isinstance(content, bytes):
        return Reply(status, headers, content)
    if isinstance(content, FileIO):
        return FileResponse(content, span, status, headers)
    if isinstance(content, GrowingFile):
        return GrowingFileResponse(content, span, status, headers)
    return await PiecesResponse(content, status, headers).open()


def _length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


def _range_counts(if_range: str | None, digest: str) -> bool:
    """Evaluate `If-Range`: only a strong entity tag of this registry makes a range count (RFC 9110, 13.1.5)."""
    return if_range is None or if_range.strip() in {f'"{digest}"', digest}


async def delete_blob(call: Call) -> Answer:
    """end-10, DELETE: 202; the repository's link is removed, not the bytes.

    Refuses: NAME_INVALID, DIGEST_INVALID, BLOB_UNKNOWN, DENIED (412), UNSUPPORTED.
    """
    name, digest = call.name(), call.digest()
    if (match := call.list_header(b"if-match")) is not None:
        await call.registry.blobs.stat(name, digest)
        check_match(match, digest)
    await call.registry.blobs.delete(name, digest, caller=call.caller())
    return Reply(202, ((b"content-length", b"0"),))
