"""Referrers in another registry: by the API, or by the tag `sha256-HEX` of their subject where there is none.

A registry without the API has an index under that tag, which its clients write: `replication/remote.py` does.

Above: `client.py`.  Below: `listings.py`, `session.py`.
Source: distribution-spec 1.1 "Listing Referrers", "Referrers Tag Schema".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol

from moorage.errors import RegistryError
from moorage.registry.media import OCI_INDEX
from moorage.registry.referrers import fallback_tag
from moorage.types import Digest, Referrer
from moorage.upstream.authorization import repository_scope
from moorage.upstream.errors import UpstreamMissing, UpstreamRefused
from moorage.upstream.listings import page_document, page_invalid, pages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yarl import URL

    from moorage.registry.interface import Manifest
    from moorage.types import Reference, RepoName
    from moorage.upstream.session import RegistrySession

__all__ = ["list_referrers"]

_NO_SUCH_API: Final = frozenset({400, 405})


class _ManifestReader(Protocol):
    """A `RegistryClient`, which has the function of this module as a method."""

    async def get_manifest(self, name: RepoName, reference: Reference) -> Manifest: ...


async def list_referrers(
    session: RegistrySession, manifests: _ManifestReader, name: RepoName, subject: Digest
) -> Sequence[Referrer]:
    """Return the referrers by the API, or by the tag scheme where there is no API."""
    url = session.url(f"/v2/{name}/referrers/{subject}")
    found: list[Referrer] | None = None
    try:
        async for page_url, document in pages(session, url, (repository_scope(name),), media_type=OCI_INDEX):
            found = [*(found or []), *_referrers(session, page_url, document)]
    except UpstreamMissing:
        found = None
    except UpstreamRefused as error:
        if error.status not in _NO_SUCH_API:
            raise
        found = None
    if found is not None:
        return found
    listed = await _listed(session, manifests, name, subject)
    return _referrers(session, url, listed)


async def _listed(
    session: RegistrySession, manifests: _ManifestReader, name: RepoName, subject: Digest
) -> dict[str, Any]:
    """Return the index of the tag of a subject, {} without one."""
    tag = fallback_tag(subject)
    try:
        manifest = await manifests.get_manifest(name, tag)
    except UpstreamMissing:
        return {}
    return page_document(session, session.url(f"/v2/{name}/manifests/{tag}"), manifest.data)


def _referrers(session: RegistrySession, url: URL, document: dict[str, Any]) -> list[Referrer]:
    entries = document.get("manifests") or []
    if not isinstance(entries, list):
        raise page_invalid(session, url, "its manifests are not a list")
    found = []
    for entry in entries:
        try:
            digest = Digest.parse(entry["digest"])
        except (RegistryError, TypeError, KeyError, AttributeError):
            raise page_invalid(session, url, "an entry without a valid digest") from None
        artifact_type = entry.get("artifactType")
        descriptor = json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
        found.append(Referrer(digest, artifact_type if isinstance(artifact_type, str) else None, descriptor))
    return found
