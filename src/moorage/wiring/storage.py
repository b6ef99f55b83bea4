"""Storage: settings become the driver that the `storage` section names.

The libraries of a driver are imported only if its section is configured: a registry on files neither loads nor
needs those of object stores.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from moorage import __version__
from moorage.registry import layout
from moorage.storage.driver import StorageError
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from moorage.config.model import Settings
    from moorage.config.sections.storage import S3, Azure, Filesystem, Gcs
    from moorage.metrics.recorder import Reading
    from moorage.storage.azure.options import AzureOptions
    from moorage.storage.driver import Driver
    from moorage.storage.gcs.options import GcsOptions
    from moorage.storage.s3.options import S3Options

__all__ = [
    "Store",
    "azure_options",
    "gcs_options",
    "make_driver",
    "open_store",
    "opened_driver",
    "prepare",
    "s3_options",
    "wait_for_content",
]

_DEFAULT_CLASSES: Final = {"", "none", "standard"}
_DEFAULT_ACLS: Final = {"", "private"}
_LOOK_AGAIN_S: Final = 10.0


class Store(NamedTuple):
    """A driver, and the current values of metrics that only its kind has."""

    driver: Driver
    readings: Callable[[], Iterable[Reading]] = tuple


def open_store(settings: Settings, *, processors: int = 1) -> Store:
    """Return the driver of the `storage` section, for a node with `processors`.  Raises StartupError."""
    prepare(settings)
    storage = settings.storage
    if storage.filesystem is not None:
        return _filesystem(storage.filesystem, processors)
    if storage.s3 is not None:
        return Store(_s3(storage.s3))
    if storage.gcs is not None:
        return Store(_gcs(storage.gcs))
    if storage.azure is not None:
        return Store(_azure(storage.azure))
    return Store(MemoryDriver())


def make_driver(settings: Settings) -> Driver:
    """Return the driver of the `storage` section.  Raises StartupError."""
    return open_store(settings).driver


@asynccontextmanager
async def opened_driver(settings: Settings) -> AsyncIterator[Driver]:
    """Yield the driver of the `storage` section and close it at the end.  Raises StartupError."""
    driver = make_driver(settings)
    try:
        yield driver
    finally:
        await driver.close()


async def wait_for_content(settings: Settings, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Return when the store holds a registry: before that, background work has nothing to do.

    It must write nothing before that, either: it would create a data directory that was lost a moment ago, and a
    bare mount point with a layout below it counts as the data directory (`storage/filesystem/data_directory.py`).
    A driver that is made after this knows the directory, and detects its loss.  Raises StartupError.
    """
    async with opened_driver(settings) as driver:
        while not await _has_content(driver):
            await sleep(_LOOK_AGAIN_S)


async def _has_content(driver: Driver) -> bool:
    # A store that fails is reported by the storage monitor, and in a bucket by the first probe.
    with suppress(StorageError):
        async for names in driver.children(layout.ROOT, limit=1):
            if names:
                return True
    return False


def prepare(settings: Settings) -> None:
    """Import the libraries of the driver, so that the workers share them.  Raises StartupError."""
    storage = settings.storage
    if storage.s3 is not None:
        from moorage.storage.s3 import connection as s3_connection

        s3_connection.require_libraries()
    if storage.gcs is not None:
        from moorage.storage.gcs import credentials as gcs_credentials

        gcs_credentials.require_library()
        gcs_credentials.identity_of(gcs_options(storage.gcs))
    if storage.azure is not None:
        from moorage.storage.azure import connection as azure_connection

        azure_connection.require_libraries()


def _filesystem(files: Filesystem, processors: int) -> Store:
    driver = FilesystemDriver(Path(files.rootdirectory), max_threads=files.maxthreads, processors=processors)

    def readings() -> Iterator[Reading]:
        yield "moorage_storage_threads", (), driver.pool.threads
        yield "moorage_storage_queue_length", (), driver.pool.waiting

    return Store(driver, readings)


