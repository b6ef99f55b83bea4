"""The S3 driver and stores that fail, hang, refuse, lack conditions, or return versions that they do not keep."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from tests.s3 import Bucket, Request, Trouble, a_bucket, cannot_hold, front, is_moto

from moorage.startup import StartupError
from moorage.storage.driver import (
    ABSENT,
    Conflict,
    Key,
    KeyMissing,
    StorageExhausted,
    StorageUnavailable,
    Unchanged,
    UploadChanged,
    UploadMissing,
)
from moorage.storage.object_store.driver import ObjectDriver
from moorage.storage.s3 import connection as s3_connection
from moorage.storage.s3.options import S3Limits
from moorage.storage.s3.store import S3Store
from moorage.testing.listing_contract import flat
from moorage.testing.upload_contract import HOME, TO, extend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.slow

KEY = Key("docker/link")


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_bucket(watched=True) as bucket:
        yield bucket


async def at_once(_: float) -> None:
    """Pauses between attempts, left out."""


@pytest.fixture
async def make(bucket: Bucket) -> AsyncIterator[Callable[..., ObjectDriver]]:
    made: list[ObjectDriver] = []

    def driver(**options: Any) -> ObjectDriver:
        made.append(ObjectDriver.with_chunk_log(S3Store(bucket.options(**options), sleep=at_once)))
        return made[-1]

    yield driver
    for one in made:
        await one.close()


class Times:
    """Trouble for the first `count` requests that `matching` picks."""

    def __init__(self, trouble: Trouble, count: int, matching: Callable[[Request], bool] = lambda _: True) -> None:
        self._trouble, self._left, self._matching = trouble, count, matching

    def __call__(self, request: Request) -> Trouble | None:
        if self._left > 0 and self._matching(request):
            self._left -= 1
            return self._trouble
        return None


CALLS: dict[str, Callable[[ObjectDriver], Any]] = {
    "read": lambda driver: driver.read(KEY),
    "write": lambda driver: driver.write(KEY, b"text"),
    "stat": lambda driver: driver.stat(KEY),
    "delete": lambda driver: driver.delete([KEY, Key("docker/other")]),
    "children": lambda driver: flat(driver.children(Key("docker"))),
    "open": lambda driver: driver.open(KEY).__aenter__(),
    "probe": lambda driver: driver.probe(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError")])
async def test_a_passing_failure_is_tried_again(
    make: Callable[..., ObjectDriver], call: str, status: int, code: str
) -> None:
    """A store that is busy for a moment costs a moment."""
    driver = make()
    await driver.write(KEY, b"text")
    front().trouble = Times(Trouble(status, code), 2)
    await CALLS[call](driver)


@pytest.mark.parametrize("call", CALLS)
async def test_a_lasting_failure_is_told_in_full_and_without_secrets(
    make: Callable[..., ObjectDriver], bucket: Bucket, call: str
) -> None:
    """The log must name endpoint, bucket, key and the store's word; never the keys to the store."""
    driver = make(attempts=2)
    await driver.write(KEY, b"text")
    front().trouble = Times(Trouble(503, "SlowDown"), 1000)
    with pytest.raises(StorageUnavailable) as caught:
        await CALLS[call](driver)
    output = str(caught.value)
    assert bucket.endpoint in output
    assert f"bucket {bucket.name}" in output
    assert "503" in output
    assert "SlowDown" in output or call == "stat"  # a HEAD has no body that could say it
    assert bucket.secret_key not in output
    assert bucket.access_key not in output.replace(bucket.endpoint, "").replace(bucket.name, "")
    assert not isinstance(caught.value, StorageExhausted)


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (404, "NoSuchBucket", "there is no such bucket"),
        (403, "AccessDenied", "the credentials may not do this"),
        (403, "InvalidAccessKeyId", "the access key is unknown"),
        (403, "SignatureDoesNotMatch", "the secret key does not belong"),
        (403, "RequestTimeTooSkewed", "clocks"),
        (400, "AuthorizationHeaderMalformed", "another region"),
        (301, "PermanentRedirect", "another region"),
        (400, "ExpiredToken", "have expired"),
    ],
)
@pytest.mark.parametrize("call", ["read", "write", "children", "delete", "probe"])
async def test_mistakes_of_the_set_up_are_named(
    make: Callable[..., ObjectDriver], call: str, status: int, code: str, hint: str
) -> None:
    """An empty registry, or "the storage failed", would send the operator looking in the wrong place."""
    driver = make()
    if code == "PermanentRedirect" and call == "children":
        return  # botocore looks for the bucket's region by itself, and here it would look for ever
    front().trouble = Times(Trouble(status, code), 1000)
    with pytest.raises(StorageUnavailable, match=hint):
        await CALLS[call](driver)
    assert len(front().requests) <= 2, "no use in asking again"


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "QuotaExceeded"), (507, "XMinioStorageFull"), (400, "XMinioAdminBucketQuotaExceeded")],
)
async def test_a_full_store_is_exhausted(make: Callable[..., ObjectDriver], status: int, code: str) -> None:
    """After a 507 a client does not try again in a minute."""
    driver = make()
    front().trouble = Times(Trouble(status, code), 1000)
    with pytest.raises(StorageExhausted, match=code):
        await driver.write(KEY, b"text")
    with pytest.raises(StorageExhausted, match=code):
        await driver.uploads.begin(HOME)


