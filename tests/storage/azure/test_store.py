"""The Azure driver beside its contract: both majors' names and blobs, copies, signed URLs, failures."""

from __future__ import annotations

import hashlib
import http.client
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from tests.azure import ACCOUNT_KEY, Container, Request, a_container

from moorage.storage.azure import blocks as azure_blocks
from moorage.storage.azure.connection import AzureConnection
from moorage.storage.azure.requests import AzureRequests
from moorage.storage.driver import (
    ABSENT,
    Conflict,
    Key,
    KeyMissing,
    Note,
    SignedUrl,
    StorageExhausted,
    StorageUnavailable,
    Unchanged,
    UploadMissing,
)
from moorage.testing.listing_contract import flat, keys_below

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from moorage.storage.azure.requests import BlobProperties
    from moorage.storage.object_store.driver import ObjectDriver

pytestmark = pytest.mark.slow

TAG = Key("docker/registry/v2/repositories/a/_manifests/tags/v1/current/link")
HOME = Key("docker/registry/v2/repositories/a/_uploads/0199a3c4-0000-7000-8000-000000000001")
TO = Key("docker/registry/v2/blobs/sha256/ab/abcd/data")


@pytest.fixture
def container() -> Iterator[Container]:
    with a_container() as found:
        yield found


def leave(container: Container, name: str, data: bytes, *, append: bool = False) -> None:
    """Write a blob as another program would."""
    with container.client as client:
        if append:
            blob = client.get_blob_client(name)
            blob.create_append_blob()
            blob.append_block(data)
        else:
            client.upload_blob(name, data)


def fetch(url: str, method: str = "GET") -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request(method, f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("root", "prefix"),
    [("", ""), ("/", ""), ("images", "images/"), ("/images/", "images/"), ("a/b", "a/b/")],
)
async def test_keys_are_the_references(container: Container, root: str, prefix: str) -> None:
    """CNCF Distribution 3 is pointed at our container, or we at its, with one `rootdirectory`."""
    driver = container.driver(rootdirectory=root)
    await driver.write(TAG, b"text")
    assert container.blobs() == {f"{prefix}{TAG}": 4}
    assert await keys_below(driver, "docker") == {TAG: 4}
    await driver.close()


async def test_a_container_of_2_8_stays_one(container: Container) -> None:
    """Its names begin with a slash, which the portal shows as a folder without a name."""
    leave(container, f"/{TAG}", b"old")
    driver = container.driver()
    assert (await driver.read(TAG)).data == b"old"
    await driver.write(TO, b"blob")
    assert container.blobs() == {f"/{TAG}": 3, f"/{TO}": 4}
    handed = await driver.handover(TO, method="GET", expires_s=60)
    assert isinstance(handed, SignedUrl)
    assert fetch(handed.url) == (200, b"blob")
    await driver.close()


async def test_a_root_is_never_of_2_8(container: Container) -> None:
    """It had no `rootdirectory`: blobs outside of the root are not the registry's."""
    leave(container, f"/{TAG}", b"old")
    driver = container.driver(rootdirectory="images")
    with pytest.raises(KeyMissing):
        await driver.read(TAG)
    await driver.close()


async def test_both_kinds_of_names_are_one_store(container: Container) -> None:
    """After an upgrade to CNCF Distribution 3 the registry looked empty, and people pushed again."""
    other = Key(f"{TAG.replace('v1', 'v2')}")
    leave(container, f"/{TAG}", b"old")
    leave(container, TAG, b"newer")
    leave(container, f"/{other}", b"only old")
    leave(container, f"/{TO}", b"old blob")
    driver = container.driver()
    assert (await driver.read(TAG)).data == b"newer"
    assert (await driver.read(other)).data == b"only old"
    tags = Key("docker/registry/v2/repositories/a/_manifests/tags")
    assert await flat(driver.children(tags)) == ["v1", "v2"]
    assert await keys_below(driver, "docker") == {TAG: 5, other: 8, TO: 8}
    handed = await driver.handover(TO, method="GET", expires_s=60)
    assert isinstance(handed, SignedUrl)
    assert fetch(handed.url) == (200, b"old blob")
    with pytest.raises(Conflict):
        await driver.write(other, b"x", ABSENT)
    version = (await driver.read(other)).version
    await driver.write(other, b"moved", Unchanged(version))
    with pytest.raises(Conflict):
        await driver.write(other, b"late", Unchanged(version))
    assert (await driver.read(other)).data == b"moved"
    await driver.delete([TAG, other, TO])
    assert container.blobs() == {}
    await driver.close()


