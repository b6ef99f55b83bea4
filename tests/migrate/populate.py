"""What a version of Moorage leaves in a store, for another one to find: images, artifacts, marks, uploads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.interop.recording import UPLOADS, Recording, Upload
from tests.interop.volumes import show
from tests.wire import OCI_MANIFEST, Wire, image

from moorage.types import Digest

if TYPE_CHECKING:
    from tests.live import Live
    from tests.migrate.places import Place

__all__ = ["SUBJECT", "artifact", "finish_uploads", "listed", "populate", "recorded"]

SUBJECT = ("team/app", "v1")


def artifact(wire: Wire, name: str, subject: bytes, kind: str) -> Digest:
    """Push a manifest that refers to `subject`."""
    described = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(subject)), "size": len(subject)}
    wire.push_blob(name, b"{}")
    data = image(b"{}", [], subject=described, artifactType=kind, annotations={"made by": kind})
    answer = wire.put_manifest(name, Digest.of(data), data)
    assert answer.status == 201, answer
    return Digest.of(data)


def listed(wire: Wire, name: str, subject: Digest | str) -> dict[str, dict[str, Any]]:
    """The referrers API's descriptors, by digest."""
    answer = wire.send("GET", f"/v2/{name}/referrers/{subject}")
    assert answer.status == 200, answer
    return {entry["digest"]: entry for entry in answer.json()["manifests"]}


def populate(live: Live) -> dict[str, Upload]:
    """Fill an empty store; the uploads that are in progress."""
    wire = Wire(live.host)
    name, tag = SUBJECT
    subject = wire.push_image(name, tag, [b"a layer", b"another"])
    wire.push_image(name, "moved", [b"before"])
    wire.push_image(name, "moved", [b"after"])
    artifact(wire, name, subject, "application/vnd.example.signature")
    artifact(wire, name, subject, "application/vnd.example.sbom")
    gone = wire.push_image("team/deleted", "gone", [b"deleted by digest"])
    wire.push_image("team/deleted", "there", [b"kept"])
    assert wire.delete_manifest("team/deleted", Digest.of(gone)).status == 202
    uploads = {}
    for size, data in UPLOADS.items():
        begun = wire.patch(wire.start_upload(f"begun/{size}").headers["location"], data)
        assert begun.status == 202, begun
        uploads[size] = Upload(begun.headers["location"], len(data))
    return uploads


def finish_uploads(live: Live, uploads: dict[str, Upload], more: bytes = b"and the rest of it") -> None:
    """Continue and complete what `populate` began."""
    wire = Wire(live.host)
    for size, upload in uploads.items():
        data = UPLOADS[size] + more
        status = wire.send("GET", upload.location)
        assert status.status == 204, status
        assert status.headers["range"] == f"0-{upload.size - 1}"
        done = wire.finish(upload.location, Digest.of(data), more)
        assert done.status == 201, done
        assert wire.blob(f"begun/{size}", Digest.of(data)).body == data


def recorded(place: Place, made_by: str) -> Recording:
    """What the release before leaves in an empty store."""
    with place.start("previous", http={"workers": 1}) as live:
        uploads = populate(live)
        shown = show(live)
    manifests = {name: [digest, kind] for name, (digest, kind, _) in shown.manifests.items()}
    relative = {
        size: Upload(upload.location[upload.location.index("/v2/") :], upload.size)
        for size, upload in uploads.items()
    }
    return Recording(made_by, place.objects(), {}, relative, manifests, sorted(shown.blobs))
