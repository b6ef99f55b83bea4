"""The start line and the warning of an open registry, for every kind of configuration."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from tests.config.helpers import load_text
from tests.server import certs

from moorage.config.checks.exposure import authentication, beyond_loopback, open_registry
from moorage.server.announcement import start_fields
from moorage.server.options import ServerOptions
from moorage.server.processes.worker_config import Plan
from moorage.server.tls import validation
from moorage.wiring.description import describe

if TYPE_CHECKING:
    from moorage.config.model import Settings

HTTP = "version: 0.1\nhttp: {addr: ':5000', secret: hush-3141}\n"
FILES = HTTP + "storage: {filesystem: {rootdirectory: /srv/registry}}\n"
TLS = "version: 0.1\nstorage: inmemory\nhttp: {{addr: ':5000', tls: {{certificate: {0}, key: {0}{1}}}}}\n"


def fields(directory: Path, text: str) -> dict[str, str | int]:
    settings = load_text(directory, text).settings
    options = ServerOptions(tls=validation.check(settings.http.tls)[0])
    plan = Plan(settings, "config.yml", b"", "", 3, options, lambda *_: pytest.fail("built"))
    return start_fields(plan, describe(settings))


def settings_of(directory: Path, text: str) -> Settings:
    return load_text(directory, text).settings


@pytest.mark.parametrize(
    ("storage", "reported"),
    [
        ("{filesystem: {rootdirectory: /srv/registry}}", {"storage": "filesystem", "path": "/srv/registry"}),
        ("{filesystem: {rootdirectory: /srv/a/../b}}", {"storage": "filesystem", "path": "/srv/b"}),
        ("inmemory", {"storage": "inmemory"}),
        ("{s3: {bucket: b, region: eu-west-1, rootdirectory: /images}}",
         {"storage": "s3", "bucket": "b", "endpoint": "Amazon eu-west-1", "prefix": "images/"}),
        ("{s3: {bucket: b, regionendpoint: 's3.example.com:9000', secure: false, secretkey: hush}}",
         {"storage": "s3", "bucket": "b", "endpoint": "http://s3.example.com:9000", "prefix": ""}),
        ("{gcs: {bucket: b, rootdirectory: x, endpoint: 'https://gcs.example.com'}}",
         {"storage": "gcs", "bucket": "b", "endpoint": "https://gcs.example.com", "prefix": "x/"}),
        ("{gcs: {bucket: b}}", {"storage": "gcs", "bucket": "b", "endpoint": "Google", "prefix": ""}),
        ("{azure: {accountname: acc, accountkey: aHVzaA==, container: cont, rootdirectory: p}}",
         {"storage": "azure", "container": "cont", "endpoint": "https://acc.blob.core.windows.net",
          "prefix": "p/"}),
        ("{inmemory: {}, maintenance: {readonly: {enabled: true}}}", {"storage": "inmemory", "readonly": "true"}),
    ],
)  # fmt: skip
def test_the_start_line_names_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, reported: dict[str, str]
) -> None:
    """An empty registry after a move is looked for in this line first."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    found = fields(tmp_path, HTTP + f"storage: {storage}\n")
    places = {"storage", "path", "bucket", "container", "endpoint", "prefix", "readonly"}
    assert {key: value for key, value in found.items() if key in places} == reported
    assert "hush" not in str(found)
    assert "aHVzaA" not in str(found)


def test_a_relative_directory_is_absolute_in_the_line(tmp_path: Path) -> None:
    """It depends on the directory in which the server was started, which is not known later."""
    found = fields(tmp_path, HTTP + "storage: {filesystem: {rootdirectory: data}}\n")
    assert found["path"] == f"{Path.cwd()}/data"


