"""Typos that would open a registry, take its TLS away or move its data: refused; all others are warned about."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, errors_of, load_text

from moorage.config.critical_keys import CRITICAL, MISPLACED, is_critical, near
from moorage.config.model import Settings
from moorage.config.schema import walk

if TYPE_CHECKING:
    from pathlib import Path

KNOWN = {".".join(path).replace("[]", "") for path, _ in walk(Settings)}

FILESYSTEM = "version: 0.1\nhttp: {addr: '127.0.0.1:5000'}\nstorage:\n  filesystem: {}\n"


@pytest.mark.parametrize(
    ("text", "key", "line", "meant"),
    [
        (BASE + "atuh: {htpasswd: {realm: r, path: p}}", "atuh", 7, "auth"),
        (BASE + "Auth: none", "Auth", 7, "auth"),
        (BASE + "authentication: {}", "authentication", 7, "auth"),
        (BASE + "polcy: {}", "polcy", 7, "policy"),
        (BASE + "proxi: {remoteurl: x}", "proxi", 7, "proxy"),
        (BASE + "auth: {htpaswd: {}}", "auth.htpaswd", 7, "auth.htpasswd"),
        (BASE + "auth: {htpasswd: {realm: r, paht: p}}", "auth.htpasswd.paht", 7, "auth.htpasswd.path"),
        (BASE + "auth: {token: {realm: r, service: s, issuer: i, jwks: j, signing_algorithms: []}}",
         "auth.token.signing_algorithms", 7, "auth.token.signingalgorithms"),
        (BASE + "  tsl: {}", "http.tsl", 7, "http.tls"),
        (BASE + "  ssl: {}", "http.ssl", 7, "http.tls"),
        (BASE + "  secrte: x", "http.secrte", 7, "http.secret"),
        (BASE + "  tls: {certifcate: /etc/passwd, key: /etc/passwd}", "http.tls.certifcate", 7,
         "http.tls.certificate"),
        (BASE + "  tls: {client-cas: [x]}", "http.tls.client-cas", 7, "http.tls.clientcas"),
        (BASE + "  trusted_proxies: []", "http.trusted_proxies", 7, "http.trustedproxies"),
        (FILESYSTEM.replace("{}", "{rootDirectory: /srv}"), "storage.filesystem.rootDirectory", 4,
         "storage.filesystem.rootdirectory"),
        (FILESYSTEM.replace("storage", "storge"), "storge", 3, "storage"),
        (FILESYSTEM.replace("http", "htpp"), "htpp", 2, "http"),
        (FILESYSTEM + "  delte: {}", "storage.delte", 5, "storage.delete"),
        (FILESYSTEM + "  maintenance: {readonly: {enabeld: true}}", "storage.maintenance.readonly.enabeld", 5,
         "storage.maintenance.readonly.enabled"),
        (FILESYSTEM + "  maintenance: {read-only: {enabled: true}}", "storage.maintenance.read-only", 5,
         "storage.maintenance.readonly"),
        (FILESYSTEM + "  maintenance: {uploadpurging: {dry_run: true}}",
         "storage.maintenance.uploadpurging.dry_run", 5, "storage.maintenance.uploadpurging.dryrun"),
        # Wrong indentation.
        (BASE + "tls: {certificate: a, key: b}", "tls", 7, "http.tls"),
        (BASE + "auth:\nhtpasswd: {realm: r, path: p}", "htpasswd", 8, "auth.htpasswd"),
        (BASE + "  auth: {htpasswd: {}}", "http.auth", 7, "auth"),
        (BASE + "readonly: {enabled: true}", "readonly", 7, "storage.maintenance.readonly"),
        (BASE + "  clientcas: [a]", "http.clientcas", 7, "http.tls.clientcas"),
    ],
)  # fmt: skip
def test_a_near_miss_that_weakens_is_one_error(tmp_path: Path, text: str, key: str, line: int, meant: str) -> None:
    """One warning among others, and the registry is open; the consequences of the typo are not reported again."""
    (error,) = errors_of(tmp_path, text)
    assert (error.key, error.origin.line, error.nearest) == (key, line, meant)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REGISTRY_ATUH", "REGISTRY_AUTH"),
        ("REGISTRY_AUTHS", "REGISTRY_AUTH"),
        ("REGISTRY_AUTH_HTPASSWD_PAHT", "REGISTRY_AUTH_HTPASSWD_PATH"),
        ("REGISTRY_HTTP_TSL_KEY", "REGISTRY_HTTP_TLS_KEY"),
        ("REGISTRY_HTTP_TLS_CERT", "REGISTRY_HTTP_TLS_CERTIFICATE"),
        ("REGISTRY_HTTP_TLS_CLIENT_CAS", "REGISTRY_HTTP_TLS_CLIENTCAS"),
        ("REGISTRY_http_secret", "REGISTRY_HTTP_SECRET"),
        ("REGISTRY_STORGE", "REGISTRY_STORAGE"),
        ("REGISTRY_STORGE_FILESYSTEM_ROOTDIRECTORY", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"),
        ("REGISTRY_STORAGE_FILESYSTEM_ROOT_DIRECTORY", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"),
        ("REGISTRY_STORAGE_DELETE_ENABLE", "REGISTRY_STORAGE_DELETE_ENABLED"),
        ("REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABELD", "REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED"),
        ("REGISTRY_PROXY_REMOTE_URL", "REGISTRY_PROXY_REMOTEURL"),
    ],
)
def test_a_variable_near_one_that_weakens_is_an_error(tmp_path: Path, name: str, meant: str) -> None:
    """Warnings of a container that runs are not read."""
    (error,) = errors_of(tmp_path, BASE, {name: "x"})
    assert (error.origin.source, error.nearest) == (name, meant)


@pytest.mark.parametrize(
    "text",
    ["x-auth: &auth {htpasswd: {realm: r}}", ".tls: &tls {}", "catalog: {maxentrys: 5}", "health: {auth: x}",
     "  debug: {tls: {}}", "log: {secret: x}", "healht: {}", "  h2cc: {}", "auth: none\nauthor: me",
     "auth: {}\ntokens: 1", "  tls: {}\n  root: x", "  tls: {}\n  pathtls: x", "log.level: debug"],
)  # fmt: skip
def test_what_is_only_alike_stays_a_warning(tmp_path: Path, text: str) -> None:
    """CNCF Distribution starts with all of these, and nothing is weaker for them."""
    (problem,) = load_text(tmp_path, BASE + text).warnings
    assert problem.kind == "unknown"


UNKNOWN = (
    "authentification", "authenticate", "authen", "authn", "authorisation", "ahtu", "basicauth", "htpaswd",
    "tokens", "users", "security", "\uff41\uff55\uff54\uff48", "auth\u200b", "\u0430uth", "auth.htpasswd",
    "Auth.htpasswd",
)  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_key_where_authentication_is_missing_is_an_error(tmp_path: Path, name: str) -> None:
    """No list of misspellings is complete, and one warning among others is an open registry."""
    (error,) = errors_of(tmp_path, f"{BASE}{json.dumps(name)}: {{htpasswd: {{realm: r, path: p}}}}\n")
    assert (error.key, error.origin.line) == (name, 7)
    assert error.meant.startswith("auth")


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        ("http: {addr: ':5000', tls.certificate: x, tls.key: y}", "http.tls.certificate", "http.tls.certificate"),
        ("http: {addr: ':5000', https: {certificate: /x}}", "http.https", "http.tls"),
        ("http: {addr: ':5000', tlsconfig: {certificate: /x}}", "http.tlsconfig", "http.tls.certificate"),
        ("http: {addr: ':5000', certificates: /x}", "http.certificates", "http.tls.certificate"),
        ("http: {addr: ':5000', tls: {pem: /x}}", "http.tls.pem", "http.tls.certificate"),
        ("http: {addr: ':5000', tls: {minimumtls: tls1.3}}", "http.tls", ""),
        ("http: {addr: ':5000', tls: {letsencrypt: {email: a@b.c}}}", "http.tls", ""),
        ("http: {addr: ':5000', tls: {letsencrypt: {hosts: [a.b]}}}", "http.tls", ""),
        ("http: {addr: ':5000', trustedproxy: 1.2.3.4}", "http.trustedproxy", "http.trustedproxies"),
        ("policy: {repositories: {classes: [image]}}", "policy.repositories", "policy"),
        ("redis: {addrs: ['a:1'], tls: {certs: x}}", "redis.tls.certs", "redis.tls"),
    ],
)  # fmt: skip
def test_an_unknown_key_where_a_protection_is_missing_is_an_error(
    tmp_path: Path, text: str, key: str, meant: str
) -> None:
    base = "version: 0.1\nstorage: {filesystem: {rootdirectory: /srv}}\nauth: none\n"
    listener = "" if text.startswith("http") else "http: {addr: ':5000'}\n"
    error, *others = errors_of(tmp_path, base + listener + text)
    assert (error.key, error.meant) == (key, meant)
    assert [other.key for other in others] == (["http.tls.key"] if "tls.key" in text else [])


@pytest.mark.parametrize("name", ["rootdir", "root", "path", "directory", "data", "Root-Dir", "folder"])
def test_an_unknown_key_where_the_data_directory_is_missing_is_an_error(tmp_path: Path, name: str) -> None:
    """The registry would look empty."""
    (error,) = errors_of(tmp_path, FILESYSTEM.replace("{}", f"{{{name}: /srv}}"))
    assert error.meant == "storage.filesystem.rootdirectory"


def test_a_section_with_unknown_keys_only_is_an_error(tmp_path: Path) -> None:
    """`readonly: {active: true}` left a registry writable."""
    text = BASE.replace("http:", "  maintenance: {readonly: {active: true}}\nhttp:")
    (error,) = errors_of(tmp_path, text)
    assert (error.key, error.meant) == ("storage.maintenance.readonly.active", "storage.maintenance.readonly")
    text = text.replace("active: true", "active: true, enabled: true")
    assert load_text(tmp_path, text).settings.storage.maintenance.readonly.enabled


def test_unknown_keys_beside_what_is_configured_are_warnings(tmp_path: Path) -> None:
    """Files have leftovers, which CNCF Distribution ignores."""
    text = SECURED.replace("key: /etc/passwd}", "key: /etc/passwd, pem: x}\n  certificates: x")
    text = text.replace("rootdirectory: /srv/registry", "rootdirectory: /srv/registry\n    data: x")
    warnings = load_text(tmp_path, text + "tokens: x\nusers: {}\n").warnings
    assert {warning.kind for warning in warnings} == {"unknown"}
    assert [warning.key for warning in warnings] == [
        "storage.filesystem.data", "http.tls.pem", "http.certificates", "tokens", "users",
    ]  # fmt: skip


def test_a_key_in_base64_is_decoded(tmp_path: Path) -> None:
    """Go's yaml decodes it: the reference has authentication with this file."""
    text = BASE + "!!binary YXV0aA==: {htpasswd: {realm: r, path: p}}\n"
    assert load_text(tmp_path, text).settings.auth.provider == "htpasswd"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REGISTRY_AUTHORISATION_HTPASSWD_PATH", "auth.htpasswd.path"),
        ("REGISTRY_TLS_CERTIFICATE", "http.tls.certificate"),
        ("REGISTRY_SSL_KEY", "http.tls.key"),
        ("REGISTRY_HTTPTLS_CERTIFICATE", "http.tls.certificate"),
        ("REGISTRY_HTTPS_CERTIFICATE", "http.tls.certificate"),
        ("REGISTRY_HTPASSWD_PATH", "auth.htpasswd.path"),
        ("REGISTRY_HTTP_AUTH_HTPASSWD_PATH", "auth.htpasswd.path"),
        ("REGISTRY_AUTH-HTPASSWD-PATH", "auth.htpasswd.path"),
        ("registry_auth_htpasswd_path", "auth.htpasswd.path"),
        ("Registry_Http_Tls_Key", "http.tls.key"),
        ("REGISTRY.AUTH.HTPASSWD.PATH", "auth.htpasswd.path"),
        ("REGISTRY-HTTP-SECRET", "http.secret"),
    ],
)
def test_a_variable_whose_words_are_joined_otherwise_is_an_error(tmp_path: Path, name: str, meant: str) -> None:
    (error,) = errors_of(tmp_path, BASE, {name: "/etc/passwd"})
    assert (error.origin.source, error.meant) == (name, meant)


