"""Blob uploads: each way of sending one, and the offset in every response."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from tests.http.client import ABSENT, NAME, OTHER, Client, codes, detail, pieces

from moorage.config.model import Settings
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import blob, image

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from tests.http.conftest import Serve

    from moorage.testing.builders import Built
    from moorage.types import Digest

BLOB = blob(size=1000)
BIG = blob(size=3 << 20, seed=1)
BLOB_512 = blob(size=1000, algorithm="sha512")
BIG_512 = blob(size=3 << 20, seed=1, algorithm="sha512")
NOTHING = blob(b"")


def stands_at(answer: httpx.Response, last: str) -> str:
    """Check the headers of an upload's response, and return its Location."""
    assert answer.headers["range"] == last
    location = str(answer.headers["location"])
    uuid = answer.headers["docker-upload-uuid"]
    assert str(UUID(uuid)) == uuid
    found = re.fullmatch(rf"http://registry\.test/v2/{NAME}/blobs/uploads/([^/?]+)\?_state=([^&]+)", location)
    assert found is not None
    assert found[1] == uuid
    assert re.fullmatch(r"[A-Za-z0-9_-]+", found[2]), "what clients decode and encode must come through unchanged"
    return location


async def is_whole(client: Client, answer: httpx.Response, digest: Digest, data: bytes) -> None:
    """Check a 201, and that the blob can be fetched at its Location."""
    assert (answer.status_code, answer.content) == (201, b"")
    assert answer.headers["location"] == f"http://registry.test/v2/{NAME}/blobs/{digest}"
    assert answer.headers["docker-content-digest"] == str(digest)
    assert answer.headers["content-length"] == "0"
    assert (await client.get(answer.headers["location"])).content == data


