"""The guard before the endpoints: what each needs, in the reference's words, and that nothing gets past it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

import pytest
from tests.http.client import ABSENT, NAME, OTHER, Client

from moorage.auth.access import NOTHING, UNRESTRICTED, Basic, Bearer, ListedGrants, Need, Principal, missing
from moorage.config.model import Settings
from moorage.config.sections.http import Http
from moorage.errors import Unauthorized
from moorage.http import auth as guard
from moorage.http.auth import credentials_of
from moorage.http.clients import Clients
from moorage.testing.builders import blob

if TYPE_CHECKING:
    from tests.http.conftest import Serve

    from moorage.auth.access import AccessRequest, Credentials, Grants

UPLOAD: Final = f"/v2/{NAME}/blobs/uploads/01a20a26-8953-77b5-b9c0-2d429fdb74f0"
PULL, PUSH, DELETE = (Need("repository", NAME, action) for action in ("pull", "push", "delete"))


class Recording:
    """Returns configured grants, and records the requested access."""

    def __init__(self, grants: Grants = NOTHING) -> None:
        self.grants = grants
        self.requested: list[AccessRequest] = []
        self.credentials: list[Credentials | None] = []

    async def admit(self, credentials: Credentials | None, request: AccessRequest) -> Principal:
        self.requested.append(request)
        self.credentials.append(credentials)
        if missing(self.grants, request):
            raise Unauthorized("Basic", [(need.type, need.name, need.action) for need in request.needs])
        return Principal("alice", self.grants)

    async def refresh(self) -> None:
        pass

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("method", "target", "needs"),
    [
        ("GET", "/v2/", ()),
        ("GET", "/v2/_catalog", (Need("registry", "catalog", "*"),)),
        ("GET", "/v2/_oci/ext/discover", ()),
        ("GET", f"/v2/{NAME}/_oci/ext/discover", (PULL,)),
        ("DELETE", f"/v2/{NAME}/_moorage/repository/content", (DELETE,)),
        ("GET", f"/v2/{NAME}/tags/list", (PULL,)),
        ("GET", f"/v2/{NAME}/referrers/{ABSENT}", (PULL,)),
        ("HEAD", f"/v2/{NAME}/manifests/v1", (PULL,)),
        ("PUT", f"/v2/{NAME}/manifests/v1", (PULL, PUSH)),
        ("DELETE", f"/v2/{NAME}/manifests/v1", (DELETE,)),
        ("GET", f"/v2/{NAME}/blobs/{ABSENT}", (PULL,)),
        ("DELETE", f"/v2/{NAME}/blobs/{ABSENT}", (DELETE,)),
        ("POST", f"/v2/{NAME}/blobs/uploads/", (PULL, PUSH)),
        ("POST", f"/v2/{NAME}/blobs/uploads/?mount={ABSENT}&from={OTHER}",
         (PULL, PUSH, Need("repository", OTHER, "pull"))),
        ("POST", f"/v2/{NAME}/blobs/uploads/?mount={ABSENT}&from=NO+NAME", (PULL, PUSH)),
        ("GET", UPLOAD, (PULL,)),
        ("PATCH", UPLOAD, (PULL, PUSH)),
        ("PUT", UPLOAD, (PULL, PUSH)),
        ("DELETE", UPLOAD, (PULL, PUSH)),
    ],
)  # fmt: skip
async def test_each_endpoint_needs_what_the_reference_needs(
    serve: Serve, method: str, target: str, needs: tuple[Need, ...]
) -> None:
    """Token servers grant by these words; another one would lock people out, or in."""
    authority = Recording()
    answer = await serve(authority=authority).send(method, target)
    assert authority.requested[0].needs == needs
    assert answer.status_code == (401 if needs else 200)


async def test_an_upload_is_cancelled_by_whoever_may_push_or_delete(serve: Serve) -> None:
    """Clients that push hold no right to delete, and those of the reference that cancel hold only that."""
    for actions in ({"pull", "push"}, {"delete"}):
        authority = Recording(ListedGrants({("repository", NAME): frozenset(actions)}))
        assert (await serve(authority=authority).send("DELETE", UPLOAD)).status_code == 404
    authority = Recording(ListedGrants({("repository", NAME): frozenset({"pull"})}))
    assert (await serve(authority=authority).send("DELETE", UPLOAD)).status_code == 401


@pytest.mark.parametrize("target", ["/v2/nothing/here", "/v2/UPPER/tags/list", "/nowhere"])
async def test_what_is_no_route_needs_no_credentials(serve: Serve, target: str) -> None:
    """A client that is challenged for a path without a route would ask its user for a password in vain."""
    authority = Recording()
    assert (await serve(authority=authority).get(target)).status_code == 404
    assert authority.requested == []


async def test_a_blob_is_mounted_from_anywhere_only_by_those_who_may_read_everything(serve: Serve) -> None:
    """A client that knows a digest would otherwise read layers of repositories that it may not read."""
    content = blob(size=100)
    authority = Recording(UNRESTRICTED.grants)
    client: Client = serve(authority=authority)
    await client.push_blob(content, OTHER)
    query = f"?mount={content.digest}"
    authority.grants = ListedGrants({("repository", NAME): frozenset({"*"})})
    assert (await client.start_upload(NAME, query)).status_code == 202
    assert (await client.blob(content, NAME)).status_code == 404
    authority.grants = UNRESTRICTED.grants
    assert (await client.start_upload(NAME, query)).status_code == 201


def test_credentials_are_read_as_they_are_sent() -> None:
    """Names and passwords are bytes: people have both with umlauts, and passwords with colons."""

    def basic(text: bytes) -> str:
        return f"Basic {base64.b64encode(text).decode()}"

    assert credentials_of(basic("jürgen:a:b".encode())) == Basic("jürgen".encode(), b"a:b")
    assert credentials_of("bAsIc " + basic(b"a:")[6:]) == Basic(b"a", b"")
    assert credentials_of("BEARER abc") == Bearer("abc")
    for nothing in (None, "", "Basic", "Basic !!", basic(b"no colon"), basic(b"a:b\0c"), "Bearer ", "Digest x"):
        assert credentials_of(nothing) is None


def test_what_is_secret_is_not_shown() -> None:
    """A repr ends in a log sooner or later."""
    assert "secret" not in repr(Basic(b"a", b"secret"))
    assert "secret" not in repr(Bearer("secret"))


async def test_where_a_request_comes_from_is_known_to_whoever_asks(serve: Serve) -> None:
    """A challenge names the host that the client used, and failed logins are limited by address: headers with
    either count from trusted proxies only.
    """
    authority = Recording()
    client = serve(Settings(http=Http(trustedproxies=("loopback",))), authority=authority)
    await client.get("/v2/", headers={"host": "reg.test:5000"})
    await client.get("/v2/", headers={"x-forwarded-proto": "https", "x-forwarded-host": "outside.test",
                                      "x-forwarded-for": "192.0.2.9", "authorization": "Digest x"})  # fmt: skip
    direct, proxied = authority.requested
    assert (direct.scheme, direct.host, direct.forwarded, direct.has_credentials) == (
        "http",
        "reg.test:5000",
        False,
        False,
    )
    assert (proxied.scheme, proxied.host, proxied.forwarded) == ("https", "outside.test", True)
    assert (proxied.remote, proxied.has_credentials) == ("192.0.2.9", True)


async def test_whoever_is_let_in_pays_only_for_that(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Host and address cost 25 us to find out, a third of a whole request, and are needed for refusals alone."""

    def never(*_: object) -> None:
        raise AssertionError("looked up for nothing")

    client = serve(authority=Recording(UNRESTRICTED.grants))
    monkeypatch.setattr(guard, "seen_from_outside", never)
    monkeypatch.setattr(Clients, "decisive_address", never)
    assert (await client.get("/v2/")).status_code == 200
