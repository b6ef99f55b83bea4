"""Tokens through the whole application, wired as `wiring/app.py` wires it: what each endpoint asks for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.auth.local.test_malformed import CLAIMS, VALUES
from tests.auth.signing import ISSUER, SERVICE, Signer, b64, claims, pem
from tests.http.client import ABSENT, NAME, OTHER, Client, codes
from tests.wire import OCI_MANIFEST

from moorage.config.model import Settings
from moorage.config.sections.rules import Policy, Repository
from moorage.config.sections.services import Auth, Token
from moorage.config.sections.storage import Delete, Inmemory, Storage
from moorage.startup import StartupError
from moorage.types import Digest
from moorage.wiring.app import App, build, check
from moorage.wiring.authentication import make_authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    Answer = tuple[int, str, list[str]]

SIGNER: Final = Signer.of("P-256")
REALM: Final = "https://auth.test/token"
UPLOAD: Final = f"/v2/{NAME}/blobs/uploads/01a20a26-8953-77b5-b9c0-2d429fdb74f0"


def configured(folder: Path, **over: Any) -> Settings:
    bundle = folder / "bundle.pem"
    bundle.write_bytes(pem(SIGNER.certificate))
    usual = {"realm": REALM, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(bundle)}
    storage = Storage(inmemory=Inmemory(), delete=Delete(enabled=True))
    return Settings(storage=storage, auth=Auth(token=Token(**{**usual, **over})))


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    made = build(configured(tmp_path), b"secret", worker=0)
    yield made
    await made.close()


@pytest.fixture
def client(app: App) -> Client:
    return Client(app.asgi)


def bearer(*access: tuple[str, str, str], **over: Any) -> dict[str, str]:
    """A header with a token for (type, name, actions)."""
    entries = [{"type": kind, "name": name, "actions": actions.split(",")} for kind, name, actions in access]
    return {"authorization": f"Bearer {SIGNER.token(claims(access=entries, **over))}"}


SCOPES: Final = [
    ("GET", "/v2/", ""),
    ("GET", "/v2/_oci/ext/discover", ""),
    ("GET", "/v2/_catalog", "registry:catalog:*"),
    ("GET", f"/v2/{NAME}/tags/list", f"repository:{NAME}:pull"),
    ("GET", f"/v2/{NAME}/referrers/{ABSENT}", f"repository:{NAME}:pull"),
    ("HEAD", f"/v2/{NAME}/manifests/v1", f"repository:{NAME}:pull"),
    ("GET", f"/v2/{NAME}/blobs/{ABSENT}", f"repository:{NAME}:pull"),
    ("GET", UPLOAD, f"repository:{NAME}:pull"),
    ("PUT", f"/v2/{NAME}/manifests/v1", f"repository:{NAME}:pull,push"),
    ("POST", f"/v2/{NAME}/blobs/uploads/", f"repository:{NAME}:pull,push"),
    ("POST", f"/v2/{NAME}/blobs/uploads/?mount={ABSENT}&from={OTHER}",
     f"repository:{NAME}:pull,push repository:{OTHER}:pull"),
    ("POST", f"/v2/{NAME}/blobs/uploads/?mount={ABSENT}&from={NAME}", f"repository:{NAME}:pull,push"),
    ("PATCH", UPLOAD, f"repository:{NAME}:pull,push"),
    ("DELETE", UPLOAD, f"repository:{NAME}:pull,push"),
    ("DELETE", f"/v2/{NAME}/manifests/v1", f"repository:{NAME}:delete"),
    ("DELETE", f"/v2/{NAME}/blobs/{ABSENT}", f"repository:{NAME}:delete"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "target", "scope"), SCOPES)
async def test_each_endpoint_asks_for_exactly_its_scope(
    client: Client, method: str, target: str, scope: str
) -> None:
    """Clients request a token for exactly this scope; a token server grants no other."""
    expected = f'Bearer realm="{REALM}",service="{SERVICE}"' + (f',scope="{scope}"' if scope else "")
    with structlog.testing.capture_logs():
        answer = await client.send(method, target)
        assert answer.status_code == 401
        assert answer.headers.get_list("www-authenticate") == [expected]
        if method != "HEAD":
            assert codes(answer) == ["UNAUTHORIZED"]
        for header in ({"authorization": "Bearer x"}, bearer(exp=5)):
            answer = await client.send(method, target, headers=header)
            assert answer.headers["www-authenticate"] == f'{expected},error="invalid_token"'
        answer = await client.send(method, target, headers=bearer())
        if scope:
            assert answer.headers["www-authenticate"] == f'{expected},error="insufficient_scope"'
        else:
            assert answer.status_code == 200


@pytest.mark.parametrize(("method", "target", "scope"), SCOPES)
async def test_the_scope_that_is_asked_for_opens_the_endpoint(
    client: Client, method: str, target: str, scope: str
) -> None:
    """Exactly what the challenge names is enough: the client's second try must succeed."""
    access = []
    for part in scope.split():
        kind, _, rest = part.partition(":")
        name, _, actions = rest.rpartition(":")
        access.append((kind, name, actions))
    answer = await client.send(method, target, headers=bearer(*access))
    assert answer.status_code != 401


