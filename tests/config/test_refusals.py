"""Every refusal, provoked: features to come, and settings that cannot go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, errors_of, load_text

from moorage.config.later import LATER
from moorage.config.model import Settings
from moorage.config.schema import walk

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = "version: 0.1\nhttp: {addr: ':5000'}\n"

TO_COME = [
    (BASE + "auth: {htpasswd: {realm: r, path: /p}}", "auth.htpasswd", 7),
    (BASE + "auth: {token: {realm: r, service: s, issuer: i, jwks: /j}}", "auth.token", 7),
    (BASE + "auth: {silly: {realm: r, service: s}}", "auth.silly", 7),
    (PLAIN + "storage: {gcs: {bucket: b}}", "storage.gcs", 3),
    (PLAIN + "storage: {swift: {authurl: x}}", "storage.swift", 3),
    (PLAIN + "storage: {oss: {bucket: x}}", "storage.oss", 3),
    (PLAIN + "storage: oss", "storage.oss", 3),
    (PLAIN + "storage: {inmemory: , cache: {blobdescriptor: redis}}", "storage.cache.blobdescriptor", 3),
    (
        BASE + "middleware:\n  storage:\n    - name: x\n      disabled: true\n    - name: y",
        "middleware.storage[1]",
        11,
    ),
    (BASE + "middleware: {registry: [{name: y}]}", "middleware.registry[0]", 7),
    (BASE + "middleware: {repository: [{name: y}]}", "middleware.repository[0]", 7),
    (BASE + "notifications: {endpoints: [{url: http://x}]}", "notifications.endpoints[0]", 7),
    (BASE + "log: {hooks: [{type: mail}]}", "log.hooks[0]", 7),
    (BASE + "proxy: {remoteurl: https://registry-1.docker.io}", "proxy.remoteurl", 7),
    (BASE + "  debug: {addr: ':5001'}", "http.debug.addr", 7),
    (BASE + "  tls: {letsencrypt: {cachefile: /x}}", "http.tls.letsencrypt.cachefile", 7),
    (BASE + "  tls: {clientcas: [/x]}", "http.tls.clientcas", 7),
    (BASE + "  tls: {ciphersuites: [TLS_AES_128_GCM_SHA256]}", "http.tls.ciphersuites", 7),
]


@pytest.mark.parametrize(("text", "key", "line"), TO_COME)
def test_a_feature_to_come_is_refused_by_name_and_line(tmp_path: Path, text: str, key: str, line: int) -> None:
    """An access check, a mirror or a bucket that is silently not there would be the worst of answers."""
    (error,) = errors_of(tmp_path, text)
    assert (error.key, error.origin.line) == (key, line)
    assert "is not available in this version of Moorage; " in error.message


def test_every_row_of_the_table_is_provoked() -> None:
    """A row without a test could refuse nothing."""
    keys = [key for _, key, _ in TO_COME]
    for later in LATER:
        assert any(key.startswith(prefix) for key in keys for prefix in later.keys), later.what


def test_the_table_names_keys_that_exist() -> None:
    """The documentation marks by these names."""
    known = {".".join(path).replace("[]", "") for path, _ in walk(Settings)}
    assert {key for later in LATER for key in later.keys} <= known


def test_old_object_stores_are_shown_the_way(tmp_path: Path) -> None:
    """Both speak S3, which is where their users go."""
    for driver in ("swift", "oss"):
        (error,) = errors_of(tmp_path, PLAIN + f"storage: {driver}")
        assert "storage.s3 and regionendpoint" in error.message


@pytest.mark.parametrize(
    "text",
    [
        "auth: none", "auth: {none: }", "log: {hooks: [{type: mail, disabled: true}]}",
        "notifications: {endpoints: [{url: http://x, disabled: true}], events: {includereferences: true}}",
        "middleware: {storage: [{name: cloudfront, disabled: true}]}", "proxy: {}", "proxy: {remoteurl: ''}",
        "proxy: {ttl: 1h, exec: {command: x, lifetime: 0}}", "  debug: {prometheus: {enabled: true}}",
        "  debug: {addr: }", "  tls: {letsencrypt: {email: a@b.c}}", "  tls: {clientcas: []}",
    ],
)  # fmt: skip
def test_what_is_off_is_not_refused(tmp_path: Path, text: str) -> None:
    """Examples and leftovers in a file have no effect; the reference starts with them."""
    assert load_text(tmp_path, BASE + text).warnings == ()


@pytest.mark.parametrize(
    ("text", "key", "kind"),
    [("redis: {addrs: [x]}", "redis", "warning"), ("reporting: {bugsnag: {apikey: x}}", "reporting", "warning"),
     ("compatibility: {schema1: {enabled: true}}", "compatibility", "warning"),
     ("  host: h.example:5000", "http.host", "warning"), ("  host: ftp://h.example", "http.host", "warning"),
     ("  host: 'http://['", "http.host", "warning"),
     ("  tls: {minimumtls: tls1.1}", "http.tls.minimumtls", "warning")],
)  # fmt: skip
def test_what_has_no_effect_is_told(tmp_path: Path, text: str, key: str, kind: str) -> None:
    """These start the reference and change nothing, or nothing any more."""
    loaded = load_text(tmp_path, BASE + text)
    assert [(problem.key, problem.kind, problem.origin.line) for problem in loaded.warnings] == [(key, kind, 7)]
    assert loaded.settings.http.host == ""
    assert loaded.settings.http.tls.minimumtls == "tls1.2"


WRONG = [
    ("http: {addr: ':1'}\nstorage: inmemory", "version", "required"),
    ("version: 0.10\nhttp: {addr: ':1'}\nstorage: inmemory", "version", "expected 0.1"),
    ("version: 0.1\nhttp: {addr: ':1'}", "storage", "names no driver"),
    ("version: 0.1\nhttp: {addr: ':1'}\nstorage: {delete: {enabled: true}}", "storage", "names no driver"),
    (PLAIN + "storage: {inmemory: , filesystem: }", "storage", "more than one driver: filesystem, inmemory"),
    (PLAIN + "storage: {filesystem: {rootdirectory: ''}}", "storage.filesystem.rootdirectory", "directory"),
    (PLAIN + "storage: [a]", "storage", "expected a mapping, found a list"),
    (PLAIN + "storage: {filesystem: [a]}", "storage.filesystem", "expected a mapping"),
    (PLAIN + "storage: {filesystem: {maxthreads: x}}", "storage.filesystem.maxthreads", "whole number"),
    ("version: 0.1\nstorage: inmemory\nhttp: {addr: ':1', workers: 2}", "http.workers", "lives in one process"),
    ("version: 0.1\nstorage: inmemory", "http.addr", "expected 127.0.0.1:5000 or :5000"),
    ("version: 0.1\nstorage: inmemory\nhttp: {net: unix}", "http.addr", "expected a path"),
    (BASE + "  workers: 0", "http.workers", "at least 1|from 1 to"),
    (BASE + "  bodytimeout: 0", "http.bodytimeout", "above 0"),
    (BASE + "  bodytimeout: 30", "http.bodytimeout", "with its unit"),
    (BASE + "  headertimeout: -1s", "http.headertimeout", "above 0"),
    (BASE + "  draintimeout: -1s", "http.draintimeout", "not negative"),
    (BASE + "  prefix: foo/", "http.prefix", "expected a path such as"),
    (BASE + "  prefix: /a b/", "http.prefix", "expected a path such as"),
    (BASE + "  headers: {'a b': [c]}", "http.headers.a b", "is no name of a header"),
    (BASE + '  headers: {a.b: ["c\\r\\nSet-Cookie: x"]}', "http.headers.a.b", "printable ASCII"),
    (BASE + "  headers: {a: [b, {c: d}]}", "http.headers.a[1]", "expected text, found a mapping"),
    (BASE + "  headers: {a: [null]}", "http.headers.a[0]", "expected a value"),
    (BASE + "  tls: {certificate: /etc/passwd}", "http.tls.key", "come together"),
    (BASE + "  tls: {key: /etc/passwd}", "http.tls.certificate", "come together"),
    (BASE + "  tls: {certificate: /nowhere/c, key: /etc/passwd}", "http.tls.certificate", "No such file"),
    (BASE + "  tls: {minimumtls: ssl3}", "http.tls.minimumtls", "expected tls1.2 or tls1.3"),
    (BASE + "  tls: {clientauth: maybe}", "http.tls.clientauth", "expected require-and-verify-client-cert"),
    (BASE + "tags: {maxtags: -1}", "tags.maxtags", "at least 0"),
    (BASE + "health: {file: [{file: /a}, {file: /a}]}", "health.file[1]", "a second time"),
    (BASE + "health: {file: [{interval: 1s}]}", "health.file[0].file", "required and missing"),
    (BASE + "health: {http: [{uri: 'x:1'}]}", "health.http[0].uri", "expected an http or https URL"),
    (BASE + "health: {http: [{uri: 'http://a:b'}]}", "health.http[0].uri", "expected an http or https URL"),
    (BASE + "health: {tcp: [{addr: x}]}", "health.tcp[0].addr", "expected host:port"),
    (BASE + "validation: {manifests: {urls: {deny: ['(']}}}", "validation.manifests.urls.deny[0]", "regular expr"),
    (BASE + "validation: {manifests: {urls: {allow: ['[[:digit:]]']}}}", "validation.manifests.urls.allow[0]",
     "regular expr"),
    (BASE + "validation: {manifests: {indexes: {platforms: some}}}", "validation.manifests.indexes.platforms",
     "expected all, none or list"),
    (BASE + "auth: {none: , htpasswd: {realm: r, path: p}}", "auth", "more than one way"),
    (BASE + "log: {formatter: xml}", "log.formatter", "expected text, json or logstash"),
    (BASE + "log: {fields: [a]}", "log.fields", "expected a mapping"),
    (BASE + "redis: {addrs: h:1}", "redis.addrs", "expected a list"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "said"), WRONG)
def test_a_wrong_setting_is_refused_with_its_key(tmp_path: Path, text: str, key: str, said: str) -> None:
    """The message is all that the operator has: key, file, and what was expected."""
    errors = {error.key: error for error in errors_of(tmp_path, text)}
    assert key in errors
    assert any(part in errors[key].message for part in said.split("|"))
    assert errors[key].origin.source.endswith("config.yml")


@pytest.mark.parametrize(
    "addr",
    ["5000", "localhost", "a:b", ":65536", ":-1", "::1:5000", "[::1:5000", "[x]:1", "a b:1", "h:1/x", ":\u0661"],
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, addr: str) -> None:
    """`addr: 5000` is the commonest slip; a bare IPv6 address the second."""
    (error,) = errors_of(tmp_path, BASE.replace("127.0.0.1:5000", f"'{addr}'"))
    assert error.key == "http.addr"


@pytest.mark.parametrize("addr", [":5000", "0.0.0.0:0", "[::]:5000", "[::1]:443", "registry.example.com:5000"])
def test_addresses_of_every_kind_are_taken(tmp_path: Path, addr: str) -> None:
    """Everything that Go's net.Listen takes with a number for the port."""
    assert load_text(tmp_path, BASE.replace("127.0.0.1:5000", f"'{addr}'")).settings.http.addr == addr