@pytest.mark.parametrize("name", ["registry_user", "registry_auth", "registry.example.com", "registry_log_level"])
def test_variables_in_other_spellings_are_of_other_programs(tmp_path: Path, name: str) -> None:
    assert load_text(tmp_path, BASE, {name: "x"}).warnings == ()


@pytest.mark.parametrize(
    "name",
    ["AUTH_LDAP", "AUTH_PASSWORD", "DOMAIN", "HOST", "HTTP_PORT", "IMAGE", "NAME", "PASSWORD",
     "PORT", "STORAGE_PATH", "TAG", "TOKEN", "URL", "USER", "S3_BUCKET", "POLICIES"],
)  # fmt: skip
def test_variables_of_others_are_no_near_misses(tmp_path: Path, name: str) -> None:
    """Compose files and CI jobs name their own variables so; a registry must start beside them."""
    (problem,) = load_text(tmp_path, BASE, {f"REGISTRY_{name}": "x"}).warnings
    assert (problem.kind, problem.origin.source) == ("unknown", f"REGISTRY_{name}")


def test_the_variable_of_podman_is_not_taken_for_a_setting(tmp_path: Path) -> None:
    """Users of podman have it set, and a hint at `auth` would mislead; `config check` passes."""
    loaded = load_text(tmp_path, BASE, {"REGISTRY_AUTH_FILE": "/run/user/0/containers/auth.json"})
    (problem,) = loaded.warnings
    assert (problem.kind, problem.nearest) == ("warning", None)
    assert "podman" in problem.message
    assert loaded.settings.auth.provider == "none"


