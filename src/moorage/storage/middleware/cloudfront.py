"""`cloudfront`: redirects clients to Amazon's CDN by signed URLs, and clients inside AWS to S3.

A URL is signed under CloudFront's canned policy: it names one object and the second of its expiry, and nothing
else (no address, no beginning).  CloudFront builds the policy's text again from the URL, so it
must be, byte for byte,

    {"Statement":[{"Resource":"URL","Condition":{"DateLessThan":{"AWS:EpochTime":SECONDS}}}]}

signed with RSA and SHA-1 (that is what CloudFront verifies), in Base64 with `-_~` for `+=/`.

The path is that of the object in the bucket, the driver's root directory included: leave the distribution's origin
path empty.

Source: Amazon CloudFront Developer Guide, "Create a signed URL using a canned policy";
docs/reference/configuration.md, section 8.
"""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from moorage.startup import StartupError
from moorage.storage.driver import SignedUrl

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from moorage.storage.driver import Key
    from moorage.storage.middleware.ip_ranges import IpRanges

__all__ = ["CloudFront", "Signer", "load_key"]

_URL_SAFE: Final = str.maketrans("+=/", "-_~")


def load_key(path: str) -> RSAPrivateKey:
    """Read an RSA key in PEM, PKCS#1 or PKCS#8, without a passphrase.  Raises StartupError."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(Path(path).read_bytes(), password=None)
    except OSError as error:
        raise StartupError(f"cannot read {path!r}: {error.strerror}") from error
    except Exception as error:
        # cryptography has half a dozen errors for what is no PEM, is encrypted, or is of an unknown kind.
        message = f"{path!r} holds no private key that can be used: expected RSA in PEM without a passphrase"
        raise StartupError(message) from error
    if not isinstance(key, RSAPrivateKey):
        raise StartupError(f"{path!r} holds a key that is not RSA")
    return key


class Signer:
    """Signs with the key that CloudFront knows as `key_pair_id`; `clock` gives seconds since 1970."""

    def __init__(self, key: RSAPrivateKey, key_pair_id: str, *, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._key_pair_id = key_pair_id
        self._clock = clock

    def sign(self, url: str, lasts_s: float) -> str:
        """Return `url`, which has no query, signed for `lasts_s` seconds from now.  Takes about a millisecond of
        one core.
        """
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA1

        expires = int(self._clock() + lasts_s)
        condition = f'{{"DateLessThan":{{"AWS:EpochTime":{expires}}}}}'
        policy = f'{{"Statement":[{{"Resource":"{url}","Condition":{condition}}}]}}'
        signature = self._key.sign(policy.encode("ascii"), PKCS1v15(), SHA1())  # noqa: S303  CloudFront's choice
        text = base64.b64encode(signature).decode("ascii").translate(_URL_SAFE)
        return f"{url}?Expires={expires}&Signature={text}&Key-Pair-Id={quote(self._key_pair_id, safe='')}"


class CloudFront:
    """See `rule.Rule`.  `prefix` is what the driver puts before a key in the bucket.

    `nearby` are the addresses of clients that keep the URL of S3; None: there are none.
    """

    makes = True

    def __init__(
        self, base_url: str, signer: Signer, *, prefix: str, lasts_s: float, nearby: IpRanges | None = None
    ) -> None:
        self._base = f"{base_url.rstrip('/')}/"
        self._signer = signer
        self._prefix = quote(prefix)
        self._lasts_s = lasts_s
        self._nearby = nearby

    async def apply(self, found: SignedUrl | None, key: Key, client: str) -> SignedUrl | None:
        if self._nearby is not None and found is not None and self._nearby.includes(client):
            return found
        url = f"{self._base}{self._prefix}{key}"
        # In a thread, where OpenSSL works without the GIL: other requests are served meanwhile.
        return SignedUrl(await asyncio.to_thread(self._signer.sign, url, self._lasts_s))

    async def close(self) -> None:
        if self._nearby is not None:
            await self._nearby.close()
