"""Keys of a request's scope for metrics and traces: the endpoint and the error."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from moorage.config.model import Settings
from moorage.errors import RouteUnknown, Unauthorized
from moorage.http.app import create_app
from moorage.http.routes import API, ROUTES, find
from moorage.storage.memory import MemoryDriver
from moorage.wiring.app import make_registry
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from moorage.auth.access import AccessRequest, Authority, Credentials, Principal
    from moorage.http.middleware import Message

HEX = "0" * 64


class Closed:
    """Refuses every request."""

    async def admit(self, credentials: Credentials | None, request: AccessRequest) -> Principal:
        raise Unauthorized('Basic realm="r"')

    async def refresh(self) -> None:
        pass

    async def close(self) -> None:
        """Nothing to close."""


async def scope_after(method: str, path: str, authority: Authority | None = None) -> dict[str, Any]:
    scope: dict[str, Any] = {
        "type": "http", "method": method, "path": path, "query_string": b"", "headers": [], "scheme": "http",
        "http_version": "1.1", "client": ("127.0.0.1", "1"), "server": ("127.0.0.1", "5000"),
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Message) -> None:
        """Discard it."""

    registry = make_registry(MemoryDriver(), Settings(), b"secret")
    await create_app(registry, http_options(Settings()), authority)(scope, receive, send)
    await registry.close()
    return scope


@pytest.mark.parametrize(
    ("method", "path", "label"),
    [
        ("GET", "/v2/", "base"),
        ("GET", "/v2/a/tags/list", "tags"),
        ("GET", "/v2/a/manifests/x", "manifest"),
        ("POST", "/v2/a/manifests/x", "manifest"),
        ("GET", f"/v2/a/blobs/sha256:{HEX}", "blob"),
        ("POST", "/v2/a/blobs/uploads/", "blob_upload"),
        ("POST", "/v2/a/blobs/uploads", "blob_upload"),
        ("PATCH", "/v2/a/blobs/uploads/0123", "blob_upload_chunk"),
        ("GET", "/v2/_catalog", "catalog"),
        ("GET", f"/v2/a/referrers/sha256:{HEX}", "referrers"),
        ("GET", "/v2/_oci/ext/discover", "extensions"),
    ],
)
async def test_the_endpoint_is_known_by_the_reference_s_name(method: str, path: str, label: str) -> None:
    """Also when its method is not offered: dashboards see the 405 where the reference shows it."""
    assert (await scope_after(method, path))["moorage.route"].label == label


@pytest.mark.parametrize("path", ["/", "/v2/a", "/v2/a/blobs/x/y", "/metrics"])
async def test_what_is_no_endpoint_has_none(path: str) -> None:
    assert "moorage.route" not in await scope_after("GET", path)


def test_the_reference_s_names_are_all_there() -> None:
    """docs/reference/configuration.md, section 15."""
    labels = {route.label for route in ROUTES}
    assert {"base", "blob", "blob_upload", "blob_upload_chunk", "catalog", "manifest", "tags"} <= labels


async def test_a_refusal_is_known_by_its_code() -> None:
    assert (await scope_after("GET", "/v2/a/manifests/x"))["moorage.refusal"] == "MANIFEST_UNKNOWN"
    assert "moorage.refusal" not in await scope_after("GET", "/v2/")


async def test_a_challenge_is_known() -> None:
    """It distinguishes a missing token from an insufficient one."""
    scope = await scope_after("GET", "/v2/", Closed())
    assert scope["moorage.refusal"] == "UNAUTHORIZED"
    assert scope["moorage.challenge"] == 'Basic realm="r"'


FEW = ("", "a", "manifests", "blobs", "uploads")
WORDS = (*FEW, "v2", "tags", "list", "referrers", "_oci", f"sha256:{HEX}", "x\n")


@pytest.mark.parametrize(("length", "vocabulary"), [(1, WORDS), (2, WORDS), (3, WORDS), (5, FEW)])
def test_the_short_way_to_an_endpoint_leads_where_the_table_does(length: int, vocabulary: tuple[str, ...]) -> None:
    """Names may hold `manifests` and `blobs`: another endpoint would check another permission."""
    for words in product(vocabulary, repeat=length):
        for path in (f"/v2/{'/'.join(words)}", f"/{'/'.join(words)}"):
            matches = ((route, route.match(path)) for route in API)
            expected = next(((route, found.groupdict("")) for route, found in matches if found), None)
            if expected is not None:
                assert find(path) == expected, path
            else:
                with pytest.raises(RouteUnknown):
                    find(path)