def test_an_inherited_socket_needs_no_address(tmp_path: Path) -> None:
    """With systemd's socket activation the reference takes no notice of addr."""
    text = "version: 0.1\nstorage: inmemory\n"
    assert load_text(tmp_path, text, {"LISTEN_FDS": "1"}).settings.http.addr == ""
    assert errors_of(tmp_path, text, {"LISTEN_FDS": "0"})


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
    ("region: r, v4auth: false}}", "v4auth", "signature version 2 is not available"),
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


@pytest.mark.parametrize(("text", "key", "said"), WRONG_S3)
def test_what_s3_cannot_honour_is_refused_by_name(tmp_path: Path, text: str, key: str, said: str) -> None:
    """A parameter that worked with the reference and does nothing here would be found out in production."""
    (error,) = errors_of(tmp_path, S3 + text)
    assert error.key == f"storage.s3.{key}"
    assert said in error.message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("region: r, keyid: k}}", "keyid"), ("region: r, accesskey: a}}", "accesskey"),
        ("region: r, secretkey: a}}", "secretkey"), ("region: r, sessiontoken: t}}", "sessiontoken"),
        ("region: r, loglevel: everything}}", "loglevel"),
        ("region: r, multipartcopymaxconcurrency: 50}}", "multipartcopymaxconcurrency"),
    ],
)  # fmt: skip
def test_what_has_no_effect_on_s3_is_told(tmp_path: Path, text: str, key: str) -> None:
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