async def test_odd_names_in_the_container_hinder_nobody(container: Container) -> None:
    """A backup tool's leavings are not listed, not collected, and do not stop a deletion beside them."""
    for name in (
        "docker/registry/v2/odd name",
        "docker/registry/v2//double",
        "docker/registry/v2/ä",
        "else/where",
    ):
        leave(container, name, b"x")
    driver = container.driver()
    await driver.write(TAG, b"text")
    assert await keys_below(driver, "docker") == {TAG: 4}
    assert await flat(driver.children(Key("docker/registry/v2"))) == ["repositories"]
    await driver.clear(Key("docker/registry/v2"))
    assert len(container.blobs()) == 4
    await driver.close()


def refuses_block_over_append(container: Container) -> None:
    """The service answers so; azurite replaces one kind by the other."""
    appended = set(container.blobs())

    def trouble(request: Request) -> tuple[int, str] | None:
        if request.method == "DELETE":
            appended.discard(request.blob)
        over = request.method == "PUT" and request.headers.get("x-ms-blob-type") == "BlockBlob"
        return (409, "InvalidBlobType") if over and request.blob in appended else None

    container.server.trouble = trouble


@pytest.mark.parametrize("condition", ["always", "unchanged"])
async def test_links_of_3_0_are_append_blobs_and_are_replaced(container: Container, condition: str) -> None:
    """CNCF Distribution 3.0 to 3.1.1 appended even a tag's text."""
    leave(container, TAG, b"sha256:old", append=True)
    refuses_block_over_append(container)
    driver = container.driver()
    content = await driver.read(TAG)
    assert content.data == b"sha256:old"
    with pytest.raises(Conflict):
        await driver.write(TAG, b"sha256:new", ABSENT)
    with pytest.raises(Conflict):
        await driver.write(TAG, b"sha256:new", Unchanged(replace_last(content.version)))
    if condition == "always":
        await driver.write(TAG, b"sha256:new")
    else:
        await driver.write(TAG, b"sha256:new", Unchanged(content.version))
    assert (await driver.read(TAG)).data == b"sha256:new"
    await driver.close()


def replace_last(version: str) -> Any:
    return version[:-2] + ("1" if version[-2] != "1" else "2") + '"'


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("size", [0, 1, 50_000])
async def test_uploads_that_the_reference_began_go_on(container: Container, slash: str, size: int) -> None:
    """A client would have to send 20 GB again because the registry was replaced meanwhile."""
    data = bytes(index % 251 for index in range(size))
    home = f"{slash}{HOME}"
    leave(container, f"{home}/startedat", b"2026-11-23T14:59:09Z")
    leave(container, f"{home}/data", data, append=True) if size else leave(container, f"{home}/data", b"")
    leave(container, f"{home}/hashstates/sha256/0", b"none")
    leave(container, f"{home}/hashstates/sha256/{size or 9}", b"state")
    leave(container, "docker/registry/v2/made-by-3", b"")  # so that both kinds of names are there
    driver = container.driver(chunk=20_000)
    state = await driver.uploads.state(HOME)
    assert (state.offset, state.started) == (size, datetime(2026, 11, 23, 14, 59, 9, tzinfo=UTC))
    assert state.notes == ((Note(f"hashstates/sha256/{size}", b"state"),) if size else ())
    async with driver.uploads.append(HOME, state) as appender:
        await appender.write([b"more"])
        state = await appender.checkpoint()
    await driver.uploads.publish(HOME, state, TO)
    await driver.uploads.discard(HOME)
    assert (await driver.read(TO)).data == data + b"more"
    assert container.blobs(begun=True) == {TO: size + 4, "docker/registry/v2/made-by-3": 0}
    await driver.close()