@pytest.mark.parametrize("text", ["storage: {s3_v2: {bucket: b}}", "storage: {zzz: {}}", "storage: zzz"])
def test_an_unknown_driver_is_one_error(tmp_path: Path, text: str) -> None:
    """That the section then names no driver is the same mistake."""
    (error,) = errors_of(tmp_path, f"version: 0.1\nhttp: {{addr: ':5000'}}\n{text}")
    assert error.message.startswith("is not a storage driver; expected filesystem")
    assert error.nearest is None


def test_duplicate_keys_of_the_file_do_not_start(tmp_path: Path) -> None:
    """The last one would win: another data directory, and no authentication."""
    text = BASE + "auth: {htpasswd: {realm: r, path: p}}\nstorage: {filesystem: {rootdirectory: /tmp}}\nauth:\n"
    reported = [str(error).removeprefix(f"{tmp_path}/") for error in errors_of(tmp_path, text)]
    assert reported == [
        "config.yml:8: storage: duplicate key; the first is on line 2; remove one",
        "config.yml:9: auth: duplicate key; the first is on line 7; remove one",
    ]


def test_duplicate_keys_of_a_variable_do_not_start(tmp_path: Path) -> None:
    value = "{filesystem: {rootdirectory: /a}, filesystem: {rootdirectory: /b}}"
    (error,) = errors_of(tmp_path, BASE, {"REGISTRY_STORAGE": value})
    assert str(error) == "REGISTRY_STORAGE: filesystem: duplicate key; remove one"


