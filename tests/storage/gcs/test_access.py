"""The Google Cloud Storage driver's way to the store: every source of credentials, signed URLs, private
authorities, proxies, the user agent.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import trustme
from gcloud.aio.auth import iam, token
from structlog.testing import capture_logs
from tests.storage.gcs.bucket import Bucket, a_bucket
from tests.storage.gcs.server import DROP, EMAIL, Request

from moorage.startup import StartupError
from moorage.storage.driver import Key, RequestCost, SignedUrl, StorageUnavailable
from moorage.storage.gcs.credentials import identity_of
from moorage.storage.gcs.options import GcsOptions
from moorage.storage.gcs.signing import UrlSigner
from moorage.storage.object_store.driver import ObjectDriver
from moorage.wiring.storage import gcs_options, make_driver, prepare

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from moorage.storage.gcs.store import GcsStore

pytestmark = pytest.mark.slow

KEY = Key("docker/registry/v2/some/key")
DATA = b"a layer" * 1000


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    """Run in an environment without credentials."""
    for name in list(os.environ):
        if name.startswith(("GOOGLE_", "STORAGE_EMULATOR", "SSL_CERT_", "GCE_")) or name.upper().endswith(
            "_PROXY"
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud-here"))
    with a_bucket() as bucket:
        base = f"{bucket.server.endpoint}/computeMetadata/v1"
        monkeypatch.setattr(token, "GCE_METADATA_BASE", base)
        monkeypatch.setattr(token, "GCE_ENDPOINT_TOKEN", f"{base}/instance/service-accounts/default/token")
        monkeypatch.setattr(iam, "API_ROOT_IAM_CREDENTIALS", f"{bucket.server.endpoint}/v1")
        yield bucket


@pytest.fixture
async def make(bucket: Bucket) -> AsyncIterator[Callable[..., GcsStore]]:
    """Stores on the bucket, closed at the end."""
    made: list[GcsStore] = []

    def store(**options: Any) -> GcsStore:
        made.append(bucket.store(**options))
        return made[-1]

    yield store
    for one in made:
        await one.close()


def fetch(url: str, method: str = "GET") -> tuple[int, bytes]:
    """As a client that knows nothing but the URL."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    connection.request(method, f"{parts.path}?{parts.query}")
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


async def fetched(url: str | None, method: str = "GET") -> tuple[int, bytes]:
    assert url is not None
    return await asyncio.to_thread(fetch, url, method)


async def use(store: GcsStore) -> None:
    await store.put(KEY, [DATA])
    assert (await store.get(KEY, limit=len(DATA))).data == DATA


# ------------------------------------------------------------------------------------------------ credentials


def external_account(bucket: Bucket, path: Path) -> dict[str, Any]:
    """Return the output of `gcloud iam workload-identity-pools create-cred-config`."""
    path.write_text("from another cloud\n")
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{bucket.server.endpoint}/token",
        "credential_source": {"file": str(path)},
    }


