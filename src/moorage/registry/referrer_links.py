"""Referrer links: a manifest's descriptor, stored below its subject, as listings return it.

    sha256:HEX                                                      the manifest, as in every link
    HEX                                                             sha256 of the subject and the lines below
    {"mediaType":...,"digest":...,"size":...,"artifactType":...}    the descriptor without annotations
    {...}                                                           the annotations, if there are any

Link and descriptor are one object: a push writes one, and neither exists without the other after a crash or a
deletion.  A listing copies the descriptor into its answer; it parses no manifest, and of the link only the third
line.  Links of earlier versions hold the first line alone; `decode` returns None for these and for damaged ones,
and the manifest is read instead (`referrers.py`).

The second line names the version: 64 hexadecimal digits are version 2, none is version 1, and a later one begins
its second line with another text, as `v3 `.  So a link of any version is read, or its descriptor is not used.

The descriptor is UTF-8, and never longer than `PAGE_LIMIT_BYTES`: the largest annotations are left out until it
fits, and an artifact type that is longer still.  Half of a surrogate pair, which UTF-8 cannot encode, is U+FFFD,
as Go's encoding/json reads it.

Above: `referrers.py`, `manifests.py`, `fsck/`, `copy/`.  Source: distribution-spec 1.1 "Listing Referrers".
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moorage.types import Referrer

if TYPE_CHECKING:
    from moorage.registry.media import Parsed
    from moorage.types import Digest

__all__ = ["PAGE_LIMIT_BYTES", "ReferrerLink", "decode", "describe", "encode"]

PAGE_LIMIT_BYTES: Final = (4 << 20) - 512
"""Descriptors of one page, with the commas between them.  Clients (oras, containerd) read an index of at most
4 MiB; the rest is for the index around them, and for the first two lines of a link."""

_ANNOTATIONS: Final = b',"annotations":'
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ReferrerLink:
    """Content of a referrer link, and the subject below which it is stored."""

    subject: Digest
    content: bytes


def encode(digest: Digest, size: int, parsed: Parsed) -> ReferrerLink | None:
    """Return the link of a manifest of `size` bytes; None if it has no subject.  Takes up to 0.1 s for 4 MiB."""
    if parsed.subject is None:
        return None
    body = b"\n".join(_parts(digest, size, parsed))
    return ReferrerLink(parsed.subject, b"\n".join((str(digest).encode(), _checksum(parsed.subject, body), body)))


def decode(content: bytes, subject: Digest, digest: Digest) -> Referrer | None:
    """Return the descriptor in a link, None if it has none or is damaged."""
    named, _, rest = content.partition(b"\n")
    checksum, _, body = rest.partition(b"\n")
    if named != str(digest).encode() or checksum != _checksum(subject, body):
        return None
    head, _, annotations = body.partition(b"\n")
    return Referrer(digest, json.loads(head).get("artifactType"), _joined(head, annotations))


def describe(digest: Digest, size: int, parsed: Parsed) -> Referrer:
    """Return the descriptor of a manifest of `size` bytes, as `decode` does."""
    head, *annotations = _parts(digest, size, parsed)
    return Referrer(digest, json.loads(head).get("artifactType"), _joined(head, b"".join(annotations)))


def _checksum(subject: Digest, body: bytes) -> bytes:
    checksum = hashlib.sha256(f"{subject}\n".encode())
    checksum.update(body)
    return checksum.hexdigest().encode()


def _joined(head: bytes, annotations: bytes) -> bytes:
    return b"".join((head[:-1], _ANNOTATIONS, annotations, b"}")) if annotations else head


def _parts(digest: Digest, size: int, parsed: Parsed) -> list[bytes]:
    """Return the descriptor without annotations, and the annotations if there are any."""
    head: dict[str, Any] = {"mediaType": parsed.media_type, "digest": str(digest), "size": size}
    encoded = _json(head)
    if parsed.artifact_type is not None:
        typed = _json({**head, "artifactType": _encodable(parsed.artifact_type)})
        encoded = typed if len(typed) <= PAGE_LIMIT_BYTES else encoded
    annotations = {_encodable(name): _encodable(value) for name, value in parsed.annotations.items()}
    return [encoded, *_fitting(annotations, PAGE_LIMIT_BYTES - len(encoded) - len(_ANNOTATIONS))]


def _fitting(annotations: dict[str, str], room: int) -> list[bytes]:
    """The annotations in at most `room` bytes, without the largest ones if need be; nothing if none is left."""
    encoded = _json(annotations)
    if len(encoded) > room:
        sizes = {name: len(_json({name: value})) - 1 for name, value in annotations.items()}
        left = room - 1
        kept = set()
        for name in sorted(sizes, key=lambda name: (sizes[name], name)):
            left -= sizes[name]
            if left < 0:
                break
            kept.add(name)
        annotations = {name: value for name, value in annotations.items() if name in kept}
        encoded = _json(annotations)
    return [encoded] if annotations else []


def _encodable(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
