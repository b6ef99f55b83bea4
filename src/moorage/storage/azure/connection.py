"""Connection to Azure: one client of azure-storage-blob in each process, its credentials, and signed URLs.

A call costs 3 ms of CPU on the event loop, so at most `_AT_ONCE` are made at a time.  The library's retries are
switched off: `requests.py` retries as often as `max_retries` and `retry_delay` specify.

    shared_key            the account's key; it also signs the URLs
    client_secret         an application's identity
    default_credentials   azure.identity's chain: environment, workload identity, managed identity, ...

Identities sign URLs with a user delegation key, which the service gives to those that have the right
(`generateUserDelegationKey`); without it blobs pass through the registry, with one warning.

Proxies are taken from the environment (HTTPS_PROXY, NO_PROXY), for the service and for tokens.  Everything is made
on first use, in the process and the event loop that use it.

Source: docs/reference/object-storage.md, section 1.3; Azure's "Create a user delegation SAS".
"""

from __future__ import annotations

import asyncio
import io
import os
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage import extras
from moorage.storage.azure.errors import failure_of
from moorage.storage.driver import StorageUnavailable
from moorage.storage.object_store.errors import Location

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from azure.storage.blob import UserDelegationKey
    from azure.storage.blob.aio import BlobClient, BlobServiceClient, ContainerClient

    from moorage.storage.azure.options import AzureOptions

__all__ = ["AzureConnection", "require_libraries"]

_AT_ONCE: Final = 16
_CONNECT_S: Final = 10
_READ_S: Final = 60
_GET_BYTES: Final = 4 << 20
_LARGE_BYTES: Final = 256 << 10
_KEY_LIFE: Final = timedelta(hours=24)
_SKEW: Final = timedelta(minutes=15)
_RETRY_S: Final = 300.0
_log: Final = structlog.get_logger("moorage.storage.azure")


def require_libraries() -> None:
    """Import what is needed, so that processes forked later share it.  Raises StartupError."""
    extras.load("azure", "storage.azure", "azure.storage.blob.aio", "azure.identity.aio", "aiohttp")


