"""`Location` behind proxies; and the spellings of a path that lead to an endpoint."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from tests.http.client import NAME, Client, codes
from tests.http.conftest import DELETABLE

from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import blob, image
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from tests.http.conftest import Serve

UPLOADS = f"/v2/{NAME}/blobs/uploads/"
TAGS = f"/v2/{NAME}/tags/list"


async def place(client: Client, headers: dict[str, str], target: str = UPLOADS) -> str:
    """Return the Location of a new upload, without its own part."""
    answer = await client.send("POST", target, b"", headers)
    assert answer.status_code == 202
    return str(answer.headers["location"]).partition(UPLOADS)[0]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "http://registry.test"),
        ({"host": "other.example:8080"}, "http://other.example:8080"),
        ({"x-forwarded-proto": "https"}, "https://registry.test"),
        ({"x-forwarded-proto": "https", "x-forwarded-host": "a.example"}, "https://a.example"),
        ({"x-forwarded-host": "a.example:8443, inner"}, "http://a.example:8443"),
        ({"forwarded": "for=192.0.2.1;proto=https;host=b.example"}, "https://b.example"),
        ({"forwarded": 'host="b.example:444";proto=HTTPS, host=inner'}, "https://b.example:444"),
        ({"forwarded": "proto=https;host=b.example", "x-forwarded-host": "a.example"}, "https://b.example"),
        ({"host": "[::1]:5000"}, "http://[::1]:5000"),
    ],
)
async def test_a_place_is_told_as_the_client_sees_us(
    client: Client, headers: dict[str, str], expected: str
) -> None:
    """Docker continues at `Location`; `http://` there, behind a proxy that ends TLS, breaks every push."""
    assert await place(client, headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-proto": "javascript"},
        {"x-forwarded-host": "a b"},
        {"x-forwarded-host": 'x"><script>'},
        {"forwarded": 'host="a/b?c"'},
        {"forwarded": "garbage"},
        {"forwarded": 'proto=""'},
        {"forwarded": 'host="";proto=""'},
    ],
)
async def test_nonsense_of_a_proxy_is_not_repeated(client: Client, headers: dict[str, str]) -> None:
    assert await place(client, headers) == "http://registry.test"


async def test_the_configured_host_counts_before_all_others(serve: Serve) -> None:
    client = serve(options=dataclasses.replace(http_options(DELETABLE), host="https://images.example"))
    assert await place(client, {"x-forwarded-host": "a.example"}) == "https://images.example"


async def test_places_may_be_relative(serve: Serve) -> None:
    """`http.relativeurls`: the client knows the host that it used."""
    client = serve(options=dataclasses.replace(http_options(DELETABLE), relativeurls=True))
    assert await place(client, {"x-forwarded-host": "a.example"}) == ""


@pytest.mark.parametrize("relative", [True, False])
async def test_the_prefix_is_always_kept(serve: Serve, *, relative: bool) -> None:
    """The reference loses it with relative URLs."""
    options = dataclasses.replace(http_options(DELETABLE), prefix="/registry/", relativeurls=relative)
    client = serve(options=options)
    found = await place(client, {}, f"/registry{UPLOADS}")
    assert found == ("" if relative else "http://registry.test") + "/registry"
    outside = await client.send("GET", "/other/path")
    assert (outside.status_code, codes(outside)) == (404, ["NOT_FOUND"])


async def test_the_place_can_be_gone_on_at(client: Client) -> None:
    """A Location is not only well formed: it works."""
    layer = blob(size=100)
    location = str((await client.start_upload()).headers["location"])
    at = str((await client.patch(location, layer.data)).headers["location"])
    done = await client.finish(at, layer.digest)
    assert (await client.get(str(done.headers["location"]))).content == layer.data


@pytest.mark.parametrize(
    ("requested", "canonical"),
    [
        ("/v2", "/v2/"),
        (f"{TAGS}/", TAGS),
        ("//v2/", "/v2/"),
        ("//v2", "/v2/"),
        (f"//v2/{NAME}/tags/list", TAGS),
        (f"///v2//{NAME}/tags/list//", TAGS),
        (f"/x/%2e%2e/v2/{NAME}/tags/list", TAGS),
        (f"/v2//{NAME}/tags/list", TAGS),
        (f"/v2/{NAME}/%2e/tags/list", TAGS),
        (f"/v2/x/%2e%2e/{NAME}/tags/list?n=1", f"{TAGS}?n=1"),
    ],
)
async def test_another_spelling_of_a_path_is_redirected(client: Client, requested: str, canonical: str) -> None:
    """For GET and HEAD only: many clients make a GET of a POST that is redirected."""
    for method in ("GET", "HEAD"):
        answer = await client.send(method, f"http://registry.test{requested}")
        assert (answer.status_code, answer.headers["location"]) == (301, canonical)
    answer = await client.send("POST", f"http://registry.test{requested}")
    assert (answer.status_code, "location" in answer.headers) in {(404, False), (405, False)}


@pytest.mark.parametrize("requested", ["//evil.example/v2/", "//evil.example//v2/a/tags/list/", "//", "/v2/../x/"])
async def test_a_redirect_never_leads_to_another_host(client: Client, requested: str) -> None:
    """A `Location` that begins with two slashes names a host."""
    answer = await client.get(f"http://registry.test{requested}")
    assert (answer.status_code, codes(answer)) == (404, ["NOT_FOUND"])


async def test_another_spelling_of_the_prefix_is_redirected(serve: Serve) -> None:
    client = serve(options=dataclasses.replace(http_options(DELETABLE), prefix="/registry/"))
    for requested in ("//registry/v2/", "/registry//v2/", "/registry/v2", "/x/%2e%2e/registry/v2/"):
        answer = await client.get(f"http://registry.test{requested}")
        assert (answer.status_code, answer.headers["location"]) == (301, "/registry/v2/"), requested
    assert (await client.get("http://registry.test//v2/")).status_code == 404


async def test_uploads_start_with_and_without_the_last_slash(client: Client) -> None:
    """Curl users forget it; a redirect would make a GET of it."""
    assert (await client.send("POST", f"/v2/{NAME}/blobs/uploads", b"")).status_code == 202


@pytest.mark.parametrize("name", ["tags/list", "x/manifests/y", "foo/blobs/uploads", "a/b/c/d/e/f"])
async def test_names_may_look_like_routes(client: Client, name: str) -> None:
    """The grammar allows them, so a path is read from its end."""
    layer = await client.push_blob(blob(size=10), name)
    assert (await client.blob(layer, name)).content == layer.data
    assert (await client.manifest("v1", name)).status_code == 404


@pytest.mark.parametrize(
    "path", ["/v2/x", "/v2/x/blobs/foo", "/v2/x/manifests", "/v3/", "/v2/x/tags", "/favicon.ico"]
)
async def test_what_is_no_endpoint_is_a_404_in_json(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, codes(answer)) == (404, ["NOT_FOUND"])


async def test_options_tells_the_methods(client: Client) -> None:
    """Browsers ask before they ask."""
    answer = await client.send("OPTIONS", TAGS)
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD")


async def test_a_proxy_may_take_a_path_away(serve: Serve) -> None:
    """The path of `http.host` is what the client must write, in `Location`, `Link` and redirects alike."""
    driver = MemoryDriver()
    await serve(driver=driver).push(image(), "a", "b")
    options = dataclasses.replace(http_options(DELETABLE), host="https://images.example/registry/")
    client = serve(driver=driver, options=options)
    assert await place(client, {}) == "https://images.example/registry"
    listed = await client.get(f"{TAGS}?n=1")
    assert listed.headers["link"] == f'</registry{TAGS}?last=a&n=1>; rel="next"'
    assert (await client.get(f"{TAGS}/")).headers["location"] == f"/registry{TAGS}"
