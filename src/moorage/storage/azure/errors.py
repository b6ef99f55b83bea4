"""Failures of Azure Blob Storage: error codes, and exceptions as `Failure` values."""

from __future__ import annotations

import re
from typing import Any, Final

from moorage.storage.object_store.errors import Failure, FailureKind

__all__ = ["failure_of", "is_other_type"]

_MISSING: Final = 404
_CONFLICT: Final = 409
_UNMET: Final = 412
_NO_SPACE: Final = 507
_TRANSIENT: Final = {408, 429, 500, 502, 503, 504}
_ABSENT: Final = {"BlobNotFound", "ResourceNotFound", "CannotVerifyCopySource", ""}
_UNMET_CODES: Final = {"BlobAlreadyExists", "InvalidBlockList"}
"""InvalidBlockList: another commit has removed the blocks that this one names."""
_PASSING: Final = {"ServerBusy", "OperationTimedOut", "InternalError", "PendingCopyOperation"}

_HINTS: Final = {
    "ContainerNotFound": "there is no such container; it must be made beforehand",
    "ContainerBeingDeleted": "the container is being deleted",
    "AuthenticationFailed": "the account's key or the identity is not accepted, or the clocks are too far apart",
    "AuthorizationFailure": "a firewall or network rule of the account refuses this host",
    "AuthorizationPermissionMismatch": "the identity lacks the role Storage Blob Data Contributor here",
    "InsufficientAccountPermissions": "the credentials may not do this",
    "KeyBasedAuthenticationNotPermitted": "the account takes no keys; use storage.azure.credentials.type "
    "default_credentials or client_secret",
    "AccountIsDisabled": "the account is disabled",
    "BlobImmutableDueToPolicy": "the container has a policy that forbids changing what is stored",
    "ClientAuthenticationError": "no token: give storage.azure.credentials or have an identity in the environment",
    "CredentialUnavailableError": "no identity in the environment, the workload or the host",
}


def is_other_type(failure: Failure) -> bool:
    """Return whether the blob is of another type than the request: CNCF Distribution wrote links as append blobs
    until 3.1.1, which a block blob does not replace.
    """
    return failure.status == _CONFLICT and failure.code == "InvalidBlobType"


def _failure(status: int, code: str, text: str) -> Failure:
    return Failure(status, code, text, _kind(status, code), _HINTS.get(code, ""))


def _kind(status: int, code: str) -> FailureKind:
    if status == _MISSING and code in _ABSENT:
        return FailureKind.MISSING
    if status == _UNMET or code in _UNMET_CODES:
        return FailureKind.REFUSED
    if status == _NO_SPACE:
        return FailureKind.EXHAUSTED
    if status in _TRANSIENT or code in _PASSING or not (status or code):
        return FailureKind.TRANSIENT
    return FailureKind.PERMANENT


def failure_of(error: BaseException) -> Failure:
    """Return the failure of an exception of Azure's libraries, aiohttp or the system."""
    response: Any = getattr(error, "response", None)
    status = int(getattr(error, "status_code", 0) or getattr(response, "status_code", 0) or 0)
    code = getattr(error, "error_code", "") or ""
    text = re.sub(r"[?][^ ]*", "", str(error).split("\n", 1)[0])[:300]
    names = {kind.__name__ for kind in type(error).__mro__}
    if status and "ClientAuthenticationError" not in names:
        return _failure(status, str(getattr(code, "value", code)), text)
    if "ClientAuthenticationError" in names:
        known = str(getattr(code, "value", code))
        return _failure(status, known or type(error).__name__, text)
    passing = names & {"ServiceRequestError", "ServiceResponseError", "OSError", "TimeoutError", "ClientError"}
    passing |= names & {"IncompleteReadError", "HttpResponseError", "DecodeError"}
    return _failure(0, "" if passing else type(error).__name__, text)
