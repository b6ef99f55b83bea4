"""Credentials for Google Cloud Storage: where they are found, and the access token made of them.

    keyfile                           ──┐
    credentials                         │
    (none at STORAGE_EMULATOR_HOST)     │  read here, so that a file that cannot be read or is of no known kind
    GOOGLE_APPLICATION_CREDENTIALS    ──┘  is refused by name when the registry starts
    gcloud's own file, then the metadata of the instance, the pod or the service (workload identity)

The rest is `gcloud.aio.auth`'s: it exchanges a service account's key, a refresh token, a subject token of another
cloud (workload identity federation by file or URL) or the metadata for an access token, and renews it.

Source: Google's "Application Default Credentials"; what the library does was read in its version 5.6.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

from moorage import extras
from moorage.startup import StartupError
from moorage.storage.gcs.options import GOOGLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gcloud.aio.auth import Token

    from moorage.storage.gcs.options import GcsOptions

__all__ = ["GcsIdentity", "endpoint_of", "identity_of", "require_library"]

_SCOPES: Final = ["https://www.googleapis.com/auth/devstorage.read_write"]
_WIDE: Final = ["https://www.googleapis.com/auth/cloud-platform"]
"""For credentials without a key, which sign by IAM."""
_NEEDED: Final = {
    "service_account": ("client_email", "private_key"),
    "authorized_user": ("client_id", "client_secret", "refresh_token"),
    "external_account": ("audience", "credential_source", "subject_token_type", "token_url"),
    "impersonated_service_account": ("service_account_impersonation_url", "source_credentials"),
}


def require_library() -> None:
    """Import what is needed, so that processes forked later share it.  Raises StartupError."""
    extras.load("gcs", "storage.gcs", "gcloud.aio.auth")


def endpoint_of(options: GcsOptions) -> str:
    """Scheme and host, without a slash at the end."""
    address = options.endpoint or os.environ.get("STORAGE_EMULATOR_HOST", "")
    if not address:
        return GOOGLE
    return (address if "://" in address else f"http://{address}").rstrip("/")


class GcsIdentity:
    """`data` None: the credentials that the library finds; `anonymous`: no token at all."""

    def __init__(self, data: Mapping[str, Any] | None, *, anonymous: bool = False) -> None:
        self.data = data
        self.anonymous = anonymous
        self._token: Token | None = None

    @property
    def private_key(self) -> tuple[str, str] | None:
        """E-mail address and PEM of a service account's key; None for other credentials."""
        if self.data is None or self.data.get("type") != "service_account":
            return None
        return str(self.data["client_email"]), str(self.data["private_key"])

    def token(self, outward: Any, inward: Callable[[], Any]) -> Token:
        """Return the library's token, made once.  `inward` makes the session for the metadata server, which no
        proxy reaches.  (For sessions the library's types name another class than it accepts.)
        """
        if self._token is None:
            from gcloud.aio.auth import AioSession, Token
            from gcloud.aio.auth.token import Type

            source = None if self.data is None else io.StringIO(json.dumps(dict(self.data)))
            scopes = _WIDE if self.private_key is None else _SCOPES
            self._token = Token(service_file=source, session=outward, scopes=scopes)
            if self._token.token_type is Type.GCE_METADATA:
                self._token.session = AioSession(inward())
        return self._token

    @staticmethod
    async def bearer(token: Token, *, fresh: bool = False) -> str | None:
        """Return the access token, renewed when it is due, or `fresh`.

        A renewal runs in a task of its own: the library shares one request among all callers, and the cancellation
        of one of them would end it for the others.
        """
        if fresh:
            await asyncio.shield(asyncio.ensure_future(token.acquire_access_token()))
        elif token.access_token is None or time.time() > token.access_token_preempt_after:
            return await asyncio.shield(asyncio.ensure_future(token.get()))
        return token.access_token


def identity_of(options: GcsOptions) -> GcsIdentity:
    """Raises StartupError."""
    if options.keyfile:
        return GcsIdentity(_checked(_read(options.keyfile, "storage.gcs.keyfile"), "storage.gcs.keyfile"))
    if options.credentials:
        return GcsIdentity(_checked(dict(options.credentials), "storage.gcs.credentials"))
    if not options.endpoint and os.environ.get("STORAGE_EMULATOR_HOST"):
        return GcsIdentity(None, anonymous=True)
    if path := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", ""):
        name = "GOOGLE_APPLICATION_CREDENTIALS"
        return GcsIdentity(_checked(_read(path, name), name))
    return GcsIdentity(None)


def _read(path: str, name: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise StartupError(f"cannot read {path!r}: {error.strerror}", name) from error
    except ValueError as error:
        raise StartupError(f"{path!r} is not a JSON file", name) from error


def _checked(data: Any, name: str) -> dict[str, Any]:
    """Check that the library can make a token of the credentials, and that they are complete."""
    if not isinstance(data, dict) or not isinstance(kind := data.get("type"), str):
        raise StartupError("expected what Google's JSON file of credentials holds, with a type", name)
    needed = _NEEDED.get(kind)
    if needed is None:
        known = ", ".join(sorted(_NEEDED))
        raise StartupError(f"credentials of type {kind!r} cannot be used; expected {known}", name)
    if missing := [field for field in needed if not data.get(field)]:
        raise StartupError(f"credentials of type {kind} without {', '.join(missing)}", name)
    if kind == "service_account":
        _check_key(str(data["private_key"]), name)
    if kind == "external_account":
        _check_source(data["credential_source"], name)
    if kind == "impersonated_service_account" and data["source_credentials"].get("type") != "authorized_user":
        raise StartupError("a service account can be impersonated only by type authorized_user", name)
    return data


def _check_key(text: str, name: str) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise StartupError("private_key is not a private key in PEM form", name) from None
    if not isinstance(key, RSAPrivateKey):
        raise StartupError("private_key is not an RSA key", name)


def _check_source(source: Any, name: str) -> None:
    """Check what the library would refuse, or misread, at the first request."""
    if (
        not isinstance(source, dict)
        or not {"file", "url"} & source.keys()
        or str(source.get("environment_id", "")).startswith("aws")
    ):
        raise StartupError(
            f"{name}: the subject token must come from a file or a URL; from AWS or a program it cannot be had"
        )
    if "file" in source and (source.get("format") or {}).get("type", "text") != "text":
        raise StartupError("a subject token in a file must be plain text, not JSON", name)
