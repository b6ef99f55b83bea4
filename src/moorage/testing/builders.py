"""Blobs, images, indexes and artifacts in one line, with their exact bytes and digests.

    layer = blob(size=4096, seed=1)
    one = image(layer)                                  its config, and a manifest that names both
    both = index(one, image(platform="linux/arm64"))
    signature = artifact("application/vnd.example.sig", subject=both)
    for part in both.closure: ...                       everything to push, in an order that a registry takes

The same call always builds the same bytes.  Source: image-spec 1.1 (config, manifest, image-index).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "DOCKER_CONFIG",
    "DOCKER_LAYER",
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "EMPTY",
    "OCI_CONFIG",
    "OCI_EMPTY",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_MANIFEST",
    "Built",
    "artifact",
    "blob",
    "encode",
    "image",
    "index",
]

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"

_MANIFESTS: Final = {OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST}


@dataclass(frozen=True, slots=True)
class Built:
    """One blob or manifest.  `parts` are what it names, in the order they must be pushed; not its subject."""

    data: bytes
    media_type: str
    digest: Digest
    parts: tuple[Built, ...] = ()
    artifact_type: str | None = None
    platform: str | None = None

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def is_manifest(self) -> bool:
        return self.media_type in _MANIFESTS

    @property
    def document(self) -> dict[str, Any]:
        """Return the parsed JSON of a manifest or config."""
        document: dict[str, Any] = json.loads(self.data)
        return document

    @property
    def entry(self) -> dict[str, Any]:
        """Return the descriptor, as JSON."""
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}

    @property
    def blobs(self) -> tuple[Built, ...]:
        """Return the parts that are pushed as blobs."""
        return tuple(part for part in self.parts if not part.is_manifest)

    @property
    def manifests(self) -> tuple[Built, ...]:
        """Return the parts that are pushed as manifests."""
        return tuple(part for part in self.parts if part.is_manifest)

    @property
    def closure(self) -> tuple[Built, ...]:
        """Return everything below, each once, and itself last."""
        found: dict[Digest, Built] = {}
        for part in self.parts:
            found.update((below.digest, below) for below in part.closure)
        found[self.digest] = self
        return tuple(found.values())


def encode(document: Mapping[str, Any]) -> bytes:
    """Return the JSON of this module."""
    return json.dumps(document, separators=(",", ":")).encode()


def blob(
    data: bytes | str | None = None,
    *,
    size: int = 1024,
    seed: int = 0,
    media_type: str = OCI_LAYER,
    algorithm: str = "sha256",
) -> Built:
    """Return a blob of these bytes, or of `size` incompressible ones that `seed` determines."""
    if data is None:
        data = random.Random(f"{seed}/{size}").randbytes(size)  # noqa: S311  the same bytes every time
    elif isinstance(data, str):
        data = data.encode()
    return Built(data, media_type, Digest.of(data, algorithm))


EMPTY: Final = blob(b"{}", media_type=OCI_EMPTY)
"""The descriptor that an artifact without a config, or without content, names."""


def image(
    *layers: Built,
    seed: int = 0,
    platform: str = "linux/amd64",
    docker: bool = False,
    subject: Built | None = None,
    annotations: Mapping[str, str] | None = None,
    artifact_type: str | None = None,
    algorithm: str = "sha256",
    extra: Mapping[str, Any] | None = None,
) -> Built:
    """Return a manifest of `layers` (by default one small layer made from `seed`) and a config for `platform`.

    `extra` are further members of the manifest, also to override one; None as a value leaves a member out.
    """
    layers = layers or (blob(size=64, seed=seed, media_type=DOCKER_LAYER if docker else OCI_LAYER),)
    config = blob(
        encode(_config(layers, seed, platform)),
        media_type=DOCKER_CONFIG if docker else OCI_CONFIG,
        algorithm=algorithm,
    )
    return _manifest(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": config.entry,
            "layers": [layer.entry for layer in layers],
            "subject": subject.entry if subject else None,
            "annotations": dict(annotations) if annotations else None,
            **(extra or {}),
        },
        (*layers, config),
        artifact_type=artifact_type,
        platform=platform,
        algorithm=algorithm,
    )


def index(
    *manifests: Built,
    docker: bool = False,
    subject: Built | None = None,
    annotations: Mapping[str, str] | None = None,
    artifact_type: str | None = None,
    algorithm: str = "sha256",
    extra: Mapping[str, Any] | None = None,
) -> Built:
    """Return an image index (`docker`: a manifest list) of `manifests`; of none, an empty one."""
    return _manifest(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_LIST if docker else OCI_INDEX,
            "artifactType": artifact_type,
            "manifests": [_member(part) for part in manifests],
            "subject": subject.entry if subject else None,
            "annotations": dict(annotations) if annotations else None,
            **(extra or {}),
        },
        manifests,
        artifact_type=artifact_type,
        algorithm=algorithm,
    )


def artifact(
    artifact_type: str,
    *content: Built,
    subject: Built | None = None,
    annotations: Mapping[str, str] | None = None,
    algorithm: str = "sha256",
    extra: Mapping[str, Any] | None = None,
) -> Built:
    """Return another manifest (signature, SBOM); its config, and without `content` its layer, are empty."""
    layers = content or (EMPTY,)
    return _manifest(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": EMPTY.entry,
            "layers": [layer.entry for layer in layers],
            "subject": subject.entry if subject else None,
            "annotations": dict(annotations) if annotations else None,
            **(extra or {}),
        },
        tuple(dict.fromkeys((*layers, EMPTY))),
        artifact_type=artifact_type,
        algorithm=algorithm,
    )


def _manifest(
    document: dict[str, Any],
    parts: Sequence[Built],
    *,
    artifact_type: str | None,
    algorithm: str,
    platform: str | None = None,
) -> Built:
    document = {name: value for name, value in document.items() if value is not None}
    data = encode(document)
    media_type = str(document.get("mediaType", OCI_INDEX if "manifests" in document else OCI_MANIFEST))
    return Built(data, media_type, Digest.of(data, algorithm), tuple(parts), artifact_type, platform)


def _config(layers: Sequence[Built], seed: int, platform: str) -> dict[str, Any]:
    system, _, architecture = platform.partition("/")
    return {
        "architecture": architecture,
        "os": system,
        "config": {"Cmd": [f"/{seed}"]},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer.data)) for layer in layers]},
    }


def _member(part: Built) -> dict[str, Any]:
    if part.platform is None:
        return part.entry
    system, _, architecture = part.platform.partition("/")
    return {**part.entry, "platform": {"architecture": architecture, "os": system}}