async def test_a_state_of_an_upload_that_cannot_be_read_is_named_with_its_bucket(
    make: Callable[..., ObjectDriver], bucket: Bucket
) -> None:
    """No request failed, so only the message names object, endpoint and bucket."""
    driver = make(rootdirectory="some/root")
    await driver.write(Key(f"{HOME}/state"), b"of something else")
    place = rf"some/root/{HOME}/state at .+, bucket {bucket.name}: .*cannot read it"
    with pytest.raises(StorageUnavailable, match=place):
        await driver.uploads.state(HOME)


async def test_a_bucket_that_is_missing_is_named_by_the_store_itself(make: Callable[..., ObjectDriver]) -> None:
    """Return moto's own response."""
    driver = make(bucket="moorage-is-not-there")
    for call in ("read", "write", "children", "probe", "delete"):
        with pytest.raises(StorageUnavailable, match="there is no such bucket"):
            await CALLS[call](driver)


async def test_a_dead_endpoint_ends_in_an_error_soon(make: Callable[..., ObjectDriver]) -> None:
    """Clients would wait for a store that does not exist."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver, begun = make(regionendpoint=f"http://127.0.0.1:{port}", attempts=2), time.monotonic()
    for call in CALLS.values():
        with pytest.raises(StorageUnavailable, match=rf"127\.0\.0\.1:{port}.*no answer"):
            await call(driver)
    assert time.monotonic() - begun < 30


async def test_a_store_that_says_nothing_ends_in_an_error(make: Callable[..., ObjectDriver]) -> None:
    """A connection that is taken and never answered is the worst of outages: it must not hold requests up."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        port = silent.getsockname()[1]
        driver = make(regionendpoint=f"http://127.0.0.1:{port}", attempts=1, answer_s=0.2, chunksize=1 << 17)
        for call in ("read", "write", "stat", "children", "open", "delete"):
            with pytest.raises(StorageUnavailable):
                async with asyncio.timeout(20):
                    await CALLS[call](driver)


def conditional(request: Request) -> bool:
    return request.method == "PUT" and bool({"if-match", "if-none-match"} & request.headers.keys())


def unknown(request: Request) -> Trouble | None:
    """OpenStack Swift."""
    return Trouble(501, "NotImplemented") if conditional(request) else None


def refusing_if_match(request: Request) -> Trouble | None:
    """Ceph radosgw 16."""
    return Trouble(412, "PreconditionFailed") if "if-match" in request.headers else None