async def test_the_answer_is_the_same_for_what_is_there_and_what_is_not(client: Client) -> None:
    """A 401 would disclose which repositories exist."""
    everything = bearer(("repository", NAME, "pull,push"))
    begun = await client.send("POST", f"/v2/{NAME}/blobs/uploads/", headers=everything)
    assert begun.status_code == 202
    with structlog.testing.capture_logs():
        there = await client.get(f"/v2/{NAME}/tags/list")
        absent = await client.get("/v2/never/heard/of/tags/list")
    assert there.content.replace(NAME.encode(), b"N") == absent.content.replace(b"never/heard/of", b"N")


async def test_the_verified_name_and_no_other_reaches_the_access_log(client: Client, app: App) -> None:
    """`actor.name` of events comes from the same place."""
    users: list[str] = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        await app.asgi(scope, receive, send)
        users.append(scope.get("moorage.user", ""))

    spy = Client(watched)
    with structlog.testing.capture_logs():
        await spy.get("/v2/", headers=bearer(sub="alice"))
        await spy.get("/v2/", headers={"authorization": "Basic YWxpY2U6c2VjcmV0"})
        await spy.get("/v2/", headers=bearer(sub="mallory", exp=5))
    assert users == ["alice", "", ""]


async def test_a_blob_is_mounted_only_from_where_the_token_may_pull(client: Client) -> None:
    """A mount must not be a way to read what one may not."""
    target = f"/v2/{NAME}/blobs/uploads/?mount={ABSENT}&from={OTHER}"
    with structlog.testing.capture_logs():
        own = await client.send("POST", target, headers=bearer(("repository", NAME, "*")))
        assert own.status_code == 401
    both = bearer(("repository", NAME, "*"), ("repository", OTHER, "pull"))
    assert (await client.send("POST", target, headers=both)).status_code == 202


@pytest.mark.parametrize(
    ("kind", "classes", "status"),
    [
        ("image", [""], 201),
        ("image", ["image"], 201),
        ("image", ["plugin"], 403),
        ("image", ["plugin", "image"], 201),
        ("plugin", [""], 403),
        ("plugin", ["plugin"], 201),
    ],
)
async def test_with_a_policy_of_classes_a_token_is_for_its_class(
    tmp_path: Path, kind: str, classes: list[str], status: int
) -> None:
    """Docker's token server gives rights for plugins apart from those for images."""
    config = {
        "image": "application/vnd.oci.image.config.v1+json",
        "plugin": "application/vnd.docker.plugin.v1+json",
    }
    policy = Policy(repository=Repository(classes=("image", "plugin")))
    for applied, expected in ((policy, status), (Policy(), 201)):
        settings = configured(tmp_path).model_copy(update={"policy": applied})
        app = build(settings, b"secret", worker=0)
        entry = {"type": "repository", "name": NAME, "actions": ["pull", "push"]}
        token = SIGNER.token(claims(access=[{**entry, "class": name} for name in classes]))
        header = {"authorization": f"Bearer {token}"}
        client = Client(app.asgi)
        begun = await client.send("POST", f"/v2/{NAME}/blobs/uploads/", headers=header)
        data = b"{}"
        target = f"{begun.headers['location']}&digest={Digest.of(data)}"
        assert (await client.send("PUT", target, data, headers=header)).status_code == 201
        described = {"mediaType": config[kind], "digest": str(Digest.of(data)), "size": len(data)}
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": []}
        header["content-type"] = OCI_MANIFEST
        answer = await client.send(
            "PUT", f"/v2/{NAME}/manifests/v1", json.dumps(manifest).encode(), headers=header
        )
        assert answer.status_code == expected
        if expected == 403:
            assert codes(answer) == ["DENIED"]
        await app.close()


