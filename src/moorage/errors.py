"""Every refusal a client may be told, in the vocabulary of the specification.

    RegistryError
    ├── BlobUnknown            BLOB_UNKNOWN
    ├── BlobUploadInvalid      BLOB_UPLOAD_INVALID
    ├── BlobUploadUnknown      BLOB_UPLOAD_UNKNOWN
    ├── Denied                 DENIED                    a policy forbids it; credentials cannot help
    ├── DigestInvalid          DIGEST_INVALID
    ├── ManifestBlobUnknown    MANIFEST_BLOB_UNKNOWN     one entry for each missing digest, the first 100 or so
    ├── ManifestInvalid        MANIFEST_INVALID
    ├── ManifestTooLarge       MANIFEST_INVALID (413)
    ├── ManifestUnknown        MANIFEST_UNKNOWN
    ├── NameInvalid            NAME_INVALID
    │   └── NotAName           NAME_INVALID (404)        no route: the path cannot hold a repository's name
    ├── NameUnknown            NAME_UNKNOWN
    ├── PageSizeInvalid        PAGINATION_NUMBER_INVALID
    ├── PreconditionFailed     DENIED (412)
    ├── RangeInvalid           RANGE_INVALID             an upload's range; carries where the upload stands
    ├── RangeNotSatisfiable    RANGE_INVALID             a download's range; carries the blob's size
    ├── SizeInvalid            SIZE_INVALID
    ├── RouteUnknown           NOT_FOUND                 no endpoint has this path
    ├── MethodUnknown          UNSUPPORTED (405)         the endpoint has no such method; carries those it has
    ├── TagInvalid             TAG_INVALID
    │   └── NotATag            TAG_INVALID (404)         no route: the path cannot hold a tag
    ├── RequestTimeout         BLOB_UPLOAD_INVALID (408) the client sent nothing for too long
    ├── TooManyRequests        TOOMANYREQUESTS (429)     too many wrong passwords; carries when to try again
    ├── TokenRequestInvalid    TOKEN_REQUEST_INVALID     /token was asked for something that it does not understand
    ├── TooManyTags            TAG_INVALID (414)
    ├── Unauthorized           UNAUTHORIZED (401)        credentials are missing, wrong or not enough
    ├── Unsupported            UNSUPPORTED               switched off, or never offered
    ├── StorageFull            UNAVAILABLE (507)         the disk or bucket is full or read-only
    └── Unavailable            UNAVAILABLE (503)         the back end is failing; worth a retry

The HTTP status is not here: `http/errors.py` has the one table.  `detail` is sent to the client, so it
holds no paths of the server and no secrets.

Source: distribution-spec 1.1 "Error Codes"; the last lines are CNCF Distribution's own, which clients parse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BlobUnknown",
    "BlobUploadInvalid",
    "BlobUploadUnknown",
    "Denied",
    "DigestInvalid",
    "ManifestBlobUnknown",
    "ManifestInvalid",
    "ManifestTooLarge",
    "ManifestUnknown",
    "MethodUnknown",
    "NameInvalid",
    "NameUnknown",
    "NotAName",
    "NotATag",
    "PageSizeInvalid",
    "PreconditionFailed",
    "RangeInvalid",
    "RangeNotSatisfiable",
    "RegistryError",
    "RequestTimeout",
    "RouteUnknown",
    "SizeInvalid",
    "StorageFull",
    "TagInvalid",
    "TokenRequestInvalid",
    "TooManyRequests",
    "TooManyTags",
    "Unauthorized",
    "Unavailable",
    "Unsupported",
]

_LOGGED_DIGESTS: Final = 10


class RegistryError(Exception):
    """A refusal the client is told about.

    `code` and `message` never vary for a class; `subject` says what was refused and why, in one line;
    `detail` is any JSON value sent beside it (None: the subject).
    """

    code: ClassVar[str]
    message: ClassVar[str]

    def __init__(self, subject: str = "", *, detail: Any = None) -> None:
        super().__init__(f"{self.message}: {subject}" if subject else self.message)
        self.subject = subject
        self.detail: Any = detail if detail is not None else (subject or None)

    def entries(self) -> list[dict[str, Any]]:
        """The `errors` list of the JSON answer."""
        entry: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            entry["detail"] = self.detail
        return [entry]


class BlobUnknown(RegistryError):
    """No such blob, or no link to it from this repository; only our log tells which."""

    code = "BLOB_UNKNOWN"
    message = "blob unknown to registry"


class BlobUploadInvalid(RegistryError):
    """The upload's `_state` is missing, forged, or of another repository or upload."""

    code = "BLOB_UPLOAD_INVALID"
    message = "blob upload invalid"


