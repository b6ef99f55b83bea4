"""Sources of the S3 driver's credentials: settings, environment, profiles, containers, roles."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from tests.s3 import Bucket, a_bucket, cannot_hold, front, is_moto

from moorage.storage.driver import Key, StorageUnavailable
from moorage.storage.s3 import connection as s3_connection
from moorage.testing.listing_contract import flat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from moorage.storage.object_store.driver import ObjectDriver

pytestmark = pytest.mark.slow

KEY = Key("docker/link")


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_bucket(watched=True) as bucket:
        yield bucket


@contextmanager
def metadata(answers: Callable[[str], tuple[str, str] | None]) -> Iterator[str]:
    """A small HTTP server: what the instance, the container or the token service would answer."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = answers(self.path)
            kind, text = found or ("text/plain", "")
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = do_POST = _answer  # noqa: N815  named by the standard library

        def log_message(self, *_: object) -> None:
            """Discard the line."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def expiring(minutes: float) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host without any credentials."""
    import os

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def keys_used() -> set[tuple[str, str]]:
    """(access key, session token) of every request that was signed."""
    return {
        (request.headers["authorization"].partition("Credential=")[2].partition("/")[0],
         request.headers.get("x-amz-security-token", ""))
        for request in front().requests if "authorization" in request.headers
    }  # fmt: skip


async def use_both_libraries(driver: ObjectDriver) -> None:
    """One request by each."""
    if not is_moto():
        cannot_hold("it takes no keys that a test makes up")
    front().requests.clear()
    await driver.write(KEY, b"text")
    assert await flat(driver.children(Key("docker"))) == ["link"]


NONE = {"accesskey": "", "secretkey": ""}


async def test_static_keys_with_a_session_token(make: Callable[..., ObjectDriver], nowhere: None) -> None:
    """Temporary keys from a vault; neither major of the reference takes the token."""
    await use_both_libraries(make(sessiontoken="token"))
    assert keys_used() == {("AK", "token")}


async def test_credentials_of_the_environment(
    make: Callable[..., ObjectDriver], nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the reference's SDK reads them; half a pair of static keys counts as none."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    await use_both_libraries(make(accesskey="alone", secretkey=""))
    assert keys_used() == {("ENV", "session")}


async def test_credentials_of_a_profile(make: Callable[..., ObjectDriver], nowhere: None, tmp_path: Path) -> None:
    """~/.aws/credentials."""
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = FILE\naws_secret_access_key = s\n")
    await use_both_libraries(make(**NONE))
    assert keys_used() == {("FILE", "")}


async def test_credentials_of_a_container(
    make: Callable[..., ObjectDriver], nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ECS and EKS pod identity."""
    output = {"AccessKeyId": "ECS", "SecretAccessKey": "s", "Token": "t", "Expiration": expiring(60)}
    with metadata(lambda path: ("application/json", json.dumps(output)) if path == "/creds" else None) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/creds")
        await use_both_libraries(make(**NONE))
    assert keys_used() == {("ECS", "t")}


async def test_credentials_of_the_instance(
    make: Callable[..., ObjectDriver], nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role of an EC2 instance, by its metadata service."""
    role = {
        "Code": "Success", "AccessKeyId": "IMDS", "SecretAccessKey": "s", "Token": "t", "Expiration": expiring(60),
    }  # fmt: skip

    def answers(path: str) -> tuple[str, str] | None:
        if path.endswith("/api/token"):
            return "text/plain", "imds-token"
        if path.endswith("/security-credentials/"):
            return "text/plain", "the-role"
        return ("application/json", json.dumps(role)) if path.endswith("/the-role") else None

    with metadata(answers) as url:
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        await use_both_libraries(make(**NONE))
    assert keys_used() == {("IMDS", "t")}


async def test_credentials_of_a_workload_identity(
    make: Callable[..., ObjectDriver], nowhere: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A Kubernetes service account (IRSA): its token is exchanged at the token service, which moto plays, too."""
    (tmp_path / "token").write_text("a.b.c")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/registry")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", front().endpoint)
    await use_both_libraries(make(**NONE))
    ((key, token),) = keys_used() - {("", "")}
    assert key.startswith("ASIA")
    assert token


async def test_credentials_that_expire_are_renewed(
    make: Callable[..., ObjectDriver], nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry runs for months on keys that last an hour."""
    given: list[int] = []

    def answers(path: str) -> tuple[str, str] | None:
        given.append(len(given))
        output = {
            "AccessKeyId": f"KEY{len(given)}",
            "SecretAccessKey": "s",
            "Token": "t",
            "Expiration": expiring(6),
        }
        return "application/json", json.dumps(output)

    with metadata(answers) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/creds")
        monkeypatch.setattr(s3_connection, "_SNAPSHOT_S", 0.0)
        driver = make(**NONE)
        await use_both_libraries(driver)
        first = keys_used()
        await use_both_libraries(driver)
        url_after = await driver.handover(KEY, method="GET", expires_s=60)
    assert len(given) > 1
    assert keys_used() != first
    assert url_after is not None


async def test_no_credentials_at_all_is_said_so(make: Callable[..., ObjectDriver], nowhere: None) -> None:
    """Rather than anonymous requests that the store denies."""
    with pytest.raises(StorageUnavailable, match=r"no credentials: give storage\.s3\.accesskey"):
        await make(**NONE).read(KEY)
