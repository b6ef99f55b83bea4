"""The `_state` of an upload's URL: repository, upload and offset, signed with `http.secret`.

The format is CNCF Distribution's, so that two registries that share a secret accept each other's: URL-safe base64
of HMAC-SHA256 (32 bytes) and the JSON that it signs.  The JSON is padded with blanks, which Go's decoder skips, to
a length that needs no `=`: clients parse the URL and build it again in different ways, and only unreserved
characters survive all of them.  Other members of the JSON are ignored, as Go does; a later version
that needs them read adds `"Moorage":2`, which is refused here (docs/formats.md).

Source: docs/reference/storage-layout.md, section 9, docs/reference/http-api.md, section 7.1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from moorage.errors import BlobUploadInvalid

if TYPE_CHECKING:
    from moorage.types import RepoName

__all__ = ["UploadToken", "offset_of"]

_MAC_BYTES: Final = 32
_LIMIT_CHARS: Final = 4096
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class UploadToken:
    """Content of the token.  `started` is when the upload began."""

    name: RepoName
    uuid: str
    offset: int
    started: datetime

    def sign(self, secret: bytes) -> str:
        """Return the token, for use in a URL."""
        # None of the values needs escaping: names and UUIDs are of a few ASCII characters.
        started = self.started.astimezone(UTC).isoformat(timespec="seconds").removesuffix("+00:00") + "Z"
        text = f'{{"Name":"{self.name}","UUID":"{self.uuid}","Offset":{self.offset},"StartedAt":"{started}"}}'
        body = text.encode()
        body += b" " * (-(_MAC_BYTES + len(body)) % 3)
        return base64.urlsafe_b64encode(_mac(secret, body) + body).decode()


@lru_cache(maxsize=8)
def _keyed(secret: bytes) -> hmac.HMAC:
    """Return a keyed HMAC to copy: that costs 3 us, keying one 35 (OpenSSL 3 looks the algorithm up each time)."""
    return hmac.new(secret, digestmod=hashlib.sha256)


def _mac(secret: bytes, body: bytes) -> bytes:
    keyed = _keyed(secret).copy()
    keyed.update(body)
    return keyed.digest()


def offset_of(token: str, secret: bytes, name: RepoName, uuid: str) -> int:
    """Return the offset in the token.

    Raises BlobUploadInvalid if it is missing, garbled, signed by another secret, or of another upload.
    """
    if not token or len(token) > _LIMIT_CHARS:
        raise BlobUploadInvalid("the upload's URL has no usable _state; use the Location of the last answer")
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BlobUploadInvalid("the _state of the upload's URL is garbled") from error
    mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(secret, body)):
        raise BlobUploadInvalid("the _state was signed with another secret; do all nodes share http.secret?")
    try:
        state = json.loads(body)
        offset, version = state["Offset"], state.get("Moorage", _FORMAT)
        is_of_upload = state["Name"] == name and state["UUID"] == uuid and isinstance(offset, int)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BlobUploadInvalid("the _state of the upload's URL is garbled") from error
    if version != _FORMAT:
        raise BlobUploadInvalid("the _state is of another version of Moorage; begin the upload again")
    if not is_of_upload:
        raise BlobUploadInvalid("the _state belongs to another upload")
    return int(offset)