@pytest.mark.parametrize("how", ["keyfile", "credentials", "environment", "gcloud", "metadata", "external"])
async def test_every_source_of_credentials(
    make: Callable[..., GcsStore], bucket: Bucket, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the reference, in its order, and what an instance, a pod or another cloud gives."""
    path = tmp_path / "key.json"
    path.write_text(json.dumps(bucket.server.key_file()))
    options: dict[str, Any] = {"credentials": {}}
    if how == "keyfile":
        options = {"keyfile": str(path), "credentials": {"type": "nonsense that the file wins over"}}
    elif how == "credentials":
        options = {}
    elif how == "environment":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    elif how == "gcloud":
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        path.rename(tmp_path / "application_default_credentials.json")
    elif how == "external":
        options = {"credentials": external_account(bucket, tmp_path / "subject")}
    await use(make(**options))
    used = {request.what for request in bucket.server.requests}
    assert ("metadata" in used) == (how == "metadata")


async def test_an_emulator_is_reached_without_credentials(
    make: Callable[..., GcsStore], bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable of Google's own libraries, with and without a scheme; nothing is signed there."""
    bucket.server.open_to_all = True
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/key/for/an/emulator.json")
    for address in (bucket.server.endpoint, bucket.server.endpoint.removeprefix("http://")):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        store = make(endpoint="", credentials={})
        await use(store)
        assert await store.sign(KEY, method="GET", expires_s=60) is None
    assert not [request for request in bucket.server.requests if "authorization" in request.headers]


def wrong(**changes: Any) -> dict[str, Any]:
    usual = {"type": "service_account", "client_email": "e", "private_key": "p"}
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


WIF = {"type": "external_account", "audience": "a", "subject_token_type": "t", "token_url": "u"}


@pytest.mark.parametrize(
    ("data", "output"),
    [
        ({"client_email": "e"}, "with a type"),
        (wrong(type="magic"), "credentials of type 'magic' cannot be used"),
        (wrong(private_key=None), "without private_key"),
        (wrong(client_email=""), "without client_email"),
        (wrong(), "private_key is not a private key in PEM form"),
        ({"type": "authorized_user", "client_id": "i"}, "without client_secret, refresh_token"),
        ({**WIF, "credential_source": {"executable": {}}}, "must come from a file or a URL"),
        ({**WIF, "credential_source": {"environment_id": "aws1", "url": "u"}}, "must come from a file or a URL"),
        ({**WIF, "credential_source": {"file": "f", "format": {"type": "json"}}}, "must be plain text"),
        (
            {
                "type": "impersonated_service_account",
                "service_account_impersonation_url": "u",
                "source_credentials": {"type": "service_account"},
            },
            "only by type authorized_user",
        ),
    ],
)
def test_credentials_that_cannot_be_used_are_refused_at_start(
    bucket: Bucket, data: dict[str, Any], output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would take a file that it cannot read for none, and ask the metadata server for a minute."""
    path = tmp_path / "key.json"
    path.write_text(json.dumps(data))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    for name, options in {
        "storage.gcs.keyfile": bucket.options(keyfile=str(path)),
        "storage.gcs.credentials": bucket.options(credentials=data),
        "GOOGLE_APPLICATION_CREDENTIALS": bucket.options(credentials={}),
    }.items():
        with pytest.raises(StartupError) as caught:
            identity_of(options)
        assert str(caught.value).startswith(f"{name}: ")
        assert output in str(caught.value)


@pytest.mark.parametrize(
    ("text", "output"), [(None, "No such file"), ("{", "is not a JSON file"), ("[]", "a type")]
)
def test_a_key_file_that_is_none_is_refused_at_start(
    bucket: Bucket, text: str | None, output: str, tmp_path: Path
) -> None:
    path = tmp_path / "key.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StartupError, match=output):
        identity_of(bucket.options(keyfile=str(path)))


def test_what_is_wrong_at_start_is_told_by_the_server(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """`moorage serve` ends with the sentence, and not with a trace when the first client comes."""
    from moorage.config.model import Settings

    def settings(**gcs: Any) -> Settings:
        return Settings.model_validate({"version": "0.1", "storage": {"gcs": {"bucket": "b", **gcs}}})

    with pytest.raises(StartupError, match=r"storage\.gcs\.credentials: expected"):
        prepare(settings(credentials={"some": "thing"}))
    monkeypatch.setitem(sys.modules, "gcloud.aio.auth", None)
    with pytest.raises(StartupError, match=r"needs the extra moorage\[gcs\]"):
        prepare(settings())


async def test_every_parameter_reaches_the_driver(bucket: Bucket) -> None:
    """One that is read and then dropped would be accepted and ignored."""
    from moorage.config.model import Settings

    gcs = {
        "bucket": "b", "endpoint": "https://h", "keyfile": "k", "credentials": {"type": "t"}, "cabundle": "c",
        "rootdirectory": "/r/", "chunksize": 5 << 20, "maxconcurrency": 30, "useragent": "u",
    }  # fmt: skip
    section = Settings.model_validate({"version": "0.1", "storage": {"gcs": gcs}}).storage.gcs
    assert section is not None
    assert gcs_options(section) == GcsOptions(
        bucket="b", endpoint="https://h", keyfile="k", credentials={"type": "t"}, cabundle="c",
        rootdirectory="/r/", chunksize=5 << 20, maxconcurrency=30, useragent="u",
    )  # fmt: skip
    assert gcs.keys() == type(section).model_fields.keys()
    plain = Settings.model_validate({"version": "0.1", "storage": {"gcs": {"bucket": "b"}}})
    driver = make_driver(plain)
    assert (driver.name, driver.request_cost) == ("gcs", RequestCost.NETWORK)
    await driver.close()


def test_a_registry_on_files_does_not_load_the_library() -> None:
    """Its memory and its start are not those of a cloud client."""
    code = "import sys, moorage.wiring.app; print([n for n in ('gcloud', 'aiohttp', 'jwt') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_without_a_token_the_message_says_what_to_give(
    make: Callable[..., GcsStore], bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And holds nothing of the key."""

    async def at_once(*_: Any) -> None:
        return

    retrying: Any = token.BaseToken.acquire_access_token
    monkeypatch.setattr(retrying.retry, "sleep", at_once)
    bucket.server.trouble = lambda request: DROP if request.what in {"token", "metadata"} else None
    options: dict[str, Any]
    for options in ({"credentials": {}}, {}):
        with pytest.raises(StorageUnavailable, match=r"give storage\.gcs\.keyfile") as caught:
            await make(**options).head(KEY)
        assert "PRIVATE" not in str(caught.value)


async def test_a_cancelled_request_does_not_end_the_renewal_that_others_wait_for(
    make: Callable[..., GcsStore], bucket: Bucket
) -> None:
    """One client hangs up in the second in which the token is renewed; the others get their blobs."""
    store = make()
    await store.put(KEY, [DATA])
    access = store.connection.token()
    assert access is not None
    access.access_token = None
    renewing, loop = asyncio.Event(), asyncio.get_running_loop()

    def trouble(request: Request) -> None:
        if request.what == "token":
            loop.call_soon_threadsafe(renewing.set)

    bucket.server.trouble = trouble
    requests = [asyncio.ensure_future(store.head(KEY)) for _ in range(8)]
    await renewing.wait()
    requests[0].cancel()
    done = await asyncio.gather(*requests, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert [isinstance(result, BaseException) for result in done[1:]] == [False] * 7


# ------------------------------------------------------------------------------------------------ signed URLs


@pytest.mark.parametrize("how", ["key", "iam"])
@pytest.mark.parametrize("root", ["", "with blank/ü+%"])
async def test_a_signed_url_is_good_for_what_it_was_signed_for(
    make: Callable[..., GcsStore], bucket: Bucket, how: str, root: str
) -> None:
    """A redirected client needs nothing else; a client that changes a letter of the URL gets nothing."""
    store = make(rootdirectory=root, **({"credentials": {}} if how == "iam" else {}))
    await store.put(KEY, [DATA])
    for method, expected in (("GET", DATA), ("HEAD", b"")):
        found = await ObjectDriver.with_chunk_log(store).handover(KEY, method=method, expires_s=600)
        assert isinstance(found, SignedUrl)
        assert await fetched(found.url, method) == (200, expected)
        assert (await fetched(found.url, "HEAD" if method == "GET" else "GET"))[0] == 403
        for changed in (
            found.url.replace("some/key", "some/kez"),
            found.url.replace("X-Goog-Expires=660", "X-Goog-Expires=6600"),
            found.url[:-2] + ("00" if found.url[-2:] != "00" else "11"),
        ):
            assert changed != found.url
            assert (await fetched(changed, method))[0] == 403
        query = dict(parse_qsl(urlsplit(found.url).query))
        assert query["X-Goog-Credential"].split("/")[0] == EMAIL


async def test_urls_expire_and_are_given_out_again_for_a_while(
    make: Callable[..., GcsStore], bucket: Bucket
) -> None:
    """A layer that a thousand hosts pull at once costs one signature; each URL lives as long as was promised."""
    store = make()
    await store.put(KEY, [DATA])
    now = 1_750_000_000.0
    signer = UrlSigner(store.connection, clock=lambda: now)
    first = await signer.url(KEY, "GET", 600)
    now += 59
    assert await signer.url(KEY, "GET", 600) == first
    assert await signer.url(KEY, "GET", 601) != first
    now += 2
    assert await signer.url(KEY, "GET", 600) != first
    assert (await fetched(first))[0] == 400, "it has expired long since"
    longest = await signer.url(KEY, "GET", 10**9)
    assert longest is not None
    assert dict(parse_qsl(urlsplit(longest).query))["X-Goog-Expires"] == "604800"


@pytest.mark.parametrize("how", ["refused", "no account"])
async def test_where_nobody_signs_blobs_are_streamed_with_one_warning(
    make: Callable[..., GcsStore], bucket: Bucket, how: str, tmp_path: Path
) -> None:
    """The reference answers such pulls with 500."""
    credentials = external_account(bucket, tmp_path / "subject") if how == "no account" else {}
    bucket.server.iam = False
    store = make(credentials=credentials)
    now = 1_750_000_000.0
    signer = UrlSigner(store.connection, clock=lambda: now)
    with capture_logs() as logs:
        assert [await signer.url(KEY, "GET", 60) for _ in range(3)] == [None] * 3
        now += 301
        assert await signer.url(KEY, "GET", 60) is None
    (entry,) = logs
    assert entry["log_level"] == "warning"
    assert ("signBlob' denied" in entry["cause"]) == (how == "refused")
    requested = [request for request in bucket.server.requests if request.what == "signBlob"]
    assert len(requested) == (2 if how == "refused" else 0)
    if how == "refused":
        bucket.server.iam = True
        now += 301
        assert await signer.url(KEY, "GET", 60) is not None


# ------------------------------------------------------------------------------------------------ the network


async def test_a_private_authority_is_trusted_where_it_is_named(
    make: Callable[..., GcsStore], bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private gateway has a private certificate; no other one is accepted."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with bucket.server.over_tls(context) as url:
        with pytest.raises(StorageUnavailable, match="certificate"):
            await make(endpoint=url, attempts=1).head(KEY)
        await use(make(endpoint=url, cabundle=str(tmp_path / "ca.pem")))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        await use(make(endpoint=url))


@pytest.mark.parametrize("how", ["key", "metadata"])
async def test_a_proxy_of_the_environment_is_used(
    make: Callable[..., GcsStore], bucket: Bucket, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registries behind a firewall reach the store by the proxy alone, and the metadata server never by it."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, bucket.server.endpoint)
    options: dict[str, Any] = {"credentials": {}} if how == "metadata" else {}
    await use(make(endpoint="http://store.invalid", **options))
    hosts = {request.what: request.headers["host"] for request in bucket.server.requests}
    assert (hosts["insert"], hosts["media"]) == ("store.invalid", "store.invalid")
    if how == "metadata":
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        await make(**options).connection._authorized({})


async def test_the_user_agent_is_told(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    await use(make(useragent="moorage/test"))
    assert {request.headers["user-agent"] for request in bucket.server.requests} == {"moorage/test"}


def test_secrets_are_not_shown(bucket: Bucket) -> None:
    """A traceback or a log shows the options."""
    assert "PRIVATE" not in repr(bucket.options())
