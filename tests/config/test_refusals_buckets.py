"""Refusals and warnings of the sections `storage.s3`, `storage.gcs` and `storage.azure`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import PLAIN, errors_of, load_text

if TYPE_CHECKING:
    from pathlib import Path


def test_drivers_to_come_are_checked_already(tmp_path: Path) -> None:
    """Their keys are read today, so that a file is known to be right before its driver is there."""
    cases = [
        ("s3: {chunksize: 5}", "storage.s3.chunksize"), ("s3: {storageclass: COLD}", "storage.s3.storageclass"),
        ("s3: {encrypt: maybe}", "storage.s3.encrypt"), ("gcs: {credentials: x}", "storage.gcs.credentials"),
        ("gcs: {chunksize: 5}", "storage.gcs.chunksize"), ("azure: {credentials: {type: x}}",
                                                           "storage.azure.credentials.type"),
    ]  # fmt: skip
    for text, key in cases:
        errors = errors_of(tmp_path, PLAIN + f"storage: {{{text}}}")
        assert key in {error.key for error in errors}


S3 = PLAIN + "storage: {s3: {bucket: b, "

WRONG_S3 = [
    ("region: ''}}", "region", "required unless"),
    ("region: r, v4auth: false}}", "v4auth", "signature version 2 is not supported"),
    ("region: r, loglevel: debugwithhttpbody}}", "loglevel", "use debug"),
    ("region: r, loglevel: debugwithsigning}}", "loglevel", "use debug"),
    ("region: r, loglevel: debugwitheventstreambody}}", "loglevel", "use debug"),
    ("regionendpoint: 'ftp://h'}}", "regionendpoint", "expected an address"),
    ("regionendpoint: 'https://h?x=1'}}", "regionendpoint", "expected an address"),
    ("regionendpoint: 'h:port'}}", "regionendpoint", "expected an address"),
    ("region: r, redirectendpoint: cdn.example}}", "redirectendpoint", "expected a scheme and a host"),
    (
        "region: r, redirectendpoint: 'https://cdn.example/path'}}",
        "redirectendpoint",
        "expected a scheme and a host",
    ),
    ("regionendpoint: 'h:9000', usedualstack: true}}", "usedualstack", "expected this or regionendpoint"),
    ("regionendpoint: 'h:9000', accelerate: true}}", "accelerate", "expected this or regionendpoint"),
    ("regionendpoint: 'h:9000', usefipsendpoint: true}}", "usefipsendpoint", "expected this or regionendpoint"),
    ("region: r, accelerate: true, forcepathstyle: true}}", "accelerate", "expected this or forcepathstyle"),
    ("region: r, rootdirectory: a//b}}", "rootdirectory", "expected a prefix"),
    ("region: r, rootdirectory: ../b}}", "rootdirectory", "expected a prefix"),
    ("region: r, cabundle: /nowhere/ca.pem}}", "cabundle", "No such file"),
]


@pytest.mark.parametrize(("text", "key", "fragment"), WRONG_S3)
def test_what_s3_cannot_honour_is_refused_by_name(tmp_path: Path, text: str, key: str, fragment: str) -> None:
    """A parameter that worked with the reference and does nothing here would be found out in production."""
    (error,) = errors_of(tmp_path, S3 + text)
    assert error.key == f"storage.s3.{key}"
    assert fragment in error.message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("region: r, keyid: k}}", "keyid"), ("region: r, accesskey: a}}", "accesskey"),
        ("region: r, secretkey: a}}", "secretkey"), ("region: r, sessiontoken: t}}", "sessiontoken"),
        ("region: r, loglevel: everything}}", "loglevel"),
        ("region: r, multipartcopymaxconcurrency: 50}}", "multipartcopymaxconcurrency"),
    ],
)  # fmt: skip
def test_what_has_no_effect_on_s3_is_reported(tmp_path: Path, text: str, key: str) -> None:
    """The reference starts with these, and so do we."""
    assert [(found.key, found.kind) for found in load_text(tmp_path, S3 + text).warnings] == [
        (f"storage.s3.{key}", "warning")
    ]


@pytest.mark.parametrize(
    "text",
    [
        "region: brand-new-1}}", "regionendpoint: 'minio:9000', secure: false}}", "regionendpoint: 'https://h/p'}}",
        "region: r, rootdirectory: /a/b/}}", "region: r, rootdirectory: /, storageclass: GLACIER_IR}}",
        "region: r, loglevel: debug, encrypt: true, keyid: k, objectacl: bucket-owner-full-control}}",
        "region: r, accesskey: a, secretkey: s, sessiontoken: t, multipartcopymaxconcurrency: 4}}",
        "region: r, redirectendpoint: 'https://cdn.example:8443', usedualstack: 'true', accelerate: 'T'}}",
    ],
)  # fmt: skip
def test_what_s3_takes(tmp_path: Path, text: str) -> None:
    """Settings of the reference, both majors' spellings, and regions that no list knows yet."""
    assert load_text(tmp_path, S3 + text).warnings == ()
    assert load_text(tmp_path, (S3 + text).replace("{s3:", "{s3aws:")).settings.storage.driver == "s3"


GCS = PLAIN + "storage: {gcs: {bucket: b, "

WRONG_GCS = [
    ("chunksize: 300000}}", "chunksize", "multiple of 262144"),
    ("chunksize: 262143}}", "chunksize", "expected"),
    ("endpoint: 'storage.example:4443'}}", "endpoint", "expected a scheme and a host"),
    ("endpoint: 'https://h/path'}}", "endpoint", "expected a scheme and a host"),
    ("rootdirectory: ../b}}", "rootdirectory", "expected a prefix"),
    ("cabundle: /nowhere/ca.pem}}", "cabundle", "No such file"),
    ("keyfile: /nowhere/key.json}}", "keyfile", "No such file"),
]


