"""Connections to S3 by two libraries, and their credentials.

obstore (Rust) moves bytes, small objects and flat listings: a call costs 0.2 ms of CPU and never holds the event
loop.  aiobotocore does what obstore cannot: single parts of multipart uploads, copies, paged listings of names;
1 to 2 ms a call on the event loop, so at most `_AT_ONCE` at a time that move bytes, and as many others.  It also
finds the credentials for both: obstore has a snapshot of them (signing with an asynchronous provider deadlocks the
loop).

Everything here is made on first use, in the process that uses it: a forked runtime of obstore would be dead.

Source: docs/reference/object-storage.md, section 5.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from moorage import extras
from moorage.storage.driver import StorageUnavailable
from moorage.storage.object_store.errors import Location
from moorage.storage.s3.errors import failure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from obstore.store import ClientConfig, S3Credential, S3Store

    from moorage.storage.s3.options import S3Options

__all__ = ["S3Connection", "Stores", "require_libraries"]

_AT_ONCE: Final = 8
_CONNECT_S: Final = 5
_LEAST_RATE: Final = 128 << 10
"""Bytes in a second below which sending counts as hanging."""
_SNAPSHOT_S: Final = 60.0
_EXIT_S: Final = 0.2


def require_libraries() -> None:
    """Import what is needed, so that processes forked later share it.  Raises StartupError."""
    extras.load("s3", "storage.s3", "aiobotocore.session", "obstore.store")
    # A thread of obstore that wakes up in an interpreter that is just going down aborts the process
    # (PyO3/pyo3-async-runtimes issue 40: 2 of 60 short processes, 0 of 60 with this).  Servers leave by _exit.
    if not _exit_hooks:
        _exit_hooks.append(atexit.register(time.sleep, _EXIT_S))


_exit_hooks: Final[list[object]] = []


class Stores:
    """Stores of obstore, all of one bucket: `reading` retries by itself.

    `writing` does not, since `requests.put` has to know whether a lost attempt made the condition false.  Nor do
    `deleting`, and `deleting_one`, which deletes one by one: a collector has to know whether an attempt may still
    be carried out.
    """

    def __init__(self, make: Callable[..., S3Store], options: S3Options) -> None:
        retries = {
            "max_retries": options.attempts - 1,
            "retry_timeout": timedelta(seconds=2 * options.answer_s),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        }
        never = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
        sending_s = options.answer_s + options.chunksize / _LEAST_RATE
        headers = {"x-amz-acl": options.objectacl} if options.objectacl else {}
        encryption: dict[str, Any] = {}
        if options.encrypt:
            encryption = {"server_side_encryption": "aws:kms" if options.keyid else "AES256"}
            if options.keyid:
                encryption["sse_kms_key_id"] = options.keyid
        # Hours for a body that flows, and much less for a silent connection.
        reading: ClientConfig = {
            "timeout": timedelta(hours=12),
            "read_timeout": timedelta(seconds=options.answer_s),
        }
        writing: ClientConfig = {"timeout": timedelta(seconds=sending_s), "default_headers": headers}
        self.reading = make(reading, retry_config=retries)
        self.writing = make(writing, retry_config=never, **encryption)
        self.deleting = make(reading, retry_config=never)
        self.deleting_one = make(reading, retry_config=never, disable_bulk_delete=True)
        self.signing = self.reading
        if options.redirectendpoint:
            self.signing = make(reading, retry_config=retries, redirect=options.redirectendpoint)


class S3Connection:
    """Clients, stores and credentials of one driver in one process."""

    def __init__(self, options: S3Options) -> None:
        require_libraries()
        self.options = options
        self.location = Location(options.endpoint_url or f"AWS {options.region}", options.bucket, options.prefix)
        self.moving = asyncio.Semaphore(min(_AT_ONCE, options.multipartcopymaxconcurrency))
        self.asking = asyncio.Semaphore(_AT_ONCE)
        self._stack = AsyncExitStack()
        self._closed = False
        self._lock = asyncio.Lock()
        self._session: Any = None
        self._client: Any = None
        self._stores: Stores | None = None
        self._credentials: Any = None
        self._snapshot: dict[str, Any] = {}
        self._taken = 0.0

    async def client(self) -> Any:
        """Return the client of aiobotocore; untyped, as the library is."""
        if self._client is None:
            async with self._lock:
                if self._client is None:
                    self._client = await self._made(self._make_client())
        return self._client

    async def stores(self) -> Stores:
        """Return the stores of obstore, with credentials that are valid for the next minutes."""
        if self._stores is None:
            client = None if self.options.regionendpoint else await self.client()
            async with self._lock:
                if self._stores is None:
                    self._stores = await self._made(self._make_stores(client))
        elif not self._static and time.monotonic() - self._taken > _SNAPSHOT_S:
            await self._made(self._refresh())
        return self._stores

    async def close(self) -> None:
        """Close every session.  Requests that are still running fail; later ones are refused."""
        self._closed = True
        async with self._lock:  # a client that is being made is closed too
            self._client = self._stores = None
            await self._stack.aclose()

    async def _made(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await `work`, which makes a client or finds credentials; translate its errors.

        Raises StorageUnavailable also after `close`: nothing would close the sessions that are opened then.
        """
        if self._closed:
            work.close()
            raise self.location.closed()
        try:
            return await work
        except StorageUnavailable:
            raise
        except Exception as error:
            raise self.location.error(failure_of(error), "connecting") from error

    def _sessions(self) -> Any:
        if self._session is None:
            from aiobotocore.session import get_session

            self._session = get_session()
            # Two thirds of the time of a page of 1000 keys is spent on times, most of which are not used.
            parsers = self._session.get_component("response_parser_factory")
            parsers.set_parser_defaults(timestamp_parser=_time)
        return self._session

    async def _make_client(self) -> Any:
        from aiobotocore.config import AioConfig

        options = self.options
        style: dict[str, Any] = {"payload_signing_enabled": False, "addressing_style": options.style}
        if options.accelerate:
            style["use_accelerate_endpoint"] = True
        config = AioConfig(
            signature_version="s3v4",
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            parameter_validation=False,
            connect_timeout=_CONNECT_S,
            read_timeout=2 * options.answer_s + options.chunksize // _LEAST_RATE,
            retries={"total_max_attempts": options.attempts, "mode": "standard"},
            max_pool_connections=2 * _AT_ONCE,
            user_agent=options.useragent or None,
            use_dualstack_endpoint=options.usedualstack or None,
            use_fips_endpoint=options.usefipsendpoint or None,
            s3=style,
        )
        static: dict[str, Any] = {}
        if self._static:
            static = {
                "aws_access_key_id": options.accesskey,
                "aws_secret_access_key": options.secretkey,
                "aws_session_token": options.sessiontoken or None,
            }
        context = self._sessions().create_client(
            "s3",
            region_name=self.region,
            endpoint_url=options.endpoint_url or None,
            use_ssl=options.secure,
            verify=self._verify(),
            config=config,
            **static,
        )
        return await self._stack.enter_async_context(context)

    @property
    def region(self) -> str:
        return self.options.region or "us-east-1"

    @property
    def _static(self) -> bool:
        return bool(self.options.accesskey and self.options.secretkey)

    def _verify(self) -> bool | str:
        """Return the file of trusted certificates: the host's, not those that are shipped with botocore."""
        if self.options.skipverify:
            return False
        import ssl

        places = ssl.get_default_verify_paths()
        known = (self.options.cabundle, os.environ.get("AWS_CA_BUNDLE", ""), os.environ.get("SSL_CERT_FILE", ""))
        system = ("/etc/ssl/certs/ca-certificates.crt", places.cafile or "", places.openssl_cafile)
        return next((path for path in (*known, *system) if path and os.path.isfile(path)), True)

    async def _refresh(self) -> None:
        """Take a new snapshot of the credentials."""
        if self._static:
            options = self.options
            self._snapshot = {
                "access_key_id": options.accesskey,
                "secret_access_key": options.secretkey,
                "token": options.sessiontoken or None,
            }
        else:
            if self._credentials is None:
                self._credentials = await self._sessions().get_credentials()
            if self._credentials is None:
                from botocore.exceptions import NoCredentialsError

                raise NoCredentialsError
            found = await self._credentials.get_frozen_credentials()
            self._snapshot = {
                "access_key_id": found.access_key,
                "secret_access_key": found.secret_key,
                "token": found.token,
            }
        self._taken = time.monotonic()

    def provide(self) -> S3Credential:
        """Return the credentials for obstore, which requests them again after a minute: it renews five minutes
        early.
        """
        expires = None if self._static else datetime.now(UTC) + timedelta(minutes=6)
        return {
            "access_key_id": self._snapshot["access_key_id"],
            "secret_access_key": self._snapshot["secret_access_key"],
            "token": self._snapshot["token"],
            "expires_at": expires,
        }

    async def _make_stores(self, client: Any) -> Stores:
        """`client` resolves what region, dual stack, FIPS, acceleration and the bucket's name make of Amazon's
        endpoint; None for a custom one.
        """
        await self._refresh()
        options = self.options
        virtual = options.style == "virtual"
        if client is None:
            endpoint = _with_bucket(options.endpoint_url, options.bucket) if virtual else options.endpoint_url
        else:
            url = await client.generate_presigned_url(
                "get_object", Params={"Bucket": options.bucket, "Key": "key"}
            )
            parts = urlsplit(url)
            endpoint, virtual = (
                f"{parts.scheme}://{parts.netloc}",
                not parts.path.startswith(f"/{options.bucket}/"),
            )

        def make(client: ClientConfig, *, redirect: str = "", **more: Any) -> S3Store:
            other = _with_bucket(redirect, options.bucket) if virtual else redirect
            return self._make_store(client, other if redirect else endpoint, virtual=virtual, **more)

        return Stores(make, options)

    def _make_store(self, client: ClientConfig, endpoint: str, *, virtual: bool, **more: Any) -> S3Store:
        from obstore.store import S3Store

        options = self.options
        config: ClientConfig = {
            **client,
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=_CONNECT_S),
        }
        if options.useragent:
            config["user_agent"] = options.useragent
        if options.skipverify:
            config["allow_invalid_certificates"] = True
        if bundle := options.cabundle or os.environ.get("AWS_CA_BUNDLE", ""):
            with open(bundle, "rb") as file:
                config["root_certificate"] = file.read()
        return S3Store(
            options.bucket,
            client_options=config,
            credential_provider=self.provide,
            endpoint=endpoint,
            region=self.region,
            virtual_hosted_style_request=virtual,
            unsigned_payload=True,
            **more,
        )


def _with_bucket(url: str, bucket: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{bucket}.{rest}"


def _time(text: object) -> datetime:
    """`2026-11-24T15:18:03.000Z` quickly; what else there is (the dates of HEAD) as the library does it."""
    if isinstance(text, str) and text.endswith("Z") and "T" in text:
        return datetime.fromisoformat(text)
    return parsedate_to_datetime(str(text))
