"""Errors that are reported to clients, with the codes of the specification.

    RegistryError
    ├── BlobUnknown            BLOB_UNKNOWN
    ├── BlobUploadInvalid      BLOB_UPLOAD_INVALID
    ├── BlobUploadUnknown      BLOB_UPLOAD_UNKNOWN
    ├── Denied                 DENIED                    a policy forbids it; credentials cannot help
    ├── DigestInvalid          DIGEST_INVALID
    ├── LoopDetected           UNSUPPORTED (508)         a mirror is its own upstream registry
    ├── ManifestBlobUnknown    MANIFEST_BLOB_UNKNOWN     one entry for each missing digest, the first 100 or so
    ├── ManifestInvalid        MANIFEST_INVALID
    ├── ManifestTooLarge       MANIFEST_INVALID (413)
    ├── ManifestUnknown        MANIFEST_UNKNOWN
    ├── NameInvalid            NAME_INVALID
    │   └── NotAName           NAME_INVALID (404)        no route: the path contains no repository name
    ├── NameUnknown            NAME_UNKNOWN
    ├── PageSizeInvalid        PAGINATION_NUMBER_INVALID
    ├── PreconditionFailed     DENIED (412)
    ├── Protected              DENIED                    an immutable tag, a legal hold; the reason is the message
    ├── QuotaExceeded          DENIED                    no space left of a quota; the message names it
    ├── RangeInvalid           RANGE_INVALID             an upload's range; carries the upload's offset
    ├── RangeNotSatisfiable    RANGE_INVALID             a download's range; carries the blob's size
    ├── SizeInvalid            SIZE_INVALID
    ├── RouteUnknown           NOT_FOUND                 no endpoint has this path
    ├── MethodUnknown          UNSUPPORTED (405)         the endpoint has no such method; carries those it has
    ├── TagInvalid             TAG_INVALID
    │   └── NotATag            TAG_INVALID (404)         no route: the path contains no tag
    ├── RequestTimeout         BLOB_UPLOAD_INVALID (408) the client sent nothing for too long
    ├── TooManyRequests        TOOMANYREQUESTS (429)     too many wrong passwords; carries when to try again
    ├── TokenRequestInvalid    TOKEN_REQUEST_INVALID     a parameter of /token is missing or unsupported
    ├── TooManyTags            TAG_INVALID (414)
    ├── Unauthorized           UNAUTHORIZED (401)        credentials are missing, wrong or not enough
    ├── Unsupported            UNSUPPORTED               switched off, or never offered
    │   └── MirrorReadOnly     UNSUPPORTED               a push into a mirror; the message names its upstream
    ├── UpstreamDenies         DENIED                    the upstream registry of a mirror refuses
    ├── UpstreamFailed         UNAVAILABLE (502)         ... cannot be reached, or fails
    ├── UpstreamLimits         TOOMANYREQUESTS (429)     ... limits the rate; carries when to try again
    ├── StorageFull            UNAVAILABLE (507)         the disk or bucket is full or read-only
    └── Unavailable            UNAVAILABLE (503)         the back end is failing; worth a retry

`http/errors.py` maps each class to its HTTP status.  `detail` is sent to the client, so it contains no paths of
the server and no secrets.

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
    "LoopDetected",
    "ManifestBlobUnknown",
    "ManifestInvalid",
    "ManifestTooLarge",
    "ManifestUnknown",
    "MethodUnknown",
    "MirrorReadOnly",
    "NameInvalid",
    "NameUnknown",
    "NotAName",
    "NotATag",
    "PageSizeInvalid",
    "PreconditionFailed",
    "Protected",
    "QuotaExceeded",
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
    "UpstreamDenies",
    "UpstreamFailed",
    "UpstreamLimits",
]

_LOGGED_DIGESTS: Final = 10


class RegistryError(Exception):
    """An error that is reported to the client.

    `code` and `message` are constant for a class; `subject` is the refused object and the reason, in one line;
    `detail` is any JSON value that is sent with them (None: the subject).
    """

    code: ClassVar[str]
    message: ClassVar[str]

    def __init__(self, subject: str = "", *, detail: Any = None) -> None:
        super().__init__(f"{self.message}: {subject}" if subject else self.message)
        self.subject = subject
        self.detail: Any = detail if detail is not None else (subject or None)

    def entries(self) -> list[dict[str, Any]]:
        """Return the `errors` list of the JSON response."""
        entry: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            entry["detail"] = self.detail
        return [entry]


class BlobUnknown(RegistryError):
    """The blob does not exist, or this repository has no link to it; only the log distinguishes the two."""

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
    """A policy of the configuration forbids it, for every client."""

    code = "DENIED"
    message = "requested access to the resource is denied"


class DigestInvalid(RegistryError):
    """A digest is misspelt, of an unknown algorithm, or not that of the content."""

    code = "DIGEST_INVALID"
    message = "provided digest did not match uploaded content"


class ManifestBlobUnknown(RegistryError):
    """A manifest refers to content that this repository does not have: `missing`.

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
    """The manifest's JSON, media type or structure is invalid."""

    code = "MANIFEST_INVALID"
    message = "manifest invalid"


