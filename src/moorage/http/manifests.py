"""Manifests: GET, HEAD, PUT and DELETE of `/v2/<name>/manifests/<reference>`.

Source: distribution-spec 1.1 "Pulling manifests", "Pushing Manifests" and the next draft's `tag` parameters;
docs/reference/http-api.md, section 5.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from starlette.responses import Response

from moorage.auth.access import classes_of
from moorage.errors import DigestInvalid, TooManyTags
from moorage.http.ranges import check_match, entity_tags, matches
from moorage.http.reply import Reply
from moorage.http.streaming import read_body
from moorage.registry.interface import IfMatch
from moorage.types import Digest, parse_tag

if TYPE_CHECKING:
    from moorage.http.context import Call
    from moorage.http.reply import Answer, Header
    from moorage.types import Tag

__all__ = ["delete_manifest", "get_manifest", "put_manifest"]

_TAGS_AT_ONCE: Final = 100
_WARNING_CHARS: Final = 300


async def get_manifest(call: Call) -> Answer:
    """end-3, GET or HEAD: 200 with the bytes that were pushed, or 304.

    Refuses: NAME_INVALID, DIGEST_INVALID, TAG_INVALID, MANIFEST_UNKNOWN, DENIED (412).
    """
    manifest = await call.registry.manifests.get(
        call.name(), call.reference(), accepts=call.accepts, pull=call.method == "GET"
    )
    headers = _headers(manifest.digest, manifest.media_type, len(manifest.data))
    if manifest.stale:
        headers = (_warning(manifest.stale), *headers)
    if b"if-match" in call.headers:
        check_match(call.list_header(b"if-match"), manifest.digest)
    if b"if-none-match" in call.headers and matches(call.list_header(b"if-none-match"), manifest.digest):
        return Reply(304, headers[:-1])
    return Reply(200, headers, manifest.data)


def _warning(reason: str) -> Header:
    """Return the header of a tag that could not be compared with the mirrored registry (RFC 7234, 5.5.1)."""
    text = "".join(
        character if " " <= character <= "~" and character not in '"\\' else " " for character in reason
    )
    return b"warning", f'110 moorage "Response is Stale: {text[:_WARNING_CHARS]}"'.encode()


@lru_cache(maxsize=1024)
def _headers(digest: Digest, media_type: str, size: int) -> tuple[Header, ...]:
    """Return the headers of a manifest, Content-Length last; making them takes 1 % of a HEAD."""
    text = str(digest).encode()
    return (
        (b"content-type", media_type.encode("latin-1")),
        (b"docker-content-digest", text),
        (b"etag", b'"%b"' % text),
        (b"content-length", b"%d" % size),
    )


async def put_manifest(call: Call) -> Response:
    """end-7, PUT: 201.  By digest, `tag` parameters name tags to set as well.

    Refuses: NAME_INVALID, DIGEST_INVALID, TAG_INVALID, MANIFEST_INVALID, MANIFEST_BLOB_UNKNOWN, DENIED.
    """
    name, reference = call.name(), call.reference()
    tags = _tags(call)
    options = call.options
    data = await read_body(call.scope, call.receive, options.manifest_limit_bytes, options.body_timeout_s)
    pushed = await call.registry.manifests.put(
        name,
        reference,
        call.header(b"content-type") or "",
        data,
        tags=tags,
        condition=_condition(call),
        classes=classes_of(call.principal.grants, name) if options.classes_matter else None,
        caller=call.caller(),
    )
    headers = {
        "location": call.location(f"v2/{quote(name)}/manifests/{pushed.digest}"),
        "docker-content-digest": str(pushed.digest),
        "content-length": "0",
    }
    if pushed.subject is not None:
        headers["oci-subject"] = str(pushed.subject)
    if tags:
        headers["oci-tag"] = ", ".join(tags)
    return Response(status_code=201, headers=headers)


def _tags(call: Call) -> tuple[Tag, ...]:
    texts = call.query_values("tag")
    if len(texts) > _TAGS_AT_ONCE:
        raise TooManyTags(f"{len(texts)} tags; one request may set {_TAGS_AT_ONCE}")
    return tuple(parse_tag(text) for text in texts)


def _condition(call: Call) -> IfMatch | None:
    match, none_match = call.list_header(b"if-match"), call.list_header(b"if-none-match")
    if match is None and none_match is None:
        return None
    return IfMatch(_digests(match, weak=False), _digests(none_match, weak=True))


def _digests(header: str | None, *, weak: bool) -> tuple[Digest, ...] | None:
    """Return the digests of a condition; empty for `*`.  An entity tag that is no digest matches nothing."""
    if header is None:
        return None
    if header.strip() == "*":
        return ()
    found = []
    for tag in entity_tags(header, weak=weak):
        try:
            found.append(Digest.parse(tag))
        except DigestInvalid:
            found.append(_NO_DIGEST)
    return tuple(found) or (_NO_DIGEST,)


_NO_DIGEST: Final = Digest("none", "")


async def delete_manifest(call: Call) -> Response:
    """end-9, DELETE: 202.  A tag alone, or a manifest with every tag that points at it.

    With If-Match, a push to the tag between check and removal is not noticed.
    Refuses: NAME_INVALID, DIGEST_INVALID, TAG_INVALID, MANIFEST_UNKNOWN, DENIED (412), UNSUPPORTED.
    """
    name, reference = call.name(), call.reference()
    if (match := call.list_header(b"if-match")) is not None:
        check_match(match, (await call.registry.manifests.get(name, reference)).digest)
    await call.registry.manifests.delete(name, reference, caller=call.caller())
    return Response(status_code=202, headers={"content-length": "0"})