class Pieces:
    """A server that passes what one read brought as a list, three pieces at a time, where it is asked to."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self.lists = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        requested: dict[str, bool] = {}

        async def receiving() -> Message:
            message = await receive()
            body = message.get("body", b"")
            if not body or not requested.get("requested"):
                return message
            self.lists += 1
            third = len(body) // 3 + 1
            return {**message, "body": b"", "pieces": [body[:third], body[third : 2 * third], body[2 * third :]]}

        await self._app({**scope, "extensions": {"moorage.pieces": requested}}, receiving, send)


async def test_pieces_of_one_read_are_not_joined(serve: Serve) -> None:
    """Joining them is a tenth of the cost of a push in HTTP chunks; in any form all bytes count, and no more."""
    server = Pieces(serve().app)
    client = Client(server)
    answer = await client.patch(await client.location(), pieces(BIG.data))
    answer = await client.finish(stands_at(answer, f"0-{BIG.size - 1}"), BIG.digest)
    await is_whole(client, answer, BIG.digest, BIG.data)
    assert server.lists == 1
    answer = await client.patch(await client.location(), pieces(BIG.data), span=f"0-{BIG.size - 2}")
    assert (answer.status_code, codes(answer)) == (400, ["SIZE_INVALID"])
    await client.push(image(), "manifests-too")


@pytest.mark.parametrize("slash", ["/", ""])
async def test_an_upload_starts_with_a_202(client: Client, slash: str) -> None:
    """Docker parses Range as `%d-%d`, so nothing yet is `0-0`; both spellings, since a 301 turns POST into GET."""
    answer = await client.send("POST", f"/v2/{NAME}/blobs/uploads{slash}")
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["content-length"] == "0"
    stands_at(answer, "0-0")


async def test_a_content_type_at_the_start_is_ignored(client: Client) -> None:
    """Crane sends an empty body as application/json."""
    answer = await client.send(
        "POST", f"/v2/{NAME}/blobs/uploads/", b"", headers={"content-type": "application/json"}
    )
    assert answer.status_code == 202


@pytest.mark.parametrize("sent", [BLOB, BIG, NOTHING, BLOB_512, BIG_512], ids=lambda blob: str(blob.digest)[:9])
async def test_post_and_put_of_the_whole(client: Client, sent: Built) -> None:
    """How containerd, BuildKit, oras and helm push; sha512 comes back as sha512, unforetold."""
    answer = await client.finish(await client.location(), sent.digest, sent.data)
    await is_whole(client, answer, sent.digest, sent.data)


@pytest.mark.parametrize("sent", [BLOB, BIG, BLOB_512, BIG_512], ids=lambda blob: str(blob.digest)[:9])
async def test_one_stream_and_an_empty_put(client: Client, sent: Built) -> None:
    """How Docker and skopeo push: one PATCH without Content-Range, its length unknown."""
    half = sent.size // 2
    patched = await client.patch(await client.location(), pieces(sent.data[:half], sent.data[half:]))
    assert (patched.status_code, patched.content) == (202, b"")
    assert patched.headers["content-length"] == "0"
    answer = await client.finish(stands_at(patched, f"0-{sent.size - 1}"), sent.digest)
    await is_whole(client, answer, sent.digest, sent.data)


@pytest.mark.parametrize("spans", [True, False])
@pytest.mark.parametrize("last_in_put", [True, False])
async def test_chunks_in_order(client: Client, spans: bool, last_in_put: bool) -> None:
    """How regclient and the specification push large blobs, with the last chunk in the PUT or before it."""
    location = await client.location()
    chunks = [(0, 400), (400, 401), (401, 1000)]
    for start, stop in chunks[:-1] if last_in_put else chunks:
        span = f"{start}-{stop - 1}" if spans else None
        answer = await client.patch(location, BLOB.data[start:stop], span)
        assert answer.status_code == 202
        location = stands_at(answer, f"0-{stop - 1}")
    if last_in_put:
        answer = await client.finish(location, BLOB.digest, BLOB.data[401:], "401-999" if spans else None)
    else:
        answer = await client.finish(location, BLOB.digest)
    await is_whole(client, answer, BLOB.digest, BLOB.data)


async def test_a_chunk_of_unknown_length_may_have_a_span(client: Client) -> None:
    """The suite sends Content-Range with a streamed body."""
    answer = await client.patch(await client.location(), pieces(BLOB.data[:100], BLOB.data[100:]), "0-999")
    answer = await client.finish(stands_at(answer, "0-999"), BLOB.digest)
    await is_whole(client, answer, BLOB.digest, BLOB.data)


async def test_the_first_byte_is_also_0_0(client: Client) -> None:
    """The range is inclusive, as it always was."""
    stands_at(await client.patch(await client.location(), b"x"), "0-0")


async def test_a_form_is_the_blob_and_no_parameters(client: Client) -> None:
    """`curl --data-binary` announces a form; the reference swallows the bytes."""
    form = blob(b"digest=sha256:abc&mount=x")
    location = await client.location()
    answer = await client.send(
        "PATCH", location, form.data, headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert (await client.finish(stands_at(answer, "0-24"), form.digest)).status_code == 201
    assert (await client.blob(form)).content == form.data


async def test_the_content_type_of_a_chunk_is_ignored(client: Client) -> None:
    """The reference fails with a 500 for anything but application/octet-stream."""
    headers = {"content-type": "text/plain; charset=utf-8"}
    assert (await client.send("PATCH", await client.location(), b"x", headers)).status_code == 202


async def test_content_encoding_is_not_undone(client: Client) -> None:
    """The bytes sent are the bytes named by the digest."""
    headers = {"content-encoding": "gzip"}
    answer = await client.send("PATCH", await client.location(), BLOB.data, headers)
    assert (await client.finish(answer.headers["location"], BLOB.digest)).status_code == 201


async def test_a_client_may_reorder_and_escape_the_query(client: Client) -> None:
    """containerd, crane and oras take the Location apart and put it together their own way."""
    path, _, query = (await client.location()).partition("?")
    answer = await client.send(
        "PUT", f"{path}?digest={str(BLOB.digest).replace(':', '%3a')}&{query}&ns=docker.io", BLOB.data
    )
    assert answer.status_code == 201


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_status_says_where_to_go_on(client: Client, method: str) -> None:
    """Asked after a lost answer, by some clients without the state, by the suite with a stray digest."""
    location = await client.location()
    stands_at(await client.send(method, location), "0-0")
    await client.patch(location, BLOB.data[:400])
    for target in (location, location.partition("?")[0], f"{location}&digest={ABSENT}"):
        answer = await client.send(method, target)
        assert (answer.status_code, answer.content) == (204, b"")
        stands_at(answer, "0-399")
    answer = await client.finish(stands_at(answer, "0-399"), BLOB.digest, BLOB.data[400:])
    await is_whole(client, answer, BLOB.digest, BLOB.data)


async def test_cancelling_ends_it(client: Client) -> None:
    """containers/image cancels after a failed mount; nothing may pile up."""
    location = await client.location()
    answer = await client.send("DELETE", location)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["docker-upload-uuid"] == location.partition("?")[0].rpartition("/")[2]
    for method in ("DELETE", "GET", "PATCH"):
        again = await client.send(method, location, b"x" if method == "PATCH" else None)
        assert (again.status_code, codes(again)) == (404, ["BLOB_UPLOAD_UNKNOWN"])


async def test_cancelling_does_not_need_deletion_switched_on(serve: Serve) -> None:
    """It is part of pushing."""
    client = serve(Settings())
    assert (await client.send("DELETE", await client.location())).status_code == 204


async def test_a_finished_upload_is_gone(client: Client) -> None:
    """A second PUT must not publish anything, and the client learns from it that the first one came through."""
    location = await client.location()
    assert (await client.finish(location, BLOB.digest, BLOB.data)).status_code == 201
    for answer in (
        await client.get(location),
        await client.finish(location, BLOB.digest, BLOB.data),
        await client.patch(location, b"x"),
        await client.send("DELETE", location),
    ):
        assert (answer.status_code, codes(answer)) == (404, ["BLOB_UPLOAD_UNKNOWN"])


async def test_a_blob_may_be_pushed_twice_at_once(client: Client) -> None:
    """Two builds that share a layer both get their 201."""
    one, two = await client.location(), await client.location()
    assert one != two
    for location in (one, two):
        assert (await client.finish(location, BLOB.digest, BLOB.data)).status_code == 201


@pytest.mark.parametrize("sent", [BLOB, BIG_512], ids=["little", "a lot, sha512"])
async def test_every_request_may_reach_another_worker(serve: Serve, tmp_path: Path, sent: Built) -> None:
    """A load balancer does not know where an upload began; the last HEAD is Docker's check of its own push."""
    driver = FilesystemDriver(tmp_path)
    workers = [serve(driver=driver) for _ in range(5)]
    location = await workers[0].location()
    half = sent.size // 2
    answer = await workers[1].patch(location, sent.data[:half])
    answer = await workers[2].patch(answer.headers["location"], sent.data[half:])
    answer = await workers[3].finish(stands_at(answer, f"0-{sent.size - 1}"), sent.digest)
    await is_whole(workers[4], answer, sent.digest, sent.data)


