"""Answers of a mirror over HTTP: names of containerd, warnings, errors in the words of the upstream registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.http.client import Client, codes
from tests.proxy.mirrors import APP, make_mirror
from tests.upstream.faulty import FaultyRegistry

from moorage.config.model import Settings
from moorage.config.sections.proxy import Proxy, ProxyUpstream
from moorage.config.sections.storage import Filesystem, Storage
from moorage.http.app import create_app
from moorage.http.options import HttpOptions
from moorage.wiring.app import make_registry
from moorage.wiring.http import http_options, instance_of
from moorage.wiring.proxy import make_mirror as wired_mirror

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio

VIA = instance_of(b"secret")


def upstreams(first: FaultyRegistry, second: FaultyRegistry, root: Path) -> Settings:
    return Settings(
        storage=Storage(filesystem=Filesystem(rootdirectory=str(root))),
        proxy=Proxy(
            names=("here.example:5000",),
            upstreams=(
                ProxyUpstream(prefix="docker.io", remoteurl=first.url, deny=("library/secret",)),
                ProxyUpstream(
                    prefix="other.example/sub", namespaces=("Other.Example:8443",), remoteurl=second.url
                ),
            ),
        ),
    )


async def test_names_of_several_upstreams(tmp_path: Path) -> None:
    """The client containerd sends the registry of an image in `ns`; docker needs it in the name."""
    async with FaultyRegistry() as first, FaultyRegistry() as second:
        settings = upstreams(first, second, tmp_path)
        stored = make_registry(_driver(settings), settings, b"secret")
        mirror = wired_mirror(stored, stored.mirrored, settings, via=VIA)
        client = Client(create_app(mirror, http_options(settings, via=VIA)))
        hub, other = first.add_image("library/alpine", "3"), second.add_image("team/app", "1", [b"other"])
        for target, digest in (
            ("docker.io/library/alpine/manifests/3", hub),
            ("docker.io/alpine/manifests/3", hub),
            ("library/alpine/manifests/3?ns=docker.io", hub),
            ("library/alpine/manifests/3?ns=Docker.IO", hub),
            (f"library/alpine/manifests/{hub}?ns=docker.io", hub),
            ("other.example/sub/team/app/manifests/1", other),
            ("team/app/manifests/1?ns=other.example:8443", other),
        ):
            answer = await client.get(f"/v2/{target}")
            assert (answer.status_code, answer.headers["docker-content-digest"]) == (200, digest), target
        tags = await client.get("/v2/team/app/tags/list?ns=other.example:8443")
        assert tags.json() == {"name": "other.example/sub/team/app", "tags": ["1"]}
        unknown = await client.get("/v2/team/own/manifests/1?ns=unknown.example")
        assert (unknown.status_code, codes(unknown)) == (404, ["NAME_UNKNOWN"])
        assert "does not mirror unknown.example" in str(unknown.json()["errors"][0]["detail"])
        own = await client.get("/v2/team/own/manifests/1?ns=Here.Example:5000")
        assert codes(own) == ["MANIFEST_UNKNOWN"], "a name of this registry selects its own repositories"
        assert (await client.get("/v2/docker.io/library/Alpine/manifests/3")).status_code == 404
        denied = await client.get("/v2/docker.io/library/secret/manifests/3")
        assert (denied.status_code, codes(denied)) == (403, ["DENIED"])
        assert "do not allow library/secret" in denied.json()["errors"][0]["message"]
        catalog = await client.get("/v2/_catalog")
        assert catalog.json() == {"repositories": ["docker.io/library/alpine", "other.example/sub/team/app"]}

        refused = await client.send("POST", "/v2/docker.io/library/alpine/blobs/uploads/")
        assert (refused.status_code, codes(refused)) == (405, ["UNSUPPORTED"])
        assert (await client.send("POST", "/v2/team/own/blobs/uploads/")).status_code == 202, "it is a local one"
        await mirror.close()


def _driver(settings: Settings) -> Any:
    from moorage.wiring.storage import make_driver

    return make_driver(settings)


async def test_a_stale_tag_has_a_warning(tmp_path: Path) -> None:
    """RFC 7234: the client, or its user, can see that the answer may be old."""
    async with FaultyRegistry() as upstream:
        mirror = make_mirror(upstream, tmp_path)
        client = Client(create_app(mirror, HttpOptions()))
        upstream.add_image(APP, "1")
        fresh = await client.get(f"/v2/{APP}/manifests/1")
        assert "warning" not in fresh.headers
        upstream.fail("/manifests/", status=503)
        stale = await client.get(f"/v2/{APP}/manifests/1")
        assert (stale.status_code, stale.content) == (200, fresh.content)
        assert stale.headers["warning"].startswith('110 moorage "Response is Stale: 127.0.0.1:')
        unchanged = await client.get(f"/v2/{APP}/manifests/1", {"if-none-match": fresh.headers["etag"]})
        assert (unchanged.status_code, "warning" in unchanged.headers) == (304, True)
        await mirror.close()


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"status": 401}, 403, "DENIED"),
        ({"status": 429, "headers": {"Retry-After": "17"}}, 429, "TOOMANYREQUESTS"),
        ({"status": 500}, 502, "UNAVAILABLE"),
        ({"disconnect": True}, 502, "UNAVAILABLE"),
    ],
)
async def test_errors_have_the_words_of_the_upstream(
    tmp_path: Path, fault: dict[str, Any], status: int, code: str
) -> None:
    """Most clients print the message only."""
    async with FaultyRegistry() as upstream:
        mirror = make_mirror(upstream, tmp_path)
        client = Client(create_app(mirror, HttpOptions()))
        upstream.fail("/manifests/", **fault)
        answer = await client.get(f"/v2/{APP}/manifests/1")
        assert (answer.status_code, codes(answer)) == (status, [code])
        message = answer.json()["errors"][0]["message"]
        assert upstream.host in message
        assert "as instructed" in message or "disconnect" in fault
        assert answer.headers.get("retry-after") == ("17" if status == 429 else None)
        await mirror.close()


async def test_a_mirror_of_itself_is_noticed(tmp_path: Path) -> None:
    """Each request would become another one, until the connections are used up."""
    async with FaultyRegistry() as upstream:
        mirror = make_mirror(upstream, tmp_path)
        client = Client(create_app(mirror, HttpOptions(via=VIA.encode())))
        answer = await client.get(f"/v2/{APP}/manifests/1", {"via": f"1.1 other, 1.1 {VIA}"})
        assert (answer.status_code, codes(answer)) == (508, ["UNSUPPORTED"])
        assert "proxy.remoteurl" in answer.json()["errors"][0]["message"]
        assert (await client.get(f"/v2/{APP}/manifests/1", {"via": "1.1 other"})).status_code == 404
        await mirror.close()
