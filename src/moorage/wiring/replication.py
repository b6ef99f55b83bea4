"""Ends of a copy: settings become clients of other registries and the registry over this store.

The library of the client (extra `mirror`) is imported only where a client is made.
"""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from moorage import __version__, extras
from moorage.quota.registry import LimitedRegistry
from moorage.startup import StartupError
from moorage.wiring.app import make_registry
from moorage.wiring.quota import make_usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.config.model import Settings
    from moorage.config.sections.sync import RemoteRegistry
    from moorage.registry.interface import Registry
    from moorage.storage.driver import Driver
    from moorage.upstream.client import RegistryClient
    from moorage.upstream.credentials import CredentialSource

__all__ = ["make_client", "make_docker_client", "make_settings_client", "opened_registry", "require_client"]


def require_client(needed_by: str) -> None:
    """Check that the library of the client is installed.  Raises StartupError."""
    extras.require("mirror", needed_by, "aiohttp")


def make_client(
    address: str,
    credentials: CredentialSource,
    *,
    plain_http: bool = False,
    ca_file: Path | None = None,
    realms: tuple[str, ...] = (),
) -> RegistryClient:
    """Return a client of the registry at `address`; its owner closes it.  Raises StartupError."""
    require_client(f"access to {address}")
    from moorage.upstream.client import RegistryClient
    from moorage.upstream.reference import ReferenceInvalid, parse_endpoint
    from moorage.upstream.transport import ClientOptions

    try:
        endpoint = parse_endpoint(address, plain_http=plain_http)
    except ReferenceInvalid as error:
        raise StartupError(str(error)) from None
    options = ClientOptions(
        ca_file=ca_file,
        allowed_realms=realms,
        user_agent=f"moorage/{__version__}",
    )
    return RegistryClient(endpoint, credentials, options)


def make_settings_client(remote: RemoteRegistry) -> RegistryClient:
    """Return a client with the credentials of a section.  Raises StartupError."""
    require_client("sync")
    from moorage.upstream.credentials import AnonymousCredentials, HelperCredentials, StaticCredentials

    credentials: CredentialSource = AnonymousCredentials()
    if remote.exec.command:
        credentials = HelperCredentials(remote.exec.command, remote.exec.lifetime)
    elif remote.username:
        credentials = StaticCredentials(remote.username, remote.password)
    return make_client(
        remote.registry,
        credentials,
        plain_http=remote.plainhttp,
        ca_file=Path(remote.ca) if remote.ca else None,
        realms=remote.realms,
    )


def make_docker_client(
    address: str, *, plain_http: bool, ca_file: Path | None, auth_file: Path | None
) -> RegistryClient:
    """Return a client with the credentials of Docker's configuration, or of `auth_file`.  Raises StartupError."""
    require_client(f"access to {address}")
    from moorage.upstream.docker_config import DockerConfigCredentials

    return make_client(address, DockerConfigCredentials(auth_file), plain_http=plain_http, ca_file=ca_file)


@asynccontextmanager
async def opened_registry(settings: Settings, driver: Driver) -> AsyncIterator[Registry]:
    """Yield the registry over the store, with its rules and quotas as for a client; the driver stays open."""
    registry = make_registry(driver, settings, secrets.token_bytes(32))
    usage = make_usage(driver, settings)
    try:
        yield registry if usage is None else LimitedRegistry(registry, driver, usage)
    finally:
        if usage is not None:
            await usage.close()
        await registry.close(driver=False)
