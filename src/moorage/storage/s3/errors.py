"""What went wrong at an S3 store, in one form for both libraries, and what it means to a driver's caller.

The text that ends up in our log names the operation, the key, the endpoint, the bucket and the store's own code.
It never holds a URL's query or a header, so no key and no signature.

obstore's exceptions carry the answer in their text (`status code: 404`, `<Code>NoSuchKey</Code>`), botocore's
as data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from moorage.storage.driver import StorageError, StorageUnavailable
from moorage.storage.error_messages import failed

__all__ = ["Failure", "Place", "Unsupported", "failure_of"]

_STATUS: Final = re.compile(r"status code: ([0-9]{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9.]{1,80})</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]{1,300})</Message>")
_WITHIN_LIST: Final = re.compile(r"request failed for key [^\n]*?: ([^\n]{0,300}) \(code: ([A-Za-z0-9.]{1,80})\)")
"""A deletion that failed in an answer which is 200 as a whole."""
_CAUSE: Final = re.compile(r'message: "([^"]{1,200})"')

_EXHAUSTED: Final = {
    "QuotaExceeded", "EntityTooLargeForQuota", "InsufficientStorage", "XMinioStorageFull", "InsufficientCapacity",
    "XMinioAdminBucketQuotaExceeded", "BucketQuotaExceeded", "ServiceQuotaExceededException",
}  # fmt: skip
_TRANSIENT: Final = {
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeoutException", "Throttling",
    "ThrottlingException", "TooManyRequests", "OperationAborted", "ConditionalRequestConflict", "BadDigest",
    "RequestLimitExceeded", "BandwidthLimitExceeded", "503", "500", "502", "504", "429", "408",
}  # fmt: skip
_PASSING: Final = {"HTTPClientError", "ConnectionError", "TimeoutError", "ClientError", "GenericError", "OSError"}
"""Names of exceptions, of whatever library, that tell of the network; others tell of us, and come again."""
_MISSING: Final = {"NoSuchKey", "404", "NotFound", "NoSuchVersion"}
_REFUSED: Final = {"PreconditionFailed", "412"}
_UNSUPPORTED: Final = {"NotImplemented", "501"}
_NOT_IMPLEMENTED: Final = 501
_NO_SPACE: Final = 507
_MOVED: Final = 301

_HINTS: Final = {
    "NoSuchBucket": "there is no such bucket; it must be made beforehand",
    "AccessDenied": "the credentials may not do this (s3:GetObject, PutObject, DeleteObject, ListBucket, "
    "ListBucketMultipartUploads, ListMultipartUploadParts and AbortMultipartUpload are needed)",
    "InvalidAccessKeyId": "the access key is unknown to the store",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key, or a proxy changes requests",
    "ExpiredToken": "the credentials have expired",
    "InvalidToken": "the session token is not valid",
    "RequestTimeTooSkewed": "the clocks of this host and of the store are too far apart",
    "AuthorizationHeaderMalformed": "the bucket is in another region than storage.s3.region says",
    "PermanentRedirect": "the bucket is in another region, or has another endpoint",
    "IllegalLocationConstraintException": "the bucket is in another region",
    "InvalidBucketName": "the bucket's name is not valid",
    "NoCredentialsError": "no credentials: give storage.s3.accesskey and secretkey, or have them in the "
    "environment, a profile, a web identity, or the metadata of the container or instance",
}


class Unsupported(StorageUnavailable):
    """The store does not know this request, or a condition in it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`status` 0: there was no answer.  `code` is the store's, "" where it gave none."""

    status: int
    code: str
    text: str

    @property
    def missing(self) -> bool:
        """The object is not there, and the bucket, as far as can be known (a HEAD has no body), is."""
        return self.code in _MISSING or (self.status == 404 and not self.code)  # noqa: PLR2004  HTTP

    @property
    def refused(self) -> bool:
        """A condition did not hold."""
        return self.code in _REFUSED or (self.status in {409, 412} and not self.transient)

    @property
    def unsupported(self) -> bool:
        return self.code in _UNSUPPORTED or self.status == _NOT_IMPLEMENTED

    @property
    def transient(self) -> bool:
        """Worth another try: no answer, the store's own trouble, or a request to come later."""
        if self.unsupported or self.exhausted:
            return False
        if not self.status:
            return not self.code or self.code in _TRANSIENT
        return self.code in _TRANSIENT or self.status in {408, 429} or self.status >= 500  # noqa: PLR2004  HTTP

    @property
    def exhausted(self) -> bool:
        return self.code in _EXHAUSTED or self.status == _NO_SPACE


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests go: for messages."""

    endpoint: str
    bucket: str

    def __str__(self) -> str:
        return f"{self.endpoint}, bucket {self.bucket}"

    def error(self, failure: Failure, operation: str, key: str) -> StorageError:
        return failed(
            operation,
            key,
            str(self),
            status=failure.status,
            code=failure.code,
            reason=_HINTS.get(failure.code) or failure.text,
            exhausted=failure.exhausted,
        )


def failure_of(error: BaseException) -> Failure:
    """For an exception of obstore, botocore, aiobotocore or the system."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        said = response["Error"]
        return Failure(status, str(said.get("Code", "")), str(said.get("Message", ""))[:300])
    text = str(error)
    status_found, code, message = _STATUS.search(text), _CODE.search(text), _MESSAGE.search(text)
    if status_found is not None:
        words = message[1] if message is not None else "the store gave no reason"
        return Failure(int(status_found[1]), code[1] if code is not None else "", words)
    if "redirect without LOCATION" in text:
        return Failure(_MOVED, "PermanentRedirect", "")
    if within := _WITHIN_LIST.search(text):
        return Failure(0, within[2], within[1])
    cause = _CAUSE.findall(text)
    if type(error).__module__.startswith(("obstore", "builtins")) and cause:
        return Failure(0, "", cause[-1])
    first = re.sub(r"[?][^ ]*", "", text.split("\n", 1)[0])[:300]
    passing = {kind.__name__ for kind in type(error).__mro__} & _PASSING
    return Failure(0, "" if passing else type(error).__name__, first)