@pytest.mark.parametrize("kind", ["exact", "unknown", "refusing if-match", "ignoring"])
async def test_conditions_hold_one_after_the_other_on_every_store(
    make: Callable[..., ObjectDriver], bucket: Bucket, kind: str
) -> None:
    """If the store compares nothing, the object is read first: only a race is then undecided."""
    front().trouble = {"unknown": unknown, "refusing if-match": refusing_if_match}.get(kind)
    if kind == "ignoring":
        if not is_moto():
            cannot_hold("a request without the headers that it was signed with is refused")
        front().ignored = {"if-match", "if-none-match"}
    driver, other = make(), make()
    first = await driver.write(KEY, b"first", ABSENT)
    with pytest.raises(Conflict):
        await other.write(KEY, b"second", ABSENT)
    second = await other.write(KEY, b"second", Unchanged(first))
    with pytest.raises(Conflict):
        await driver.write(KEY, b"third", Unchanged(first))
    assert (await driver.read(KEY)).data == b"second"
    await driver.delete([KEY])
    with pytest.raises(Conflict):
        await driver.write(KEY, b"third", Unchanged(second))
    state = await extend(driver, await driver.uploads.begin(HOME), b"12345")
    state = await extend(other, await other.uploads.state(HOME), b"678")
    await driver.uploads.publish(HOME, state, TO)
    assert (await other.read(TO)).data == b"12345678"
    await driver.uploads.discard(HOME)
    with pytest.raises(UploadMissing):
        await extend(other, state, b"late")
    assert list(bucket.keys()) == [TO], "nor is anything left of trying the conditions"


@pytest.mark.parametrize("condition", ["absent", "unchanged"])
async def test_a_condition_that_our_own_lost_attempt_broke_is_no_conflict(
    make: Callable[..., ObjectDriver], condition: str
) -> None:
    """The store did it and its answer was lost; telling the client of a conflict with itself would be a lie."""
    driver = make()
    before = await driver.write(KEY, b"before")
    await driver.write(Key("other"), b"", ABSENT)
    if condition == "absent":
        await driver.delete([KEY])
    front().trouble = Times(Trouble(500, "InternalError", done=True), 1, conditional)
    version = await driver.write(KEY, b"after", ABSENT if condition == "absent" else Unchanged(before))
    content = await driver.read(KEY)
    assert (content.data, content.version) == (b"after", version)


async def test_anothers_write_during_our_retry_is_a_conflict(make: Callable[..., ObjectDriver]) -> None:
    """It is not the registry's, however it was made."""
    driver, other = make(), make()
    await driver.write(Key("other"), b"", ABSENT)
    front().trouble = Times(Trouble(500, "InternalError"), 1, conditional)
    write = asyncio.ensure_future(other.write(KEY, b"theirs"))
    await write
    with pytest.raises(Conflict):
        await driver.write(KEY, b"ours", ABSENT)


