"""Mirrors in the process of a test, over a registry that fails as instructed (`tests/upstream/faulty.py`)."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from moorage.proxy.checks import TagChecks
from moorage.proxy.registry import MirrorRegistry
from moorage.proxy.spool import Spool
from moorage.proxy.upstreams import Upstream, UpstreamOptions, Upstreams
from moorage.registry.stored import StoredOptions, StoredRegistry
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.testing.registry_fixtures import content_of
from moorage.types import parse_repo_name, parse_tag
from moorage.upstream.client import RegistryClient
from moorage.upstream.credentials import AnonymousCredentials
from moorage.upstream.reference import parse_endpoint
from moorage.upstream.transport import ClientOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from tests.upstream.faulty import FaultyRegistry

    from moorage.registry.interface import Manifest
    from moorage.storage.driver import Driver
    from moorage.types import Digest
    from moorage.upstream.credentials import CredentialSource

__all__ = ["APP", "LATEST", "Mirror", "make_mirror", "mirror_of"]

APP: Final = parse_repo_name("library/app")
LATEST: Final = parse_tag("latest")


class Mirror(MirrorRegistry):
    """A mirror with short ways to what tests ask for."""

    stored: StoredRegistry

    async def tag(self, tag: str = LATEST, name: str = APP) -> Manifest:
        return await self.manifests.get(parse_repo_name(name), parse_tag(tag), pull=True)

    async def blob(
        self, digest: Digest, name: str = APP, *, span: range | None = None, files: bool = False
    ) -> bytes:
        select = None if span is None else lambda _: span
        found = await self.blobs.fetch(parse_repo_name(name), digest, select=select, files=files)
        return await content_of(found)


def make_mirror(
    upstreams: FaultyRegistry | Sequence[FaultyRegistry],
    root: Path,
    *,
    driver: Driver | None = None,
    options: UpstreamOptions | None = None,
    credentials: CredentialSource | None = None,
    client_options: ClientOptions | None = None,
    clock: Callable[[], float] = time.monotonic,
    **more: Any,
) -> Mirror:
    """Return a mirror, as one process of a node: those with the same `root` share store and spool.

    Several `upstreams` are endpoints of one upstream registry.  `more` are further parameters of `MirrorRegistry`.
    """
    endpoints = upstreams if isinstance(upstreams, list | tuple) else [upstreams]
    clients = [
        RegistryClient(
            parse_endpoint(endpoint.url),  # type: ignore[union-attr]  # no string is a registry
            credentials or AnonymousCredentials(),
            client_options or ClientOptions(connect_timeout_s=30, read_timeout_s=30),
        )
        for endpoint in endpoints
    ]
    upstream = Upstream(options or UpstreamOptions(), clients, clock=clock)
    stored = StoredRegistry(driver or FilesystemDriver(root / "store"), b"secret", StoredOptions(links_s=0))
    mirror = Mirror(
        stored,
        Upstreams([upstream]),
        stored.mirrored,
        Spool(root / "spool"),
        more.pop("checks", None) or TagChecks(root / "spool" / "checks"),
        **{"companions": False, **more},
    )
    mirror.stored = stored
    return mirror


@asynccontextmanager
async def mirror_of(
    upstreams: FaultyRegistry | Sequence[FaultyRegistry], root: Path, **more: Any
) -> AsyncIterator[Mirror]:
    """Yield the result of `make_mirror`."""
    mirror = make_mirror(upstreams, root, **more)
    try:
        yield mirror
    finally:
        await mirror.close()
