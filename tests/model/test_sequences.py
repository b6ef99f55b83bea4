"""Random sequences of requests against a live server of three workers, compared with `world.py` step by step.

Every request opens its own connection, so each step of a sequence may reach another worker: what one worker
remembers (a blob's size, a manifest's bytes) must never outlive what another deleted.  Repositories and contents
carry the number of the run, so that one server serves all runs.

In CI the sequences are the same every time; `MOORAGE_MODEL_RUNS=2000` searches further, by chance.
"""

from __future__ import annotations

import itertools
import json
import os
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.live import Live, start_tested
from tests.model.world import Upload, World
from tests.moments import sampled
from tests.wire import OCI_INDEX, OCI_MANIFEST, Answer, Wire, image

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow]

RUNS = os.environ.get("MOORAGE_MODEL_RUNS")
CONTENTS = 4

which_name = st.sampled_from(["a", "a/b", "a-b"])
which_blob = st.integers(0, CONTENTS - 1)
which_tag = st.sampled_from(["v1", "v1.0", "latest"])
algorithms = st.sampled_from(["sha256", "sha256", "sha256", "sha512"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with start_tested(tmp_path_factory.mktemp("model") / "volume", http={"workers": 3}) as live:
        yield live


def test_random_sequences_answer_as_the_model_does(server: Live) -> None:
    """In any order of requests no client sees what was deleted, nor misses what was pushed."""

    class Machine(Sequences):
        wire = Wire(server.host)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(RUNS or sampled(16, 40)),
            stateful_step_count=30,
            deadline=None,
            derandomize=RUNS is None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


class Sequences(RuleBasedStateMachine):
    """One run: three repositories, a handful of blobs, any number of uploads."""

    wire: ClassVar[Wire]
    _runs: ClassVar[Iterator[int]] = itertools.count()

    @initialize()
    def begin(self) -> None:
        self.run = f"run{next(Sequences._runs)}"
        self.names = {name: f"{self.run}/{name}" for name in ("a", "a/b", "a-b")}
        self.world = World(list(self.names.values()))
        self.contents = [f"{self.run} content {n}".encode() * (1 + 3000 * n) for n in range(CONTENTS - 1)] + [b""]
        self.pushed: list[tuple[str, str]] = []  # (repository, digest) of every manifest ever pushed

    # Uploads

    @rule(name=which_name)
    def start_upload(self, name: str) -> None:
        answer = self.wire.start_upload(self.names[name])
        self._expect(answer, 202)
        self.world.uploads.append(Upload(self.names[name], answer.headers["location"]))

    @precondition(lambda self: self.world.uploads)
    @rule(data=st.data(), size=st.integers(0, 5000), ranged=st.booleans())
    def send_chunk(self, data: st.DataObject, size: int, ranged: bool) -> None:
        upload = data.draw(st.sampled_from(self.world.uploads))
        chunk = bytes([len(upload.data) % 251]) * size
        start = len(upload.data) if ranged and chunk else None
        answer = self.wire.patch(upload.location, chunk, start)
        self._expect(answer, 202)
        upload.data += chunk
        self._stands(answer, upload)

    @precondition(lambda self: self.world.uploads)
    @rule(data=st.data(), off=st.sampled_from([-1, 1, 1000]), closing=st.booleans())
    def send_chunk_out_of_order(self, data: st.DataObject, off: int, closing: bool) -> None:
        upload = data.draw(st.sampled_from(self.world.uploads))
        start = len(upload.data) + off
        if start < 0:
            return
        if closing:
            digest = str(Digest.of(upload.data + b"chunk"))
            answer = self.wire.finish(upload.location, digest, b"chunk", start)
        else:
            answer = self.wire.patch(upload.location, b"chunk", start)
        self._expect(answer, 416)
        self._stands(answer, upload)

    @precondition(lambda self: any(upload.stale for upload in self.world.uploads))
    @rule(data=st.data())
    def use_a_stale_location(self, data: st.DataObject) -> None:
        upload = data.draw(st.sampled_from([upload for upload in self.world.uploads if upload.stale]))
        location = data.draw(st.sampled_from(upload.stale))
        answer = self.wire.patch(location, b"late")
        if answer.status == 202:
            # Only a URL of the same offset may still do: nothing came in between.
            upload.data += b"late"
            last = int(answer.headers["range"].partition("-")[2])
            assert last == len(upload.data) - 1, f"{answer} for a stale URL; {len(upload.data)=}"
            upload.moved(answer.headers["location"])
        else:
            self._expect(answer, 416)
            self._stands(answer, upload)

    @precondition(lambda self: self.world.uploads)
    @rule(data=st.data(), rest=which_blob, algorithm=algorithms, right=st.booleans())
    def finish_upload(self, data: st.DataObject, rest: int, algorithm: str, right: bool) -> None:
        upload = data.draw(st.sampled_from(self.world.uploads))
        body = self.contents[rest]
        digest = str(Digest.of(upload.data + body + (b"" if right else b"!"), algorithm))
        answer = self.wire.finish(upload.location, digest, body)
        self._expect(answer, self.world.finish(upload, digest, body))
        if right:
            assert answer.headers["docker-content-digest"] == digest
            self._blob_is(upload.repository, digest)
        else:
            assert answer.codes == ["DIGEST_INVALID"]
        gone = self.wire.send("GET", upload.location)
        self._expect(gone, 404)

    @precondition(lambda self: self.world.uploads)
    @rule(data=st.data())
    def cancel_upload(self, data: st.DataObject) -> None:
        upload = data.draw(st.sampled_from(self.world.uploads))
        self._expect(self.wire.send("DELETE", upload.location), 204)
        self._expect(self.wire.patch(upload.location, b"after"), 404)
        self.world.uploads.remove(upload)

    @precondition(lambda self: self.world.uploads)
    @rule(data=st.data())
    def ask_where_an_upload_stands(self, data: st.DataObject) -> None:
        upload = data.draw(st.sampled_from(self.world.uploads))
        answer = self.wire.send("GET", upload.location)
        self._expect(answer, 204)
        self._stands(answer, upload)

    # Blobs

    @rule(name=which_name, blob=which_blob, algorithm=algorithms)
    def push_blob(self, name: str, blob: int, algorithm: str) -> None:
        data = self.contents[blob]
        digest = Digest.of(data, algorithm)
        self.wire.push_blob(self.names[name], data, digest)
        self.world[self.names[name]].blobs[str(digest)] = data
        self._blob_is(self.names[name], str(digest))

    @rule(name=which_name, source=which_name, blob=which_blob)
    def mount_blob(self, name: str, source: str, blob: int) -> None:
        digest = str(Digest.of(self.contents[blob]))
        target, origin = self.names[name], self.names[source]
        answer = self.wire.start_upload(target, mount=digest, **{"from": origin})
        self._expect(answer, self.world.mount(target, digest, origin))
        if answer.status == 202:
            self.world.uploads.append(Upload(target, answer.headers["location"]))
        self._blob_is(target, digest)

    @rule(name=which_name, blob=which_blob)
    def delete_blob(self, name: str, blob: int) -> None:
        digest = str(Digest.of(self.contents[blob]))
        answer = self.wire.send("DELETE", f"/v2/{self.names[name]}/blobs/{digest}")
        self._expect(answer, self.world.delete_blob(self.names[name], digest))
        self._blob_is(self.names[name], digest)

    @rule(name=which_name, blob=which_blob)
    def read_blob(self, name: str, blob: int) -> None:
        self._blob_is(self.names[name], str(Digest.of(self.contents[blob])))

    # Manifests

    @rule(name=which_name, layers=st.lists(which_blob, max_size=2), tag=which_tag, mark=st.integers(0, 2))
    def push_image_by_tag(self, name: str, layers: list[int], tag: str, mark: int) -> None:
        self._put(self.names[name], tag, self._image(layers, mark), OCI_MANIFEST)

    @rule(name=which_name, layers=st.lists(which_blob, max_size=2), algorithm=algorithms, right=st.booleans(),
          tags=st.lists(which_tag, max_size=2, unique=True))  # fmt: skip
    def push_image_by_digest(
        self, name: str, layers: list[int], algorithm: str, right: bool, tags: list[str]
    ) -> None:
        data = self._image(layers, 0)
        digest = str(Digest.of(data if right else data + b" ", algorithm))
        self._put(self.names[name], digest, data, OCI_MANIFEST, tags)

    @rule(name=which_name, layers=st.lists(which_blob, max_size=1), tag=which_tag, mark=st.integers(0, 1))
    def push_blobs_and_image(self, name: str, layers: list[int], tag: str, mark: int) -> None:
        for blob in [CONTENTS - 1, *layers]:
            self.push_blob(name, blob, "sha256")
        self._put(self.names[name], tag, self._image(layers, mark), OCI_MANIFEST)

    @precondition(lambda self: self.pushed)
    @rule(data=st.data(), name=which_name, tag=which_tag)
    def push_index(self, data: st.DataObject, name: str, tag: str) -> None:
        """Of one manifest pushed once, perhaps to another repository, perhaps deleted since."""
        _, child = data.draw(st.sampled_from(self.pushed))
        entry = {"mediaType": OCI_MANIFEST, "digest": child, "size": 1}
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        self._put(self.names[name], tag, json.dumps(document).encode(), OCI_INDEX)

    @precondition(lambda self: self.pushed)
    @rule(data=st.data(), mark=st.integers(0, 2))
    def push_referrer(self, data: st.DataObject, mark: int) -> None:
        name, subject = data.draw(st.sampled_from(self.pushed))
        self.wire.push_blob(name, b"")
        self.world[name].blobs[str(Digest.of(b""))] = b""
        described = {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1}
        manifest = image(b"", [], subject=described, artifactType=f"application/x.{mark}")
        answer = self._put(name, str(Digest.of(manifest)), manifest, OCI_MANIFEST)
        assert answer.headers["oci-subject"] == subject
        self._referrers_are(name, subject)

    @precondition(lambda self: self.pushed)
    @rule(data=st.data())
    def delete_manifest(self, data: st.DataObject) -> None:
        name, digest = data.draw(st.sampled_from(self.pushed))
        answer = self.wire.delete_manifest(name, digest)
        self._expect(answer, self.world.delete_manifest(name, digest))
        self._everything_is(name)

    @rule(name=which_name, tag=which_tag)
    def delete_tag(self, name: str, tag: str) -> None:
        answer = self.wire.delete_manifest(self.names[name], tag)
        self._expect(answer, self.world.delete_manifest(self.names[name], tag))
        self._everything_is(self.names[name])

    @rule(name=which_name)
    def read_everything(self, name: str) -> None:
        self._everything_is(self.names[name])

    @precondition(lambda self: self.pushed)
    @rule(data=st.data())
    def read_referrers(self, data: st.DataObject) -> None:
        self._referrers_are(*data.draw(st.sampled_from(self.pushed)))

    @rule()
    def read_catalog(self) -> None:
        answer = self.wire.send("GET", f"/v2/_catalog?n=1000&last={self.run}")
        self._expect(answer, 200)
        listed = [name for name in answer.json()["repositories"] if name.startswith(f"{self.run}/")]
        assert listed == sorted(self.world.catalog(), key=lambda name: name.split("/"))

    @invariant()
    def tags_are_listed(self) -> None:
        if hasattr(self, "world"):
            for name, repository in self.world.repositories.items():
                if repository.born:
                    assert self.wire.tags(name) == sorted(repository.tags)

    # What is compared

    def _expect(self, answer: Answer, status: int) -> None:
        assert answer.status == status, f"{status} expected: {answer}"

    def _stands(self, answer: Answer, upload: Upload) -> None:
        """Range and Location of an upload's answers; an empty one reports 0-0, the same as one byte."""
        assert answer.headers["range"] == f"0-{max(len(upload.data) - 1, 0)}", answer
        upload.moved(answer.headers["location"])

    def _image(self, layers: list[int], mark: int) -> bytes:
        return image(b"", [self.contents[blob] for blob in layers], annotations={"mark": f"{self.run} {mark}"})

    def _put(
        self, name: str, reference: str, data: bytes, media_type: str, tags: list[str] | None = None
    ) -> Answer:
        query = "?" + "&".join(f"tag={tag}" for tag in tags) if tags else ""
        answer = self.wire.put_manifest(name, f"{reference}{query}", data, media_type)
        self._expect(answer, self.world.put_manifest(name, reference, data, tags or []))
        if answer.status == 201:
            digest = reference if ":" in reference else str(Digest.of(data))
            assert answer.headers["docker-content-digest"] == digest
            self.pushed.append((name, digest))
            self._manifest_is(name, digest)
        else:
            assert set(answer.codes) <= {"MANIFEST_BLOB_UNKNOWN", "DIGEST_INVALID"}, answer
        return answer

    def _blob_is(self, name: str, digest: str) -> None:
        expected = self.world[name].blobs.get(digest)
        for method in ("HEAD", "GET"):
            answer = self.wire.blob(name, digest, method)
            self._expect(answer, 404 if expected is None else 200)
            if expected is not None:
                assert answer.headers["docker-content-digest"] == digest
                assert answer.headers["content-length"] == str(len(expected))
                assert method == "HEAD" or answer.body == expected

    def _manifest_is(self, name: str, reference: str) -> None:
        expected = self.world.manifest(name, reference)
        for method in ("HEAD", "GET"):
            answer = self.wire.manifest(name, reference, method)
            self._expect(answer, 404 if expected is None else 200)
            if expected is not None:
                digest = self.world[name].tags.get(reference, reference)
                assert answer.headers["docker-content-digest"] == digest
                assert method == "HEAD" or answer.body == expected

    def _everything_is(self, name: str) -> None:
        for reference in ("v1", "v1.0", "latest", *(digest for of, digest in self.pushed if of == name)):
            self._manifest_is(name, reference)

    def _referrers_are(self, name: str, subject: str) -> None:
        answer = self.wire.send("GET", f"/v2/{name}/referrers/{subject}")
        self._expect(answer, 200)
        listed: list[dict[str, Any]] = answer.json()["manifests"]
        assert [entry["digest"] for entry in listed] == self.world.referrers(name, subject)