class AzureConnection:
    """See the module docstring.  `clock` is of the monotonic kind."""

    def __init__(self, options: AzureOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        require_libraries()
        self.options = options
        self._clock = clock
        self.location = Location(options.url, options.container, kind="container")
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._service: BlobServiceClient | None = None
        self._container: ContainerClient | None = None
        self._credential: Any = None
        self._open = AsyncExitStack()
        self._closed = False
        self._delegation: tuple[UserDelegationKey, datetime] | None = None
        self._asking = asyncio.Lock()
        self._refused_until: float | None = None
        self._warned = False

    @asynccontextmanager
    async def container(self) -> AsyncIterator[ContainerClient]:
        """Return the container's client, for one request."""
        async with self._turns:
            yield await self._client()

    @asynccontextmanager
    async def blob(self, path: str) -> AsyncIterator[BlobClient]:
        """Return the client of one blob, for one request."""
        async with self._turns:
            yield (await self._client()).get_blob_client(path)

    async def url_of(self, path: str) -> str:
        return (await self._client()).get_blob_client(path).url

    async def _client(self) -> ContainerClient:
        """Raises StorageUnavailable, also after `close`: nothing would close the sessions that are opened then."""
        if self._container is None:
            if self._closed:
                raise self.location.closed()
            try:
                self._service = self._make()
            except (ValueError, OSError) as error:
                await self._end()  # the sessions opened before the failure
                raise self.location.error(failure_of(error), "connecting") from error
            self._open.push_async_callback(self._service.close)
            self._container = self._service.get_container_client(self.options.container)
        return self._container

    def _make(self) -> BlobServiceClient:
        from azure.storage.blob.aio import BlobServiceClient

        options = self.options
        agent: dict[str, Any] = {"user_agent": options.useragent} if options.useragent else {}
        return BlobServiceClient(
            options.url,
            credential=self._credentials(),
            transport=self._transport(),
            retry_total=0,
            max_single_get_size=_GET_BYTES,
            max_chunk_get_size=_GET_BYTES,
            **agent,
        )

    def _transport(self) -> Any:
        """Make a pool of connections for one client, so that closing it does not close another client's."""
        import aiohttp
        from azure.core.pipeline.transport import AioHttpTransport

        verify: Any = self._verify()
        # The library's own session has no documented limit and keep-alive.
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=verify, limit=2 * _AT_ONCE),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,
            auto_decompress=False,
        )
        self._open.push_async_callback(session.close)

        class Transport(AioHttpTransport):  # type: ignore[misc]  # it comes untyped
            """Hands large bodies over as files, which aiohttp sends piece by piece."""

            async def send(self, request: Any, **config: Any) -> Any:
                if isinstance(request.data, bytes) and len(request.data) >= _LARGE_BYTES:
                    request.data = io.BytesIO(request.data)
                return await super().send(request, **config)

        return Transport(
            session=session,
            session_owner=False,
            connection_timeout=_CONNECT_S,
            read_timeout=_READ_S,
            connection_verify=not self.options.skipverify,
        )

    def _verify(self) -> Any:
        """Return the system's certificate authorities and `cabundle`; False verifies nothing."""
        import ssl

        if self.options.skipverify:
            return False
        context = ssl.create_default_context()
        if self.options.cabundle:
            context.load_verify_locations(self.options.cabundle)
        return context

    def _credentials(self) -> Any:
        options = self.options
        if options.credential_type == "shared_key":
            return {"account_name": options.accountname, "account_key": options.accountkey}
        from azure.identity.aio import ClientSecretCredential, DefaultAzureCredential

        more: dict[str, Any] = {"transport": self._transport()}
        if options.authority and "AZURE_AUTHORITY_HOST" not in os.environ:
            more["authority"] = options.authority
        if options.credential_type == "client_secret":
            made: Any = ClientSecretCredential(
                options.tenantid,
                options.clientid,
                options.secret,
                # An authority of one's own is unknown to Microsoft's list of them.
                disable_instance_discovery="AZURE_AUTHORITY_HOST" in os.environ,
                **more,
            )
        else:
            made = DefaultAzureCredential(**more)
        self._credential = made
        self._open.push_async_callback(made.close)
        return made

    async def sign(self, path: str, *, expires_s: float) -> str | None:
        """Return a URL for GET and HEAD of the blob without credentials; None where it cannot be signed."""
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        url = await self.url_of(path)
        now = datetime.now(UTC)
        by: dict[str, Any] = {"account_key": self.options.accountkey}
        if self._credential is not None:
            key = await self._delegation_key(now + timedelta(seconds=expires_s))
            if key is None:
                return None
            by = {"user_delegation_key": key}
        try:
            token = generate_blob_sas(
                self.options.accountname,
                self.options.container,
                path,
                permission=BlobSasPermissions(read=True),
                # Clocks differ: a URL that is valid from now on is not yet valid for a slower clock.
                start=now - _SKEW,
                expiry=now + timedelta(seconds=expires_s),
                protocol="https" if url.startswith("https:") else "https,http",
                **by,
            )
        except ValueError as error:  # a key that is not base64
            raise StorageUnavailable(
                f"signing a URL with the account's key at {self.location}: {error}"
            ) from error
        return f"{url}?{token}"

    async def _delegation_key(self, until: datetime) -> UserDelegationKey | None:
        """Return a key that is valid until then.  It is requested about twice a day, and after a refusal not by
        each request.
        """
        async with self._asking:
            if self._delegation is not None and self._delegation[1] > until:
                return self._delegation[0]
            if self._refused_until is not None and self._clock() < self._refused_until:
                return None
            now = datetime.now(UTC)
            end = max(now + _KEY_LIFE, until + _KEY_LIFE / 2)
            await self._client()
            assert self._service is not None, "the container's client was made of it"
            try:
                key = await self._service.get_user_delegation_key(now - _SKEW, end)
            except Exception as error:
                failure = failure_of(error)
                if failure.transient:
                    raise self.location.error(failure, "GetUserDelegationKey") from error
                self._refused_until = self._clock() + _RETRY_S
                if not self._warned:
                    self._warned = True
                    _log.warning(
                        "no redirects: no user delegation key for the identity, blobs come through the registry",
                        hint="give it the role Storage Blob Delegator, or set storage.redirect.disable",
                        code=failure.outcome,
                    )
                return None
            self._delegation = (key, end)
            return key

    async def close(self) -> None:
        """Close every session.  Requests that are still running fail; later ones are refused."""
        self._closed = True
        await self._end()

    async def _end(self) -> None:
        """Close what is open, each part also when closing another one fails or is cancelled."""
        opened, self._open = self._open, AsyncExitStack()
        self._service = self._container = self._credential = None
        await opened.aclose()