async def test_a_wrong_digest_stores_nothing(client: Client) -> None:
    """Content must never be found under a name that is not its own."""
    answer = await client.finish(await client.location(), ABSENT, BLOB.data)
    assert (answer.status_code, codes(answer)) == (400, ["DIGEST_INVALID"])
    for digest in (ABSENT, BLOB.digest):
        assert (await client.blob(digest)).status_code == 404


@pytest.mark.parametrize(
    "query",
    ["", "&digest=", "&digest=sha256:abc", f"&digest=md5:{'a' * 32}", f"&digest=sha256:{'A' * 64}"],
)
async def test_a_put_without_a_usable_digest_keeps_the_upload(client: Client, query: str) -> None:
    """The bytes are there; the client may ask again with a better one."""
    answer = await client.patch(await client.location(), BLOB.data)
    location = answer.headers["location"]
    refused = await client.send("PUT", f"{location}{query}")
    assert (refused.status_code, codes(refused)) == (400, ["DIGEST_INVALID"])
    assert (await client.finish(location, BLOB.digest)).status_code == 201


@pytest.mark.parametrize("uuid", ["none", "0", f"{'0' * 8}-0000-4000-8000-{'0' * 12}", "a.b=c"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "PUT", "DELETE"])
async def test_an_unknown_upload_is_a_404(client: Client, method: str, uuid: str) -> None:
    """Purged, or never started: the client begins anew."""
    state = (await client.location()).partition("?")[2]
    target = f"/v2/{NAME}/blobs/uploads/{uuid}?{state}&digest={BLOB.digest}"
    answer = await client.send(method, target, b"x" if method in {"PATCH", "PUT"} else None)
    assert answer.status_code == 404
    if method == "GET":
        assert codes(answer) == ["BLOB_UPLOAD_UNKNOWN"]


@pytest.mark.parametrize("span", ["0-99", "399-498", "401-500", "999-1098"])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_chunk_out_of_order_is_a_416_that_tells_where_to_go_on(
    client: Client, method: str, span: str
) -> None:
    """A chunk that is sent again after a lost answer must not be stored twice; regclient resumes from the 416."""
    answer = await client.patch(await client.location(), BLOB.data[:400])
    location = stands_at(answer, "0-399")
    chunk = BLOB.data[:100]
    if method == "PATCH":
        refused = await client.patch(location, chunk, span)
    else:
        refused = await client.finish(location, BLOB.digest, chunk, span)
    assert (refused.status_code, codes(refused)) == (416, ["RANGE_INVALID"])
    location = stands_at(refused, "0-399")
    answer = await client.finish(location, BLOB.digest, BLOB.data[400:])
    await is_whole(client, answer, BLOB.digest, BLOB.data)


