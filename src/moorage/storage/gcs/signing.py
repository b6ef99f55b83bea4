"""Signed URLs, version 4: by the private key of the service account, or without a key by Google's IAM.

A signature by IAM is a request, so URLs are valid `_SPARE_S` longer than requested and are returned again for that
long: a layer that many hosts pull at once is signed once.  Where IAM refuses (the account lacks
iam.serviceAccounts.signBlob on itself), or there is no service account at all, blobs pass through the registry,
with one warning; CNCF Distribution answers such pulls with 500.  IAM is tried again after `_REST_S`.

The library's function is not used: it signs for one host only, which it reads when it is imported.

Source: Google's "V4 signing process".
"""

from __future__ import annotations

import base64
import hashlib
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode, urlsplit

import structlog

from moorage.caches import TTLCache
from moorage.storage.gcs.errors import failure_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.storage.gcs.connection import GcsConnection

__all__ = ["UrlSigner", "canonical_request"]

_ALGORITHM: Final = "GOOG4-RSA-SHA256"
_LONGEST_S: Final = 7 * 24 * 3600
_SPARE_S: Final = 60
_REST_S: Final = 300.0
_REMEMBERED: Final = 4096
_log: Final = structlog.get_logger("moorage.storage.gcs")


class UrlSigner:
    """Signs URLs of one driver in one process."""

    def __init__(self, connection: GcsConnection, *, clock: Callable[[], float] = time.time) -> None:
        self._connection = connection
        self._clock = clock
        self._key: Any = None
        self._iam: Any = None
        self._email = ""
        self._given: TTLCache[tuple[str, str, int], str] = TTLCache(_REMEMBERED, clock=clock)
        self._resting_until = 0.0
        self._warned = False

    async def url(self, path: str, method: str, expires_s: int) -> str | None:
        """Return the URL of the object `path` in the bucket; None where no URL can be signed."""
        now = self._clock()
        request = (path, method, expires_s)
        url = self._given.get(request)
        if url is not None:
            return url
        if self._connection.identity.anonymous or now < self._resting_until:
            return None
        try:
            url = await self._sign(path, method, min(expires_s + _SPARE_S, _LONGEST_S), now)
        except Exception as error:  # noqa: BLE001  after any error the blob can still be streamed
            self._rest(error, now)
            return None
        self._warned = False
        self._given.put(request, url, expires_at=now + _SPARE_S)
        return url

    def _rest(self, error: Exception, now: float) -> None:
        self._resting_until = now + _REST_S
        if not self._warned:
            self._warned = True
            failure = failure_of(error)
            cause = " ".join(text for text in (str(failure.status or ""), failure.code, failure.text) if text)
            _log.warning(
                "no URLs can be signed; blobs are sent through the registry. Signing needs a service account's "
                "key, or the permission iam.serviceAccounts.signBlob of the account on itself",
                cause=cause,
            )

    async def _sign(self, path: str, method: str, expires_s: int, now: float) -> str:
        moment = datetime.fromtimestamp(now, UTC)
        scope = f"{moment:%Y%m%d}/auto/storage/goog4_request"
        endpoint = urlsplit(self._connection.endpoint)
        resource = f"{endpoint.path}/{self._connection.options.bucket}/{quote(path, safe='/~')}"
        query = {
            "X-Goog-Algorithm": _ALGORITHM,
            "X-Goog-Credential": f"{await self._account()}/{scope}",
            "X-Goog-Date": f"{moment:%Y%m%dT%H%M%SZ}",
            "X-Goog-Expires": str(expires_s),
            "X-Goog-SignedHeaders": "host",
        }
        canonical = canonical_request(method, resource, query, endpoint.netloc)
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = "\n".join((_ALGORITHM, query["X-Goog-Date"], scope, digest))
        signature = await self._signature(text.encode())
        whole = urlencode({**query, "X-Goog-Signature": signature.hex()}, quote_via=quote, safe="")
        return f"{endpoint.scheme}://{endpoint.netloc}{resource}?{whole}"

    async def _account(self) -> str:
        """Return the e-mail address of the service account."""
        if (own := self._connection.identity.private_key) is not None:
            return own[0]
        if not self._email:
            self._email = await self._find_account()
        return self._email

    async def _find_account(self) -> str:
        """Look up the address.  Raises TypeError for credentials that are no service account's."""
        from gcloud.aio.auth import IamClient
        from gcloud.aio.auth import token as library

        token = self._connection.token()
        assert token is not None, "anonymous access signs nothing"
        session: Any = self._connection.session()  # the library's types name another class than it accepts
        self._iam = IamClient(token=token, session=session)
        if self._iam.service_account_email:
            return str(self._iam.service_account_email)
        if token.token_type is not library.Type.GCE_METADATA:
            raise TypeError("the credentials are not a service account's")
        address = f"{library.GCE_METADATA_BASE}/instance/service-accounts/default/email"
        async with await token.session.get(address, headers=library.GCE_METADATA_HEADERS) as response:
            return (await response.text()).strip()

    async def _signature(self, text: bytes) -> bytes:
        if (own := self._connection.identity.private_key) is None:
            response = await self._iam.sign_blob(text, service_account_email=self._email)
            return base64.b64decode(response["signedBlob"])
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        if self._key is None:
            self._key = load_pem_private_key(own[1].encode(), password=None)
        signature: bytes = self._key.sign(text, padding.PKCS1v15(), hashes.SHA256())
        return signature


def canonical_request(method: str, resource: str, query: dict[str, str], host: str) -> str:
    """Return the text to sign for a request with no header but `host`; `query` lacks the signature."""
    pairs = urlencode(sorted(query.items()), quote_via=quote, safe="")
    return "\n".join((method, resource, pairs, f"host:{host}", "", "host", "UNSIGNED-PAYLOAD"))
