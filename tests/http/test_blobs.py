"""Blobs out: whole, by ranges, on condition; seen only through the repository that links them; deletion."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, ClassVar

import pytest
from structlog.testing import capture_logs
from tests.http.client import ABSENT, NAME, OTHER, Client, codes, detail
from tests.http.raw import ask
from tests.registry.instrumented import InstrumentedDriver

from moorage.config.model import Settings
from moorage.storage.driver import SignedUrl
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import EMPTY, blob, image

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from tests.http.conftest import Serve

    from moorage.storage.driver import Key
    from moorage.testing.builders import Built

BLOB = blob(size=1000)
BIG = blob(size=200_000, seed=1)
BIG_512 = blob(size=200_000, seed=1, algorithm="sha512")


@pytest.mark.parametrize("built", [BLOB, BIG, BIG_512, EMPTY, blob(b"")], ids=lambda blob: f"{blob.size} bytes")
async def test_a_blob_comes_out_as_it_went_in(client: Client, built: Built) -> None:
    """Every header is one that some client needs: the length and digest, the ETag, that ranges can be asked."""
    await client.push_blob(built)
    answer = await client.blob(built)
    assert (answer.status_code, answer.content) == (200, built.data)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(built.size)
    assert answer.headers["docker-content-digest"] == str(built.digest)
    assert answer.headers["etag"] == f'"{built.digest}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["cache-control"] == "max-age=31536000"


@pytest.mark.parametrize("built", [BLOB, BIG, BIG_512], ids=lambda blob: f"{blob.size} bytes")
async def test_head_has_size_and_digest(client: Client, built: Built) -> None:
    """Docker asks it before and after every upload, and takes the size from it."""
    await client.push_blob(built)
    answer = await client.send("HEAD", f"/v2/{NAME}/blobs/{built.digest}")
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(built.size)
    assert answer.headers["docker-content-digest"] == str(built.digest)
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_an_escaped_digest_is_the_same_digest(client: Client) -> None:
    """Some clients escape the colon."""
    await client.push_blob(BLOB)
    assert (await client.blob(str(BLOB.digest).replace(":", "%3A"))).content == BLOB.data


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_an_unknown_blob_is_a_404(client: Client, method: str) -> None:
    """The answer that makes a client upload the layer."""
    answer = await client.send(method, f"/v2/{NAME}/blobs/{ABSENT}")
    assert answer.status_code == 404
    if method == "GET":
        assert codes(answer) == ["BLOB_UNKNOWN"]
        assert detail(answer) == str(ABSENT)


async def test_a_blob_of_another_repository_is_unknown(client: Client) -> None:
    """Who may read one repository must not read, or find out about, what is in another."""
    await client.push_blob(BLOB, OTHER)
    for name in (NAME, "team", f"{OTHER}/deeper"):
        answer = await client.blob(BLOB, name)
        assert (answer.status_code, codes(answer)) == (404, ["BLOB_UNKNOWN"])


async def test_a_manifest_is_not_a_blob(client: Client) -> None:
    """Blobs and manifests are separate spaces: deleting one must not be a way to delete the other."""
    manifest = await client.push(image(), "latest")
    answer = await client.blob(manifest)
    assert (answer.status_code, codes(answer)) == (404, ["BLOB_UNKNOWN"])


@pytest.mark.parametrize(
    "spelling",
    [
        "sha256:abc",
        f"sha256:{'A' * 64}",
        f"sha256:{'g' * 64}",
        f"sha256:{'a' * 65}",
        f"sha512:{'a' * 64}",
        f"md5:{'a' * 32}",
        f"unknown:{'a' * 64}",
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_bad_digest_is_a_400(client: Client, method: str, spelling: str) -> None:
    """A misspelt digest must not look like a layer that has to be uploaded."""
    answer = await client.send(method, f"/v2/{NAME}/blobs/{spelling}")
    assert (answer.status_code, codes(answer)) == (400, ["DIGEST_INVALID"])


@pytest.mark.parametrize(
    ("requested", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, 999),
        ("bytes=500-", 500, 999),
        ("bytes=100-199", 100, 199),
        ("bytes=999-999", 999, 999),
        ("bytes=990-5000", 990, 999),
        ("bytes=-1", 999, 999),
        ("bytes=-300", 700, 999),
        ("bytes=-5000", 0, 999),
        ("bytes=990-99999999999999999999", 990, 999),
        (f"bytes=0990-{'9' * 5000}", 990, 999),
        (f"bytes=-{'9' * 5000}", 0, 999),
    ],
)
async def test_one_range_is_a_206(client: Client, requested: str, first: int, last: int) -> None:
    """Resumed pulls need exactly these bytes, and a Content-Range to match."""
    await client.push_blob(BLOB)
    answer = await client.blob(BLOB, range=requested)
    assert (answer.status_code, answer.content) == (206, BLOB.data[first : last + 1])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/1000"
    assert answer.headers["content-length"] == str(last - first + 1)
    assert answer.headers["docker-content-digest"] == str(BLOB.digest)


async def test_a_range_of_a_large_blob_is_only_the_range(client: Client) -> None:
    """Large blobs leave on another path than small ones."""
    await client.push_blob(BIG)
    answer = await client.blob(BIG, range="bytes=100000-149999")
    assert (answer.status_code, answer.content) == (206, BIG.data[100_000:150_000])


@pytest.mark.parametrize(
    "requested",
    [
        "bytes=1000-", "bytes=1000-1001", "bytes=99999-", "bytes=500-0", "bytes=-0", "bytes=-", "bytes=x-1",
        f"bytes={'9' * 20}-", f"bytes={'9' * 5000}-{'9' * 5000}", "bytes=-000",
    ],
)  # fmt: skip
async def test_an_unsatisfiable_range_is_a_416(client: Client, requested: str) -> None:
    """A client that has all bytes already must learn the size, not get the blob again."""
    await client.push_blob(BLOB)
    answer = await client.blob(BLOB, range=requested)
    assert (answer.status_code, codes(answer)) == (416, ["RANGE_INVALID"])
    assert answer.headers["content-range"] == "bytes */1000"


async def test_an_empty_blob_has_no_range(client: Client) -> None:
    """There is no first byte to begin with."""
    await client.push_blob(blob(b""))
    answer = await client.blob(blob(b""), range="bytes=0-")
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */0")


@pytest.mark.parametrize("requested", ["items=0-1", "bytes=0-1,5-9", "bytes=0-1, -5", "nonsense"])
async def test_other_units_and_several_ranges_get_the_whole(client: Client, requested: str) -> None:
    """Podman's zstd:chunked pull breaks on a 206 that holds only the first of its ranges."""
    await client.push_blob(BLOB)
    answer = await client.blob(BLOB, range=requested)
    assert (answer.status_code, answer.content) == (200, BLOB.data)
    assert "content-range" not in answer.headers