@pytest.mark.parametrize("separators", ["---\n", "---\n---\n", "...\n---\n# nothing\n---\n", '--- ""\n---\n'])
def test_a_second_document_does_not_start(tmp_path: Path, separators: str) -> None:
    """Content after a stray `---` would be ignored, with or without empty documents before it."""
    (error,) = errors_of(tmp_path, BASE + separators + "auth: {htpasswd: {realm: r, path: p}}\n")
    assert error.origin.line == 7 + separators.count("\n")
    assert "another YAML document" in error.message


GUARDED = "auth: {htpasswd: {realm: r, path: p}}\npolicy: {repository: {classes: [image]}}\n"
SECURED = BASE + "  tls: {certificate: /etc/passwd, key: /etc/passwd}\n" + GUARDED


@pytest.mark.parametrize(("name", "off"), [("REGISTRY_AUTH", "none"), ("REGISTRY_HTTP_TLS", "{}")])
def test_an_empty_variable_switches_nothing_off(tmp_path: Path, name: str, off: str) -> None:
    """`REGISTRY_AUTH: ${AUTH}` in a compose file without AUTH opened the registry."""
    (error,) = errors_of(tmp_path, SECURED, {name: ""})
    assert error.origin.source == name
    assert f"write {name}={off} to do so" in error.message
    settings = load_text(tmp_path, SECURED, {name: off}).settings
    assert settings.auth.provider == "none" or not settings.http.tls.certificate
    assert load_text(tmp_path, BASE, {name: ""}).warnings == ()


CERTIFICATE, KEY = "REGISTRY_HTTP_TLS_CERTIFICATE", "REGISTRY_HTTP_TLS_KEY"
CLIENTS = SECURED.replace("key: /etc/passwd", "key: /etc/passwd, clientcas: [/etc/passwd]")


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        *(({CERTIFICATE: empty, KEY: empty}, "http.tls") for empty in ("", "~", '""', "''", "# x", "!!str")),
        ({CERTIFICATE: "", KEY: '""'}, "http.tls"),
        ({CERTIFICATE: ""}, "http.tls"),
        ({"REGISTRY_HTTP_TLS": "{certificate: , key: }"}, "http.tls"),
        ({"REGISTRY_HTTP_TLS": "{minimumtls: tls1.3}"}, "http.tls"),
        ({"REGISTRY_HTTP_TLS": "# x"}, "http.tls"),
        ({"REGISTRY_HTTP": "{addr: '127.0.0.1:5000'}"}, "http.tls"),
        ({"REGISTRY_HTTP": "{addr: '127.0.0.1:5000', tls: }"}, "http.tls"),
        ({"REGISTRY_HTTP_TLS_CLIENTCAS": ""}, "http.tls.clientcas"),
        ({"REGISTRY_AUTH": " "}, "auth"),
        ({"REGISTRY_AUTH": "~"}, "auth"),
        ({"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": ""}, "storage.filesystem.rootdirectory"),
        ({"REGISTRY_STORAGE_FILESYSTEM": "{maxthreads: 100}"}, "storage.filesystem.rootdirectory"),
        ({"REGISTRY_STORAGE": "filesystem"}, "storage.filesystem.rootdirectory"),
    ],
)  # fmt: skip
def test_variables_that_remove_what_the_file_configures_are_one_error(
    tmp_path: Path, environ: dict[str, str], key: str
) -> None:
    """Compose sets variables without a value: passwords crossed the network in the clear."""
    (error,) = errors_of(tmp_path, CLIENTS, environ)
    assert (error.key, error.origin.source) == (key, ", ".join(environ))
    assert "would switch off what the file configures" in error.message