AZURE = PLAIN + "storage: {azure: {container: images, "

WRONG_AZURE = [
    ("accountname: abc}}", "credentials.type", "required unless storage.azure.accountkey is given"),
    ("accountname: abc, credentials: {type: shared_key}}}", "accountkey", "required for shared_key"),
    ("accountname: abc, accountkey: 'no base64!'}}", "accountkey", "the base64 text that Azure shows"),
    ("accountname: abc, credentials: {type: client_secret, tenantid: t, clientid: c}}}", "credentials.secret",
     "required for client_secret"),
    ("accountname: abc, credentials: {type: client_secret, secret: s, clientid: c}}}", "credentials.tenantid",
     "required for client_secret"),
    ("accountname: abc, credentials: {type: client_secret, secret: s, tenantid: c}}}", "credentials.clientid",
     "required for client_secret"),
    ("accountname: My_Account, accountkey: a2V5}}", "accountname", "lower case letters and digits"),
    ("accountkey: a2V5}}", "accountname", "required and missing"),
    ("accountname: abc, accountkey: a2V5, realm: 'https://x'}}", "realm", "expected a domain"),
    ("accountname: abc, accountkey: a2V5, serviceurl: 'ftp://x'}}", "serviceurl", "expected an address"),
    ("accountname: abc, accountkey: a2V5, rootdirectory: a/../b}}", "rootdirectory", "expected a prefix"),
    ("accountname: abc, accountkey: a2V5, cabundle: /nowhere/ca.pem}}", "cabundle", "No such file"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "said"), WRONG_AZURE)
def test_what_azure_cannot_honour_is_refused_by_name(tmp_path: Path, text: str, key: str, said: str) -> None:
    """The reference ends with a stack trace, or starts and fails at the first push."""
    (error,) = errors_of(tmp_path, AZURE + text)
    assert error.key == f"storage.azure.{key}"
    assert said in error.message


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
def test_what_has_no_effect_on_azure_is_told(tmp_path: Path, text: str, key: str) -> None:
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


def test_messages_keep_secrets(tmp_path: Path) -> None:
    """Logs of a failed start are pasted into issues."""
    text = BASE + "proxy: {password: {hush: hush}}\nredis: hush"
    errors = errors_of(tmp_path, text + "\nnotifications: {endpoints: [{disabled: true, headers: hush}]}")
    assert "notifications.endpoints[0].headers" in {error.key for error in errors}
    assert not any("hush" in error.message for error in errors if error.key != "redis")