async def published(driver: ObjectDriver, data: bytes) -> None:
    state = await driver.uploads.begin(HOME)
    async with driver.uploads.append(HOME, state) as appender:
        await appender.write([data])
        state = await appender.checkpoint()
    await driver.uploads.publish(HOME, state, TO)
    await driver.uploads.discard(HOME)


class Slow:
    """A service whose copies are pending for `turns` looks, and then end in `ending`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, turns: int, ending: str = "") -> None:
        self.turns, self.ending, self.begun = turns, ending, False
        self.started, self.found = azure_blocks._start, AzureRequests.properties
        monkeypatch.setattr(azure_blocks, "_start", self.start)
        slow = self

        async def find(place: AzureRequests, key: Key) -> BlobProperties:
            return await slow.find(place, key)

        monkeypatch.setattr(AzureRequests, "properties", find)

    async def start(self, *arguments: Any) -> str:
        status = await self.started(*arguments)
        self.begun = True
        return "pending" if self.turns else status

    async def find(self, place: AzureRequests, key: Key) -> BlobProperties:
        found = await self.found(place, key)
        if key != TO or not self.begun:
            return found
        if self.turns:
            self.turns -= 1
            return replace(found, size=0, copying="pending", copied=str(self.turns))
        return replace(found, copying=self.ending)


async def test_a_slow_copy_is_waited_for_and_not_seen(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference gives up after a second, and readers get a blob of no bytes."""
    driver = container.driver()
    slow = Slow(monkeypatch, 50)
    await published(driver, b"x" * 2_000_000)
    assert slow.turns == 0
    assert (await driver.stat(TO)).size == 2_000_000
    slow.turns = 1
    with pytest.raises(KeyMissing):
        await driver.stat(TO)
    await driver.close()