async def test_an_outdated_location_is_a_416_that_tells_where_to_go_on(client: Client) -> None:
    """A client that repeats a stored chunk would append it twice, and notice at the very end."""
    location = await client.location()
    await client.patch(location, BLOB.data[:400])
    refused = await client.patch(location, BLOB.data[:400])
    assert (refused.status_code, codes(refused)) == (416, ["RANGE_INVALID"])
    answer = await client.finish(stands_at(refused, "0-399"), BLOB.digest, BLOB.data[400:])
    await is_whole(client, answer, BLOB.digest, BLOB.data)


@pytest.mark.parametrize("end", ["9999999999999999999", "9" * 20, "9" * 5000])
async def test_a_span_beyond_what_a_number_holds_is_a_400(client: Client, end: str) -> None:
    """`len` of such a range is an OverflowError, and was a 500."""
    for body in (pieces(b"abc"), b"abc"):
        refused = await client.patch(await client.location(), body, f"0-{end}")
        assert (refused.status_code, codes(refused)) == (400, ["SIZE_INVALID"])
    ahead = await client.patch(await client.location(), pieces(b"abc"), f"{end}-{end}")
    assert (ahead.status_code, codes(ahead)) == (416, ["RANGE_INVALID"])


@pytest.mark.parametrize("announced", ["9" * 20, "9" * 5000])
async def test_a_length_beyond_what_a_number_holds_is_a_refusal(client: Client, announced: str) -> None:
    """Python converts no text of more than 4,300 digits."""
    headers = {"content-length": announced}
    refused = await client.send("PATCH", await client.location(), pieces(b"abc"), headers)
    assert (refused.status_code, codes(refused)) == (400, ["SIZE_INVALID"])
    refused = await client.send("PUT", f"/v2/{NAME}/manifests/v1", pieces(b"{}"), headers)
    assert (refused.status_code, codes(refused)) == (413, ["MANIFEST_INVALID"])


async def test_an_inverted_span_is_a_416(client: Client) -> None:
    """Start must not be after end (docs/reference/http-api.md, section 7.3)."""
    refused = await client.patch(await client.location(), b"x", "9-0")
    assert (refused.status_code, codes(refused)) == (416, ["RANGE_INVALID"])


@pytest.mark.parametrize("span", ["0-98", "0-100", "bytes 0-99/100", "bytes=0-99", "0-", "-99", "x", "0-99/*", ""])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_span_that_is_not_the_body_is_a_400_and_stores_nothing(
    client: Client, method: str, span: str
) -> None:
    """A proxy cut the chunk, or the client miscounts: an error now is better than a wrong digest at the end."""
    location = await client.location()
    if method == "PATCH":
        refused = await client.patch(location, BLOB.data[:100], span)
    else:
        refused = await client.finish(location, BLOB.digest, BLOB.data[:100], span)
    assert (refused.status_code, codes(refused)) == (400, ["SIZE_INVALID"])
    assert (await client.finish(location, BLOB.digest, BLOB.data)).status_code == 201


@pytest.mark.parametrize("sent", [b"short", b"longer than eight"])
async def test_a_stream_that_is_not_its_span_is_a_400(client: Client, sent: bytes) -> None:
    """Without Content-Length only the span has the expected size."""
    refused = await client.patch(await client.location(), pieces(sent), "0-7")
    assert (refused.status_code, codes(refused)) == (400, ["SIZE_INVALID"])


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
async def test_a_state_that_was_not_made_for_this_upload_is_a_404(serve: Serve, method: str) -> None:
    """A client must not write to or cancel the upload of another; a uuid is not a secret."""
    driver = MemoryDriver()
    client, stranger = serve(driver=driver), serve(driver=driver, secret=b"another registry's")
    location = await client.location()
    path, _, state = location.partition("?")
    foreign = (await client.location(OTHER)).partition("?")[2]
    forged = (await stranger.get(path)).headers["location"].partition("?")[2]
    flipped = f"{state[:-1]}{'A' if state[-1] != 'A' else 'B'}"
    for query in ("_state=", "x=y", "_state=garbage", f"_state={'A' * 5000}", foreign, forged, flipped):
        body = None if method == "DELETE" else b"x"
        refused = await client.send(method, f"{path}?{query}&digest={BLOB.digest}", body)
        assert (refused.status_code, codes(refused)) == (404, ["BLOB_UPLOAD_INVALID"]), query
    assert (await client.finish(location, BLOB.digest, BLOB.data)).status_code == 201