class BlobUploadUnknown(RegistryError):
    """The upload was finished, cancelled, purged, or never started."""

    code = "BLOB_UPLOAD_UNKNOWN"
    message = "blob upload unknown to registry"


class Denied(RegistryError):
    """The configuration's policy forbids it, whoever asks."""

    code = "DENIED"
    message = "requested access to the resource is denied"


class DigestInvalid(RegistryError):
    """A digest is misspelt, of an unknown algorithm, or not that of the content."""

    code = "DIGEST_INVALID"
    message = "provided digest did not match uploaded content"


class ManifestBlobUnknown(RegistryError):
    """A manifest names content that this repository does not have: `missing`.

    `unchecked` more references were not looked up, since enough were missing before them.
    """

    code = "MANIFEST_BLOB_UNKNOWN"
    message = "blob unknown to registry"

    def __init__(self, missing: Sequence[str], *, unchecked: int = 0) -> None:
        self.missing = tuple(missing)
        self.unchecked = unchecked
        unnamed = len(missing) - _LOGGED_DIGESTS
        super().__init__(", ".join(missing[:_LOGGED_DIGESTS]) + (f" and {unnamed} more" if unnamed > 0 else ""))

    def entries(self) -> list[dict[str, Any]]:
        details = list(self.missing)
        if self.unchecked:
            details.append(f"{self.unchecked} more references were not looked up")
        return [{"code": self.code, "message": self.message, "detail": detail} for detail in details]


class ManifestInvalid(RegistryError):
    """The manifest's JSON, media type or structure is wrong; `subject` says what."""

    code = "MANIFEST_INVALID"
    message = "manifest invalid"


class ManifestTooLarge(RegistryError):
    """The manifest is larger than the registry takes (4 MiB)."""

    code = "MANIFEST_INVALID"
    message = "manifest invalid"


class ManifestUnknown(RegistryError):
    """The tag or digest is not in this repository, or not in a form the client accepts."""

    code = "MANIFEST_UNKNOWN"
    message = "manifest unknown"


class NameInvalid(RegistryError):
    """The repository name breaks the specification's grammar or is over 255 characters."""

    code = "NAME_INVALID"
    message = "invalid repository name"


class NotAName(NameInvalid):
    """What stands in the path where a repository's name should is outside the grammar."""


class RouteUnknown(RegistryError):
    """No endpoint has this path."""

    code = "NOT_FOUND"
    message = "no such endpoint"


class MethodUnknown(RegistryError):
    """The endpoint does not offer the method; `allowed` are those it does, sorted."""

    code = "UNSUPPORTED"
    message = "The operation is unsupported."

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{method} is not offered here; {', '.join(allowed)} are")
        self.allowed = tuple(allowed)


class NameUnknown(RegistryError):
    """The repository never held a manifest."""

    code = "NAME_UNKNOWN"
    message = "repository name not known to registry"


class PageSizeInvalid(RegistryError):
    """`n` is negative, no number, or (catalog) above the configured maximum."""

    code = "PAGINATION_NUMBER_INVALID"
    message = "invalid number of results requested"