def _s3(s3: S3) -> Driver:
    from moorage.storage.object_store.driver import ObjectDriver
    from moorage.storage.s3.store import S3Store

    return ObjectDriver.with_chunk_log(S3Store(s3_options(s3)))


def _gcs(gcs: Gcs) -> Driver:
    from moorage.storage.gcs.store import GcsStore
    from moorage.storage.object_store.driver import ObjectDriver

    return ObjectDriver.with_chunk_log(GcsStore(gcs_options(gcs)))


def _azure(azure: Azure) -> Driver:
    from moorage.storage.azure.connection import AzureConnection
    from moorage.storage.azure.store import AzureStore
    from moorage.storage.azure.uploads import AzureUploads
    from moorage.storage.object_store.driver import ObjectDriver

    store = AzureStore(AzureConnection(azure_options(azure)))
    return ObjectDriver(store, AzureUploads(store))


def gcs_options(gcs: Gcs) -> GcsOptions:
    """Return the options of the driver: the section, with its defaults filled in."""
    from moorage.storage.gcs.options import GcsOptions

    return GcsOptions(
        bucket=gcs.bucket,
        rootdirectory=gcs.rootdirectory,
        endpoint=gcs.endpoint,
        keyfile=gcs.keyfile,
        credentials=gcs.credentials,
        cabundle=gcs.cabundle,
        useragent=gcs.useragent or f"moorage/{__version__}",
        chunksize=gcs.chunksize,
        maxconcurrency=gcs.maxconcurrency,
    )


def azure_options(azure: Azure) -> AzureOptions:
    """Return the options of the driver: the section, with its defaults filled in."""
    from moorage.storage.azure.options import AzureOptions

    url = azure.serviceurl
    return AzureOptions(
        accountname=azure.accountname,
        container=azure.container,
        credential_type=azure.credential_type,
        accountkey=azure.accountkey,
        tenantid=azure.credentials.tenantid,
        clientid=azure.credentials.clientid,
        secret=azure.credentials.secret,
        realm=azure.realm,
        serviceurl=url if "://" in url or not url else f"https://{url}",
        rootdirectory=azure.rootdirectory,
        skipverify=azure.skipverify,
        cabundle=azure.cabundle,
        useragent=azure.useragent or f"moorage/{__version__}",
        attempts=max(1, azure.max_retries or 5),
        retry_delay=azure.retry_delay,
    )


def s3_options(s3: S3) -> S3Options:
    """Return the options of the driver: the section, with its defaults filled in."""
    from moorage.storage.s3.options import S3Options

    return S3Options(
        bucket=s3.bucket,
        rootdirectory=s3.rootdirectory,
        region=s3.region,
        regionendpoint=s3.regionendpoint,
        forcepathstyle=s3.forcepathstyle,
        redirectendpoint=s3.redirectendpoint.rstrip("/"),
        accesskey=s3.accesskey,
        secretkey=s3.secretkey,
        sessiontoken=s3.sessiontoken,
        secure=s3.secure,
        skipverify=s3.skipverify,
        cabundle=s3.cabundle,
        encrypt=s3.encrypt,
        keyid=s3.keyid,
        storageclass="" if s3.storageclass in _DEFAULT_CLASSES else s3.storageclass.upper(),
        objectacl="" if s3.objectacl in _DEFAULT_ACLS else s3.objectacl,
        useragent=s3.useragent or f"moorage/{__version__}",
        usedualstack=s3.usedualstack,
        accelerate=s3.accelerate,
        usefipsendpoint=s3.usefipsendpoint,
        log_requests=s3.loglevel.startswith("debug"),
        chunksize=s3.chunksize,
        multipartcopychunksize=s3.multipartcopychunksize,
        multipartcopymaxconcurrency=s3.multipartcopymaxconcurrency,
        multipartcopythresholdsize=s3.multipartcopythresholdsize,
    )
