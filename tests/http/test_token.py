"""The token server over HTTP: who gets which token, what the registry does with it, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlencode

import pytest
from structlog.testing import capture_logs
from tests.auth.local.helpers import (
    AUDIENCE,
    ISSUER,
    NOW,
    SECRET,
    Clock,
    FakeIssuer,
    authority,
    policy_file,
    users_file,
)
from tests.auth.signing import compact
from tests.http.client import ABSENT, Client, codes

from moorage.auth.local.authority import LocalAuthority, TokenRealm
from moorage.auth.local.robot_secrets import digest_of
from moorage.config.model import Settings
from moorage.config.sections.http import Http
from moorage.http.token import FORM_TIMEOUT_S, TokenEndpoint
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import blob, image
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx
    from tests.http.conftest import Serve

ROBOT_SECRET: Final = "moorage_a-robots-secret"
POLICY: Final = f"""
groups: {{dev: [ann]}}
robots:
  ci:
    secret: {digest_of(ROBOT_SECRET, "s" * 22)}
    expires: 2027-01-15T08:30:00Z
    access: [{{repositories: team/**, allow: [pull, push]}}]
issuers:
  - name: gitlab
    issuer: {ISSUER}
    audience: {AUDIENCE}
    jwks: keys.json
    session: 30m
    rules:
      - claims: {{project_path: "acme/*"}}
        repositories: "{{project_path}}/**"
        allow: [pull, push]
access:
  - {{who: anonymous, repositories: library/**, allow: pull}}
  - {{who: authenticated, repositories: "{{user}}/**", allow: [pull, push, delete]}}
  - {{who: group:dev, repositories: team/**, allow: [pull, push]}}
  - {{who: group:dev, repositories: library/**, allow: push}}
  - {{who: ann, catalog: true}}
"""
# The robot's end as seconds since 1970.
ROBOT_END: Final = 1_800_001_800.0
BASIC_REALM: Final = 'Basic realm="moorage"'


@dataclass
class Server:
    """A registry with a token server, its clock, and the folder of its files."""

    client: Client
    authority: LocalAuthority
    clock: Clock
    folder: Path
    ci: FakeIssuer

    def edit(self, policy: str) -> None:
        """A new policy; the second is over after which it is looked at."""
        policy_file(self.folder, policy)
        self.authority._policies._checked = float("-inf")

    async def token(self, *scopes: str, user: str = "", password: str = "", **fields: str) -> httpx.Response:
        """GET /token, with Basic if there is a user."""
        query = urlencode([("service", "moorage"), *fields.items(), *(("scope", scope) for scope in scopes)])
        return await self.client.get(f"/token?{query}", basic(user, password) if user else None)

    async def post(self, *, kind: str = "application/x-www-form-urlencoded", **fields: str) -> httpx.Response:
        """POST /token, a form."""
        given = {"content-type": kind}
        return await self.client.send(
            "POST", "/token", urlencode({"service": "moorage", **fields}).encode(), given
        )


class Start(Protocol):
    async def __call__(self, **options: Any) -> Server: ...


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def bearer(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return {"authorization": f"Bearer {answer.json()['access_token']}"}


def claims(answer: httpx.Response) -> dict[str, Any]:
    part = answer.json()["access_token"].split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def access(answer: httpx.Response) -> list[str]:
    """What a token holds, as scopes."""
    assert answer.status_code == 200, answer.text
    return [f"{each['type']}:{each['name']}:{','.join(each['actions'])}" for each in claims(answer)["access"]]


@pytest.fixture
async def start(tmp_path: Path, serve: Serve) -> AsyncIterator[Start]:
    """Several over one folder and secret are what a node's workers are."""
    running: list[LocalAuthority] = []
    ci, clock, driver = FakeIssuer(), Clock(), MemoryDriver()
    (tmp_path / "keys.json").write_bytes(ci.jwks())
    policy_file(tmp_path, POLICY)
    users_file(tmp_path, ann="secret", bob="hunter2", jörg="pässword")

    async def begin(
        *,
        settings: Settings | None = None,
        secret: bytes = SECRET,
        form_timeout_s: float = FORM_TIMEOUT_S,
        **options: Any,
    ) -> Server:
        made = authority(tmp_path, clock, secret, **options)
        running.append(made)
        tokens = TokenEndpoint(made, 60.0, form_timeout_s=form_timeout_s)
        if settings is None:
            client = serve(driver=driver, authority=made, tokens=tokens)
        else:
            client = serve(driver=driver, authority=made, tokens=tokens, options=http_options(settings))
        return Server(client, made, clock, tmp_path, ci)

    yield begin
    for each in running:
        await each.close()


@pytest.fixture
async def server(start: Start) -> Server:
    return await start()


# ------------------------------------------------------------------------------------------------- the registry


async def test_the_ping_wants_a_login_although_something_is_open(server: Server) -> None:
    """Docker asks there whether to log in; after a 200 it would never send a password."""
    answer = await server.client.get("/v2/")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="http://registry.test/token",service="moorage"'
    assert answer.json()["errors"][0]["detail"] is None


async def test_what_is_open_needs_neither_login_nor_token(server: Server) -> None:
    """`curl` and containerd send none; protected repositories are refused before anything is looked up."""
    assert codes(await server.client.get("/v2/library/app/tags/list")) == ["NAME_UNKNOWN"]
    for method, target, scope in (
        ("GET", "/v2/team/app/tags/list", "repository:team/app:pull"),
        ("GET", f"/v2/team/app/blobs/{ABSENT}", "repository:team/app:pull"),
        ("POST", "/v2/library/app/blobs/uploads/", "repository:library/app:pull,push"),
        ("DELETE", f"/v2/library/app/manifests/{ABSENT}", "repository:library/app:delete"),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
    ):
        answer = await server.client.send(method, target)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].endswith(f',service="moorage",scope="{scope}"'), "no error"


async def test_a_password_is_good_for_what_the_policy_allows(server: Server) -> None:
    """`curl -u` works without a token; what is not allowed is refused as such."""
    ann = basic("ann", "secret")
    assert (await server.client.get("/v2/", ann)).status_code == 200
    assert (await server.client.send("POST", "/v2/team/app/blobs/uploads/", b"", ann)).status_code == 202
    assert (await server.client.send("POST", "/v2/library/x/blobs/uploads/", b"", ann)).status_code == 202
    assert (await server.client.get("/v2/_catalog", ann)).status_code == 200
    for method, target in (("DELETE", f"/v2/team/app/manifests/{ABSENT}"), ("GET", "/v2/bob/x/tags/list")):
        answer = await server.client.send(method, target, None, ann)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].endswith('error="insufficient_scope"')
    assert (await server.client.get("/v2/", basic("jörg", "pässword"))).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        basic("ann", "wrong"), basic("eve", "secret"), basic("", "secret"), basic("ann", ""),
        basic("robot+ci", "x"),
        basic("robot+no", ROBOT_SECRET), basic("ci", ROBOT_SECRET), basic("oidc", "a.b.c"), basic("oidc", ""),
        {"authorization": "Basic !!"}, {"authorization": "Digest x"}, {"authorization": "Bearer"},
        {"authorization": f"Basic {base64.b64encode(b'ann' + bytes([0xff]) + b':secret').decode()}"},
    ],
)  # fmt: skip
async def test_wrong_credentials_open_nothing_that_is_shut_or_open(
    server: Server, headers: dict[str, str]
) -> None:
    """A mistyped password is reported at once, not at the first protected request; the reason goes to the log."""
    for target in ("/v2/", "/v2/library/app/tags/list", "/v2/ann/x/tags/list"):
        answer = await server.client.get(target, headers)
        assert answer.status_code == 401
        assert "error=" not in answer.headers["www-authenticate"]


async def test_a_token_opens_what_it_lists_and_nothing_else(server: Server) -> None:
    """Also not what its owner may do but did not ask for: a stolen token is worth no more than its job."""
    token = bearer(await server.token("repository:team/app:pull,push", user="ann", password="secret"))
    assert (await server.client.get("/v2/", token)).status_code == 200
    assert (await server.client.send("POST", "/v2/team/app/blobs/uploads/", b"", token)).status_code == 202
    for target in ("/v2/team/other/tags/list", "/v2/ann/x/tags/list", "/v2/library/app/tags/list", "/v2/_catalog"):
        answer = await server.client.get(target, token)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].endswith('error="insufficient_scope"')


async def test_a_token_that_is_over_or_nonsense_is_said_to_be_invalid(server: Server) -> None:
    """Containerd and crane then fetch another one; without the word they give up."""
    token = bearer(await server.token("repository:team/app:pull", user="ann", password="secret"))
    login = await server.token(user="ann", password="secret", offline_token="true")
    refresh = {"authorization": f"Bearer {login.json()['refresh_token']}"}
    foreign = {"authorization": f"Bearer {server.ci.token(project_path='acme/app')}"}
    server.clock.now += 400
    for headers in (token, refresh, foreign, {"authorization": "Bearer nonsense"}):
        for target in ("/v2/", "/v2/library/app/tags/list"):
            answer = await server.client.get(target, headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].endswith('error="invalid_token"')


async def test_a_whole_image_goes_in_and_out_with_tokens(server: Server) -> None:
    """As Docker does it: a token to push, none to pull."""
    token = bearer(await server.token("repository:library/app:pull,push", user="ann", password="secret"))
    pushed = image()
    for part in pushed.closure:
        if not part.is_manifest:
            begun = await server.client.send("POST", "/v2/library/app/blobs/uploads/", b"", token)
            place = f"{begun.headers['location']}&digest={part.digest}"
            assert (await server.client.send("PUT", place, part.data, token)).status_code == 201
    put = {**token, "content-type": pushed.media_type}
    answer = await server.client.send("PUT", "/v2/library/app/manifests/v1", pushed.data, put)
    assert answer.status_code == 201
    assert (await server.client.manifest("v1", "library/app")).content == pushed.data


async def test_a_layer_is_mounted_from_where_one_may_read(server: Server) -> None:
    """With another repository's layer a token for the target alone gets a 401 with the missing access."""
    content = blob(size=100)
    ann = basic("ann", "secret")
    begun = await server.client.send("POST", "/v2/ann/from/blobs/uploads/", b"", ann)
    place = f"{begun.headers['location']}&digest={content.digest}"
    assert (await server.client.send("PUT", place, content.data, ann)).status_code == 201
    mount = f"/v2/team/app/blobs/uploads/?mount={content.digest}&from=ann/from"
    one = bearer(await server.token("repository:team/app:pull,push", user="ann", password="secret"))
    answer = await server.client.send("POST", mount, b"", one)
    assert answer.status_code == 401
    assert 'scope="repository:team/app:pull,push repository:ann/from:pull"' in answer.headers["www-authenticate"]
    both = await server.token(
        "repository:team/app:pull,push repository:ann/from:pull", user="ann", password="secret"
    )
    assert (await server.client.send("POST", mount, b"", bearer(both))).status_code == 201


async def test_an_edited_policy_holds_at_once_for_passwords_and_with_the_next_token(server: Server) -> None:
    """A token is good for the minutes that it was given for, as everywhere."""
    ann = basic("ann", "secret")
    token = bearer(await server.token("repository:team/app:pull", user="ann", password="secret"))
    server.edit("access: [{who: ann, repositories: other, allow: pull}]")
    assert (await server.client.get("/v2/team/app/tags/list", ann)).status_code == 401
    assert (await server.client.get("/v2/team/app/tags/list", token)).status_code == 404
    assert access(await server.token("repository:team/app:pull", user="ann", password="secret")) == []
    assert (await server.client.get("/v2/library/app/tags/list")).status_code == 401


# ---------------------------------------------------------------------------------------------------- GET /token


async def test_whoever_proves_nothing_gets_what_all_may(server: Server) -> None:
    """An anonymous `docker pull` begins so."""
    answer = await server.token("repository:library/app:pull,push", "repository:team/app:pull")
    assert access(answer) == ["repository:library/app:pull"]
    assert claims(answer)["sub"] == ""
    assert (await server.client.get("/v2/library/app/tags/list", bearer(answer))).status_code == 404
    assert (await server.client.get("/v2/", bearer(answer))).status_code == 200
    assert "refresh_token" not in (await server.token(offline_token="true")).json()


async def test_the_answer_is_as_clients_read_it(server: Server) -> None:
    """`token` for Docker, `access_token` for the others; no cache in between may keep it."""
    answer = await server.token("repository:team/app:pull", user="ann", password="secret")
    assert answer.json() == {
        "token": answer.json()["access_token"], "access_token": answer.json()["token"], "expires_in": 300,
        "issued_at": "2027-01-15T08:00:00Z",
    }  # fmt: skip
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert claims(answer)["sub"] == "ann"


async def test_the_first_value_of_a_repeated_field_counts_and_scopes_add_up(server: Server) -> None:
    """As for CNCF Distribution's token servers (Go's `Values.Get`)."""
    scopes = "scope=repository:library/app:pull&scope=repository:library/web:pull"
    answer = await server.client.get(f"/token?service=moorage&service=other&{scopes}")
    assert access(answer) == ["repository:library/app:pull", "repository:library/web:pull"]
    assert (await server.client.get("/token?service=other&service=moorage")).status_code == 400
    login = basic("ann", "secret")
    assert (await server.client.get("/token?account=ann&account=bob", login)).status_code == 200
    assert (await server.client.get("/token?account=bob&account=ann", login)).status_code == 400
    kind = {"content-type": "application/x-www-form-urlencoded"}
    form = b"grant_type=password&grant_type=refresh_token&username=ann&username=bob&password=secret&password=x"
    assert (await server.client.send("POST", "/token", form, kind)).status_code == 200


@pytest.mark.parametrize("account", ["robot+ci", "robot%2Bci"])
async def test_a_robot_may_be_named_with_a_bare_plus(server: Server, account: str) -> None:
    """Scripts write `account=robot+ci`, decoded as "robot ci"."""
    answer = await server.client.get(f"/token?account={account}", basic("robot+ci", ROBOT_SECRET))
    assert answer.status_code == 200
    answer = await server.client.get("/token?account=robotci", basic("robot+ci", ROBOT_SECRET))
    assert answer.status_code == 400


async def test_asking_for_too_much_gets_what_there_is(server: Server) -> None:
    """`docker login` asks for nothing, skopeo for `*`; neither is an error."""
    ann = {"user": "ann", "password": "secret"}
    assert access(await server.token(**ann)) == []
    assert access(await server.token("repository:team/app:*", **ann)) == ["repository:team/app:pull,push"]
    assert access(await server.token("repository:ann/app:*", **ann)) == ["repository:ann/app:pull,push,delete"]
    assert access(await server.token("registry:catalog:*", **ann)) == ["registry:catalog:*"]
    bob = {"user": "bob", "password": "hunter2"}
    assert access(await server.token("registry:catalog:* repository:team/app:pull nonsense", **bob)) == []
    assert access(await server.token(**{**ann, "client_id": "docker", "account": "ann"})) == []


@pytest.mark.parametrize(
    "headers",
    [basic("ann", "wrong"), basic("eve", "x"), {"authorization": "Bearer x"}, {"authorization": "Basic !"},
     {"authorization": "Digest x"}],
)  # fmt: skip
async def test_wrong_credentials_get_no_token_not_even_an_anonymous_one(
    server: Server, headers: dict[str, str]
) -> None:
    """`docker login` with a typing error must fail; every reason looks the same from outside."""
    answer = await server.client.get("/token?service=moorage&scope=repository:library/app:pull", headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == BASIC_REALM
    assert answer.json() == {
        "errors": [{"code": "UNAUTHORIZED", "message": "authentication required", "detail": None}],
        "error": "invalid_client", "error_description": "wrong or missing credentials",
        "details": "wrong or missing credentials",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "error", "text"),
    [
        ("service=other", "invalid_request", "expected the service 'moorage'"),
        ("account=bob", "invalid_request", "account is not the user"),
        (
            "scope=" + "+".join(f"repository:a{number}:pull" for number in range(101)),
            "invalid_scope",
            "more than 100",
        ),
        ("&".join(["a=b"] * 201), "invalid_request", "at most 200 fields"),
    ],
)
async def test_a_request_that_makes_no_sense_is_told_why(
    server: Server, query: str, error: str, text: str
) -> None:
    """In the words of both protocols; no token is given."""
    answer = await server.client.get(f"/token?{query}", basic("ann", "secret"))
    assert (answer.status_code, codes(answer)) == (400, ["TOKEN_REQUEST_INVALID"])
    assert answer.json()["error"] == error
    assert text in answer.json()["error_description"]


async def test_other_methods_are_told_which_there_are(server: Server) -> None:
    answer = await server.client.send("DELETE", "/token")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert (await server.client.send("OPTIONS", "/token")).headers["allow"] == "GET, HEAD, POST"
    assert (await server.client.send("HEAD", "/token")).status_code == 200


async def test_guessing_is_slowed_down_wherever_it_is_tried(start: Start) -> None:
    """At `/token`, with either method, and at the registry alike; a client that has just logged in continues."""
    server = await start(failures=3)
    assert (await server.token(user="ann", password="secret")).status_code == 200
    assert (await server.token(user="ann", password="wrong 1")).status_code == 401
    form = {"grant_type": "password", "username": "ann", "password": "wrong 2"}
    assert (await server.post(**form)).status_code == 401
    assert (await server.client.get("/v2/", basic("ann", "wrong 3"))).status_code == 401
    for answer in (
        await server.token(user="bob", password="hunter2"),
        await server.post(**form),
        await server.client.get("/v2/", basic("ann", "wrong 4")),
    ):
        assert (answer.status_code, codes(answer)) == (429, ["TOOMANYREQUESTS"])
        assert answer.headers["retry-after"] == "1"
    assert (await server.token(user="ann", password="secret")).status_code == 200
    assert (await server.token(user="robot+ci", password=ROBOT_SECRET)).status_code == 200


async def test_a_refused_login_is_logged_without_what_was_shown(server: Server) -> None:
    """Operators see the user of each attempt, and no password, secret or token is in a log."""
    with capture_logs() as logs:
        await server.token(user="ann", password="wrong-pass")
        await server.token(user="robot+ci", password="wrong-pass")
        await server.token(user="oidc", password="wrong-pass.a.b")
        await server.post(grant_type="refresh_token", refresh_token="wrong-pass")
        await server.client.get("/v2/", {"authorization": "Bearer wrong-pass"})
    assert len(logs) == 5
    assert [entry.get("user") for entry in logs] == ["ann", "robot+ci", "oidc", None, None]
    assert "wrong-pass" not in str(logs)


async def test_without_a_token_server_there_is_no_token(serve: Serve) -> None:
    """Crane falls back to other ways at 404."""
    assert codes(await serve().get("/token")) == ["NOT_FOUND"]


# --------------------------------------------------------------------------------------------------- POST /token


async def test_a_password_may_come_in_a_form(server: Server) -> None:
    """Containerd and BuildKit send it so; the response names the granted scopes."""
    form = {"grant_type": "password", "username": "ann", "password": "secret", "client_id": "containerd-client"}
    answer = await server.post(
        kind="application/x-www-form-urlencoded; charset=utf-8",
        **form, scope="repository:team/app:pull,push repository:bob/app:pull",
    )  # fmt: skip
    assert access(answer) == ["repository:team/app:pull,push"]
    body = answer.json()
    assert (body["scope"], body["token_type"]) == ("repository:team/app:pull,push", "Bearer")
    assert "refresh_token" not in body
    assert "refresh_token" in (await server.post(**form, access_type="offline")).json()
    odd = {"grant_type": "password", "username": "jörg", "password": "pässword"}
    assert claims(await server.post(**odd))["sub"] == "jörg"
    assert (await server.post(**{**form, "password": "wrong"})).status_code == 401


async def test_a_form_may_be_written_by_hand(server: Server) -> None:
    """`curl --data` escapes nothing."""
    body = "service=moorage&grant_type=password&username=jörg&password=pässword".encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert (await server.client.send("POST", "/token", body, headers)).status_code == 200


async def test_a_form_that_arrives_byte_by_byte_is_refused(start: Start) -> None:
    """Each byte ends a silence: a client could hold a connection and a request for days."""
    server = await start(form_timeout_s=0.2)

    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"a"
            await asyncio.sleep(0.02)

    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await server.client.send("POST", "/token", trickle(), headers)
    assert (answer.status_code, codes(answer)) == (400, ["TOKEN_REQUEST_INVALID"])
    assert answer.json()["error_description"] == "the form did not arrive within 0.2 s"


async def test_a_login_is_kept_as_a_refresh_token(server: Server) -> None:
    """`docker login` stores it in the password's place, and gets tokens by it for ever after."""
    login = await server.token(user="ann", password="secret", offline_token="true", account="ann")
    refresh = login.json()["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": refresh, "scope": "repository:team/app:pull"}
    server.clock.now += 90 * 86400
    answer = await server.post(**form)
    assert access(answer) == ["repository:team/app:pull"]
    assert "refresh_token" not in answer.json()
    assert (await server.post(**form, access_type="offline")).json()["refresh_token"] == refresh


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: users_file(folder, ann="another", bob="hunter2"),
        lambda folder: users_file(folder, bob="hunter2"),
        users_file,
    ],
)
async def test_a_changed_password_ends_the_login(server: Server, change: Any) -> None:
    """And so does leaving: credentials on a lost laptop are void."""
    login = await server.token(user="ann", password="secret", offline_token="true")
    form = {"grant_type": "refresh_token", "refresh_token": login.json()["refresh_token"]}
    assert (await server.post(**form)).status_code == 200
    change(server.folder)
    answer = await server.post(**form)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_grant")


async def test_a_login_may_have_an_end(start: Start) -> None:
    """`auth.local.loginlifetime`, for those whose rules want it."""
    server = await start(login_s=3600.0)
    login = await server.token(user="ann", password="secret", offline_token="true")
    form = {"grant_type": "refresh_token", "refresh_token": login.json()["refresh_token"]}
    server.clock.now += 3599
    assert (await server.post(**form)).json()["expires_in"] == 1
    server.clock.now += 1
    assert (await server.post(**form)).status_code == 401


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "invalid_request"), ({"grant_type": "authorization_code"}, "unsupported_grant_type"),
        ({"grant_type": "password", "username": "ann"}, "invalid_request"),
        ({"grant_type": "password", "password": "secret"}, "invalid_request"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "x", "service": "other"}, "invalid_request"),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"}, "invalid_request"),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": "x",
          "subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request"),
        ({"grant_type": "password", "username": "ann", "password": "x" * 70_000}, "invalid_request"),
    ],
)  # fmt: skip
async def test_a_form_that_lacks_something_is_told_what(
    server: Server, fields: dict[str, str], error: str
) -> None:
    answer = await server.post(**fields)
    assert (answer.status_code, codes(answer)) == (400, ["TOKEN_REQUEST_INVALID"])
    assert answer.json()["error"] == error
    assert "expected" in answer.json()["error_description"]


async def test_what_is_no_form_is_refused(server: Server) -> None:
    answer = await server.post(kind="application/json", grant_type="password")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_a_forged_refresh_token_is_wrong_credentials(server: Server) -> None:
    access_token = (await server.token(user="ann", password="secret")).json()["token"]
    for token in ("x", access_token, server.ci.token()):
        answer = await server.post(grant_type="refresh_token", refresh_token=token)
        assert answer.status_code == 401


# ------------------------------------------------------------------------------------------- robots, other issuers


async def test_a_robot_logs_in_until_its_end_and_no_token_outlives_it(server: Server) -> None:
    """An account that ends on Friday must not push on Saturday with any token that it kept."""
    robot = {"user": "robot+ci", "password": ROBOT_SECRET}
    login = await server.token("repository:team/app:push,pull", offline_token="true", **robot)
    assert access(login) == ["repository:team/app:push,pull"]
    assert claims(login)["sub"] == "robot+ci"
    assert access(await server.token("repository:robot/app:pull repository:ci/x:pull", **robot)) == []
    form = {"grant_type": "refresh_token", "refresh_token": login.json()["refresh_token"]}
    server.clock.now = ROBOT_END - 100
    last = await server.token("repository:team/app:pull", **robot)
    assert (last.json()["expires_in"], claims(last)["exp"]) == (100, ROBOT_END)
    assert (await server.post(**form)).json()["expires_in"] == 100
    server.clock.now = ROBOT_END
    assert (await server.token(**robot)).status_code == 401
    assert (await server.post(**form)).status_code == 401
    assert (await server.client.get("/v2/team/app/tags/list", basic("robot+ci", ROBOT_SECRET))).status_code == 401
    assert (await server.client.get("/v2/team/app/tags/list", bearer(last))).status_code == 401


@pytest.mark.parametrize("text", [POLICY.replace("s" * 22, "t" * 22), POLICY.replace("  ci:", "  other:", 1)])
async def test_a_robots_new_secret_ends_what_it_kept(server: Server, text: str) -> None:
    """That is how a leaked secret is dealt with."""
    login = await server.token(offline_token="true", user="robot+ci", password=ROBOT_SECRET)
    form = {"grant_type": "refresh_token", "refresh_token": login.json()["refresh_token"]}
    assert (await server.post(**form)).status_code == 200
    server.edit(text)
    assert (await server.post(**form)).status_code == 401


async def test_a_job_logs_in_with_its_issuers_token(server: Server) -> None:
    """`docker login -u oidc -p $ID_TOKEN`; what Docker keeps lasts for the session, not for ever."""
    job = {"user": "oidc", "password": server.ci.token(project_path="acme/app", sub="job-7")}
    login = await server.token("repository:acme/app/web:pull,push", offline_token="true", account="oidc", **job)
    assert access(login) == ["repository:acme/app/web:pull,push"]
    assert claims(login)["sub"] == "gitlab:job-7"
    assert access(await server.token("repository:acme/other/x:pull repository:team/app:pull", **job)) == []
    direct = await server.client.get("/v2/acme/app/web/tags/list", basic("oidc", job["password"]))
    assert direct.status_code == 404
    form = {"grant_type": "refresh_token", "refresh_token": login.json()["refresh_token"]}
    server.clock.now += 1790
    answer = await server.post(**form, scope="repository:acme/app/web:pull")
    assert (access(answer), answer.json()["expires_in"]) == (["repository:acme/app/web:pull"], 10)
    server.clock.now += 10
    assert (await server.post(**form)).status_code == 401
    assert (await server.token(**job)).status_code == 401, "the issuer's own token is over too"


async def test_a_rule_that_goes_ends_the_sessions_it_opened(server: Server) -> None:
    job = {"user": "oidc", "password": server.ci.token(project_path="acme/app")}
    login = await server.token(offline_token="true", **job)
    form = {"grant_type": "refresh_token", "refresh_token": login.json()["refresh_token"]}
    server.edit(POLICY.replace('"acme/*"', "acme/other"))
    assert (await server.post(**form)).status_code == 401
    server.edit("")
    assert (await server.post(**form)).status_code == 401


async def test_an_issuers_token_is_exchanged(server: Server) -> None:
    """RFC 8693, for tools that have no name and password."""
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "scope": "repository:acme/app/web:push,pull",
    }
    answer = await server.post(**form, subject_token=server.ci.token(project_path="acme/app"))
    assert access(answer) == ["repository:acme/app/web:push,pull"]
    assert answer.json()["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    for bad in (server.ci.token(project_path="evil/app"), server.ci.token(project_path="acme/app", aud="x"), "x"):
        assert (await server.post(**form, subject_token=bad)).status_code == 401


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": f"1{'0' * 400}"}, {"exp": "1e400"}, {"nbf": f"-1{'0' * 400}"}, {"project_path": r'"acme/\ud800"'},
        {"sub": f"{'[' * 5000}{']' * 5000}"}, {"exp": f"1{'0' * 5000}"},
    ],
)  # fmt: skip
async def test_a_malformed_token_of_an_issuer_is_wrong_credentials(server: Server, claims: dict[str, str]) -> None:
    """An issuer signs what its users type; `exp` of 400 digits and a lone surrogate were a 500."""
    usual = {
        "iss": json.dumps(ISSUER), "aud": json.dumps(AUDIENCE), "exp": str(int(NOW) + 300),
        "project_path": '"acme/app"',
    }  # fmt: skip
    payload = ",".join(f'"{name}":{value}' for name, value in {**usual, **claims}.items())
    token = compact({"alg": "ES256", "kid": "key-1"}, f"{{{payload}}}".encode(), server.ci.key, "ES256")
    grant, kind = (f"urn:ietf:params:oauth:{end}" for end in ("grant-type:token-exchange", "token-type:jwt"))
    answer = await server.post(
        grant_type=grant, subject_token=token, subject_token_type=kind, access_type="offline"
    )
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_grant")
    assert (await server.token(user="oidc", password=token)).status_code == 401


async def test_an_issuer_whose_keys_are_not_to_be_had_is_not_a_wrong_password(server: Server) -> None:
    """The pipeline tries again later; no operator searches for a mistake in its configuration."""
    (server.folder / "keys.json").write_text("{}")
    token = server.ci.token(project_path="acme/app")
    assert (await server.token(user="oidc", password=token)).status_code == 503
    assert (await server.client.get("/v2/", basic("oidc", token))).status_code == 503


async def test_a_users_file_that_is_gone_is_not_a_wrong_password(server: Server) -> None:
    login = await server.token(offline_token="true", user="ann", password="secret")
    (server.folder / "users").unlink()
    assert (await server.token(user="ann", password="secret")).status_code == 503
    form = {"grant_type": "refresh_token", "refresh_token": login.json()["refresh_token"]}
    assert (await server.post(**form)).status_code == 503


async def test_without_users_there_are_robots_still(start: Start) -> None:
    """A registry for machines needs no password file."""
    server = await start(users="")
    assert (await server.token(user="ann", password="secret")).status_code == 401
    assert (await server.token(user="robot+ci", password=ROBOT_SECRET)).status_code == 200


# --------------------------------------------------------------------------------------------- several, and where


async def test_what_one_process_gives_out_another_takes(start: Start) -> None:
    """Any request may reach any process; they share the secret and the files alone."""
    one, other = await start(), await start()
    login = await one.token("repository:team/app:pull", offline_token="true", user="ann", password="secret")
    assert (await other.client.get("/v2/team/app/tags/list", bearer(login))).status_code == 404
    form = {"grant_type": "refresh_token", "refresh_token": login.json()["refresh_token"]}
    assert (await other.post(**form)).status_code == 200
    stranger = await start(secret=b"another secret")
    assert (await stranger.client.get("/v2/team/app/tags/list", bearer(login))).status_code == 401
    assert (await stranger.post(**form)).status_code == 401


async def test_keys_rotate_under_running_clients(start: Start) -> None:
    """Tokens of the last period are good to their end, logins for ever."""
    server = await start(rotation_s=3600.0)
    server.clock.now = NOW - NOW % 3600 + 3599
    login = await server.token("repository:team/app:pull", offline_token="true", user="ann", password="secret")
    server.clock.now += 200
    assert (await server.client.get("/v2/team/app/tags/list", bearer(login))).status_code == 404
    server.clock.now += 1_000_000
    form = {"grant_type": "refresh_token", "refresh_token": login.json()["refresh_token"]}
    assert (await (await start(rotation_s=3600.0)).post(**form)).status_code == 200


@pytest.mark.parametrize(
    ("place", "headers", "realm"),
    [
        (TokenRealm("moorage"), {}, "http://registry.test/token"),
        (TokenRealm("moorage"), {"x-forwarded-proto": "https"}, "https://registry.test/token"),
        (TokenRealm("moorage"), {"forwarded": "proto=https;host=r.example"}, "https://r.example/token"),
        (TokenRealm("moorage", host="https://r.example/"), {"host": "inner"}, "https://r.example/token"),
        (
            TokenRealm("moorage", "https://auth.example/t"),
            {"x-forwarded-proto": "https"},
            "https://auth.example/t",
        ),
    ],
)
async def test_clients_are_sent_where_they_can_reach_us(
    start: Start, place: TokenRealm, headers: dict[str, str], realm: str
) -> None:
    """As `Location` is: behind a proxy that ends TLS, `http://` there would send the password in the clear."""
    server = await start(place=place)
    answer = await server.client.get("/v2/", headers)
    assert answer.headers["www-authenticate"] == f'Bearer realm="{realm}",service="moorage"'


async def test_a_prefix_counts_for_tokens_too(start: Start) -> None:
    """A proxy that serves `/registry/` to us serves nothing else."""
    server = await start(
        settings=Settings(http=Http(prefix="/registry/")), place=TokenRealm("moorage", prefix="/registry/")
    )
    answer = await server.client.get("/registry/v2/")
    assert 'realm="http://registry.test/registry/token"' in answer.headers["www-authenticate"]
    assert (await server.client.get("/registry/token")).status_code == 200
    assert (await server.client.get("/token")).status_code == 404