@pytest.mark.parametrize(
    ("environ", "tls", "provider"),
    [
        ({"REGISTRY_HTTP": "{addr: '127.0.0.1:5000', tls: {}}"}, "", "htpasswd"),
        ({"REGISTRY_HTTP_TLS": "{}"}, "", "htpasswd"),
        ({"REGISTRY_HTTP_TLS_CLIENTCAS": "[]"}, "/etc/passwd", "htpasswd"),
        ({"REGISTRY_AUTH": "{}"}, "/etc/passwd", "none"),
        ({"REGISTRY_AUTH": "{none: }"}, "/etc/passwd", "none"),
        ({"REGISTRY_AUTH": "None"}, "/etc/passwd", "none"),
        ({"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/var/lib/registry"}, "/etc/passwd", "htpasswd"),
        ({"REGISTRY_STORAGE": "inmemory"}, "/etc/passwd", "htpasswd"),
    ],
)  # fmt: skip
def test_variables_may_switch_off_on_purpose(
    tmp_path: Path, environ: dict[str, str], tls: str, provider: str
) -> None:
    settings = load_text(tmp_path, CLIENTS, environ).settings
    assert (settings.http.tls.certificate, settings.auth.provider) == (tls, provider)


@pytest.mark.parametrize("empty", ["", '""'])
def test_an_empty_secret_is_reported(tmp_path: Path, empty: str) -> None:
    """The random one in its place is as safe, but uploads do not survive a restart."""
    text = BASE + f"  secret: {'x' * 40}\n"
    (warning,) = load_text(tmp_path, text, {"REGISTRY_HTTP_SECRET": empty}).warnings
    assert (warning.kind, warning.key) == ("warning", "http.secret")


def test_an_empty_variable_that_loosens_is_reported(tmp_path: Path) -> None:
    """The reference does the same, without a word."""
    loaded = load_text(tmp_path, SECURED, {"REGISTRY_POLICY_REPOSITORY_CLASSES": "", "REGISTRY_LOG_LEVEL": ""})
    (warning,) = loaded.warnings
    assert (warning.kind, warning.key) == ("warning", "policy.repository.classes")
    assert str(warning).startswith(
        "REGISTRY_POLICY_REPOSITORY_CLASSES: policy.repository.classes: is empty and replaces"
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [("auth:\n", "auth"), ("  tls:\n", "http.tls"),
     ("  tls: {certificate: '', key: }\n", "http.tls")],
)  # fmt: skip
def test_a_section_without_content_is_reported(tmp_path: Path, text: str, key: str) -> None:
    """The result of a template or commented lines; CNCF Distribution starts with it."""
    (warning,) = load_text(tmp_path, BASE + text).warnings
    assert (warning.key, warning.kind, warning.origin.line) == (key, "warning", 7)
    assert "is empty, which means" in warning.message


def test_the_keys_exist() -> None:
    """A key that is renamed must not drop out of the list."""
    assert set(CRITICAL) <= KNOWN
    assert {*MISPLACED.values()} <= KNOWN
    assert all(is_critical(place.split(".")) for place in MISPLACED.values() if place != "storage.filesystem")


@pytest.mark.parametrize(
    ("word", "meant"),
    [("tsl", "tls"), ("tl", "tls"), ("tlss", "tls"), ("TLS", "tls"), ("t-l-s", "tls"), ("lst", None),
     ("xyz", None), ("rotdirectoy", "rootdirectory"), ("rotdirecoy", None), ("", None)],
)  # fmt: skip
def test_a_misspelling_is_one_letter_in_a_short_word_and_two_in_a_long_one(word: str, meant: str | None) -> None:
    assert near(word, ["tls", "rootdirectory"]) == meant
