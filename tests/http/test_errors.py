"""Every error, provoked over HTTP: status, code, message, detail and headers.

`test_every_refusal_is_provoked_here` fails for a refusal that is new.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Final

import pytest
from tests.http.client import ABSENT, NAME, Client, codes, detail
from tests.quota.conftest import Node, Time
from tests.registry.instrumented import InstrumentedDriver

from moorage import errors
from moorage.config.model import Settings
from moorage.config.sections.retention import Immutability, ImmutableTags
from moorage.config.sections.rules import Policy, Repository
from moorage.config.sections.storage import Delete, Maintenance, ReadOnly, Storage
from moorage.http.errors import STATUS
from moorage.http.token import TokenEndpoint
from moorage.quota.limits import Limit
from moorage.storage.driver import StorageExhausted, StorageUnavailable
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import artifact, blob, image
from moorage.types import Digest
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import httpx
    from tests.http.conftest import Serve

    from moorage.auth.access import AccessRequest, Credentials, Principal
    from moorage.auth.local.authority import IssuedToken, TokenRequest

    Provoked = Callable[[Serve], Awaitable[httpx.Response]]

BLOBS: Final = f"/v2/{NAME}/blobs"
MANIFESTS: Final = f"/v2/{NAME}/manifests"
OCI: Final = "application/vnd.oci.image.manifest.v1+json"


class Failing(InstrumentedDriver):
    """A store whose every read and write fails."""

    error: type[StorageUnavailable] = StorageUnavailable

    async def before(self, call: str) -> None:
        raise self.error(f"/var/lib/secret-place: {call}")


class Full(Failing):
    error = StorageExhausted


class Refusing:
    """An authority that refuses every request with a given error."""

    def __init__(self, error: errors.RegistryError) -> None:
        self._error = error

    async def admit(self, credentials: Credentials | None, request: AccessRequest) -> Principal:
        raise self._error

    async def refresh(self) -> None:
        pass

    async def close(self) -> None:
        pass


async def quota_exceeded(_: Serve) -> httpx.Response:
    node = Node(MemoryDriver(), (Limit("library", bytes=1),), Time())
    try:
        return await node.client.send("POST", f"{BLOBS}/uploads/?digest={ABSENT}", b"two")
    finally:
        await node.registry.close()


async def unauthorized(serve: Serve) -> httpx.Response:
    error = errors.Unauthorized('Basic realm="here"', [("repository", NAME, "pull")])
    return await serve(authority=Refusing(error)).get(f"{BLOBS}/{ABSENT}")


async def too_many_requests(serve: Serve) -> httpx.Response:
    return await serve(authority=Refusing(errors.TooManyRequests("guessing", retry_after_s=7))).get("/v2/")


class NobodyAsks:
    """A token server that is not reached."""

    service = "moorage"

    async def issue(self, wish: TokenRequest) -> IssuedToken:
        raise AssertionError


async def token_request_invalid(serve: Serve) -> httpx.Response:
    return await serve(tokens=TokenEndpoint(NobodyAsks(), 1)).get("/token?service=other")


async def blob_unknown(serve: Serve) -> httpx.Response:
    return await serve().get(f"{BLOBS}/{ABSENT}")


async def upload_invalid(serve: Serve) -> httpx.Response:
    client = serve()
    location = await client.location()
    return await client.patch(f"{location.partition('?')[0]}?_state=forged", b"x")


async def upload_unknown(serve: Serve) -> httpx.Response:
    return await serve().get(f"{BLOBS}/uploads/01a20a26-8953-77b5-b9c0-2d429fdb74f0")


async def denied(serve: Serve) -> httpx.Response:
    client = serve(Settings(policy=Policy(repository=Repository(classes=("plugin",)))))
    picture = image(blob())
    for part in picture.closure[:-1]:
        await client.push_blob(part)
    return await client.put("v1", picture)


async def digest_invalid(serve: Serve) -> httpx.Response:
    client = serve()
    return await client.finish(await client.location(), ABSENT, b"something else")


async def manifest_blob_unknown(serve: Serve) -> httpx.Response:
    return await serve().put("v1", image(blob(size=1), blob(size=2)))


async def manifest_invalid(serve: Serve) -> httpx.Response:
    return await serve().send("PUT", f"{MANIFESTS}/v1", b"no json", {"content-type": OCI})


async def manifest_too_large(serve: Serve) -> httpx.Response:
    return await serve().send("PUT", f"{MANIFESTS}/v1", b" " * ((4 << 20) + 1), {"content-type": OCI})


async def manifest_unknown(serve: Serve) -> httpx.Response:
    return await serve().get(f"{MANIFESTS}/v1")


async def method_unknown(serve: Serve) -> httpx.Response:
    return await serve().send("POST", f"{MANIFESTS}/v1", b"")


async def name_invalid(serve: Serve) -> httpx.Response:
    return await serve().get(f"/v2/{'x' * 256}/tags/list")


async def name_unknown(serve: Serve) -> httpx.Response:
    return await serve().get("/v2/never/pushed/tags/list")


async def not_a_name(serve: Serve) -> httpx.Response:
    return await serve().get("/v2/UPPER/case/tags/list")


async def not_a_tag(serve: Serve) -> httpx.Response:
    return await serve().get(f"{MANIFESTS}/.hidden")


async def page_size_invalid(serve: Serve) -> httpx.Response:
    return await serve().get("/v2/_catalog?n=-1")


async def precondition_failed(serve: Serve) -> httpx.Response:
    client = serve()
    picture = await client.push(image(blob()), "v1")
    return await client.put("v1", picture, if_none_match="*")


async def protected(serve: Serve) -> httpx.Response:
    rule = ImmutableTags(repositories=("**",))
    client = serve(
        Settings(storage=Storage(delete=Delete(enabled=True)), immutability=Immutability(rules=(rule,)))
    )
    await client.push(image(), "v1")
    return await client.send("DELETE", f"/v2/{NAME}/manifests/v1")


async def range_invalid(serve: Serve) -> httpx.Response:
    client = serve()
    return await client.patch(await client.location(), b"abc", "7-9")


async def range_not_satisfiable(serve: Serve) -> httpx.Response:
    client = serve()
    layer = await client.push_blob(blob(size=1000))
    return await client.blob(layer, range="bytes=1000-")


async def request_timeout(serve: Serve) -> httpx.Response:
    settings = Settings()
    client = serve(settings, options=dataclasses.replace(http_options(settings), body_timeout_s=0.05))

    async def stalls() -> AsyncIterator[bytes]:
        yield b"some"
        await asyncio.Event().wait()
        yield b"too late"

    return await client.patch(await client.location(), stalls())


async def route_unknown(serve: Serve) -> httpx.Response:
    return await serve().get("/v2/nothing/here")


async def size_invalid(serve: Serve) -> httpx.Response:
    client = serve()
    return await client.patch(await client.location(), b"abc", "0-9")


async def storage_full(serve: Serve) -> httpx.Response:
    return await serve(driver=Full(MemoryDriver())).send(
        "PUT", f"{MANIFESTS}/v1", artifact("a/b").data, {"content-type": OCI}
    )


async def tag_invalid(serve: Serve) -> httpx.Response:
    picture = image(blob())
    return await serve().send(
        "PUT", f"{MANIFESTS}/{picture.digest}?tag=.hidden", picture.data, {"content-type": OCI}
    )


async def too_many_tags(serve: Serve) -> httpx.Response:
    picture = image(blob())
    query = "&".join(f"tag=v{number}" for number in range(101))
    return await serve().send("PUT", f"{MANIFESTS}/{picture.digest}?{query}", picture.data, {"content-type": OCI})


async def unavailable(serve: Serve) -> httpx.Response:
    return await serve(driver=Failing(MemoryDriver())).get(f"{BLOBS}/{ABSENT}")


async def unsupported(serve: Serve) -> httpx.Response:
    return await serve(Settings()).send("DELETE", f"{BLOBS}/{ABSENT}")


PROVOKED: Final[dict[type[errors.RegistryError], tuple[Provoked, int, str, str]]] = {
    errors.BlobUnknown: (blob_unknown, 404, "BLOB_UNKNOWN", "blob unknown to registry"),
    errors.BlobUploadInvalid: (upload_invalid, 404, "BLOB_UPLOAD_INVALID", "blob upload invalid"),
    errors.BlobUploadUnknown: (upload_unknown, 404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"),
    errors.Denied: (denied, 403, "DENIED", "requested access to the resource is denied"),
    errors.DigestInvalid: (
        digest_invalid, 400, "DIGEST_INVALID", "provided digest did not match uploaded content",
    ),
    errors.ManifestBlobUnknown: (manifest_blob_unknown, 400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry"),
    errors.ManifestInvalid: (manifest_invalid, 400, "MANIFEST_INVALID", "manifest invalid"),
    errors.ManifestTooLarge: (manifest_too_large, 413, "MANIFEST_INVALID", "manifest invalid"),
    errors.ManifestUnknown: (manifest_unknown, 404, "MANIFEST_UNKNOWN", "manifest unknown"),
    errors.MethodUnknown: (method_unknown, 405, "UNSUPPORTED", "The operation is unsupported."),
    errors.NameInvalid: (name_invalid, 400, "NAME_INVALID", "invalid repository name"),
    errors.NameUnknown: (name_unknown, 404, "NAME_UNKNOWN", "repository name not known to registry"),
    errors.NotAName: (not_a_name, 404, "NAME_INVALID", "invalid repository name"),
    errors.NotATag: (not_a_tag, 404, "TAG_INVALID", "invalid tag"),
    errors.PageSizeInvalid: (
        page_size_invalid, 400, "PAGINATION_NUMBER_INVALID", "invalid number of results requested",
    ),
    errors.PreconditionFailed: (precondition_failed, 412, "DENIED", "requested access to the resource is denied"),
    errors.Protected: (
        protected, 403, "DENIED", f"the tag v1 of {NAME} is immutable by immutability.rules[0]",
    ),
    errors.QuotaExceeded: (
        quota_exceeded, 403, "DENIED", "quota exceeded: library uses 0 B of 1 B, and 3 B more do not fit",
    ),
    errors.RangeInvalid: (range_invalid, 416, "RANGE_INVALID", "invalid content range"),
    errors.RangeNotSatisfiable: (range_not_satisfiable, 416, "RANGE_INVALID", "invalid content range"),
    errors.RequestTimeout: (request_timeout, 408, "BLOB_UPLOAD_INVALID", "blob upload invalid"),
    errors.RouteUnknown: (route_unknown, 404, "NOT_FOUND", "no such endpoint"),
    errors.SizeInvalid: (size_invalid, 400, "SIZE_INVALID", "provided length did not match content length"),
    errors.StorageFull: (storage_full, 507, "UNAVAILABLE", "service unavailable"),
    errors.TagInvalid: (tag_invalid, 400, "TAG_INVALID", "invalid tag"),
    errors.TokenRequestInvalid: (token_request_invalid, 400, "TOKEN_REQUEST_INVALID", "token request invalid"),
    errors.TooManyRequests: (too_many_requests, 429, "TOOMANYREQUESTS", "too many requests"),
    errors.TooManyTags: (too_many_tags, 414, "TAG_INVALID", "invalid tag"),
    errors.Unauthorized: (unauthorized, 401, "UNAUTHORIZED", "authentication required"),
    errors.Unavailable: (unavailable, 503, "UNAVAILABLE", "service unavailable"),
    errors.Unsupported: (unsupported, 405, "UNSUPPORTED", "The operation is unsupported."),
}  # fmt: skip


OF_MIRRORS: Final = {
    errors.LoopDetected, errors.MirrorReadOnly,
    errors.UpstreamDenies, errors.UpstreamFailed, errors.UpstreamLimits,
}  # fmt: skip
"""`tests/proxy/test_live.py` and `tests/proxy/test_live_access.py` provoke them."""


def test_every_refusal_is_provoked_here() -> None:
    """An error that was never seen over HTTP may have the wrong status (other registries shipped such)."""
    assert PROVOKED.keys() | OF_MIRRORS == STATUS.keys()


@pytest.mark.parametrize("error", PROVOKED, ids=lambda error: error.__name__)
async def test_a_refusal_has_its_status_code_and_message(serve: Serve, error: type[errors.RegistryError]) -> None:
    """Clients decide by them between a retry, a fallback and a message to the user."""
    provoke, status, code, message = PROVOKED[error]
    answer = await provoke(serve)
    assert answer.status_code == status
    for entry in answer.json()["errors"]:
        assert (entry["code"], entry["message"]) == (code, message)


async def test_all_that_is_missing_is_named_at_once(serve: Serve) -> None:
    """A client pushes it all and tries again once."""
    answer = await manifest_blob_unknown(serve)
    missing = [part.digest for part in image(blob(size=1), blob(size=2)).closure[:-1]]
    assert sorted(entry["detail"] for entry in answer.json()["errors"]) == sorted(map(str, missing))


async def test_a_method_that_is_not_offered_is_told_which_are(serve: Serve) -> None:
    answer = await method_unknown(serve)
    assert answer.headers["allow"] == "DELETE, GET, HEAD, PUT"


async def test_a_chunk_in_the_wrong_place_learns_where_to_go_on(serve: Serve) -> None:
    answer = await range_invalid(serve)
    assert answer.headers["range"] == "0-0"
    assert "/blobs/uploads/" in answer.headers["location"]


async def test_a_range_outside_the_blob_learns_its_size(serve: Serve) -> None:
    assert (await range_not_satisfiable(serve)).headers["content-range"] == "bytes */1000"


async def test_who_guesses_too_often_learns_when_to_come_back(serve: Serve) -> None:
    assert (await too_many_requests(serve)).headers["retry-after"] == "7"


async def test_a_challenge_says_what_was_asked_for(serve: Serve) -> None:
    """The names of these fields are those that the reference sends; clients print them."""
    answer = await unauthorized(serve)
    assert answer.headers["www-authenticate"] == 'Basic realm="here"'
    assert detail(answer) == [{"Type": "repository", "Class": "", "Name": NAME, "Action": "pull"}]


async def test_what_came_before_a_silence_is_kept(serve: Serve) -> None:
    """A client whose connection froze continues at its offset."""
    answer = await request_timeout(serve)
    assert "what came before is kept" in detail(answer)


@pytest.mark.parametrize("provoke", [unavailable, storage_full])
async def test_a_failing_store_tells_no_paths(serve: Serve, provoke: Provoked) -> None:
    """The operator finds them in the log; clients must not see them."""
    assert "secret-place" not in (await provoke(serve)).text


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", f"{BLOBS}/uploads/"),
        ("PATCH", f"{BLOBS}/uploads/01a20a26-8953-77b5-b9c0-2d429fdb74f0"),
        ("PUT", f"{BLOBS}/uploads/01a20a26-8953-77b5-b9c0-2d429fdb74f0"),
        ("DELETE", f"{BLOBS}/{Digest.of(b'x')}"),
        ("PUT", f"{MANIFESTS}/v1"),
        ("DELETE", f"{MANIFESTS}/v1"),
    ],
)
async def test_a_read_only_registry_takes_nothing(serve: Serve, method: str, target: str) -> None:
    """During maintenance every upload waits until it is over."""
    client: Client = serve(Settings(storage=Storage(maintenance=Maintenance(readonly=ReadOnly(enabled=True)))))
    answer = await client.send(method, target, b"")
    assert answer.status_code == 405
    assert codes(answer) == ["UNSUPPORTED"]
    assert "the registry is read-only" in answer.json()["errors"][0]["detail"]
    assert set(answer.headers["allow"].split(", ")) <= {"GET", "HEAD"} or answer.headers["allow"] == ""
