"""OCI image layouts on disk, every byte known: what skopeo, oras and crane push without an engine.

    layout = Layout(tmp_path / "layout")
    layout.tag("v1", layout.index([layout.image(["one file"], architecture=a) for a in ("amd64", "arm64")]))

Layers are real gzipped tars with right diff ids, so that engines can unpack them; the same arguments give the
same digests.  `busybox` gives an image that runs.  Source: image-spec 1.1 "Image Layout Specification".
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any, Final

from tests.live import require
from tests.wire import OCI_INDEX, OCI_MANIFEST

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Described", "Layout", "busybox_tar", "tar_of"]

Described = dict[str, Any]
"""A descriptor, as JSON."""

_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_APPLETS: Final = ("sh", "echo", "cat", "ls", "sleep", "true")


class Layout:
    """A folder with `oci-layout`, `index.json` and `blobs/`; complete after every call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tags: list[Described] = []
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._write_index()

    def add(self, data: bytes, media_type: str) -> Described:
        digest = Digest.of(data)
        (self.path / "blobs" / "sha256" / digest.hex).write_bytes(data)
        return {"mediaType": media_type, "digest": str(digest), "size": len(data)}

    def read(self, digest: str) -> bytes:
        return (self.path / "blobs" / digest.replace(":", "/")).read_bytes()

    def image(self, tars: Sequence[bytes], *, architecture: str = "amd64", **config: Any) -> Described:
        """An image of uncompressed layer tars; `config` is what Docker calls Config (Cmd, Env, ...)."""
        document = {
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in tars]},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "moorage tests"} for _ in tars],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.add(_json(document), _CONFIG),
            "layers": [self.add(gzip.compress(tar, 1, mtime=0), _LAYER) for tar in tars],
        }
        platform = {"architecture": architecture, "os": "linux"}
        return {**self.add(_json(manifest), OCI_MANIFEST), "platform": platform}

    def index(self, images: Sequence[Described]) -> Described:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(images)}
        return self.add(_json(document), OCI_INDEX)

    def tag(self, name: str, described: Described) -> Described:
        self._tags.append({**described, "annotations": {"org.opencontainers.image.ref.name": name}})
        self._write_index()
        return described

    def _write_index(self) -> None:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._tags}
        (self.path / "index.json").write_bytes(_json(document))


def tar_of(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """A tar of files (mode 755) and symbolic links, byte for byte the same every time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            archive.addfile(entry)
    return buffer.getvalue()


def busybox_tar(files: Mapping[str, bytes] | None = None) -> bytes:
    """A root file system with a static busybox, a shell, and `files`."""
    with open(require("busybox"), "rb") as program:  # noqa: PTH123  one read
        content = {"bin/busybox": program.read(), **(files or {})}
    return tar_of(content, {f"bin/{applet}": "busybox" for applet in _APPLETS})


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
