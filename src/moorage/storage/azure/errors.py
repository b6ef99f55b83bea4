"""What went wrong at Azure, and what it means to a driver's caller.

The text that ends up in our log names the operation, the key, the service, the container and the service's own
code.  It never holds a URL's query or a header, so no key and no signature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moorage.storage.error_messages import failed

if TYPE_CHECKING:
    from moorage.storage.driver import StorageError

__all__ = ["Failure", "Place", "failure_of"]

_MISSING: Final = 404
_CONFLICT: Final = 409
_UNMET: Final = 412
_RANGE: Final = 416
_NO_SPACE: Final = 507
_TRANSIENT: Final = {408, 429, 500, 502, 503, 504}
_ABSENT: Final = {"BlobNotFound", "ResourceNotFound", "CannotVerifyCopySource", ""}
_UNMET_CODES: Final = {"BlobAlreadyExists", "InvalidBlockList"}
"""The second: somebody's commit has removed the blocks that ours names."""
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


@dataclass(frozen=True, slots=True)
class Failure:
    """`status` 0: there was no answer.  `code` is the service's, "" where it gave none."""

    status: int
    code: str
    text: str

    @property
    def missing(self) -> bool:
        """The blob is not there, and the container is, as far as can be known."""
        return self.status == _MISSING and self.code in _ABSENT

    @property
    def refused(self) -> bool:
        """A condition did not hold."""
        return self.status == _UNMET or self.code in _UNMET_CODES

    @property
    def other_type(self) -> bool:
        """An append blob, as CNCF Distribution wrote links until 3.1.1, stands where a block blob is to go."""
        return self.status == _CONFLICT and self.code == "InvalidBlobType"

    @property
    def past_end(self) -> bool:
        return self.status == _RANGE

    @property
    def transient(self) -> bool:
        """Worth another try: no answer, the service's own trouble, or a request to come later."""
        return self.status in _TRANSIENT or self.code in _PASSING or (not self.status and not self.code)


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests go: for messages."""

    url: str
    container: str

    def __str__(self) -> str:
        return f"{self.url}, container {self.container}"

    def error(self, failure: Failure, operation: str, key: str) -> StorageError:
        return failed(
            operation,
            key,
            str(self),
            status=failure.status,
            code=failure.code,
            reason=_HINTS.get(failure.code) or failure.text,
            exhausted=failure.status == _NO_SPACE,
        )


def failure_of(error: BaseException) -> Failure:
    """For an exception of azure-core, azure-storage-blob, azure-identity, aiohttp or the system."""
    response: Any = getattr(error, "response", None)
    status = int(getattr(error, "status_code", 0) or getattr(response, "status_code", 0) or 0)
    code = getattr(error, "error_code", "") or ""
    text = re.sub(r"[?][^ ]*", "", str(error).split("\n", 1)[0])[:300]
    names = {kind.__name__ for kind in type(error).__mro__}
    if status and "ClientAuthenticationError" not in names:
        return Failure(status, str(getattr(code, "value", code)), text)
    if "ClientAuthenticationError" in names:
        known = str(getattr(code, "value", code))
        return Failure(status, known or type(error).__name__, text)
    passing = names & {"ServiceRequestError", "ServiceResponseError", "OSError", "TimeoutError", "ClientError"}
    passing |= names & {"IncompleteReadError", "HttpResponseError", "DecodeError"}
    return Failure(0, "" if passing else type(error).__name__, text)