async def test_head_with_a_range_tells_the_whole(client: Client) -> None:
    """RFC 9110 defines Range for GET only."""
    await client.push_blob(BLOB)
    answer = await client.send("HEAD", f"/v2/{NAME}/blobs/{BLOB.digest}", headers={"range": "bytes=0-1"})
    assert (answer.status_code, answer.headers["content-length"]) == (200, "1000")


async def test_if_range_of_this_blob_lets_the_range_count(client: Client) -> None:
    """A download manager resumes only with it."""
    await client.push_blob(BLOB)
    answer = await client.blob(BLOB, range="bytes=1-2", if_range=f'"{BLOB.digest}"')
    assert (answer.status_code, answer.content) == (206, BLOB.data[1:3])


@pytest.mark.parametrize(
    "validator", [f'"{ABSENT}"', f'W/"{BLOB.digest}"', "Wed, 21 Oct 2015 07:28:00 GMT", '"x"']
)
async def test_any_other_if_range_gets_the_whole(client: Client, validator: str) -> None:
    """Bytes of two different blobs must never be joined; a weak tag proves nothing (RFC 9110 13.1.5)."""
    await client.push_blob(BLOB)
    answer = await client.blob(BLOB, range="bytes=1-2", if_range=validator)
    assert (answer.status_code, answer.content) == (200, BLOB.data)


