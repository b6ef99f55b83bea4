"""Arbitrary bytes in request headers and token requests: never a 500, and no such byte in the answer's headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from tests.auth.local.helpers import authority, policy_file, users_file
from tests.http.client import ABSENT, NAME
from tests.http.conftest import DELETABLE
from tests.http.raw import ask

from moorage.http.token import TokenEndpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.types import ASGIApp
    from tests.http.conftest import Serve

HEADERS: Final = {
    "host": "h#", "x-forwarded-for": "#", "x-forwarded-proto": "#", "x-forwarded-host": "#", "x-real-ip": "#",
    "forwarded": "for=#;host=#;proto=#", "authorization": "Basic #", "range": "bytes=#0-1", "if-range": "#",
    "if-match": "#", "if-none-match": '"#"', "content-range": "0-#1", "content-type": "application/#json",
    "content-length": "#1", "accept": "#", "transfer-encoding": "#", "x-request-id": "#",
}  # fmt: skip
VALUES: Final = (
    *(bytes([byte]) for byte in range(256)), b"", b'""', b'"""', b'"\\"', b"9" * 20, b"9" * 5000, b"-1", b"%00",
    b"\xc3\xa9", b"bearer " + b"a." * 3, b"," * 100, b"[" * 10, b"::1%x y",
)  # fmt: skip
REQUESTS: Final = (
    ("GET", f"/v2/{NAME}/tags/list/"), ("GET", "/v2/"), ("POST", f"/v2/{NAME}/blobs/uploads/"),
    ("PUT", f"/v2/{NAME}/manifests/x"), ("GET", f"/v2/{NAME}/blobs/{ABSENT}"), ("GET", "/token"),
    ("POST", "/token"), ("PATCH", f"/v2/{NAME}/blobs/uploads/01a20a26-8953-77b5-b9c0-2d429fdb74f0"),
)  # fmt: skip
FIELDS: Final = {
    "service": "", "scope": "", "account": "", "offline_token": "", "grant_type": "", "access_type": "",
    "username": "grant_type=password&password=x", "password": "grant_type=password&username=x",
    "refresh_token": "grant_type=refresh_token",
    "subject_token": "grant_type=urn:ietf:params:oauth:grant-type:token-exchange"
                     "&subject_token_type=urn:ietf:params:oauth:token-type:jwt",
}  # fmt: skip


@pytest.fixture(params=["open", "closed"])
async def app(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> AsyncIterator[ASGIApp]:
    """Without authentication, and with the token server."""
    policy_file(tmp_path, "access: [{who: anonymous, repositories: library/**, allow: pull}]")
    users_file(tmp_path, ann="secret")
    local = authority(tmp_path)
    tokens = TokenEndpoint(local, 60.0)
    yield serve(DELETABLE, authority=local if request.param == "closed" else None, tokens=tokens).app
    await local.close()


@pytest.mark.parametrize("name", HEADERS)
async def test_no_byte_in_a_header_is_an_internal_error(app: ASGIApp, name: str) -> None:
    """`Forwarded: proto=""` was a 500 for a request without credentials."""
    for value in VALUES:
        header = (name.encode(), HEADERS[name].encode().replace(b"#", value))
        for method, target in REQUESTS:
            answer = await ask(app, method, target, headers=[header])
            assert answer.status < 500, (method, target, header)
            for _, text in answer.headers:
                assert text.isascii(), (method, target, header)
                assert text.decode().isprintable(), (method, target, header)


@pytest.mark.parametrize("app", ["closed"], indirect=True)
@pytest.mark.parametrize("field", FIELDS)
async def test_no_byte_in_a_token_request_is_an_internal_error(app: ASGIApp, field: str) -> None:
    form = [(b"content-type", b"application/x-www-form-urlencoded")]
    for value in (*(f"%{byte:02x}" for byte in range(256)), "%ed%a0%80", "%", "%zz", "=", "&", ";", "%c0%af"):
        text = f"{field}=repository:{value}:pull" if field == "scope" else f"{field}={value}"
        assert (await ask(app, "GET", f"/token?{text}")).status < 500, text
        body = f"{text}&{FIELDS[field]}".encode()
        assert (await ask(app, "POST", "/token", headers=form, body=body)).status < 500, text