async def test_an_upload_belongs_to_its_repository(client: Client) -> None:
    """The right to push to one repository must not reach into another."""
    location = await client.location(OTHER)
    refused = await client.patch(location.replace(OTHER, NAME), b"x")
    assert refused.status_code == 404
    assert (await client.get(location.replace(OTHER, NAME))).status_code == 404


async def test_a_mount_links_without_an_upload(client: Client) -> None:
    """Pushing an image whose base is already here costs no bytes."""
    await client.push_blob(BLOB, OTHER)
    answer = await client.start_upload(query=f"?mount={BLOB.digest}&from={OTHER}&origin=x")
    await is_whole(client, answer, BLOB.digest, BLOB.data)


async def test_a_mount_without_a_source_takes_it_from_anywhere(client: Client) -> None:
    """Regclient tries this first for every blob."""
    await client.push_blob(BLOB, OTHER)
    await is_whole(client, await client.start_upload(query=f"?mount={BLOB.digest}"), BLOB.digest, BLOB.data)


@pytest.mark.parametrize(
    "query",
    [
        f"mount={ABSENT}", f"mount={ABSENT}&from={OTHER}", f"mount={BLOB.digest}&from=team/empty", "mount=",
        f"mount={BLOB.digest}&from=NOT+A+NAME", f"mount=nonsense&from={OTHER}", "mount=sha256:abc",
        f"from={OTHER}",
    ],
)  # fmt: skip
async def test_a_mount_that_cannot_be_done_is_an_upload(client: Client, query: str) -> None:
    """A client takes any refusal here for a failed push (docs/reference/http-api.md, section 7.2)."""
    await client.push_blob(BLOB, OTHER)
    answer = await client.start_upload(query=f"?{query}")
    assert answer.status_code == 202
    assert (await client.finish(stands_at(answer, "0-0"), BLOB.digest, BLOB.data)).status_code == 201


@pytest.mark.parametrize("sent", [BLOB, BIG, BLOB_512, NOTHING], ids=lambda blob: f"{blob.size} bytes")
async def test_one_post_is_a_whole_upload(client: Client, sent: Built) -> None:
    """Half the round trips for a small blob."""
    answer = await client.start_upload(query=f"?digest={sent.digest}", body=sent.data)
    await is_whole(client, answer, sent.digest, sent.data)


async def test_one_post_may_be_streamed(client: Client) -> None:
    """A body whose length is not announced is a body."""
    answer = await client.start_upload(query=f"?digest={BLOB.digest}", body=pieces(BLOB.data))
    await is_whole(client, answer, BLOB.digest, BLOB.data)


@pytest.mark.parametrize("digest", [ABSENT, "nonsense", "sha256:abc"])
async def test_one_post_of_something_else_is_a_400(client: Client, digest: Digest | str) -> None:
    """It has no Location, so there is no upload to continue either."""
    answer = await client.start_upload(query=f"?digest={digest}", body=BLOB.data)
    assert (answer.status_code, codes(answer)) == (400, ["DIGEST_INVALID"])
    assert "location" not in answer.headers


async def test_a_post_with_a_digest_and_no_bytes_is_an_upload(client: Client) -> None:
    """The specification lets a client announce the digest and send the bytes later."""
    answer = await client.start_upload(query=f"?digest={BLOB.digest}")
    assert answer.status_code == 202
    assert (await client.finish(stands_at(answer, "0-0"), BLOB.digest, BLOB.data)).status_code == 201


async def test_the_algorithm_may_be_foretold(client: Client) -> None:
    """A large sha512 blob then need not be read again; the hint binds to nothing."""
    for sent in (BIG_512, BIG):
        answer = await client.patch(await client.location(query="?digest-algorithm=sha512"), sent.data)
        answer = await client.finish(stands_at(answer, f"0-{sent.size - 1}"), sent.digest)
        await is_whole(client, answer, sent.digest, sent.data)


async def test_an_algorithm_that_we_do_not_have_is_a_400_at_the_start(client: Client) -> None:
    """Better than after a gigabyte."""
    answer = await client.start_upload(query="?digest-algorithm=md5")
    assert (answer.status_code, codes(answer)) == (400, ["DIGEST_INVALID"])
    assert "sha256, sha512" in detail(answer)
