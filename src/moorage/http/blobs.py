"""Blobs out: GET, HEAD and DELETE of `/v2/<name>/blobs/<digest>`.

Source: distribution-spec 1.1 "Pulling blobs", "Deleting Blobs"; RFC 9110 sections 13 and 14.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.http.ranges import check_match, matches, parse_range
from moorage.http.reply import Reply
from moorage.http.streaming import FileResponse, PiecesResponse

if TYPE_CHECKING:
    from moorage.http.context import Call
    from moorage.http.reply import Answer
    from moorage.storage.driver import SignedUrl

__all__ = ["delete_blob", "get_blob"]

_HEADERS: Final = (
    (b"content-type", b"application/octet-stream"),
    (b"accept-ranges", b"bytes"),
    (b"cache-control", b"max-age=31536000"),
)
_AT_ONCE_BYTES: Final = 64 << 10


async def get_blob(call: Call) -> Answer:
    """end-2, GET or HEAD: 200 whole, 206 one range, 304, 307 to where the bytes are.

    Preconditions are evaluated in the order of RFC 9110 section 13.2.2.
    Refuses: NAME_INVALID, DIGEST_INVALID, BLOB_UNKNOWN, DENIED (412), RANGE_INVALID.
    """
    name, digest = call.name(), call.digest()
    blobs = call.registry.blobs
    match, none_match = call.list_header(b"if-match"), call.list_header(b"if-none-match")
    asked_for_bytes = call.method == "GET" and match is None and not none_match
    # First, since a redirect needs neither the size nor the range, which the client asks there again.
    if (
        asked_for_bytes
        and blobs.leads_elsewhere
        and (there := await blobs.elsewhere(name, digest, client=call.client())) is not None
    ):
        return _moved(there)
    blob = await blobs.stat(name, digest)
    text = str(digest).encode()
    headers = [(b"docker-content-digest", text), (b"etag", b'"%b"' % text), *_HEADERS]
    check_match(match, digest)
    if none_match is not None and matches(none_match, digest):
        return Reply(304, headers)
    if call.method == "HEAD":
        headers.append(_length(blob.size))
        return Reply(200, headers)

    wanted = None
    if (asked := call.header(b"range")) is not None and _still_that(call.header(b"if-range"), str(digest)):
        wanted = parse_range(asked, blob.size)
    if wanted is None and blob.size <= _AT_ONCE_BYTES:
        headers.append(_length(blob.size))
        return Reply(200, headers, await blobs.read(blob))

    # A client repeats If-Match where it is redirected to, and a store has other entity tags than ours.
    if match is None and (there := await blobs.handover(blob, method="GET", client=call.client())) is not None:
        return _moved(there)
    status, span = 200, range(blob.size)
    if wanted is not None:
        status, span = 206, wanted
        headers.append((b"content-range", b"bytes %d-%d/%d" % (span.start, span.stop - 1, blob.size)))
    headers.append(_length(len(span)))
    if FileResponse.offered(call.scope) and (found := await blobs.open_file(blob)) is not None:
        return FileResponse(found.file, span, status, headers)
    return await PiecesResponse(blobs.open(name, blob, span.start, span.stop), status, headers).open()


def _length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


def _moved(there: SignedUrl) -> Reply:
    return Reply(307, [(b"location", there.url.encode("latin-1")), (b"content-length", b"0")])


def _still_that(if_range: str | None, digest: str) -> bool:
    """`If-Range`: only a strong entity tag of ours lets the range count (RFC 9110 section 13.1.5)."""
    return if_range is None or if_range.strip() in {f'"{digest}"', digest}


async def delete_blob(call: Call) -> Answer:
    """end-10, DELETE: 202; the repository's link goes, the bytes are the collector's.

    Refuses: NAME_INVALID, DIGEST_INVALID, BLOB_UNKNOWN, DENIED (412), UNSUPPORTED.
    """
    name, digest = call.name(), call.digest()
    if (match := call.list_header(b"if-match")) is not None:
        await call.registry.blobs.stat(name, digest)
        check_match(match, digest)
    await call.registry.blobs.delete(name, digest)
    return Reply(202, ((b"content-length", b"0"),))