@pytest.mark.parametrize(
    ("text", "field", "reported"),
    [
        (FILES, "tls", "off"),
        (FILES, "authentication", "none"),
        (FILES + "auth: {htpasswd: {realm: r, path: p}}", "authentication", "htpasswd"),
        (FILES, "cache", "none"),
        (FILES.replace("}}\n", "}, cache: {blobdescriptor: inmemory}}\n"), "cache", "inmemory"),
        (FILES.replace("}}\n", "}, cache: {blobdescriptor: redis}}\nredis: {addrs: ['a:1', 'b:2'], password: x}"),
         "cache", "redis a:1, b:2"),
        (FILES, "secret", "set"),
        (FILES.replace(", secret: hush-3141", ""), "secret", "random"),
        (FILES, "workers", 3),
        (FILES, "configuration", "config.yml"),
    ],
)  # fmt: skip
def test_the_start_line_names_the_rest(tmp_path: Path, text: str, field: str, reported: str | int) -> None:
    assert fields(tmp_path, text)[field] == reported
    assert "tls_expires" not in fields(tmp_path, text)


def test_the_start_line_names_the_certificate(tmp_path: Path) -> None:
    """With its subject; public authorities leave that empty, and the names stand for it."""
    end = datetime(2091, 1, 2, 3, 4, 5, tzinfo=UTC)
    holder = certs.self_signed(end=end)
    path = tmp_path / "both.pem"
    path.write_bytes(holder.pem + holder.key_pem())
    found = fields(tmp_path, TLS.format(path, ""))
    assert found["tls"] == "CN=registry.test"
    assert found["tls_expires"] == "2091-01-02T03:04:05+00:00"


def test_names_stand_for_an_empty_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short-lived certificates of Let's Encrypt have no subject at all."""
    monkeypatch.setattr(certs, "_named", lambda _: x509.Name([]))
    holder = certs.self_signed()
    path = tmp_path / "both.pem"
    path.write_bytes(holder.pem + holder.key_pem())
    assert fields(tmp_path, TLS.format(path, ""))["tls"] == "localhost, registry.test, 127.0.0.1, ::1"


@pytest.mark.parametrize(
    ("storage", "may"),
    [
        ("{inmemory: {}}", "pull and overwrite everything"),
        ("{inmemory: {}, delete: {enabled: true}}", "pull, overwrite and delete everything"),
        ("{inmemory: {}, maintenance: {readonly: {enabled: true}}}", "pull everything"),
    ],
)
def test_an_open_registry_is_told_with_what_everybody_may_do(tmp_path: Path, storage: str, may: str) -> None:
    settings = settings_of(tmp_path, HTTP + f"storage: {storage}\n")
    assert open_registry(settings, "[::]:5000") == (
        f"no authentication: every client that reaches [::]:5000 may {may}; set auth (htpasswd, token or local), "
        "or listen on 127.0.0.1 only"
    )


@pytest.mark.parametrize(
    ("clients", "kind"),
    [
        ("", "client certificates"),
        (", clientauth: require-and-verify-client-cert", "client certificates"),
        (", clientauth: verify-client-cert-if-given", "none"),
    ],
)
def test_required_client_certificates_are_authentication(tmp_path: Path, clients: str, kind: str) -> None:
    """Who must show a certificate has proved who they are; who may leave it out has not."""
    settings = settings_of(tmp_path, TLS.format("/etc/passwd", f", clientcas: [/etc/passwd]{clients}"))
    assert authentication(settings) == kind
    assert (open_registry(settings, "x") is None) == (kind != "none")


@pytest.mark.parametrize(
    ("addr", "reached"),
    [("':5000'", True), ("0.0.0.0:1", True), ("'[::]:1'", True), ("10.0.0.1:1", True), ("r.example.com:1", True),
     ("127.0.0.1:1", False), ("127.1.2.3:1", False), ("'[::1]:1'", False), ("localhost:1", False)],
)  # fmt: skip
def test_an_address_is_beyond_loopback_or_not(tmp_path: Path, addr: str, reached: bool) -> None:
    settings = settings_of(tmp_path, f"version: 0.1\nstorage: inmemory\nhttp: {{addr: {addr}}}\n")
    assert beyond_loopback(settings.http) == reached