@pytest.mark.parametrize(
    "condition",
    [f'"{BLOB.digest}"', f'W/"{BLOB.digest}"', f'"x", "{BLOB.digest}"', "*", str(BLOB.digest)],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_has_the_blob_gets_a_304(client: Client, method: str, condition: str) -> None:
    """A caching proxy then sends nothing through the network."""
    await client.push_blob(BLOB)
    answer = await client.send(method, f"/v2/{NAME}/blobs/{BLOB.digest}", headers={"if-none-match": condition})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == f'"{BLOB.digest}"'


async def test_who_has_another_blob_gets_this_one(client: Client) -> None:
    """A 304 would leave the client without the bytes."""
    await client.push_blob(BLOB)
    assert (await client.blob(BLOB, if_none_match=f'"{ABSENT}"')).content == BLOB.data


async def test_a_304_is_only_for_what_is_there(client: Client) -> None:
    """`*` of a blob that is not linked here would disclose that it exists in another repository."""
    await client.push_blob(BLOB, OTHER)
    assert (await client.blob(BLOB, if_none_match="*")).status_code == 404


async def test_deleting_takes_it_from_this_repository_only(client: Client) -> None:
    """The same layer, mounted into another repository, belongs to that one."""
    await client.push_blob(BLOB)
    await client.push_blob(BLOB, OTHER)
    answer = await client.send("DELETE", f"/v2/{NAME}/blobs/{BLOB.digest}")
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["content-length"] == "0"
    assert (await client.blob(BLOB)).status_code == 404
    assert (await client.blob(BLOB, OTHER)).content == BLOB.data
    again = await client.send("DELETE", f"/v2/{NAME}/blobs/{BLOB.digest}")
    assert (again.status_code, codes(again)) == (404, ["BLOB_UNKNOWN"])


async def test_a_deletion_shows_on_every_worker_at_once(serve: Serve) -> None:
    """Workers remember sizes; none may serve a blob that another has deleted."""
    driver = MemoryDriver()
    one, two = serve(driver=driver), serve(driver=driver)
    await one.push_blob(BIG)
    assert (await two.blob(BIG)).status_code == 200
    assert (await one.send("DELETE", f"/v2/{NAME}/blobs/{BIG.digest}")).status_code == 202
    assert (await two.blob(BIG)).status_code == 404


async def test_a_deleted_blob_can_be_pushed_again(client: Client) -> None:
    """Its bytes may still be stored."""
    await client.push_blob(BLOB)
    await client.send("DELETE", f"/v2/{NAME}/blobs/{BLOB.digest}")
    await client.push_blob(BLOB)
    assert (await client.blob(BLOB)).content == BLOB.data


async def test_deletion_is_off_unless_it_is_switched_on(serve: Serve) -> None:
    """A stock configuration must not allow deletions; skopeo reads the 405 as "deletion disabled"."""
    client = serve(Settings())
    await client.push_blob(BLOB)
    answer = await client.send("DELETE", f"/v2/{NAME}/blobs/{BLOB.digest}")
    assert (answer.status_code, codes(answer)) == (405, ["UNSUPPORTED"])
    assert (await client.blob(BLOB)).status_code == 200


class RedirectingDriver(MemoryDriver):
    """A store from which clients can fetch, as S3."""

    signs_urls = True

    async def handover(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        return SignedUrl(f"https://bucket.test/{key}?signature=x")


async def test_a_store_that_can_sends_the_client_there(serve: Serve) -> None:
    """Large layers then do not pass through the registry; HEAD is answered here, since clients need the length."""
    client = serve(driver=RedirectingDriver())
    await client.push_blob(BIG)
    answer = await client.blob(BIG)
    assert answer.status_code == 307
    assert answer.headers["location"].startswith("https://bucket.test/")
    head = await client.send("HEAD", f"/v2/{NAME}/blobs/{BIG.digest}")
    assert (head.status_code, head.headers["content-length"]) == (200, "200000")


@pytest.mark.parametrize(
    "condition",
    [f'"{BLOB.digest}"', f'"x", "{BLOB.digest}"', f'"W/", W/"y", "{BLOB.digest}"', "*", str(BLOB.digest)],
)
async def test_a_request_whose_if_match_holds_is_answered(client: Client, condition: str) -> None:
    """A download manager that resumes sends it, and stops at a 412."""
    await client.push_blob(BLOB)
    target = f"/v2/{NAME}/blobs/{BLOB.digest}"
    assert (await client.blob(BLOB, if_match=condition)).content == BLOB.data
    assert (await client.blob(BLOB, if_match=condition, range="bytes=1-2")).status_code == 206
    assert (await client.send("HEAD", target, headers={"if-match": condition})).status_code == 200
    lines = [("if-match", '"x"'), ("if-match", condition)]
    assert (await client.get(target, lines)).status_code == 200
    assert (await client.send("DELETE", target, headers={"if-match": condition})).status_code == 202


@pytest.mark.parametrize("condition", [f'"{ABSENT}"', f'W/"{BLOB.digest}"', '"x"', f'"{BLOB.digest} "', ""])
async def test_a_request_whose_if_match_does_not_hold_is_a_412(client: Client, condition: str) -> None:
    """RFC 9110 section 13.1.1: weak entity tags never match, and the request must not be carried out."""
    await client.push_blob(BLOB)
    target = f"/v2/{NAME}/blobs/{BLOB.digest}"
    for method in ("GET", "HEAD", "DELETE"):
        answer = await client.send(method, target, headers={"if-match": condition})
        assert answer.status_code == 412, method
    assert codes(answer) == ["DENIED"]
    assert (await client.blob(BLOB)).content == BLOB.data


async def test_preconditions_are_evaluated_in_the_order_of_the_rfc(client: Client) -> None:
    """RFC 9110 section 13.2.2: If-Match, If-None-Match, If-Range; none for an unknown blob."""
    await client.push_blob(BLOB)
    own, other = f'"{BLOB.digest}"', f'"{ABSENT}"'
    assert (await client.blob(BLOB, if_match=other, if_none_match=own)).status_code == 412
    assert (await client.blob(BLOB, if_match=own, if_none_match=own)).status_code == 304
    assert (await client.blob(BLOB, if_match=other, range="bytes=5000-")).status_code == 412
    assert (await client.blob(BLOB, if_none_match=own, range="bytes=5000-")).status_code == 304
    assert (await client.blob(BLOB, if_match=own, if_range=other, range="bytes=1-2")).content == BLOB.data
    for method in ("GET", "DELETE"):
        answer = await client.send(method, f"/v2/{NAME}/blobs/{ABSENT}", headers={"if-match": own})
        assert (answer.status_code, codes(answer)) == (404, ["BLOB_UNKNOWN"])


async def test_a_condition_that_holds_costs_no_call_to_the_store(serve: Serve) -> None:
    """In a bucket each is a request; a download manager sends If-Match with every range."""

    class Counting(InstrumentedDriver):
        calls: ClassVar[list[str]] = []

        async def before(self, call: str) -> None:
            self.calls.append(call)

    client = serve(driver=Counting(MemoryDriver()))
    await client.push_blob(BLOB)
    costs = []
    for headers in ({}, {"if_match": f'"{BLOB.digest}"'}, {"if_none_match": f'"{ABSENT}"'}):
        Counting.calls.clear()
        assert (await client.blob(BLOB, **headers)).content == BLOB.data
        costs.append(list(Counting.calls))
    assert costs[0]
    assert costs[1] == costs[2] == costs[0]


async def test_a_request_with_if_match_is_not_sent_to_a_store(serve: Serve) -> None:
    """The client would repeat If-Match there, and a store has its own entity tags: a 412 for the right blob."""
    client = serve(driver=RedirectingDriver())
    await client.push_blob(BIG)
    assert (await client.blob(BIG, if_match=f'"{BIG.digest}"')).content == BIG.data
    assert (await client.blob(BIG, if_match=f'"{ABSENT}"')).status_code == 412


def remove_data(root: Path) -> None:
    """Take every blob's bytes away, and leave the links."""
    for data in root.rglob("data"):
        data.unlink()


class ZeroCopy:
    """A server that sends open files by itself; notes files and spans, and raises `fails`, if any, from `send`."""

    def __init__(self, app: ASGIApp, fails: OSError | None = None) -> None:
        self._app, self._fails = app, fails
        self.files: list[FileIO] = []
        self.spans: list[tuple[int, int]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.zerocopysend":
                file, offset, count = message["file"], message["offset"], message["count"]
                self.files.append(file)
                self.spans.append((offset, count))
                if self._fails is not None:
                    raise self._fails
                message = {"type": "http.response.body", "body": os.pread(file.fileno(), count, offset)}
            await send(message)

        await self._app({**scope, "extensions": {"http.response.zerocopysend": {}}}, receive, sending)


async def test_a_file_is_sent_by_the_server_itself(serve: Serve, tmp_path: Path) -> None:
    """Without it every byte of every pull passes through Python; a file left open is one descriptor fewer."""
    server = ZeroCopy(serve(driver=FilesystemDriver(tmp_path)).app)
    client = Client(server)
    await client.push_blob(BIG)
    answer = await client.blob(BIG)
    assert (answer.status_code, answer.content) == (200, BIG.data)
    assert answer.headers["content-length"] == "200000"
    ranges = {"bytes=-10": range(199_990, 200_000), "bytes=5-99999": range(5, 100_000)}
    for requested, span in ranges.items():
        answer = await client.blob(BIG, range=requested)
        assert (answer.status_code, answer.content) == (206, BIG.data[span.start : span.stop])
        assert answer.headers["content-range"] == f"bytes {span.start}-{span.stop - 1}/200000"
        assert answer.headers["content-length"] == str(len(span))
    assert server.spans == [(0, 200_000), (199_990, 10), (5, 99_995)]
    assert (await client.send("HEAD", f"/v2/{NAME}/blobs/{BIG.digest}")).headers["content-length"] == "200000"
    assert len(server.spans) == 3, "HEAD opens no file"
    assert all(file.closed for file in server.files)


async def test_a_file_is_closed_when_the_client_leaves(serve: Serve, tmp_path: Path) -> None:
    """Each abandoned download would else cost a descriptor, until no blob can be opened any more."""
    app = serve(driver=FilesystemDriver(tmp_path)).app
    await Client(app).push_blob(BIG)
    server = ZeroCopy(app, ConnectionResetError(errno.ECONNRESET, "reset"))
    with pytest.raises(ConnectionResetError):
        await Client(server).blob(BIG)
    assert [file.closed for file in server.files] == [True]


async def test_a_stream_is_closed_when_the_client_leaves(serve: Serve, tmp_path: Path) -> None:
    """On every way out, and before the next request: an open file of a deleted blob keeps its space."""
    app = serve(driver=FilesystemDriver(tmp_path)).app
    await Client(app).push_blob(BIG)
    before = descriptors()

    async def leaving(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body":
                raise BrokenPipeError
            await send(message)

        await app(scope, receive, sending)

    with pytest.raises(BrokenPipeError):
        await ask(leaving, "GET", f"/v2/{NAME}/blobs/{BIG.digest}")
    assert descriptors() == before


def descriptors() -> int:
    return sum(1 for _ in os.scandir("/proc/self/fd"))


async def test_a_file_that_cannot_be_read_any_more_is_one_line_in_the_log(serve: Serve, tmp_path: Path) -> None:
    """The head is sent by then: the client gets too few bytes, the operator the file and the errno."""
    app = serve(driver=FilesystemDriver(tmp_path)).app
    await Client(app).push_blob(BIG)
    server = ZeroCopy(app, OSError(errno.EIO, os.strerror(errno.EIO)))
    with capture_logs() as logs:
        assert (await ask(server, "GET", f"/v2/{NAME}/blobs/{BIG.digest}")).status == 200
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("the storage failed", "error")
    assert line["cause"].startswith(f"send {tmp_path}/docker/")
    assert line["cause"].endswith("Input/output error (EIO)")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO])
@pytest.mark.parametrize("requested", [{}, {"range": "bytes=0-99999"}], ids=["whole", "range"])
async def test_a_file_that_cannot_be_opened_is_a_503(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, requested: dict[str, str]
) -> None:
    """After a 404 the client would consider the layer lost, where a retry is enough."""
    client = Client(ZeroCopy(serve(driver=FilesystemDriver(tmp_path)).app))
    await client.push_blob(BIG)
    original = os.open

    def failing(path: str, flags: int, *rest: int) -> int:
        if path.endswith("/data"):
            raise OSError(number, os.strerror(number), path)
        return original(path, flags, *rest)

    monkeypatch.setattr(os, "open", failing)
    with capture_logs():
        answer = await client.blob(BIG, **requested)
    assert (answer.status_code, codes(answer)) == (503, ["UNAVAILABLE"])
    assert answer.headers.get("retry-after") == (None if number == errno.EIO else "1")


@pytest.mark.parametrize("zero_copy", [False, True])
async def test_a_blob_whose_file_is_gone_is_a_404(serve: Serve, tmp_path: Path, *, zero_copy: bool) -> None:
    """A collector on another host may have swept it since its size was remembered; a half answer would hang."""
    client = serve(driver=FilesystemDriver(tmp_path))
    if zero_copy:
        client = Client(ZeroCopy(client.app))
    for built in (BLOB, BIG):
        await client.push_blob(built)
        assert (await client.blob(built)).status_code == 200
    remove_data(tmp_path)
    for built in (BLOB, BIG):
        for headers in ({}, {"range": "bytes=0-9"}):
            answer = await client.blob(built, **headers)
            assert (answer.status_code, codes(answer)) == (404, ["BLOB_UNKNOWN"])


async def test_a_download_that_the_disk_breaks_off_is_one_line_in_the_log(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is sent by then: the client gets too few bytes, the operator the file and the errno."""
    driver = FilesystemDriver(tmp_path)
    client = serve(driver=driver)
    huge = await client.push_blob(blob(size=(1 << 20) + 1, seed=2))
    read, parts = os.pread, list[int]()

    def failing(fd: int, size: int, offset: int) -> bytes:
        if offset:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, size, offset)

    async def send(message: Message) -> None:
        parts.append(len(message.get("body", b"")))

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(os, "pread", failing)
    path = f"/v2/{NAME}/blobs/{huge.digest}"
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": path, "headers": []}
    with capture_logs() as logs:
        await client.app(
            {**scope, "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1)}, receive, send
        )
    assert parts == [0, 1 << 20], "the status, and what could be read"
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("the storage failed", "error")
    assert line["cause"].startswith(f"read {tmp_path}/docker/")
    assert "(EIO)" in line["cause"]
    assert "exc_info" not in line
