"""Blob uploads: POST, PATCH, PUT, GET and DELETE below `/v2/<name>/blobs/uploads/`.

Parameters come from the query only: a body sent as a form is the blob, not parameters.

Source: distribution-spec 1.1 "Pushing blobs" and its next draft; docs/reference/http-api.md, section 7.
"""

from __future__ import annotations

from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from starlette.responses import Response

from moorage.errors import (
    BlobUnknown,
    DigestInvalid,
    NameInvalid,
    RegistryError,
    SizeInvalid,
)
from moorage.http.ranges import parse_chunk, upload_range
from moorage.http.streaming import body, size_of
from moorage.types import ALGORITHMS, Digest, parse_repo_name

if TYPE_CHECKING:
    from moorage.http.context import Call
    from moorage.registry.interface import Mounted, Uploaded, UploadPart, UploadStatus
    from moorage.types import RepoName

__all__ = ["cancel_upload", "get_upload", "patch_upload", "place_headers", "put_upload", "start_upload"]

_EMPTY: Final = {Digest.of(b"", algorithm) for algorithm in ALGORITHMS}


async def start_upload(call: Call) -> Response:
    """end-4a, end-4b, end-11, POST: 201 for a mount or a whole blob, else 202 with the upload's Location.

    Refuses: NAME_INVALID, DIGEST_INVALID, DENIED (a quota).
    """
    name = call.name()
    algorithm = call.query("digest-algorithm") or "sha256"
    if algorithm not in ALGORITHMS:
        raise DigestInvalid(f"digest-algorithm {algorithm} is not one of {', '.join(sorted(ALGORITHMS))}")
    if (mounted := await _mount(call, name)) is not None:
        return _created(call, name, mounted)
    digest: Digest | None = None
    if (text := call.query("digest")) is not None:
        digest = Digest.parse(text)
        if call.has_body() or digest in _EMPTY:
            return _created(call, name, await _whole(call, name, digest))
    status = await call.registry.uploads.start(name, algorithm=algorithm, digest=digest)
    return Response(status_code=202, headers=place_headers(call, name, status))


async def _mount(call: Call, name: RepoName) -> Mounted | None:
    """Mount a blob; return None if that fails for any reason, so that the request starts an upload."""
    mount, source = call.query("mount"), call.query("from")
    if not mount:
        return None
    with suppress(BlobUnknown, DigestInvalid, NameInvalid):
        repository = parse_repo_name(source) if source else None
        if repository is None and not call.principal.grants.reads_everything:
            # A mount from any repository would be one from repositories that this caller may not read.
            return None
        return await call.registry.blobs.mount(name, Digest.parse(mount), repository, caller=call.caller())
    return None


async def _whole(call: Call, name: RepoName, digest: Digest) -> Uploaded:
    """Store the blob of a POST.  After a failure the upload is removed, since the client does not know it."""
    uploads = call.registry.uploads
    status = await uploads.start(name, algorithm=digest.algorithm, digest=digest)
    try:
        async with uploads.extend(
            name,
            status.uuid,
            status.state,
            algorithm=digest.algorithm,
            length=call.content_length(),
            digest=digest,
        ) as part:
            await _receive(call, part)
            return await part.finish(digest, caller=call.caller())
    except BaseException:
        with suppress(RegistryError):  # the client gets the first failure
            await uploads.cancel(name, status.uuid, status.state)
        raise


async def patch_upload(call: Call) -> Response:
    """end-5, PATCH: 202 with the new offset and Location.

    Refuses: NAME_INVALID, BLOB_UPLOAD_UNKNOWN, BLOB_UPLOAD_INVALID, RANGE_INVALID, SIZE_INVALID, DENIED (a quota).
    """
    name = call.name()
    length = call.content_length()
    span = parse_chunk(call.header(b"content-range"), length)
    uploads = call.registry.uploads
    start = None if span is None else span.start
    state = call.query("_state") or ""
    async with uploads.extend(name, call.params["uuid"], state, start=start, length=length) as part:
        await _receive(call, part, span)
        status = await part.commit()
    return Response(status_code=202, headers=place_headers(call, name, status))


async def put_upload(call: Call) -> Response:
    """end-6, PUT: 201; the body, if any, is the last chunk or the whole blob.

    Refuses: NAME_INVALID, DIGEST_INVALID, BLOB_UPLOAD_UNKNOWN, BLOB_UPLOAD_INVALID, RANGE_INVALID, SIZE_INVALID,
    DENIED (a quota).
    """
    name = call.name()
    text = call.query("digest")
    if text is None:
        raise DigestInvalid("the closing PUT needs the parameter digest")
    digest = Digest.parse(text)
    length = call.content_length()
    span = parse_chunk(call.header(b"content-range"), length) if length != 0 else None
    uploads = call.registry.uploads
    start = None if span is None else span.start
    async with uploads.extend(
        name,
        call.params["uuid"],
        call.query("_state") or "",
        start=start,
        algorithm=digest.algorithm,
        length=length,
        digest=digest,
    ) as part:
        await _receive(call, part, span)
        blob = await part.finish(digest, caller=call.caller())
    return _created(call, name, blob)


async def _receive(call: Call, part: UploadPart, span: range | None = None) -> None:
    """Append the body to the upload.  Nothing beyond the `span` of Content-Range is stored."""
    received = 0
    length = call.content_length()
    if length == 0:
        return
    async with aclosing(body(call.scope, call.receive, call.options.body_timeout_s)) as pieces:
        async for piece in pieces:
            received += size_of(piece)
            if span is not None and received > len(span):
                raise SizeInvalid(f"Content-Range announced {len(span)} bytes, more came")
            await part.write(piece)
    if length is not None and received != length:
        raise SizeInvalid(f"{received} bytes came, Content-Length announced {length}")
    if span is not None and received != len(span):
        raise SizeInvalid(f"Content-Range announced {len(span)} bytes, {received} came")


async def get_upload(call: Call) -> Response:
    """end-13, GET or HEAD: 204 with offset and Location.  Refuses: NAME_INVALID, BLOB_UPLOAD_UNKNOWN."""
    name = call.name()
    status = await call.registry.uploads.status(name, call.params["uuid"])
    headers = place_headers(call, name, status)
    del headers["content-length"]
    return Response(status_code=204, headers=headers)


async def cancel_upload(call: Call) -> Response:
    """end-14, DELETE: 204.  Refuses: NAME_INVALID, BLOB_UPLOAD_UNKNOWN, BLOB_UPLOAD_INVALID."""
    name, uuid = call.name(), call.params["uuid"]
    await call.registry.uploads.cancel(name, uuid, call.query("_state") or "")
    return Response(status_code=204, headers={"docker-upload-uuid": uuid})


def place_headers(call: Call, name: RepoName, status: UploadStatus) -> dict[str, str]:
    """Return Location, Range and uuid of an upload, in every form that some client reads."""
    path = f"v2/{quote(name)}/blobs/uploads/{status.uuid}?_state={status.state}"
    return {
        "location": call.location(path),
        "range": upload_range(status.offset),
        "docker-upload-uuid": status.uuid,
        "content-length": "0",
    }


def _created(call: Call, name: RepoName, blob: Mounted | Uploaded) -> Response:
    headers = {
        "location": call.location(f"v2/{quote(name)}/blobs/{blob.digest}"),
        "docker-content-digest": str(blob.digest),
        "content-length": "0",
    }
    return Response(status_code=201, headers=headers)
