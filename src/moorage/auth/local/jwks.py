"""Public keys of other issuers: from a file, or fetched and cached.

    file  ──────────────────────────────► read again when it changes
    URL, or the issuer's discovery ─────► fetched in a thread; again in the background after an hour, and at once
                                          (but at most every 30 s) for an unknown key

Logins with a known key work while the issuer is down: old keys are used until new ones are fetched.

Source: OpenID Connect Discovery 1.0 section 4; RFC 7517.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

import structlog

from moorage.auth.token.trusted_keys import ALGORITHMS, KeyFileInvalid, read_jwks
from moorage.reloading import Reload, ReloadedFile, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.auth.local.policy import Issuer
    from moorage.auth.token.trusted_keys import TrustedKeys

__all__ = ["PUBLIC", "Fetch", "FileKeys", "KeySource", "KeysUnavailable", "RemoteKeys", "fetch", "key_source"]

PUBLIC: Final = frozenset(name for name in ALGORITHMS if not name.startswith("HS"))
"""Algorithms of tokens of other issuers: no HMAC, whose verifiers could also sign."""

_FILE_EVERY_S: Final = 1.0
_AGE_LIMIT_S: Final = 3600.0
_RETRY_S: Final = 30.0
_RETRY_WITHOUT_KEYS_S: Final = 5.0
_TIMEOUT_S: Final = 5.0
_TOTAL_TIMEOUT_S: Final = 15.0
_SIZE_LIMIT_BYTES: Final = 1 << 20
_CHUNK_BYTES: Final = 64 << 10
_log: Final = structlog.get_logger("moorage.auth")


class KeysUnavailable(Exception):
    """No keys to verify with; the message is for the operator."""


class KeySource(Protocol):
    """Keys of one issuer."""

    async def keys(self, kid: str) -> TrustedKeys:
        """Return all keys; reload them if `kid` is unknown.  Raises KeysUnavailable."""
        ...

    async def close(self) -> None: ...


class Fetch(Protocol):
    """Type of `fetch`."""

    def __call__(self, url: str, ca: str) -> bytes:
        """Return the body of a 200 response; blocks.  Raises OSError or ValueError."""
        ...


def key_source(issuer: Issuer, clock: Callable[[], float]) -> KeySource:
    """Return the source of keys that the policy configures for an issuer."""
    if issuer.keys and "://" not in issuer.keys:
        return FileKeys(issuer.keys, clock)
    return RemoteKeys(issuer, fetch, clock)


class FileKeys:
    """A JWK Set in a file; checked once a second at most."""

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self._file: ReloadedFile[TrustedKeys | None] = ReloadedFile(path, _parsed, None)
        self._clock = clock
        self._checked: float | None = None

    async def keys(self, kid: str) -> TrustedKeys:
        del kid
        now = self._clock()
        if self._checked is None or not 0 <= now - self._checked < _FILE_EVERY_S:
            self._checked = now
            self._reload()
        if self._file.value is None:
            raise KeysUnavailable(f"{self._file.path} holds no keys that can be used")
        return self._file.value

    def _reload(self) -> None:
        if self._file.reload() is Reload.FAILED and self._file.problem is not None:
            cause = reason_of(self._file.problem)
            _log.error("cannot read an issuer's keys", file=self._file.path, cause=cause)

    async def close(self) -> None:
        pass


class RemoteKeys:
    """An issuer's keys, fetched by HTTP."""

    def __init__(self, issuer: Issuer, get: Fetch, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._get = get
        self._clock = clock
        self._keys: TrustedKeys | None = None
        self._fetched = self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def keys(self, kid: str) -> TrustedKeys:
        known = self._keys
        if known is None or kid not in known.by_id:
            await self._refresh()
        elif self._clock() - self._fetched > _AGE_LIMIT_S:
            self._start()
        if self._keys is None:
            raise KeysUnavailable(f"no keys of {self._issuer.url} could be fetched")
        return self._keys

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()

    async def _refresh(self) -> None:
        task = self._start()
        if task is not None:
            await asyncio.shield(task)

    def _start(self) -> asyncio.Task[None] | None:
        """Return the running fetch, or a new one; None if the last one began a moment ago."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        pause_s = _RETRY_WITHOUT_KEYS_S if self._keys is None else _RETRY_S
        if self._clock() - self._tried < pause_s:
            return None
        self._tried = self._clock()
        self._fetching = asyncio.create_task(self._work(), name=f"keys of {self._issuer.name}")
        return self._fetching

    async def _work(self) -> None:
        try:
            async with asyncio.timeout(_TOTAL_TIMEOUT_S):
                self._keys = await asyncio.to_thread(self._load)
            self._fetched = self._clock()
        except (OSError, ValueError, RecursionError) as error:  # TimeoutError is an OSError
            cause = str(error) or type(error).__name__
            _log.error("cannot fetch an issuer's keys", issuer=self._issuer.url, cause=cause)

    def _load(self) -> TrustedKeys:
        issuer = self._issuer
        address = issuer.keys
        if not address:
            document = json.loads(
                self._get(f"{issuer.url.rstrip('/')}/.well-known/openid-configuration", issuer.ca)
            )
            if not isinstance(document, dict) or document.get("issuer") != issuer.url:
                raise ValueError("its discovery document names another issuer")
            named = document.get("jwks_uri")
            if not isinstance(named, str) or urlsplit(named).scheme not in {"https", urlsplit(issuer.url).scheme}:
                raise ValueError("its discovery document names no jwks_uri that is https")
            address = named
        return _parsed(self._get(address, issuer.ca))


def _parsed(data: bytes) -> TrustedKeys:
    """Return the public keys of a JWK Set, without secrets.  Raises ValueError if there are none."""
    try:
        keys = read_jwks(data, PUBLIC)
    except KeyFileInvalid as error:
        raise ValueError(str(error)) from error
    if not keys.by_id:
        raise ValueError("; ".join(["it holds no public key that can be used", *keys.notes]))
    return keys


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def fetch(url: str, ca: str) -> bytes:
    """Fetch a document; see `Fetch`.  Proxies of the environment are used; redirects are not followed."""
    if urlsplit(url).scheme not in {"http", "https"}:
        raise ValueError(f"expected an http or https URL, found {url!r}")
    context = ssl.create_default_context(cafile=ca or None)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirect)
    request = urllib.request.Request(url, headers={"accept": "application/json"})  # noqa: S310  checked above
    until = time.monotonic() + _TOTAL_TIMEOUT_S
    data = bytearray()
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            # In pieces: a server that sends a byte every second would block this thread for ever.
            while chunk := answer.read1(_CHUNK_BYTES):
                data += chunk
                if len(data) > _SIZE_LIMIT_BYTES:
                    raise ValueError(f"{url} answered with more than {_SIZE_LIMIT_BYTES} bytes")
                if time.monotonic() > until:
                    raise TimeoutError(f"{url} takes more than {_TOTAL_TIMEOUT_S:g} s to answer")
    except urllib.error.HTTPError as error:
        with error:
            raise ValueError(f"{url} answered {error.code}") from error
    except http.client.HTTPException as error:
        raise ValueError(f"{url} does not answer as HTTP does: {type(error).__name__}") from error
    return bytes(data)