@pytest.mark.parametrize(("text", "key", "fragment"), WRONG_GCS)
def test_what_gcs_cannot_honour_is_refused_by_name(tmp_path: Path, text: str, key: str, fragment: str) -> None:
    """A wrong key would be found out with the first push."""
    (error,) = errors_of(tmp_path, GCS + text)
    assert error.key == f"storage.gcs.{key}"
    assert fragment in error.message


@pytest.mark.parametrize(
    "text",
    [
        "rootdirectory: /a/b/, chunksize: 5242880}}", "rootdirectory: /, maxconcurrency: 10, useragent: u}}",
        "credentials: {type: service_account, client_email: e, private_key: p}}}",
        "endpoint: 'http://127.0.0.1:9023'}}",
    ],
)  # fmt: skip
def test_what_gcs_takes(tmp_path: Path, text: str) -> None:
    """Settings of the reference, and both majors' sizes of a part."""
    loaded = load_text(tmp_path, GCS + text)
    assert loaded.warnings == ()
    assert loaded.settings.storage.driver == "gcs"
    assert loaded.settings.storage.gcs is not None
    assert loaded.settings.storage.gcs.maxconcurrency >= 25


def test_a_key_file_wins_over_credentials(tmp_path: Path) -> None:
    """As in CNCF Distribution, with a warning."""
    (tmp_path / "key.json").write_text("{}")
    text = f"{GCS} keyfile: {tmp_path / 'key.json'}, credentials: {{type: service_account}}}}}}"
    (warning,) = load_text(tmp_path, text).warnings
    assert (warning.key, warning.message) == ("storage.gcs.credentials", "has no effect beside keyfile")


AZURE = PLAIN + "storage: {azure: {container: images, "

WRONG_AZURE = [
    ("accountname: abc}}", "credentials.type", "required unless storage.azure.accountkey is set"),
    ("accountname: abc, credentials: {type: shared_key}}}", "accountkey", "required for shared_key"),
    ("accountname: abc, accountkey: 'no base64!'}}", "accountkey", "the base64 text that Azure shows"),
    ("accountname: abc, credentials: {type: client_secret, tenantid: t, clientid: c}}}", "credentials.secret",
     "required for client_secret"),
    ("accountname: abc, credentials: {type: client_secret, secret: s, clientid: c}}}", "credentials.tenantid",
     "required for client_secret"),
    ("accountname: abc, credentials: {type: client_secret, secret: s, tenantid: c}}}", "credentials.clientid",
     "required for client_secret"),
    ("accountname: My_Account, accountkey: a2V5}}", "accountname", "lower-case letters and digits"),
    ("accountkey: a2V5}}", "accountname", "required and missing"),
    ("accountname: abc, accountkey: a2V5, realm: 'https://x'}}", "realm", "expected a domain"),
    ("accountname: abc, accountkey: a2V5, serviceurl: 'ftp://x'}}", "serviceurl", "expected an address"),
    ("accountname: abc, accountkey: a2V5, rootdirectory: a/../b}}", "rootdirectory", "expected a prefix"),
    ("accountname: abc, accountkey: a2V5, cabundle: /nowhere/ca.pem}}", "cabundle", "No such file"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "fragment"), WRONG_AZURE)
def test_what_azure_cannot_honour_is_refused_by_name(tmp_path: Path, text: str, key: str, fragment: str) -> None:
    """The reference ends with a stack trace, or starts and fails at the first push."""
    (error,) = errors_of(tmp_path, AZURE + text)
    assert error.key == f"storage.azure.{key}"
    assert fragment in error.message


@pytest.mark.parametrize("name", ["Images", "a", "a--b", "-ab", "a/b", "x" * 64])
def test_a_container_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    """The service would answer with a 400 that names a header."""
    (error,) = errors_of(tmp_path, AZURE.replace("images", name) + "accountname: abc, accountkey: a2V5}}")
    assert error.key == "storage.azure.container"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("accountkey: a2V5, connectionstring: x}}", "connectionstring"),
        ("accountkey: a2V5, credentials: {type: default_credentials}}}", "accountkey"),
        ("accountkey: a2V5, credentials: {secret: s}}}", "credentials.secret"),
        ("credentials: {type: default_credentials, clientid: c}}}", "credentials.clientid"),
    ],
)
def test_what_has_no_effect_on_azure_is_reported(tmp_path: Path, text: str, key: str) -> None:
    """The reference starts with these, and so do we."""
    found = load_text(tmp_path, AZURE + "accountname: abc, " + text).warnings
    assert [(problem.key, problem.kind) for problem in found] == [(f"storage.azure.{key}", "warning")]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("accountkey: a2V5}}", "shared_key"), ("accountkey: a2V5, realm: core.chinacloudapi.cn}}", "shared_key"),
        ("accountkey: a2V5, credentials: {type: shared_key}, rootdirectory: /a/b/}}", "shared_key"),
        ("credentials: {type: default_credentials}, serviceurl: 'blobs.example/x'}}", "default_credentials"),
        ("credentials: {type: client_secret, tenantid: t, clientid: c, secret: s}, skipverify: true}}",
         "client_secret"),
        ("accountkey: a2V5, max_retries: -1, retry_delay: 5s}}", "shared_key"),
    ],
)  # fmt: skip
def test_what_azure_takes(tmp_path: Path, text: str, kind: str) -> None:
    """Settings of both majors: 2.8 knew no kinds of credentials."""
    found = load_text(tmp_path, AZURE + "accountname: abc, " + text)
    assert found.warnings == ()
    assert found.settings.storage.azure is not None
    assert found.settings.storage.azure.credential_type == kind
