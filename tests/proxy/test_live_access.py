"""Names, users and accounts of a mirror of several registries, beside a repository that is pushed to."""

from __future__ import annotations

import base64
import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import bcrypt
import pytest
from tests.auth.signing import Signer, claims
from tests.auth.token_server import TokenServer
from tests.live import start_moorage
from tests.proxy.pages import explained
from tests.upstream.faulty import FaultyRegistry
from tests.wire import Answer, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.live import Live

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mirror")]

USER: Final = ("alice", "wonderland")
ACCOUNT: Final = ("mirror-account", "secret-of-the-mirror")
WRONG: Final = "wrong-secret-of-the-mirror"


def basic(pair: tuple[str, str]) -> str:
    return f"Basic {base64.b64encode(':'.join(pair).encode()).decode()}"


@dataclass(frozen=True)
class Site:
    """A mirror of a Docker Hub with token logins, of a registry with Basic logins, and of that one twice more."""

    mirror: Live
    hub: FaultyRegistry
    other: FaultyRegistry

    def get(self, path: str, user: tuple[str, str] | None = USER, method: str = "GET") -> Answer:
        headers = {"Accept": "*/*"} if user is None else {"Accept": "*/*", "Authorization": basic(user)}
        return Wire(self.mirror.host).send(method, path, None, headers)


