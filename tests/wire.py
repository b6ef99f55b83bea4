"""A registry client that hides nothing: one method per request, the answer as it came.

For tests that must send what no well-behaved client sends, or must know exactly what was acknowledged.  Every
request uses a connection of its own unless `keep` is set, so that consecutive requests reach any worker.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["DOCKER_LIST", "DOCKER_MANIFEST", "OCI_INDEX", "OCI_MANIFEST", "Answer", "Wire", "image"]

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
_ACCEPT: Final = f"{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> list[str]:
        """The error codes of the specification's JSON."""
        return [entry["code"] for entry in self.json()["errors"]]

    def __str__(self) -> str:
        return f"{self.status} {dict(self.headers)} {self.body[:500]!r}"


class Wire:
    """Requests to the registry at `host`.  Network failures leave as OSError or http.client.HTTPException."""

    def __init__(self, host: str, *, keep: bool = False, timeout_s: float = 30) -> None:
        self.host, self._keep, self._timeout_s = host, keep, timeout_s
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def send(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request.  `target` is a path or an absolute URL (a Location); an iterable body goes chunked."""
        parts = urlsplit(target)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection = self._connection or http.client.HTTPConnection(self.host, timeout=self._timeout_s)
        done = sent = False
        if connection.sock is None:
            connection.connect()
        try:
            if connection.sock is None:
                connection.connect()
            # A server that refuses early closes while we still send; its answer is there to be read all the same.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, dict(headers or {}))
                sent = True
            response = connection.getresponse()
            answer = Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
            done = sent
            return answer
        finally:
            if done and self._keep and not response.will_close:
                self._connection = connection
            else:
                connection.close()
                self._connection = None

    def start_upload(self, name: str, **query: str) -> Answer:
        text = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
        return self.send("POST", f"/v2/{name}/blobs/uploads/{'?' + text if text else ''}", b"")

    def patch(self, location: str, data: bytes | Iterable[bytes], start: int | None = None) -> Answer:
        headers = {"Content-Type": "application/octet-stream"}
        if start is not None and isinstance(data, bytes):
            headers["Content-Range"] = f"{start}-{start + len(data) - 1}"
        return self.send("PATCH", location, data, headers)

    def finish(self, location: str, digest: Digest | str, data: bytes = b"", start: int | None = None) -> Answer:
        joined = f"{location}{'&' if '?' in location else '?'}digest={quote(str(digest), safe='')}"
        headers = {"Content-Type": "application/octet-stream"}
        if start is not None:
            headers["Content-Range"] = f"{start}-{start + len(data) - 1}"
        return self.send("PUT", joined, data, headers)

    def push_blob(self, name: str, data: bytes, digest: Digest | None = None) -> Digest:
        """POST and PUT; asserts that both were taken."""
        digest = digest or Digest.of(data)
        begun = self.start_upload(name)
        assert begun.status == 202, begun
        done = self.finish(begun.headers["location"], digest, data)
        assert done.status == 201, done
        return digest

    def blob(self, name: str, digest: Digest | str, method: str = "GET") -> Answer:
        return self.send(method, f"/v2/{name}/blobs/{digest}")

    def put_manifest(
        self, name: str, reference: Digest | str, data: bytes, media_type: str = OCI_MANIFEST
    ) -> Answer:
        return self.send("PUT", f"/v2/{name}/manifests/{reference}", data, {"Content-Type": media_type})

    def manifest(self, name: str, reference: Digest | str, method: str = "GET") -> Answer:
        return self.send(method, f"/v2/{name}/manifests/{reference}", None, {"Accept": _ACCEPT})

    def delete_manifest(self, name: str, reference: Digest | str) -> Answer:
        return self.send("DELETE", f"/v2/{name}/manifests/{reference}")

    def tags(self, name: str, query: str = "") -> list[str]:
        """All of them, or those that `query` (`?n=...`) asks for; an unknown repository has none."""
        answer = self.send("GET", f"/v2/{name}/tags/list{query}")
        if answer.status == 404:
            return []
        assert answer.status == 200, answer
        tags: list[str] = answer.json()["tags"] or []
        return tags

    def push_image(self, name: str, tag: str, layers: list[bytes], config: bytes = b"{}") -> bytes:
        """Blobs, then the manifest by tag; the manifest's bytes.  Asserts that all were taken."""
        for data in (config, *layers):
            self.push_blob(name, data)
        manifest = image(config, layers)
        done = self.put_manifest(name, tag, manifest)
        assert done.status == 201, done
        return manifest


def image(config: bytes, layers: list[bytes], **extra: Any) -> bytes:
    """An OCI image manifest; `extra` are further fields (subject, artifactType, annotations)."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer) for layer in layers],
        **extra,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}