class PreconditionFailed(RegistryError):
    """`If-Match`, or `If-None-Match` of a manifest PUT, does not hold."""

    code = "DENIED"
    message = "requested access to the resource is denied"


class RangeInvalid(RegistryError):
    """A chunk does not start at the upload's offset, or another request is writing to the upload.

    `uuid`, `offset` and `state` are those of the upload (`registry.interface.UploadStatus`), so that the client
    can continue; `uuid` is "" if they are unknown.
    """

    code = "RANGE_INVALID"
    message = "invalid content range"

    def __init__(self, subject: str, *, uuid: str = "", offset: int = 0, state: str = "") -> None:
        super().__init__(subject)
        self.uuid = uuid
        self.offset = offset
        self.state = state


class RangeNotSatisfiable(RegistryError):
    """The range asked for lies outside the blob of `size` bytes."""

    code = "RANGE_INVALID"
    message = "invalid content range"

    def __init__(self, subject: str, *, size: int) -> None:
        super().__init__(subject)
        self.size = size


class SizeInvalid(RegistryError):
    """The span of Content-Range is not the length of the body."""

    code = "SIZE_INVALID"
    message = "provided length did not match content length"


class TagInvalid(RegistryError):
    """The tag breaks the specification's grammar."""

    code = "TAG_INVALID"
    message = "invalid tag"


class NotATag(TagInvalid):
    """What stands in the path where a tag should is outside the grammar."""


class RequestTimeout(RegistryError):
    """The client sent no byte of the body for too long; what came before is kept."""

    code = "BLOB_UPLOAD_INVALID"
    message = "blob upload invalid"


class TooManyRequests(RegistryError):
    """Credentials were wrong too often from there; `retry_after_s` is when the next try is worth it."""

    code = "TOOMANYREQUESTS"
    message = "too many requests"

    def __init__(self, subject: str, *, retry_after_s: int) -> None:
        super().__init__(subject)
        self.retry_after_s = retry_after_s


class TokenRequestInvalid(RegistryError):
    """A request for a token lacks something, or asks in a way that is not offered."""

    code = "TOKEN_REQUEST_INVALID"
    message = "token request invalid"


class TooManyTags(RegistryError):
    """More `tag` parameters than one manifest PUT may carry."""

    code = "TAG_INVALID"
    message = "invalid tag"


class Unauthorized(RegistryError):
    """Nobody we know, or somebody who may not; `challenge` is the value of WWW-Authenticate.

    `needs` are (type, name, action) of what was asked for; only the log is told which part failed.
    """

    code = "UNAUTHORIZED"
    message = "authentication required"

    def __init__(self, challenge: str, needs: Sequence[tuple[str, str, str]] = ()) -> None:
        super().__init__()
        self.challenge = challenge
        self.needs = tuple(needs)

    def entries(self) -> list[dict[str, Any]]:
        # The reference's own field names; on /v2/, where nothing is needed, its detail is null.
        detail = [{"Type": kind, "Class": "", "Name": name, "Action": action} for kind, name, action in self.needs]
        return [{"code": self.code, "message": self.message, "detail": detail or None}]


class Unsupported(RegistryError):
    """Switched off in the configuration, or never offered here."""

    code = "UNSUPPORTED"
    message = "The operation is unsupported."


class StorageFull(RegistryError):
    """The storage takes no more: the disk is full, over quota or read-only.  The log names the cause."""

    code = "UNAVAILABLE"
    message = "service unavailable"


class Unavailable(RegistryError):
    """The storage fails or the registry is unhealthy; a later try may succeed.  The log names the cause.

    `retry_after_s`: seconds after which the next try is worth it; 0 where nothing is known of that.
    """

    code = "UNAVAILABLE"
    message = "service unavailable"

    def __init__(self, subject: str = "", *, detail: Any = None, retry_after_s: int = 0) -> None:
        super().__init__(subject, detail=detail)
        self.retry_after_s = retry_after_s
