"""Blobs out: GET, HEAD and DELETE of `/v2/<name>/blobs/<digest>`.

Source: distribution-spec 1.1 "Pulling blobs", "Deleting Blobs"; RFC 9110 sections 13 and 14.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from moorage.http.ranges import check_match, matches, parse_range
from moorage.http.streaming import FileResponse, PiecesResponse

if TYPE_CHECKING:
    from moorage.http.context import Call

__all__ = ["delete_blob", "get_blob"]

_AT_ONCE_BYTES: Final = 64 << 10


async def get_blob(call: Call) -> Response:
    """end-2, GET or HEAD: 200 whole, 206 one range, 304, 307 to where the bytes are.

    Preconditions are evaluated in the order of RFC 9110 section 13.2.2.
    Refuses: NAME_INVALID, DIGEST_INVALID, BLOB_UNKNOWN, DENIED (412), RANGE_INVALID.
    """
    name, digest = call.name(), call.digest()
    blobs = call.registry.blobs
    match, none_match = call.list_header("if-match"), call.list_header("if-none-match")
    asked_for_bytes = call.request.method == "GET" and match is None and not none_match
    # First, since a redirect needs neither the size nor the range, which the client asks there again.
    if asked_for_bytes and (there := await blobs.elsewhere(name, digest, client=call.client())) is not None:
        return Response(status_code=307, headers={"location": there.url})
    blob = await blobs.stat(name, digest)
    headers = {
        "content-type": "application/octet-stream",
        "docker-content-digest": str(digest),
        "etag": f'"{digest}"',
        "accept-ranges": "bytes",
        "cache-control": "max-age=31536000",
    }
    check_match(match, digest)
    if matches(none_match, digest):
        return Response(status_code=304, headers=headers)
    if call.request.method == "HEAD":
        return Response(headers={**headers, "content-length": str(blob.size)})

    wanted = None
    if (asked := call.header("range")) is not None and _still_that(call.header("if-range"), str(digest)):
        wanted = parse_range(asked, blob.size)
    if wanted is None and blob.size <= _AT_ONCE_BYTES:
        return Response(await blobs.read(blob), headers=headers)

    # A client repeats If-Match where it is redirected to, and a store has other entity tags than ours.
    if match is None and (there := await blobs.handover(blob, method="GET", client=call.client())) is not None:
        return Response(status_code=307, headers={"location": there.url})
    status, span = 200, range(blob.size)
    if wanted is not None:
        status, span = 206, wanted
        headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{blob.size}"
    headers["content-length"] = str(len(span))
    if FileResponse.offered(call.request.scope) and (found := await blobs.open_file(blob)) is not None:
        return FileResponse(found.file, span, status, headers)
    return await PiecesResponse(blobs.open(name, blob, span.start, span.stop), status, headers).open()


def _still_that(if_range: str | None, digest: str) -> bool:
    """`If-Range`: only a strong entity tag of ours lets the range count (RFC 9110 section 13.1.5)."""
    return if_range is None or if_range.strip() in {f'"{digest}"', digest}


async def delete_blob(call: Call) -> Response:
    """end-10, DELETE: 202; the repository's link goes, the bytes are the collector's.

    Refuses: NAME_INVALID, DIGEST_INVALID, BLOB_UNKNOWN, DENIED (412), UNSUPPORTED.
    """
    name, digest = call.name(), call.digest()
    if (match := call.list_header("if-match")) is not None:
        await call.registry.blobs.stat(name, digest)
        check_match(match, digest)
    await call.registry.blobs.delete(name, digest)
    return Response(status_code=202, headers={"content-length": "0"})
