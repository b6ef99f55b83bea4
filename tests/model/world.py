"""Model of a registry's answers in as few lines as possible: dictionaries and sets, no storage, no HTTP.

Each method takes what a client asks for, changes the model and returns the expected status.  The rules are those
of distribution-spec 1.1 and docs/reference/http-api.md; where the server may choose, that of docs/api.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from moorage.types import Digest

__all__ = ["Repository", "Upload", "World"]


@dataclass
class Repository:
    """What one repository holds; `born` once a manifest was pushed, which is what the catalog lists."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    born: bool = False


@dataclass
class Upload:
    """An upload under way; `location` is the latest URL, `stale` the ones before it."""

    repository: str
    location: str
    data: bytes = b""
    stale: list[str] = field(default_factory=list)

    def moved(self, location: str) -> None:
        self.stale.append(self.location)
        self.location = location


class World:
    """All repositories of one run."""

    def __init__(self, names: list[str]) -> None:
        self.repositories = {name: Repository() for name in names}
        self.uploads: list[Upload] = []

    def __getitem__(self, name: str) -> Repository:
        return self.repositories[name]

    def finish(self, upload: Upload, digest: str, rest: bytes) -> int:
        """The closing PUT: 201, or 400 for another digest.  The upload is gone either way."""
        data = upload.data + rest
        self.uploads.remove(upload)
        if str(Digest.of(data, digest.partition(":")[0])) != digest:
            return 400
        self[upload.repository].blobs[digest] = data
        return 201

    def mount(self, name: str, digest: str, source: str) -> int:
        """201 with the blob, or 202 and an upload, never a refusal."""
        found = self[source].blobs.get(digest)
        if found is None:
            return 202
        self[name].blobs[digest] = found
        return 201

    def put_manifest(self, name: str, reference: str, data: bytes, tags: list[str]) -> int:
        """`reference` is a tag or a digest; `tags` are the further ones of a PUT by digest."""
        repository = self[name]
        if ":" in reference and str(Digest.of(data, reference.partition(":")[0])) != reference:
            return 400
        if any(digest not in repository.blobs and digest not in repository.manifests for digest in needed(data)):
            return 400
        digest = reference if ":" in reference else str(Digest.of(data))
        repository.born = True
        repository.manifests[digest] = data
        for tag in tags if ":" in reference else [reference]:
            repository.tags[tag] = digest
        return 201

    def manifest(self, name: str, reference: str) -> bytes | None:
        repository = self[name]
        return repository.manifests.get(repository.tags.get(reference, reference))

    def delete_manifest(self, name: str, reference: str) -> int:
        """A tag goes alone; a digest takes its tags with it."""
        repository = self[name]
        if ":" not in reference:
            return 404 if repository.tags.pop(reference, None) is None else 202
        if repository.manifests.pop(reference, None) is None:
            return 404
        repository.tags = {tag: digest for tag, digest in repository.tags.items() if digest != reference}
        return 202

    def delete_blob(self, name: str, digest: str) -> int:
        return 404 if self[name].blobs.pop(digest, None) is None else 202

    def referrers(self, name: str, subject: str) -> list[str]:
        return sorted(
            digest
            for digest, data in self[name].manifests.items()
            if json.loads(data).get("subject", {}).get("digest") == subject
        )

    def catalog(self) -> set[str]:
        return {name for name, repository in self.repositories.items() if repository.born}


def needed(manifest: bytes) -> list[str]:
    """What must be there before this manifest is taken: config and layers, or an index's children; no subject."""
    document: dict[str, Any] = json.loads(manifest)
    entries = document.get("manifests", [document.get("config"), *document.get("layers", [])])
    return [entry["digest"] for entry in entries]