@pytest.mark.parametrize("ending", ["failed", "aborted"])
async def test_a_copy_that_failed_is_made_again(
    container: Container, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """The service leaves an empty blob with a header that reports it; it must not count as the layer."""
    driver = container.driver()
    slow = Slow(monkeypatch, 2, ending)
    with pytest.raises(StorageUnavailable, match=ending):
        await published(driver, b"x" * 2_000_000)
    with pytest.raises(KeyMissing):
        await driver.stat(TO)
    slow.turns, slow.begun = 0, True
    state = await driver.uploads.state(HOME)
    slow.ending = "failed"

    async def start(*arguments: Any) -> str:
        status: str = await slow.started(*arguments)
        slow.ending = ""
        return status

    monkeypatch.setattr(azure_blocks, "_start", start)
    await driver.uploads.publish(HOME, state, TO)
    assert (await driver.stat(TO)).size == 2_000_000
    await driver.close()


async def test_a_blob_that_is_there_is_not_written_again(container: Container) -> None:
    """A client that is downloading it would be cut off."""
    driver = container.driver()
    for data in (b"small", b"x" * 2_000_000):
        await published(driver, data)
        before = (await driver.stat(TO)).modified
        with container.client as client:
            version = client.get_blob_client(TO).get_blob_properties().etag
            await published(driver, data)
            assert client.get_blob_client(TO).get_blob_properties().etag == version
        assert (await driver.stat(TO)).modified == before
        await driver.delete([TO])
    await driver.close()


async def test_a_signed_url_is_good_for_reading_this_blob_only(container: Container) -> None:
    """Clients are redirected; the URL is all that they need, and no more than that."""
    driver = container.driver()
    await driver.write(TO, b"content")
    await driver.write(TAG, b"secret")
    container.server.requests.clear()
    handed = await driver.handover(TO, method="GET", expires_s=60)
    assert container.server.requests == [], "signing asks nobody"
    assert isinstance(handed, SignedUrl)
    assert ACCOUNT_KEY not in handed.url
    assert fetch(handed.url) == (200, b"content")
    assert fetch(handed.url, "HEAD")[0] == 200
    assert fetch(handed.url.replace(TO, TAG))[0] == 403
    assert fetch(handed.url, "DELETE")[0] == 403
    expired = await driver.handover(TO, method="GET", expires_s=-60)
    assert isinstance(expired, SignedUrl)
    assert fetch(expired.url)[0] == 403
    await driver.close()


async def test_an_identity_without_the_right_streams_with_one_warning(
    container: Container, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pulls pass through the registry, and do not fill the log."""
    now = 0.0
    connection = AzureConnection(container.options(), clock=lambda: now)
    await connection._client()
    connection._credential = object()
    container.server.trouble = lambda request: (
        (403, "AuthorizationPermissionMismatch") if "userdelegationkey" in request.query else None
    )
    container.server.requests.clear()
    for _ in range(5):
        assert await connection.sign("docker/x", expires_s=60) is None
    assert len(container.server.requests) == 1
    now = 301.0
    assert await connection.sign("docker/x", expires_s=60) is None
    assert len(container.server.requests) == 2
    assert capsys.readouterr().out.count("no redirects") == 1
    container.server.trouble = lambda request: (503, "ServerBusy") if request.method == "POST" else None
    now = 1000.0
    with pytest.raises(StorageUnavailable, match="ServerBusy"):
        await connection.sign("docker/x", expires_s=60)
    await connection.close()


@pytest.mark.parametrize(
    ("status", "code", "kind", "output"),
    [
        (403, "AuthenticationFailed", StorageUnavailable, "the account's key or the identity is not accepted"),
        (403, "AuthorizationPermissionMismatch", StorageUnavailable, "Storage Blob Data Contributor"),
        (404, "ContainerNotFound", StorageUnavailable, "it must be made beforehand"),
        (507, "InsufficientStorage", StorageExhausted, "InsufficientStorage"),
        (503, "ServerBusy", StorageUnavailable, "ServerBusy"),
    ],
)
async def test_failures_say_what_and_where_and_no_secret(
    container: Container, status: int, code: str, kind: type[Exception], output: str
) -> None:
    """An operator reads the log, and pastes it into an issue."""
    driver = container.driver(attempts=3)
    container.server.trouble = lambda _: (status, code)
    container.server.requests.clear()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: driver.read(TAG), lambda: driver.write(TAG, b""), lambda: driver.stat(TAG),
        lambda: driver.delete([TAG]), lambda: flat(driver.children(Key("docker"))), driver.probe,
        lambda: driver.uploads.begin(HOME), lambda: driver.uploads.state(HOME),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(kind, match=output) as caught:
            await call()
        text = str(caught.value)
        assert container.name in text
        assert "sig=" not in text
        assert ACCOUNT_KEY not in text
    assert len(container.server.requests) >= len(calls) * (3 if status == 503 else 1)
    assert ACCOUNT_KEY not in repr(driver.__dict__) + repr(container.options())
    await driver.close()


async def test_what_a_dead_process_left_of_a_large_blob_is_swept(container: Container) -> None:
    """Nothing that is paid for stays where no listing of the registry looks."""
    driver = container.driver(chunk=1000)
    for step in ("staged", "committed"):
        leave_large = azure_blocks.LargeBlob(AzureRequests(AzureConnection(container.options()), ""), TO)
        await leave_large.add([b"x" * 1000])
        if step == "committed":
            await azure_blocks.commit(
                leave_large._requests, leave_large._key, leave_large._names, ABSENT, {"session": "x"}
            )
        await leave_large._requests.connection.close()
    assert sorted(container.blobs(begun=True).values()) == [0, 1000]
    now = datetime.now(UTC)
    assert await driver.uploads.sweep(Key("docker"), now - timedelta(hours=1)) == []
    named = await driver.uploads.sweep(Key("docker"), now + timedelta(hours=1), dry_run=True)
    assert len(container.blobs(begun=True)) == len(named) == 2
    assert await driver.uploads.sweep(Key("docker"), now + timedelta(hours=1)) == named
    assert container.blobs(begun=True) == {}
    await driver.close()


async def test_a_large_blob_in_one_go(container: Container) -> None:
    """It grows under another key, is copied when it is whole, and leaves nothing in either case."""
    driver = container.driver(chunk=1000)
    async with driver.create(TO) as writer:
        await writer.write([b"x" * 2500])
        assert container.blobs() == {}
        await writer.commit()
    assert (await driver.read(TO)).data == b"x" * 2500
    await driver.delete([TO])
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  the refusal comes from inside the context
        async with driver.create(TO) as writer:
            await writer.write([b"x" * 2500])
            raise ZeroDivisionError
    assert container.blobs(begun=True) == {}
    await driver.close()


async def test_a_closed_driver_opens_nothing(container: Container) -> None:
    """Requests that still run when a worker ends would open sessions that nothing closes (tests/leaks.py finds
    them).
    """
    for used in (True, False):
        driver = container.driver()
        if used:
            await driver.write(TAG, b"text")
        await driver.close()
        with pytest.raises(StorageUnavailable, match="closed"):
            await driver.read(TAG)
        await driver.close()


async def test_a_connection_that_cannot_be_made_leaves_nothing_open(container: Container) -> None:
    """Each request tried again, and each kept the sessions that it had opened before it failed."""
    connection = AzureConnection(
        container.options(credential_type="client_secret", tenantid="no tenant!", clientid="c", secret="s")
    )
    objects = AzureRequests(connection, "")
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match="tenant"):
            await objects.properties(TAG)


async def test_a_page_of_names_is_asked_for_from_where_it_begins(container: Container) -> None:
    """The thousandth page of tags costs what the first does, on the service; azurite does not know `startFrom`."""
    driver = container.driver(useragent="my-registry/7")
    for name in ("v1", "v2", "v3"):
        await driver.write(Key(f"tags/{name}/link"), b"")
    container.server.requests.clear()
    assert await flat(driver.children(Key("tags"), after="v1", limit=1)) == ["v2"]
    (request,) = container.server.requests
    assert "startFrom=tags/v1" in request.query
    assert "maxresults=64" in request.query
    assert request.headers["user-agent"].startswith("my-registry/7 ")
    await driver.close()


async def test_a_push_is_as_few_requests_as_can_be(container: Container) -> None:
    """Each is 10 to 40 ms on the service and has its price."""
    driver = container.driver()
    await driver.probe()
    for size, expected in ((1000, 6), (2_000_000, 7), (20_000_000, 9)):
        container.server.requests.clear()
        data = b"x" * size
        await driver.uploads.begin(HOME)  # POST
        state = await driver.uploads.state(HOME)  # PATCH
        async with driver.uploads.append(HOME, state) as appender:
            await appender.write([data])
            state = await appender.checkpoint([Note("hashstates/sha256/9", b"x" * 108)])
        state = await driver.uploads.state(HOME)  # PUT
        await driver.uploads.publish(HOME, state, TO)
        await driver.uploads.discard(HOME)
        # azurite itself looks at the source of a copy, by the URL that it was given.
        made = [str(request) for request in container.server.requests if "comp=metadata" not in request.query]
        assert len(made) == expected + 2, made  # two for the discard
        await driver.delete([TO])
    container.server.requests.clear()
    state = await driver.uploads.begin(HOME)  # POST, and a PUT with everything
    async with driver.uploads.append(HOME, state) as appender:
        state = await appender.seal([data[:500_000]])
    await driver.uploads.publish(HOME, state, TO)
    await driver.uploads.discard(HOME)
    assert len(container.server.requests) == 3
    assert container.blobs(begun=True) == {TO: 500_000}
    await driver.close()


async def test_memory_and_content_of_a_layer_of_many_blocks(container: Container) -> None:
    """The bytes are those that were sent, block after block, and read back in pieces."""
    driver = container.driver(chunk=1 << 20)
    hasher, state = hashlib.sha256(), await driver.uploads.begin(HOME)
    async with driver.uploads.append(HOME, state) as appender:
        for number in range(40):
            piece = bytes([number]) * 300_001
            hasher.update(piece)
            await appender.write([piece])
            assert appender._buffer.length < 1 << 20  # type: ignore[attr-defined]  # ours
        state = await appender.checkpoint()
    await driver.uploads.publish(HOME, state, TO)
    found = hashlib.sha256()
    async with driver.open(TO) as reader:
        async for piece in reader:
            found.update(piece)
    assert found.digest() == hasher.digest()
    await driver.uploads.discard(HOME)
    with pytest.raises(UploadMissing):
        await driver.uploads.state(HOME)
    await driver.close()
