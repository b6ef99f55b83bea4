"""The public keys of foreign issuers: out of a file, or fetched and kept.

    file  ──────────────────────────────► read again when it changes
    URL, or the issuer's discovery ─────► fetched in a thread; again in the background after an hour, and at once
                                          (but not more often than every 30 s) for a key that is not known

An issuer that is down costs nobody a login whose key is known: old keys are used until new ones come.

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

__all__ = ["PUBLIC", "Fetch", "FileKeys", "KeySource", "KeysUnavailable", "RemoteKeys", "fetch", "source_of"]

PUBLIC: Final = frozenset(name for name in ALGORITHMS if not name.startswith("HS"))
"""What a foreign token may be signed with: nothing where who verifies could also sign."""

_FILE_EVERY_S: Final = 1.0
_AGE_LIMIT_S: Final = 3600.0
_AGAIN_S: Final = 30.0
_AGAIN_WITHOUT_KEYS_S: Final = 5.0
_TIMEOUT_S: Final = 5.0
_WHOLE_TIMEOUT_S: Final = 15.0
_SIZE_LIMIT_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 64 << 10
_log: Final = structlog.get_logger("moorage.auth")


class KeysUnavailable(Exception):
    """There are no keys to verify with; the message is for the operator."""


class KeySource(Protocol):
    async def keys(self, kid: str) -> TrustedKeys:
        """All keys; looks for newer ones where `kid` is not among them.  Raises KeysUnavailable."""
        ...

    async def close(self) -> None: ...


class Fetch(Protocol):
    def __call__(self, url: str, ca: str) -> bytes:
        """The body of an answer of 200; blocks.  Raises OSError or ValueError."""
        ...


def source_of(issuer: Issuer, clock: Callable[[], float]) -> KeySource:
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
        self._issuer, self._get, self._clock = issuer, get, clock
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
        if (task := self._start()) is not None:
            await asyncio.shield(task)

    def _start(self) -> asyncio.Task[None] | None:
        """The fetch under way, one that begins now, or None where the last one was a moment ago."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        pause_s = _AGAIN_WITHOUT_KEYS_S if self._keys is None else _AGAIN_S
        if self._clock() - self._tried < pause_s:
            return None
        self._tried = self._clock()
        self._fetching = asyncio.create_task(self._work(), name=f"keys of {self._issuer.name}")
        return self._fetching

    async def _work(self) -> None:
        try:
            async with asyncio.timeout(_WHOLE_TIMEOUT_S):
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
    """The public keys of a JWK Set; a secret in it would let everybody sign.  Raises ValueError if none's left."""
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
    """See `Fetch`.  Proxies of the environment are used; redirections are not followed."""
    if urlsplit(url).scheme not in {"http", "https"}:
        raise ValueError(f"expected an http or https URL, found {url!r}")
    context = ssl.create_default_context(cafile=ca or None)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirect)
    request = urllib.request.Request(url, headers={"accept": "application/json"})  # noqa: S310  checked above
    until = time.monotonic() + _WHOLE_TIMEOUT_S
    data = bytearray()
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            # Piece by piece: one that sends a byte every second would hold this thread for ever.
            while piece := answer.read1(_PIECE_BYTES):
                data += piece
                if len(data) > _SIZE_LIMIT_BYTES:
                    raise ValueError(f"{url} answered with more than {_SIZE_LIMIT_BYTES} bytes")
                if time.monotonic() > until:
                    raise TimeoutError(f"{url} takes more than {_WHOLE_TIMEOUT_S:g} s to answer")
    except urllib.error.HTTPError as error:
        with error:
            raise ValueError(f"{url} answered {error.code}") from error
    except http.client.HTTPException as error:
        raise ValueError(f"{url} does not answer as HTTP does: {type(error).__name__}") from error
    return bytes(data)
