"""What CNCF Distribution 2.8 and 3 left in a container of Azure and in a bucket of Google, byte for byte.

`recorded/STORE.json` was written by the makers' own programs (`stores.py`) over azurite and over our Google,
filled by `volumes.fill`, with two uploads begun.  It replaces them where they are missing, as in CI:

    replay      an object store as they left it
    push_again  the requests that lead to it, of any registry

`MOORAGE_RECORD=1 python3 dev.py test tests/interop/test_stores.py -k recording` writes them anew.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from azure.storage.blob import BlobType
from tests.azure import Container
from tests.storage.gcs.model import Session, Stored
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.volumes import Shown
    from tests.live import Live
    from tests.storage.gcs.bucket import Bucket

__all__ = ["Held", "Recording", "Upload", "push_again", "replay"]

RECORDED: Final = Path(__file__).with_name("recorded")
UPLOADS: Final = {"small": b"first" * 2001, "large": b"first" * 250_031}
"""Begun in the repositories `begun/small` and `begun/large`; the larger one is more than Google's 256 KiB."""

_APPEND: Final = "AppendBlob"
_ROOT: Final = "docker/registry/v2"


@dataclass(frozen=True)
class Held:
    """One object.  `kind` is Azure's kind of blob, and with Google the content's type."""

    kind: str
    data: bytes
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Upload:
    """An upload in progress: the URL at which its client continues."""

    location: str
    size: int


@dataclass
class Recording:
    """`manifests` and `blobs` are what a client saw, as `volumes.Shown` has it, without the bytes."""

    made_by: str
    objects: dict[str, Held]
    sessions: dict[str, bytes]
    uploads: dict[str, Upload]
    manifests: dict[str, list[str]]
    blobs: list[str]

    @classmethod
    def load(cls, store: str, folder: Path = RECORDED) -> Recording:
        output: dict[str, Any] = json.loads((folder / f"{store}.json").read_text())
        output["objects"] = {
            name: Held(item["kind"], _unpacked(item["data"]), item["metadata"])
            for name, item in output["objects"].items()
        }
        output["sessions"] = {address: _unpacked(text) for address, text in output["sessions"].items()}
        output["uploads"] = {name: Upload(**item) for name, item in output["uploads"].items()}
        return cls(**output)

    def save(self, store: str, folder: Path = RECORDED) -> None:
        output = asdict(self)
        for item in output["objects"].values():
            item["data"] = _packed(item["data"])
        output["sessions"] = {address: _packed(data) for address, data in output["sessions"].items()}
        folder.mkdir(exist_ok=True)
        (folder / f"{store}.json").write_text(json.dumps(output, indent=1, sort_keys=True) + "\n")

    def finished(self) -> dict[str, bytes]:
        """The objects that stay, without uploads: name and content."""
        return {name: held.data for name, held in self.objects.items() if "/_uploads/" not in name}

    def matches(self, shown: Shown) -> bool:
        output = {name: [digest, media_type] for name, (digest, media_type, _) in shown.manifests.items()}
        return output == self.manifests and sorted(shown.blobs) == self.blobs

    @classmethod
    def of(cls, made_by: str, store: Container | Bucket, uploads: dict[str, Upload], shown: Shown) -> Recording:
        return cls(
            made_by,
            held(store),
            {} if isinstance(store, Container) else _sessions(store),
            uploads,
            {name: [digest, kind] for name, (digest, kind, _) in shown.manifests.items()},
            sorted(shown.blobs),
        )


def held(store: Container | Bucket) -> dict[str, Held]:
    """Everything that is in it."""
    if not isinstance(store, Container):
        return {name: Held(item.kind, item.data, item.metadata) for name, item in store.objects.items()}
    found = {}
    with store.client as client:
        for blob in client.list_blobs(include=["metadata"]):
            data: bytes = client.download_blob(blob.name).readall()
            found[blob.name] = Held(str(BlobType(blob.blob_type).value), data, dict(blob.metadata or {}))
    return found


def _sessions(store: Bucket) -> dict[str, bytes]:
    """By the last part of their addresses; those that are under way."""
    sessions = store.server.sessions.items()
    return {address: bytes(session.data) for address, session in sessions if session.done is None}


def replay(recording: Recording, store: Container | Bucket, expected: Callable[[str], bool] = bool) -> None:
    """Puts it into an empty container or bucket; of the objects only those whose names are `wanted`."""
    objects = {name: item for name, item in recording.objects.items() if expected(name)}
    if isinstance(store, Container):
        with store.client as client:
            for name, item in objects.items():
                blob = client.get_blob_client(name)
                if item.kind == _APPEND:
                    blob.create_append_blob(metadata=item.metadata)
                    if item.data:
                        blob.append_block(item.data)
                else:
                    blob.upload_blob(item.data, metadata=item.metadata)
        return
    for name, item in objects.items():
        metadata = dict(item.metadata)
        for output, address in metadata.items():
            if "/session/" in address:
                key = address.rpartition("/")[2]
                metadata[output] = f"{store.server.endpoint}/session/{key}"
                kept = bytearray(recording.sessions[key])
                store.server.sessions[key] = Session(store.name, name, "application/octet-stream", {}, kept)
        store.objects[name] = Stored(item.data, item.kind, metadata, generation=1)


def push_again(live: Live, recording: Recording) -> None:
    """The requests after which the same is there: every blob, manifest and tag, those that have moved in order."""
    wire, files = Wire(live.host), {name.lstrip("/"): data for name, data in recording.finished().items()}

    def content(hex_digest: str) -> bytes:
        return files[f"{_ROOT}/blobs/sha256/{hex_digest[:2]}/{hex_digest}/data"]

    def links(pattern: str) -> list[tuple[str, ...]]:
        found = (re.fullmatch(f"{_ROOT}/repositories/{pattern}/link", name) for name in sorted(files))
        return [match.groups() for match in found if match is not None]

    for name, digest in links(r"(.+)/_layers/sha256/([0-9a-f]+)"):
        wire.push_blob(name, content(digest))
    revisions = [
        (name, content(digest)) for name, digest in links(r"(.+)/_manifests/revisions/sha256/([0-9a-f]+)")
    ]
    for name, data in sorted(revisions, key=lambda item: "manifests" in json.loads(item[1])):
        _put_manifest(wire, name, str(Digest.of(data)), data)
    for name, tag in links(r"(.+)/_manifests/tags/([^/]+)/current"):
        home = f"{_ROOT}/repositories/{name}/_manifests/tags/{tag}"
        last = files[f"{home}/current/link"].decode().partition(":")[2]
        history = [found[0] for found in links(re.escape(f"{name}/_manifests/tags/{tag}/index/sha256/") + "(.+)")]
        for digest in sorted(history, key=lambda digest: digest == last):
            _put_manifest(wire, name, tag, content(digest))


def _put_manifest(wire: Wire, name: str, reference: str, data: bytes) -> None:
    done = wire.put_manifest(name, reference, data, json.loads(data)["mediaType"])
    assert done.status == 201, done


def _packed(data: bytes) -> str:
    """Links as they are, all else compressed."""
    if data.startswith(b"sha256:"):
        return data.decode()
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _unpacked(text: str) -> bytes:
    return text.encode() if text.startswith("sha256:") else zlib.decompress(base64.b64decode(text))