async def test_a_completion_whose_answer_was_lost_has_happened(
    make: Callable[..., ObjectDriver], bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store joined the parts and its answer was lost; the second attempt finds no upload."""
    unit = 1000 if is_moto() else 5 << 20
    if is_moto():
        monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    driver, data = make(chunksize=unit), b"x" * (7 * unit // 2)
    state = await extend(driver, await driver.uploads.begin(HOME), data)
    completing = Times(
        Trouble(500, "InternalError", done=True),
        1,
        lambda request: request.method == "POST" and "uploadId=" in request.query,
    )
    front().trouble = completing
    await driver.uploads.publish(HOME, state, TO)
    assert (await driver.read(TO, limit=len(data))).data == data
    assert bucket.in_progress() == []


@pytest.mark.parametrize("code", ["NotImplemented", "MissingContentMD5"])
async def test_a_store_that_deletes_one_by_one(
    make: Callable[..., ObjectDriver], bucket: Bucket, code: str
) -> None:
    """Some require checksums that no client sends; others do not know the request."""
    front().trouble = lambda request: (
        Trouble(501 if code == "NotImplemented" else 400, code) if "delete" in request.query else None
    )
    driver = make()
    keys = [Key(f"docker/{number}") for number in range(20)]
    for key in keys:
        await driver.write(key, b"text")
    await driver.delete([*keys[:12], Key("docker/none")])
    await driver.clear(Key("docker"))
    assert bucket.keys() == {}
    requested = [request for request in front().requests if "delete" in request.query]
    assert len(requested) == 1, "one call, then it is known"


@pytest.mark.usefixtures("bucket")
async def test_a_deletion_that_the_store_refuses_within_a_list_is_told(make: Callable[..., ObjectDriver]) -> None:
    """A collector that believes it has deleted would count garbage as gone."""
    front().edit = lambda request, body: (
        b"<DeleteResult><Error><Key>docker/1</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
        b"</DeleteResult>" if "delete" in request.query else body
    )  # fmt: skip
    with pytest.raises(StorageUnavailable, match=r"docker/1 .*AccessDenied"):
        await make().delete([Key("docker/1"), Key("docker/2")])


def joined_by_the_reference(bucket: Bucket, data: bytes) -> None:
    """An upload that the reference began and left: its bytes become one object of parts."""
    client = bucket.client
    client.put_object(Bucket=bucket.name, Key=f"{HOME}/startedat", Body=b"2026-11-24T15:18:03Z")
    begun = client.create_multipart_upload(Bucket=bucket.name, Key=f"{HOME}/data")
    client.upload_part(Bucket=bucket.name, Key=f"{HOME}/data", UploadId=begun["UploadId"], PartNumber=1, Body=data)


def refusing_joined(request: Request) -> Trouble | None:
    """OpenStack Swift stores another ETag of a joined object than it returns."""
    if f"{HOME}/data" in unquote(request.headers.get("x-amz-copy-source", "")):
        return Trouble(412, "PreconditionFailed") if "x-amz-copy-source-if-match" in request.headers else None
    return None


@pytest.mark.parametrize("more", [b"", b"and ours"], ids=["copied", "joined"])
async def test_a_store_that_refuses_the_version_that_it_tells(
    make: Callable[..., ObjectDriver], bucket: Bucket, more: bytes
) -> None:
    """An object joined of parts could be neither copied nor joined again: an upload taken over from the reference
    was never published, nor a layer of more chunks than an object has parts.
    """
    data = bytes((5 << 20) + 1 if more else 110_000)
    joined_by_the_reference(bucket, data)
    front().trouble = refusing_joined
    driver = make(chunksize=5 << 20)
    state = await driver.uploads.state(HOME)
    state = await extend(driver, state, more)
    await driver.uploads.publish(HOME, state, TO)
    assert (await driver.read(TO, limit=len(data + more))).data == data + more
    assert bucket.in_progress() == []


async def test_what_was_replaced_is_not_copied_by_such_a_store_either(
    make: Callable[..., ObjectDriver], bucket: Bucket
) -> None:
    """Bytes that were never hashed become no blob."""
    joined_by_the_reference(bucket, b"begun there" * 10_000)
    front().trouble = refusing_joined
    driver = make()
    state = await extend(driver, await driver.uploads.state(HOME), b"")
    bucket.client.put_object(Bucket=bucket.name, Key=f"{HOME}/data", Body=b"evil" * 27_500)
    with pytest.raises(UploadChanged):
        await driver.uploads.publish(HOME, state, TO)
    with pytest.raises(KeyMissing):
        await driver.stat(TO)
    assert bucket.in_progress() == []


async def test_a_store_that_answers_completions_without_a_version(
    make: Callable[..., ObjectDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ceph's radosgw 16.  What was joined on the way is copied on only as that version."""
    if not is_moto():
        cannot_hold("small parts are refused")
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    front().edit = lambda request, body: (
        re.sub(rb"<ETag>[^<]*</ETag>", b"<ETag></ETag>", body)
        if request.method == "POST" and "uploadId=" in request.query
        else body
    )
    driver = make(
        chunksize=1000,
        limits=S3Limits(part_bytes=3000, parts=5, group_bytes=3000),
        multipartcopythresholdsize=3000,
    )
    data = bytes(index % 251 for index in range(9500))
    await driver.uploads.publish(HOME, await extend(driver, await driver.uploads.begin(HOME), data), TO)
    assert (await driver.read(TO)).data == data
    copies = [request for request in front().requests if "x-amz-copy-source" in request.headers]
    assert len(copies) > 9
    assert all(len(request.headers.get("x-amz-copy-source-if-match", "")) > 2 for request in copies)


async def test_a_store_that_lists_no_uploads_is_swept_of_what_it_tells(make: Callable[..., ObjectDriver]) -> None:
    """Purging continues with the requests that the store supports."""
    front().trouble = lambda request: (
        Trouble(501, "NotImplemented") if request.query.startswith("uploads") else None
    )
    driver, later = make(attempts=2), datetime.now(UTC) + timedelta(seconds=5)
    await driver.write(Key(f"{HOME}/startedat"), b"2026-11-24T15:18:03Z")
    with pytest.raises(UploadMissing):
        await driver.uploads.state(HOME)
    homes = [home async for home in driver.uploads.abandoned(Key("docker/registry/v2"), later)]
    assert homes == [HOME]
    await driver.uploads.discard(HOME)
    assert list(await driver.uploads.sweep(Key("docker"), later)) == []


async def test_a_download_whose_connection_breaks_goes_on(make: Callable[..., ObjectDriver]) -> None:
    """The reader resumes: the store closes the connection in the middle of a layer."""
    data = bytes(range(256)) * 8000
    await make().write(TO, data)
    with cutting_proxy(front().port, after_bytes=700_000) as port:
        driver = make(regionendpoint=f"http://127.0.0.1:{port}")
        async with driver.open(TO) as reader:
            assert b"".join([piece async for piece in reader]) == data


@contextmanager
def cutting_proxy(port: int, *, after_bytes: int) -> Iterator[int]:
    """Passes connections through, and cuts the first one after so many bytes of answer."""
    server, cut = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        count = 0
        try:
            while data := source.recv(65536):
                count += len(data)
                sink.sendall(data)
                if limit is not None and count > limit and not cut.is_set():
                    cut.set()
                    break
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            client, _ = server.accept()
            if stopping.is_set():
                client.close()
                return
            store = socket.create_connection(("127.0.0.1", port))
            ends.extend((client, store))
            for arguments in ((client, store, None), (store, client, after_bytes)):
                threads.append(threading.Thread(target=pump, args=arguments, daemon=True))
                threads[-1].start()

    ends: list[socket.socket] = []
    stopping, threads = threading.Event(), [threading.Thread(target=accept, daemon=True)]
    threads[0].start()
    try:
        yield server.getsockname()[1]
    finally:
        stopping.set()
        socket.create_connection(server.getsockname()).close()
        threads[0].join()
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for end in (*ends, server):
            end.close()
    assert cut.is_set(), "or this tests nothing"


@pytest.mark.parametrize("library", ["obstore.store", "aiobotocore.session"])
def test_a_missing_library_is_named_with_its_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install moorage` alone brings no bucket; the message names the extra."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(StartupError, match=r"moorage\[s3\].*not installed"):
        s3_connection.require_libraries()


async def test_requests_are_logged_when_asked_for(
    make: Callable[..., ObjectDriver], bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    """`loglevel: debug`: what was asked of the store, how it ended, and no secret."""
    driver = make(log_requests=True)
    await driver.write(KEY, b"text")
    with pytest.raises(KeyMissing):
        await driver.read(Key("docker/none"))
    output = capsys.readouterr().out
    assert "PutObject" in output
    assert "docker/none" in output
    assert "NoSuchKey" in output
    assert bucket.secret_key not in output
