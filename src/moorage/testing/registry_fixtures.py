"""Fixtures and helpers that the contract suites of a registry share."""

from __future__ import annotations

import os
from io import FileIO
from typing import TYPE_CHECKING, Final, Protocol

import pytest
import pytest_asyncio

from moorage.registry.interface import FoundBlob, GrowingFile
from moorage.types import Digest, RepoName, parse_repo_name, parse_tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from moorage.registry.interface import BlobRedirect, Registry, Uploaded
    from moorage.testing.builders import Built

__all__ = ["ABSENT", "NAME", "OTHER", "Publish", "RegistryFixtures", "content_of", "push", "upload"]

NAME: Final = parse_repo_name("library/app")
OTHER: Final = parse_repo_name("team/other")
ABSENT: Final = Digest.of(b"never pushed")


class Publish(Protocol):
    """Make a blob, or a manifest with all of its parts, available in a repository."""

    async def __call__(self, built: Built, *tags: str, name: RepoName = NAME) -> None: ...


class RegistryFixtures:
    """`registry` and `other` are two processes of one registry, made by `connect`."""

    @pytest.fixture
    def connect(self) -> Callable[[], Registry]:
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def registry(self, connect: Callable[[], Registry]) -> AsyncIterator[Registry]:
        registry = connect()
        yield registry
        await registry.close()

    @pytest_asyncio.fixture
    async def other(self, connect: Callable[[], Registry]) -> AsyncIterator[Registry]:
        """Return the registry of another process."""
        registry = connect()
        yield registry
        await registry.close()

    @pytest.fixture
    def publish(self, registry: Registry) -> Publish:
        """Return a function that pushes; a registry without pushes fills what it reads from instead."""

        async def publish(built: Built, *tags: str, name: RepoName = NAME) -> None:
            await push(registry, built, *tags, name=name)

        return publish


async def upload(
    registry: Registry, data: bytes, digest: Digest | None = None, *, name: RepoName = NAME
) -> Uploaded:
    """Push a blob in one request."""
    digest = Digest.of(data) if digest is None else digest
    status = await registry.uploads.start(name, algorithm=digest.algorithm)
    async with registry.uploads.extend(name, status.uuid, status.state, algorithm=digest.algorithm) as part:
        if data:
            await part.write(data)
        return await part.finish(digest)


async def push(registry: Registry, built: Built, *tags: str, name: RepoName = NAME) -> None:
    """Push a blob, or a manifest after everything that it names, and tag it."""
    for part in built.closure:
        if not part.is_manifest:
            await upload(registry, part.data, part.digest, name=name)
        else:
            found = tuple(map(parse_tag, tags)) if part is built else ()
            await registry.manifests.put(name, part.digest, part.media_type, part.data, tags=found)


async def content_of(found: BlobRedirect | FoundBlob) -> bytes:
    """Return the selected bytes of a blob; an open file is closed."""
    assert isinstance(found, FoundBlob)
    content, span = found.content, range(found.size) if found.span is None else found.span
    if isinstance(content, bytes):
        return content
    if isinstance(content, FileIO):
        with content:
            return os.pread(content.fileno(), len(span), span.start)
    if isinstance(content, GrowingFile):
        try:
            end = span.start
            while end < span.stop:
                end = await content.grown(end, span.stop)
            return os.pread(content.file.fileno(), len(span), span.start)
        finally:
            content.close()
    async with content as pieces:
        return b"".join([piece async for piece in pieces])
