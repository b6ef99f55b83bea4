"""What clients ask first, and what every answer carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.http.client import NAME, codes

from moorage.config.model import Settings
from moorage.config.sections.http import Http
from moorage.testing.builders import image

if TYPE_CHECKING:
    from tests.http.client import Client
    from tests.http.conftest import Serve

IMAGE = image()


async def test_the_ping_is_two_bytes_of_json(client: Client) -> None:
    """Docker and skopeo call anything but a 200 or 401 here no registry."""
    answer = await client.get("/v2/")
    assert (answer.status_code, answer.content) == (200, b"{}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == "2"


async def test_the_root_is_a_sign_of_life(client: Client) -> None:
    """Load balancers ask it without knowing anything of registries."""
    answer = await client.get("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_the_root_answers_any_method(client: Client, method: str) -> None:
    """Health checks come as GET, HEAD and OPTIONS."""
    assert (await client.send(method, "/")).status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "/v2/",
        f"/v2/{NAME}/manifests/latest",
        f"/v2/{NAME}/manifests/{IMAGE.digest}",
        f"/v2/{NAME}/blobs/{IMAGE.blobs[0].digest}",
        f"/v2/{NAME}/tags/list",
        f"/v2/{NAME}/referrers/{IMAGE.digest}",
        "/v2/_catalog",
        "/v2/_oci/ext/discover",
        f"/v2/{NAME}/_oci/ext/discover",
    ],
)
async def test_head_has_the_headers_of_get(client: Client, target: str) -> None:
    """Docker, containerd and crane learn size and digest from HEAD and never ask again."""
    await client.push(IMAGE, "latest")
    get, head = await client.get(target), await client.send("HEAD", target)
    assert (get.status_code, head.status_code) == (200, 200)
    assert dict(head.headers) == dict(get.headers)
    assert head.headers["content-length"] == str(len(get.content))


@pytest.mark.parametrize(
    "target",
    [
        f"/v2/{NAME}/manifests/none",
        f"/v2/{NAME}/blobs/{IMAGE.digest}",
        f"/v2/{NAME}/blobs/sha256:bad",
        f"/v2/{NAME}/tags/list",
        "/v2/_catalog?n=-1",
        "/v2/no/such/route",
    ],
)
async def test_refusals_of_head_have_the_headers_of_get(client: Client, target: str) -> None:
    """A body after a HEAD would be read as the next answer on the connection."""
    get, head = await client.get(target), await client.send("HEAD", target)
    assert head.status_code == get.status_code
    assert get.status_code >= 400
    assert dict(head.headers) == dict(get.headers)


async def test_json_carries_no_charset(client: Client) -> None:
    """Clients compare the type as a string."""
    await client.push(IMAGE, "latest")
    for target in (f"/v2/{NAME}/tags/list", "/v2/_catalog", "/v2/_oci/ext/discover"):
        assert (await client.get(target)).headers["content-type"] == "application/json"


async def test_nothing_is_compressed(client: Client) -> None:
    """With zstd, as containerd asks for, digests, ranges and lengths would break for all other clients."""
    await client.push(IMAGE, "latest")
    for target in (f"/v2/{NAME}/manifests/latest", f"/v2/{NAME}/blobs/{IMAGE.blobs[0].digest}"):
        answer = await client.get(target, {"accept-encoding": "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"})
        assert "content-encoding" not in answer.headers


async def test_configured_headers_are_on_answers_and_refusals(serve: Serve) -> None:
    """`X-Content-Type-Options: nosniff` must guard an error page, too."""
    headers = {"X-Content-Type-Options": ("nosniff",), "X-Two": ("1", "2")}
    client = serve(Settings(http=Http(headers=headers)))
    for target in ("/v2/", f"/v2/{NAME}/manifests/none"):
        answer = await client.get(target)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers.get_list("x-two") == ["1", "2"]


async def test_extensions_are_told_in_the_form_of_the_specification(client: Client) -> None:
    """Each needs name, url and endpoints; a repository has none of its own."""
    answer = await client.get("/v2/_oci/ext/discover")
    assert answer.status_code == 200
    for extension in answer.json()["extensions"]:
        assert extension["name"].startswith("_")
        assert extension["url"].startswith("https://")
        assert isinstance(extension["endpoints"], list)
    (found,) = (await client.get(f"/v2/{NAME}/_oci/ext/discover")).json()["extensions"]
    assert (found["name"], found["endpoints"]) == ("_moorage", [f"/v2/{NAME}/_moorage/repository/content"])


async def test_unknown_query_parameters_are_ignored(client: Client) -> None:
    """Clients add `ns=`, `origin=` and `account=` to anything."""
    await client.push(IMAGE, "latest")
    for target in ("/v2/", f"/v2/{NAME}/manifests/latest", f"/v2/{NAME}/tags/list", "/v2/_catalog"):
        assert (await client.get(f"{target}?ns=docker.io&account=me")).status_code == 200


async def test_a_bug_of_ours_is_a_500_that_tells_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback would disclose paths and secrets; a broken connection would be retried."""

    class Bug(Exception):
        pass

    async def broken(*_: object, **__: object) -> None:
        raise Bug("secret path /srv/registry")

    monkeypatch.setattr("moorage.registry.tag_list.StoredTags.list", broken)
    answer = await serve().get(f"/v2/{NAME}/tags/list")
    assert answer.status_code == 500
    assert codes(answer) == ["UNKNOWN"]
    assert b"secret" not in answer.content