@pytest.mark.parametrize(
    ("headers", "realm"),
    [
        ({}, "https://registry.test/auth/token"),
        ({"x-forwarded-proto": "http"}, "http://registry.test/auth/token"),
        ({"x-forwarded-proto": "https", "host": "reg.test:444"}, "https://reg.test:444/auth/token"),
        ({"forwarded": "proto=http;host=outside.test"}, "http://outside.test/auth/token"),
        ({"host": "localhost:5000"}, "http://localhost:5000/auth/token"),
        ({"host": 'evil"host'}, REALM),
    ],
)
async def test_autoredirect_sends_clients_to_the_host_they_asked(
    tmp_path: Path, headers: dict[str, str], realm: str
) -> None:
    app = build(configured(tmp_path, autoredirect=True), b"secret", worker=0)
    with structlog.testing.capture_logs():
        answer = await Client(app.asgi).get("/v2/", headers=headers)
    assert answer.headers["www-authenticate"].startswith(f'Bearer realm="{realm}",')
    await app.close()


@pytest.mark.parametrize("path", ["/tokens/here", "tokens/here"])
async def test_autoredirectpath_is_where_clients_are_sent(tmp_path: Path, path: str) -> None:
    """A token server with another path than `/auth/token`."""
    app = build(configured(tmp_path, autoredirect=True, autoredirectpath=path), b"secret", worker=0)
    answer = await Client(app.asgi).get("/v2/", headers={"host": "reg.test"})
    assert answer.headers["www-authenticate"].startswith('Bearer realm="https://reg.test/tokens/here",')
    await app.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def requested(
    runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[bytes], Answer]]:
    """What a request with these bytes behind `Bearer` is answered with."""
    app = build(configured(tmp_path_factory.mktemp("fuzzed")), b"secret", worker=0)
    client = Client(app.asgi)

    def ask(token: bytes) -> Answer:
        header = httpx.Headers([(b"authorization", b"Bearer x" + token)])
        with structlog.testing.capture_logs() as logs:
            answer = runner.run(client.get(f"/v2/{NAME}/tags/list", headers=header))
        return answer.status_code, answer.headers["www-authenticate"], [line["event"] for line in logs]

    yield ask
    runner.run(app.close())


@pytest.mark.slow
@settings(deadline=None)
@given(
    token=st.binary(max_size=60)
    | st.lists(st.binary(max_size=40).map(b64), max_size=5).map(".".join).map(str.encode)
)
def test_any_bytes_for_a_token_are_a_401(requested: Callable[[bytes], Answer], token: bytes) -> None:
    """A 500 or a detailed answer would help an attacker; the log has the reason."""
    status, challenge, events = requested(token)
    assert status == 401
    assert challenge.endswith(',error="invalid_token"')
    assert [event.startswith("not authorized: ") for event in events] == [True]


def joined(members: dict[str, str]) -> str:
    return ",".join(f'"{name}":{text}' for name, text in members.items())


@pytest.mark.parametrize("claim", [*CLAIMS, "access.type", "access.name", "access.actions", "access.class"])
async def test_no_value_of_a_signed_claim_is_an_internal_error(client: Client, claim: str) -> None:
    """A token server copies names that its users chose."""
    usual = {name: json.dumps(value) for name, value in claims().items()}
    entry = {"type": '"repository"', "name": f'"{NAME}"', "actions": '["pull"]'}
    outer, _, inner = claim.partition(".")
    for value in VALUES:
        text = f"[{{{joined({**entry, inner: value})}}}]" if inner else value
        token = SIGNER.token(f"{{{joined({**usual, outer: text})}}}".encode())
        header = {"authorization": f"Bearer {token}"}
        assert (await client.get(f"/v2/{NAME}/tags/list", header)).status_code in {401, 404}, value


def test_a_registry_without_a_usable_key_does_not_start(tmp_path: Path) -> None:
    for over in ({"rootcertbundle": str(tmp_path / "none")}, {"signingalgorithms": ("RS256",)}):
        settings = configured(tmp_path, **over)
        with pytest.raises(StartupError, match=r"auth\.token") as caught:
            make_authority(settings, b"secret")
        assert [(each.kind, str(each)) for each in check(settings, b"secret")] == [("error", str(caught.value))]
    assert check(configured(tmp_path), b"secret") == []


@pytest.mark.slow
def test_without_tokens_nothing_of_them_is_loaded() -> None:
    """A registry without authentication starts as fast and stays as small as before."""
    code = (
        "import sys, moorage.wiring.app as a, moorage.config.model as m, moorage.config.sections.storage as s\n"
        "a.build(m.Settings(storage=s.Storage(inmemory=s.Inmemory())), b'secret', worker=0)\n"
        "print(sorted({'joserfc', 'cryptography', 'moorage.auth.token'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
