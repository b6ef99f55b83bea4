"""Client of another registry: its operations by the names that `registry/interface.py` has for ours.

A manifest is proved by its digest before it is returned.  A blob is not: its reader hashes the bytes as they pass,
and only the length is checked here.  Nothing is retried except a connection that was closed while it was idle.

Above: `replication/`, `proxy/`.  Below: `session.py`, `uploads.py`, `listings.py`.
Source: distribution-spec 1.1 "Pull", "Push", "Content Discovery".
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.errors import DigestInvalid, ManifestInvalid
from moorage.registry.interface import Manifest
from moorage.registry.media import MEDIA_TYPES, essence, stored_type
from moorage.types import Digest
from moorage.upstream import listings, referrers, uploads
from moorage.upstream.authorization import repository_scope
from moorage.upstream.credentials import AnonymousCredentials
from moorage.upstream.errors import UpstreamInvalid, UpstreamRefused, UpstreamUnreachable
from moorage.upstream.session import RegistrySession
from moorage.upstream.transport import ClientOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.types import Reference, Referrer, RepoName, Tag
    from moorage.upstream.credentials import CredentialSource
    from moorage.upstream.reference import RegistryEndpoint
    from moorage.upstream.transport import UpstreamResponse

__all__ = ["MANIFEST_LIMIT_BYTES", "RegistryClient", "RemoteBlob", "RemoteManifest"]

MANIFEST_LIMIT_BYTES: Final = 4 << 20
_ACCEPT: Final = {"Accept": ", ".join(sorted(MEDIA_TYPES, reverse=True))}
_OK: Final = 200
_CREATED: Final = 201
_PARTIAL: Final = 206
_METHOD_NOT_ALLOWED: Final = 405
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class RemoteManifest:
    """Metadata of a manifest; `size` is in bytes."""

    digest: Digest
    media_type: str
    size: int


class RemoteBlob:
    """Content of a blob, from byte `start` on; `size` is that of the whole blob, None if the registry sent none.

    Iterate once, for the pieces as they are received, unhashed.  Iterating raises `UpstreamUnreachable` if the
    connection breaks or stalls, `UpstreamInvalid` if more bytes come than were announced.
    """

    __slots__ = ("_expected", "_registry", "_response", "size", "start")

    def __init__(self, response: UpstreamResponse, registry: str, *, size: int | None, start: int) -> None:
        self.size: Final = size
        self.start: Final = start
        self._response = response
        self._registry = registry
        self._expected = None if size is None else size - start

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._expected
        async for chunk in self._response:
            if left is not None:
                left -= len(chunk)
                if left < 0:
                    raise UpstreamInvalid(
                        f"{self._response.path}: the body is longer than the announced {self._expected} bytes",
                        registry=self._registry,
                    )
            yield chunk
        if left:
            raise UpstreamUnreachable(
                f"{self._response.path}: the body ended {left} bytes before the announced {self._expected}",
                registry=self._registry,
            )


class RegistryClient:
    """Client of the registry at `endpoint`; `host` is its name in messages and metrics.

    Its connections belong to one event loop; `close` it there.  Every method raises `UpstreamError`.
    """

    def __init__(
        self,
        endpoint: RegistryEndpoint,
        credentials: CredentialSource | None = None,
        options: ClientOptions | None = None,
    ) -> None:
        """Raise `StartupError` if the file of authorities of `options` cannot be read."""
        self.host: Final = endpoint.host
        self._options = options or ClientOptions()
        self._session = RegistrySession(endpoint, credentials or AnonymousCredentials(), self._options)

    async def ping(self) -> None:
        """Check that the registry answers, and that it accepts the credentials."""
        async with self._session.send("GET", self._session.url("/v2/"), expected={_OK}) as response:
            await response.read(MANIFEST_LIMIT_BYTES)

    async def stat_manifest(self, name: RepoName, reference: Reference) -> RemoteManifest:
        """Return the metadata of a manifest, by HEAD: most registries do not count it as a pull.

        A registry whose HEAD has no digest, no length or no known media type is asked for the whole manifest.
        """
        url = self._session.url(f"/v2/{name}/manifests/{reference}")
        try:
            async with self._session.send(
                "HEAD", url, expected={_OK}, scopes=(repository_scope(name),), headers=_ACCEPT
            ) as response:
                found = self._described(response, reference)
        except UpstreamRefused as error:
            if error.status != _METHOD_NOT_ALLOWED:
                raise
            found = None
        if found is not None:
            return found
        manifest = await self.get_manifest(name, reference)
        return RemoteManifest(manifest.digest, manifest.media_type, len(manifest.data))

    def _described(self, response: UpstreamResponse, reference: Reference) -> RemoteManifest | None:
        digest = self._announced_digest(response, reference)
        media_type = essence(response.headers.get("Content-Type", ""))
        size = response.headers.get("Content-Length", "")
        if digest is None or media_type not in MEDIA_TYPES or not (size.isascii() and size.isdigit()):
            return None
        if int(size) > MANIFEST_LIMIT_BYTES:
            raise self._too_large(response)
        return RemoteManifest(digest, media_type, int(size))

    async def get_manifest(self, name: RepoName, reference: Reference) -> Manifest:
        """Return a manifest, proved by the digest in `reference`, else by the one that the registry announces."""
        url = self._session.url(f"/v2/{name}/manifests/{reference}")
        async with self._session.send(
            "GET", url, expected={_OK}, scopes=(repository_scope(name),), headers=_ACCEPT
        ) as response:
            announced = self._announced_digest(response, reference)
            data = await response.read(MANIFEST_LIMIT_BYTES)
            if data is None:
                raise self._too_large(response)
            digest = Digest.of(data, "sha256" if announced is None else announced.algorithm)
            if announced is not None and digest != announced:
                raise self._invalid(response, f"the manifest has the digest {digest}, not {announced}")
            return Manifest(digest, self._media_type(response, data), data)

    def _announced_digest(self, response: UpstreamResponse, reference: Reference) -> Digest | None:
        """Return the digest that was asked for, else that of the header; None without a usable one."""
        if isinstance(reference, Digest):
            return reference
        try:
            return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
        except DigestInvalid:
            return None

    def _media_type(self, response: UpstreamResponse, data: bytes) -> str:
        """Return the type of the header if it is one of a manifest, else that of the bytes."""
        media_type = essence(response.headers.get("Content-Type", ""))
        if media_type in MEDIA_TYPES:
            return media_type
        try:
            return stored_type(data)
        except ManifestInvalid as error:
            raise self._invalid(
                response, f"{media_type[:100]!a} is not a supported manifest: {error.subject}"
            ) from None

    def _too_large(self, response: UpstreamResponse) -> UpstreamInvalid:
        return self._invalid(response, f"the manifest is over the limit of {MANIFEST_LIMIT_BYTES >> 20} MiB")

    def _invalid(self, response: UpstreamResponse, reason: str) -> UpstreamInvalid:
        return UpstreamInvalid(
            f"{response.method} {response.path}: {reason}", registry=self.host, status=response.status
        )

    async def stat_blob(self, name: RepoName, digest: Digest) -> int:
        """Return the size of a blob in bytes."""
        url = self._session.url(f"/v2/{name}/blobs/{digest}")
        async with self._session.send("HEAD", url, expected={_OK}, scopes=(repository_scope(name),)) as response:
            size = response.headers.get("Content-Length", "")
            if not (size.isascii() and size.isdigit()):
                raise self._invalid(response, "the response has no Content-Length")
            return int(size)

    @contextlib.asynccontextmanager
    async def open_blob(self, name: RepoName, digest: Digest, *, start: int = 0) -> AsyncIterator[RemoteBlob]:
        """Stream a blob from byte `start` on; a registry without ranges sends all of it: look at the `start` of
        the result.  The bytes are not hashed: the caller proves them.  Leaving early closes the connection.
        """
        url = self._session.url(f"/v2/{name}/blobs/{digest}")
        headers = {"Range": f"bytes={start}-"} if start else {}
        expected = {_OK, _PARTIAL} if start else {_OK}
        async with self._session.send(
            "GET", url, expected=expected, scopes=(repository_scope(name),), headers=headers
        ) as response:
            size = response.content_length
            if response.status == _PARTIAL:
                size = self._total(response, start)
            yield RemoteBlob(response, self.host, size=size, start=start if response.status == _PARTIAL else 0)

    def _total(self, response: UpstreamResponse, start: int) -> int | None:
        """Return the size of the whole blob; a partial response must begin at `start` and reach the end."""
        text = response.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(text.strip())
        if match is None or int(match[1]) != start:
            raise self._invalid(response, f"Content-Range {text[:100]!a} for a range from byte {start} on")
        if match[3] == "*":
            return None
        if int(match[2]) + 1 != int(match[3]):
            raise self._invalid(response, f"Content-Range {text[:100]!a} ends before the end of the blob")
        return int(match[3])

    def list_tags(self, name: RepoName) -> AsyncIterator[Sequence[Tag]]:
        """Iterate over the tags of a repository, page by page."""
        return listings.list_tags(self._session, name)

    def list_repositories(self) -> AsyncIterator[Sequence[RepoName]]:
        """Iterate over the repositories of the registry, page by page; many registries refuse it."""
        return listings.list_repositories(self._session)

    async def list_referrers(self, name: RepoName, subject: Digest) -> Sequence[Referrer]:
        """Return the manifests whose subject is `subject`.

        A registry without the API is asked for the tag of the same meaning, `sha256-HEX` ("Referrers Tag Schema").
        """
        return await referrers.list_referrers(self._session, self, name, subject)

    async def mount_blob(self, name: RepoName, digest: Digest, source: RepoName) -> bool:
        """Link a blob of the repository `source` into `name`; return False if the registry did not do so."""
        return await uploads.mount_blob(self._session, name, digest, source)

    async def upload_blob(self, name: RepoName, digest: Digest, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Upload a blob of `size` bytes by one streamed PUT; errors of `chunks` are raised as they are."""
        await uploads.upload_blob(
            self._session, name, digest, size, chunks, stall_limit_s=self._options.read_timeout_s
        )

    async def put_manifest(self, name: RepoName, reference: Reference, media_type: str, data: bytes) -> Digest:
        """Push a manifest by tag or by digest; return its digest.  Its content must be there before."""
        digest = Digest.of(data, reference.algorithm if isinstance(reference, Digest) else "sha256")
        url = self._session.url(f"/v2/{name}/manifests/{reference}")
        async with self._session.send(
            "PUT",
            url,
            expected={_CREATED},
            scopes=(repository_scope(name, push=True),),
            headers={"Content-Type": media_type},
            data=data,
        ) as response:
            await response.read(MANIFEST_LIMIT_BYTES)
            announced = response.headers.get("Docker-Content-Digest")
            if announced is not None and announced.startswith(f"{digest.algorithm}:") and announced != digest:
                raise self._invalid(response, f"stored as {announced[:200]!a}, not as {digest}")
        return digest

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