class ManifestTooLarge(RegistryError):
    """The manifest is larger than the limit (4 MiB)."""

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
    """The part of the path that is a repository name does not match the grammar."""


class RouteUnknown(RegistryError):
    """No endpoint has this path."""

    code = "NOT_FOUND"
    message = "no such endpoint"


class LoopDetected(RegistryError):
    """The request has come from this registry: an upstream registry of the mirror is the mirror itself."""

    code = "UNSUPPORTED"
    message = "loop detected: the upstream registry of this mirror is the mirror itself; correct proxy.remoteurl"


class MethodUnknown(RegistryError):
    """The endpoint does not support the method; `allowed` are the supported ones, sorted."""

    code = "UNSUPPORTED"
    message = "The operation is unsupported."

    def __init__(self, method: str, allowed: Sequence[str], *, readonly: bool = False) -> None:
        super().__init__(
            f"the registry is read-only (storage.maintenance.readonly), {method} is not offered"
            if readonly
            else f"{method} is not offered here; {', '.join(allowed)} are"
        )
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


class Protected(RegistryError):
    """An immutable tag or a legal hold forbids the change.

    The message has the reason, since most clients show no detail.  There is none, since crane shows both.
    """

    code = "DENIED"
    message = "the content is protected"

    def entries(self) -> list[dict[str, Any]]:
        return [{"code": self.code, "message": self.subject or self.message}]


class QuotaExceeded(RegistryError):
    """The request would exceed a quota.  The reason is in the message, since clients print only that.

    Clients of Docker do not retry this code, and retry those of a status that they do not know.
    """

    code = "DENIED"
    message = "quota exceeded"

    def entries(self) -> list[dict[str, Any]]:
        return [{"code": self.code, "message": str(self), "detail": self.detail}]


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
    """The requested range is outside of the blob of `size` bytes."""

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
    """The part of the path that is a tag does not match the grammar."""


class RequestTimeout(RegistryError):
    """The client sent no byte of the body for too long; the bytes received before are kept."""

    code = "BLOB_UPLOAD_INVALID"
    message = "blob upload invalid"


class TooManyRequests(RegistryError):
    """Too many failed logins from the address; the next attempt is allowed after `retry_after_s` seconds."""

    code = "TOOMANYREQUESTS"
    message = "too many requests"

    def __init__(self, subject: str, *, retry_after_s: int) -> None:
        super().__init__(subject)
        self.retry_after_s = retry_after_s


class TokenRequestInvalid(RegistryError):
    """A request for a token lacks a parameter, or has one that is not supported."""

    code = "TOKEN_REQUEST_INVALID"
    message = "token request invalid"


class TooManyTags(RegistryError):
    """More `tag` parameters than one manifest PUT may carry."""

    code = "TAG_INVALID"
    message = "invalid tag"


class Unauthorized(RegistryError):
    """Credentials are missing, wrong or insufficient; `challenge` is the value of WWW-Authenticate.

    `needs` are (type, name, action) of the requested access; only the log has the part that was not granted.
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
    """The operation is disabled by the configuration, or not supported."""

    code = "UNSUPPORTED"
    message = "The operation is unsupported."


class MirrorReadOnly(Unsupported):
    """A push into, or a deletion from, a mirrored repository.

    The message names where to push instead, since most clients print nothing else.
    """

    message = "mirrored repositories are read-only"

    def entries(self) -> list[dict[str, Any]]:
        return [{"code": self.code, "message": str(self)}]


class StorageFull(RegistryError):
    """The storage accepts no writes: the disk is full, over quota or read-only.  The log has the cause."""

    code = "UNAVAILABLE"
    message = "service unavailable"


class UpstreamDenies(RegistryError):
    """The upstream registry of a mirror refuses, or the settings do not allow to ask it.

    The message has its words, since most clients print nothing else.  So have the next two.
    """

    code = "DENIED"
    message = "the upstream registry refuses"

    def entries(self) -> list[dict[str, Any]]:
        return [{"code": self.code, "message": str(self)}]


class UpstreamFailed(RegistryError):
    """The upstream registry of a mirror cannot be reached, fails, or breaks the protocol."""

    code = "UNAVAILABLE"
    message = "the upstream registry failed"

    def entries(self) -> list[dict[str, Any]]:
        return [{"code": self.code, "message": str(self)}]


class UpstreamLimits(RegistryError):
    """The upstream registry of a mirror limits the rate; try again after `retry_after_s` seconds."""

    code = "TOOMANYREQUESTS"
    message = "the upstream registry limits the rate of requests"

    def __init__(self, subject: str, *, retry_after_s: int) -> None:
        super().__init__(subject)
        self.retry_after_s = retry_after_s

    def entries(self) -> list[dict[str, Any]]:
        return [{"code": self.code, "message": str(self)}]


class Unavailable(RegistryError):
    """The storage fails or the registry is unhealthy; a retry may succeed.  The log has the cause.

    `retry_after_s`: seconds after which a retry may succeed; 0 if that is unknown.
    """

    code = "UNAVAILABLE"
    message = "service unavailable"

    def __init__(self, subject: str = "", *, detail: Any = None, retry_after_s: int = 0) -> None:
        super().__init__(subject, detail=detail)
        self.retry_after_s = retry_after_s
