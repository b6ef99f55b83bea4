"""Failures of S3: error codes, and the exceptions of both libraries as `Failure` values.

obstore's exceptions carry the answer in their text (`status code: 404`, `<Code>NoSuchKey</Code>`), botocore's
as data.
"""

from __future__ import annotations

import re
from typing import Any, Final

from moorage.storage.driver import StorageUnavailable
from moorage.storage.object_store.errors import Failure, FailureKind

__all__ = ["RequestUnsupported", "failure_of"]

_STATUS: Final = re.compile(r"status code: ([0-9]{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9.]{1,80})</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]{1,300})</Message>")
_WITHIN_LIST: Final = re.compile(r"request failed for key [^\n]*?: ([^\n]{0,300}) \(code: ([A-Za-z0-9.]{1,80})\)")
"""A deletion that failed, in a response with status 200."""
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
"""Names of exceptions of the network, of any library.  Others are errors of this host and would be repeated."""
_MISSING: Final = {"NoSuchKey", "404", "NotFound", "NoSuchVersion"}
_REFUSED: Final = {"PreconditionFailed", "412"}
_UNSUPPORTED: Final = {"NotImplemented", "501"}
_NOT_FOUND: Final = 404
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
    "AuthorizationHeaderMalformed": "the bucket is in another region than storage.s3.region names",
    "PermanentRedirect": "the bucket is in another region, or has another endpoint",
    "IllegalLocationConstraintException": "the bucket is in another region",
    "InvalidBucketName": "the bucket's name is not valid",
    "NoCredentialsError": "no credentials: give storage.s3.accesskey and secretkey, or have them in the "
    "environment, a profile, a web identity, or the metadata of the container or instance",
}


class RequestUnsupported(StorageUnavailable):
    """The store does not implement this request, or a condition of it."""


def _failure(status: int, code: str, text: str) -> Failure:
    return Failure(status, code, text, _kind(status, code), _HINTS.get(code, ""))


def _kind(status: int, code: str) -> FailureKind:
    if code in _MISSING or (status == _NOT_FOUND and not code):  # a response to HEAD has no body, so no code
        return FailureKind.MISSING
    if code in _UNSUPPORTED or status == _NOT_IMPLEMENTED:
        return FailureKind.UNSUPPORTED
    if code in _EXHAUSTED or status == _NO_SPACE:
        return FailureKind.EXHAUSTED
    if code in _TRANSIENT or status in {408, 429} or status >= 500 or not (status or code):  # noqa: PLR2004  HTTP
        return FailureKind.TRANSIENT
    if code in _REFUSED or status in {409, 412}:
        return FailureKind.REFUSED
    return FailureKind.PERMANENT


def failure_of(error: BaseException) -> Failure:
    """Return the failure of an exception of obstore, botocore, aiobotocore or the system."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        details = response["Error"]
        return _failure(status, str(details.get("Code", "")), str(details.get("Message", ""))[:300])
    text = str(error)
    status_found, code, message = _STATUS.search(text), _CODE.search(text), _MESSAGE.search(text)
    if status_found is not None:
        words = message[1] if message is not None else "the store gave no reason"
        return _failure(int(status_found[1]), code[1] if code is not None else "", words)
    if "redirect without LOCATION" in text:
        return _failure(_MOVED, "PermanentRedirect", "")
    if within := _WITHIN_LIST.search(text):
        return _failure(0, within[2], within[1])
    cause = _CAUSE.findall(text)
    if type(error).__module__.startswith(("obstore", "builtins")) and cause:
        return _failure(0, "", cause[-1])
    first = re.sub(r"[?][^ ]*", "", text.split("\n", 1)[0])[:300]
    passing = {kind.__name__ for kind in type(error).__mro__} & _PASSING
    return _failure(0, "" if passing else type(error).__name__, first)