class LoggedIn(Wire):
    """Requests of the user."""

    def send(
        self, method: str, target: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        return super().send(method, target, body, {"Authorization": basic(USER), **(headers or {})})  # type: ignore[arg-type]  # what the base class accepts


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("access")
    (folder / "htpasswd").write_text(f"{USER[0]}:{bcrypt.hashpw(USER[1].encode(), bcrypt.gensalt(4)).decode()}\n")
    with ExitStack() as stack:
        hub = stack.enter_context(FaultyRegistry(bearer=ACCOUNT).in_thread())
        other = stack.enter_context(FaultyRegistry(basic=ACCOUNT).in_thread())
        account = {"username": ACCOUNT[0], "password": ACCOUNT[1]}
        upstreams = [
            {"prefix": "docker.io", "remoteurl": hub.url, **account},
            {"prefix": "ghcr.io", "namespaces": ["ghcr.io:443"], "remoteurl": other.url, **account},
            {"prefix": "denied.io", "remoteurl": other.url, "username": ACCOUNT[0], "password": WRONG},
            {"prefix": "limited.io", "remoteurl": other.url, "deny": ["secret/**"], **account},
        ]
        mirror = stack.enter_context(
            start_moorage(
                folder / "mirror",
                log={"level": "debug", "accesslog": {"disabled": False}},
                auth={"htpasswd": {"realm": "a test", "path": str(folder / "htpasswd")}},
                proxy={"upstreams": upstreams},
            )
        )
        yield Site(mirror, hub, other)


def test_ns_selects_the_upstream_and_local_repositories_are_beside_them(site: Site) -> None:
    """The nodes of a cluster ask one mirror for all registries, and pull what the team has pushed to it."""
    of_hub = site.hub.add_image("library/app", "v1", [b"from the hub"])
    of_other = site.other.add_image("library/app", "v1", [b"from the other"])
    own = LoggedIn(site.mirror.host).push_image("library/app", "v1", [b"pushed here"])

    path = "/v2/library/app/manifests/v1"
    for query, expected in (
        ("?ns=docker.io", of_hub), ("?ns=ghcr.io", of_other), ("?ns=GHCR.IO:443", of_other), ("", None),
    ):  # fmt: skip
        answer = site.get(f"{path}{query}")
        assert answer.status == 200, answer
        if expected is None:
            assert answer.body == own
            continue
        assert answer.headers["docker-content-digest"] == expected
        layer = json.loads(answer.body)["layers"][0]["digest"]
        found = site.get(f"/v2/library/app/blobs/{layer}{query}")
        assert found.body.startswith(b"from the ")
        # A layer of a mirrored repository is not one of the local repository of the same name.
        assert site.get(f"/v2/library/app/blobs/{layer}").status == 404

    unknown = site.get(f"{path}?ns=quay.io")
    assert unknown.status == 404, "an image of another registry is not the local one of the same name"

    # The same repositories by their full names; one component is completed as Docker does, for Docker Hub only.
    assert site.get("/v2/docker.io/app/manifests/v1").headers["docker-content-digest"] == of_hub
    assert site.get("/v2/ghcr.io/library/app/manifests/v1").headers["docker-content-digest"] == of_other
    assert site.get("/v2/ghcr.io/app/manifests/v1").status == 404
    listed = site.get("/v2/_catalog").json()["repositories"]
    assert listed == ["docker.io/library/app", "ghcr.io/library/app", "library/app"]


def test_what_is_cached_needs_a_login(site: Site) -> None:
    """A mirror must not be the way around the passwords of the registry."""
    site.hub.add_image("library/private", "v1", [b"private"])
    path = "/v2/docker.io/library/private/manifests/v1"
    cached = site.get(path)
    assert cached.status == 200
    layer = json.loads(cached.body)["layers"][0]["digest"]
    assert site.get(f"/v2/docker.io/library/private/blobs/{layer}").status == 200
    before = len(site.hub.received)
    for refused in (path, f"{path}?ns=docker.io", f"/v2/docker.io/library/private/blobs/{layer}"):
        assert site.get(refused, None).status == 401
        assert site.get(refused, (USER[0], "wrong")).status == 401
    assert len(site.hub.received) == before, "the upstream is not asked for a client that is refused"


def test_the_passwords_of_the_mirror_are_sent_to_their_registry_only_and_never_logged(site: Site) -> None:
    """Operators share logs; the account may have access to all that a company has."""
    site.other.add_image("team/secret", "v1", [b"secret"])
    assert site.get("/v2/ghcr.io/team/secret/manifests/v1").status == 200
    denied = site.get("/v2/denied.io/team/secret/manifests/v1")
    assert (denied.status, denied.codes) == (403, ["DENIED"])
    assert site.other.host in denied.json()["errors"][0]["message"]
    assert explained("the upstream registry refuses") in denied.json()["errors"][0]["message"]
    sent = {one.headers.get("authorization") for one in site.other.received}
    assert basic(ACCOUNT) in sent
    assert basic(USER) not in sent | {one.headers.get("authorization") for one in site.hub.received}
    site.mirror.logged("denied.io/team/secret")
    logs = site.mirror.logs() + denied.body.decode()
    for secret in (ACCOUNT[1], WRONG, *map(basic, (ACCOUNT, (ACCOUNT[0], WRONG))), *site.hub.tokens):
        assert secret.removeprefix("Basic ") not in logs


def test_a_limit_of_the_rate_is_passed_on_with_its_time(site: Site) -> None:
    """Docker Hub counts pulls; a client that knows when to come back does, others add to the load."""
    body = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit."}]}'
    site.other.fail("/v2/team/limited/", status=429, headers={"Retry-After": "77"}, body=body)
    answer = site.get("/v2/limited.io/team/limited/manifests/v1")
    assert (answer.status, answer.codes, answer.headers["retry-after"]) == (429, ["TOOMANYREQUESTS"], "77")
    assert explained("You have reached your pull rate limit") in answer.json()["errors"][0]["message"]
    site.other.recover()


def test_repositories_that_the_settings_deny_are_not_requested(site: Site) -> None:
    """An allowed pattern that is too wide would publish what the mirror's account can read."""
    site.other.add_image("secret/app", "v1")
    refused = site.get("/v2/limited.io/secret/app/manifests/v1")
    assert (refused.status, refused.codes) == (403, ["DENIED"])
    assert f"{explained('do not allow')} secret/app" in refused.json()["errors"][0]["message"]
    assert not [one for one in site.other.received if one.target.startswith("/v2/secret/")]


def test_a_token_is_for_the_name_that_ns_leads_to(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A token for the local repository would open the mirrored one of the same name, and the other way round."""
    folder = tmp_path_factory.mktemp("token")
    signer = Signer.of("P-256")
    account = {"username": ACCOUNT[0], "password": ACCOUNT[1]}
    upstreams = [{"prefix": "docker.io", "remoteurl": site.hub.url, **account}]
    site.hub.add_image("library/app", "v1", [b"from the hub"])
    with TokenServer(signer, {}) as tokens:
        auth = tokens.settings(folder)
        with start_moorage(
            folder / "data", auth=auth, http={"workers": 1}, proxy={"upstreams": upstreams}
        ) as mirror:
            path = "/v2/library/app/manifests/v1?ns=docker.io"
            challenge = Wire(mirror.host).send("GET", path).headers["www-authenticate"]
            assert 'scope="repository:docker.io/library/app:pull"' in challenge
            for name, status in ("library/app", 401), ("docker.io/library/app", 200):
                access = [{"type": "repository", "name": name, "actions": ["pull"]}]
                token = signer.token(claims(access=access), **signer.header(tokens.form))
                headers = {"Authorization": f"Bearer {token}", "Accept": "*/*"}
                assert Wire(mirror.host).send("GET", path, None, headers).status == status
