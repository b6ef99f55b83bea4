"""Every refusal, provoked: features to come, and settings that cannot go together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.config.helpers import BASE, errors_of, load_text

from moorage.config.cipher_suites import OFFERED, TLS13
from moorage.config.model import Settings
from moorage.config.schema import walk
from moorage.config.unsupported import GONE, LATER

TLS = BASE + "  tls: {certificate: /etc/passwd, key: /etc/passwd, "

PLAIN = "version: 0.1\nhttp: {addr: ':5000'}\n"
HOOK = BASE + "log: {{hooks: [{{type: mail, levels: [error], options: {{{}}}}}]}}"

TO_COME = [
    (PLAIN + "storage: {swift: {authurl: x}}", "storage.swift", 3),
    (PLAIN + "storage: {oss: {bucket: x}}", "storage.oss", 3),
    (PLAIN + "storage: oss", "storage.oss", 3),
    (BASE + "notifications: {endpoints: [{url: http://x}]}", "notifications.endpoints[0]", 7),
    (BASE + "proxy: {remoteurl: https://registry-1.docker.io}", "proxy.remoteurl", 7),
]


@pytest.mark.parametrize(("text", "key", "line"), TO_COME)
def test_a_feature_to_come_is_refused_by_name_and_line(tmp_path: Path, text: str, key: str, line: int) -> None:
    """An access check, a mirror or a bucket that is silently not there would be the worst of answers."""
    (error,) = errors_of(tmp_path, text)
    assert (error.key, error.origin.line) == (key, line)
    missing = (
        "of 2.8 is not offered, as in" if key.startswith("storage.") else "is not available in this version of"
    )
    assert missing in error.message


def test_every_row_of_the_table_is_provoked() -> None:
    """A row without a test could refuse nothing."""
    keys = [key for _, key, _ in TO_COME]
    for later in (*LATER, *GONE):
        assert any(key.startswith(prefix) for key in keys for prefix in later.keys), later.what


def test_the_table_names_keys_that_exist() -> None:
    """The documentation marks by these names."""
    known = {".".join(path).replace("[]", "") for path, _ in walk(Settings)}
    assert {key for later in (*LATER, *GONE) for key in later.keys} <= known


def test_old_object_stores_are_shown_the_way(tmp_path: Path) -> None:
    """Both speak S3, which is where their users go."""
    for driver in ("swift", "oss"):
        (error,) = errors_of(tmp_path, PLAIN + f"storage: {driver}")
        assert "storage.s3 with regionendpoint" in error.message


@pytest.mark.parametrize(
    "text",
    [
        "auth: none", "auth: {none: }", "log: {hooks: [{type: mail, disabled: true}]}",
        "notifications: {endpoints: [{url: http://x, disabled: true}], events: {includereferences: true}}",
        "middleware: {storage: [{name: cloudfront, disabled: true}]}", "proxy: {}", "proxy: {remoteurl: ''}",
        "proxy: {ttl: 1h, exec: {command: x, lifetime: 0}}", "  debug: {prometheus: {enabled: true}}",
        "  debug: {addr: }", "  tls: {}",
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
     ("  tls: {minimumtls: tls1.2}", "http.tls", "warning"), ("  tls: {clientcas: []}", "http.tls", "warning"),
     ("  cors: {credentials: true}", "http.cors", "warning"),
     ("  headers: {Access-Control-Allow-Origin: [http://a, http://b]}",
      "http.headers.Access-Control-Allow-Origin", "warning"),
     (HOOK.format("smtp: {addr: '[::1]:25'}, from: root, to: [r <a@b>]")[len(BASE):].replace("error", "Trace"),
      "log.hooks[0].levels[0]", "warning"),
     ("  tls: {certificate: /etc/passwd, key: /etc/passwd, minimumtls: tls1.1}", "http.tls.minimumtls",
      "warning")],
)  # fmt: skip
def test_what_has_no_effect_is_told(tmp_path: Path, text: str, key: str, kind: str) -> None:
    """These start the reference and change nothing, or nothing any more."""
    loaded = load_text(tmp_path, BASE + text)
    assert [(problem.key, problem.kind, problem.origin.line) for problem in loaded.warnings] == [(key, kind, 7)]
    assert loaded.settings.http.host == ""
    assert loaded.settings.http.tls.minimumtls == "tls1.2"


@pytest.mark.parametrize("secret", ["asecretforlocaldevelopment", "changeme", "Change-Me", "CHANGEIT"])
@pytest.mark.parametrize("auth", ["", "auth: {local: {policy: p}}"])
def test_a_sample_secret_is_refused_with_the_remedy(tmp_path: Path, secret: str, auth: str) -> None:
    """Whoever has read the manual could sign the state of uploads, and the tokens of `auth.local`."""
    (error,) = errors_of(tmp_path, BASE + f"  secret: {secret}\n{auth}")
    assert (error.key, error.origin.line) == ("http.secret", 7)
    assert "openssl rand -hex 32" in error.message
    (error,) = errors_of(tmp_path, BASE, {"REGISTRY_HTTP_SECRET": secret})
    assert error.origin.source == "REGISTRY_HTTP_SECRET"
    assert load_text(tmp_path, BASE + f"  secret: {secret}x\n").settings.http.secret == f"{secret}x"


def test_every_secret_of_the_documentation_is_refused(tmp_path: Path) -> None:
    """Samples are copied as they are; a robot's `sha256:` is no such secret."""
    found = set()
    for page in (Path(__file__).parents[2] / "docs").rglob("*.md"):
        for secret in re.findall(r"^\s+(?:secret|REGISTRY_HTTP_SECRET): +(\S+)", page.read_text(), re.MULTILINE):
            if not secret.startswith(("sha256:", "${")):
                found.add(secret)
                assert [error.key for error in errors_of(tmp_path, BASE + f"  secret: {secret}\n")] == [
                    "http.secret"
                ]
    assert len(found) >= 2, "the pattern finds none any more"


HTPASSWD = "auth: {htpasswd: {realm: r, path: p}}\n"


@pytest.mark.parametrize(
    ("addr", "rest", "told"),
    [
        (":5000", HTPASSWD, True), ("0.0.0.0:5000", HTPASSWD, True), ("'[::]:5000'", HTPASSWD, True),
        ("10.0.0.1:5000", HTPASSWD, True), ("registry.example.com:5000", HTPASSWD, True),
        (":5000", "auth: {silly: {realm: r, service: s}}", True),
        (":5000", "auth: none", False), (":5000", "", False),
        ("127.0.0.1:5000", HTPASSWD, False), ("'[::1]:5000'", HTPASSWD, False),
        ("localhost:5000", HTPASSWD, False),
        (":5000", "  tls: {certificate: /etc/passwd, key: /etc/passwd}\n" + HTPASSWD, False),
        (":5000", "  host: https://registry.example.com\n" + HTPASSWD, False),
        (":5000", "  host: http://registry.example.com\n" + HTPASSWD, True),
        ("/run/registry.sock", "  net: unix\n" + HTPASSWD, False),
    ],
)  # fmt: skip
def test_passwords_that_cross_a_network_readable_are_warned_about(
    tmp_path: Path, addr: str, rest: str, told: bool
) -> None:
    """Basic credentials are the password itself; whoever hears them once may push."""
    text = f"version: 0.1\nstorage: inmemory\nhttp:\n  addr: {addr}\n{rest}"
    warnings = load_text(tmp_path, text).warnings
    assert [problem.key.split(".")[0] for problem in warnings] == (["auth"] if told else [])
    for problem in warnings:
        assert (problem.kind, problem.origin.line) == ("warning", text[: text.index("auth:")].count("\n") + 1)
        assert "set http.tls.certificate and http.tls.key, or listen on 127.0.0.1" in problem.message


def test_suites_may_be_listed(tmp_path: Path) -> None:
    """The reference's own defaults, some for one kind of key, and with TLS 1.3 whatever the list says."""
    default = [*OFFERED["RSA"], *OFFERED["ECDSA"], *TLS13]
    for names in (default, OFFERED["RSA"], OFFERED["ECDSA"][1:], ["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"]):
        assert load_text(tmp_path, TLS + f"ciphersuites: [{', '.join(names)}]}}").warnings == ()
    old = "ciphersuites: [TLS_RSA_WITH_AES_128_CBC_SHA], minimumtls: tls1.3}"
    (warning,) = load_text(tmp_path, TLS + old).warnings
    assert (warning.key, warning.message) == (
        "http.tls.ciphersuites",
        "has no effect; the suites of TLS 1.3 are not chosen",
    )


def test_a_chacha_suite_has_two_names_in_go(tmp_path: Path) -> None:
    names = [name.replace("POLY1305_SHA256", "POLY1305") for name in OFFERED["ECDSA"]]
    assert load_text(tmp_path, TLS + f"ciphersuites: [{', '.join(names)}]}}").warnings == ()


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("  h2c: {enabled: true}", ["http.h2c.enabled"]),
        ("  h2c: {enabled: false}", []),
        ("  http2: {disabled: false}", ["http.http2.disabled"]),
        ("  http2: {disabled: true}", []),
        ("  http2: {}", []),
        ("", []),
    ],
)
def test_http2_that_is_asked_for_gets_a_warning(tmp_path: Path, text: str, keys: list[str]) -> None:
    """Clients lose nothing, but a proxy that speaks HTTP/2 to the registry would get no answer."""
    warnings = load_text(tmp_path, BASE + text).warnings
    assert [warning.key for warning in warnings] == keys
    for warning in warnings:
        assert "has no effect; HTTP/1.1 is served" in warning.message


ACME = BASE + "  tls: {letsencrypt: {"

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
    (BASE + "  trustedproxies: [10.0.0.1/8]", "http.trustedproxies[0]", "has bits set that its length leaves out"),
    (BASE + "  trustedproxies: [loopback, proxy.example]", "http.trustedproxies[1]", "expected an address, a net"),
    (BASE + "  trustedproxies: 10.0.0.1", "http.trustedproxies", "expected a list"),
    (BASE + "  cors: {origins: ['*', http://a], credentials: true}", "http.cors.credentials", "cannot go with"),
    (BASE + "  cors: {origins: ['null']}", "http.cors.origins[0]", "every page that hides its own"),
    (BASE + "  cors: {origins: [http://a/]}", "http.cors.origins[0]", "without a path or a slash at its end"),
    (BASE + "  cors: {origins: [ui.example]}", "http.cors.origins[0]", "expected * or an origin such as"),
    (BASE + "  cors: {origins: ['https://*.example']}", "http.cors.origins[0]", "expected * or an origin such as"),
    (BASE + "  cors: {origins: ['https://u:p@ui.example']}", "http.cors.origins[0]", "expected * or an origin"),
    (BASE + "  cors: {origins: ['https://[::1']}", "http.cors.origins[0]", "expected * or an origin such as"),
    (BASE + "  cors: {origins: ['https://ui:x']}", "http.cors.origins[0]", "expected * or an origin such as"),
    (BASE + "  cors: {origins: ['*'], methods: [TRACE]}", "http.cors.methods[0]", "expected one of GET, HEAD"),
    (BASE + "  cors: {origins: ['*'], exposeheaders: ['a b']}", "http.cors.exposeheaders[0]", "name of a header"),
    (BASE + "  cors: {origins: ['*'], maxage: 0s}", "http.cors.maxage", "above 0"),
    (BASE + "  prefix: foo/", "http.prefix", "expected a path such as"),
    (BASE + "  prefix: /a b/", "http.prefix", "expected a path such as"),
    (BASE + "  headers: {'a b': [c]}", "http.headers.a b", "is no name of a header"),
    (BASE + '  headers: {a.b: ["c\\r\\nSet-Cookie: x"]}', "http.headers.a.b", "printable ASCII"),
    (BASE + "  headers: {a: [b, {c: d}]}", "http.headers.a[1]", "expected text, found a mapping"),
    (BASE + "  headers: {a: [null]}", "http.headers.a[0]", "expected a value"),
    (BASE + "  debug: {addr: 5001}", "http.debug.addr", "expected host:port"),
    (BASE + "  debug: {prometheus: {path: metrics}}", "http.debug.prometheus.path", "expected a path of its own"),
    (BASE + "  debug: {prometheus: {path: /debug/health}}", "http.debug.prometheus.path", "a path of its own"),
    (BASE + "  tls: {certificate: /etc/passwd}", "http.tls.key", "come together"),
    (BASE + "  tls: {key: /etc/passwd}", "http.tls.certificate", "come together"),
    (BASE + "  tls: {certificate: /nowhere/c, key: /etc/passwd}", "http.tls.certificate", "No such file"),
    (BASE + "  tls: {minimumtls: ssl3}", "http.tls.minimumtls", "expected tls1.2 or tls1.3"),
    (BASE + "  tls: {clientauth: maybe}", "http.tls.clientauth", "expected require-and-verify-client-cert"),
    (BASE + "  tls: {clientcas: [/etc/passwd]}", "http.tls.clientcas", "without TLS no client is verified"),
    (BASE + "  tls: {clientauth: verify-client-cert-if-given}", "http.tls.clientauth", "needs http.tls.clientcas"),
    (TLS + "clientcas: [/etc/passwd, /nowhere]}", "http.tls.clientcas[1]", "cannot read '/nowhere'"),
    (TLS + "clientcas: [/etc/passwd], clientauth: request-client-cert}", "http.tls.clientauth",
     "without verification"),
    (TLS + "clientcas: [/etc/passwd], clientauth: require-any-client-cert}", "http.tls.clientauth",
     "expected require-and-verify-client-cert or verify-client-cert-if-given"),
    (TLS + "ciphersuites: [TLS_AES_128_GCM_SHA265]}", "http.tls.ciphersuites[0]",
     "did you mean TLS_AES_128_GCM_SHA256"),
    (TLS + "ciphersuites: [x]}", "http.tls.ciphersuites[0]", "unknown cipher suite 'x'"),
    (TLS + f"ciphersuites: [{', '.join(OFFERED['RSA'])}, TLS_RSA_WITH_AES_128_CBC_SHA]}}",
     "http.tls.ciphersuites[3]", "TLS_RSA_WITH_AES_128_CBC_SHA is insecure and not offered; remove it"),
    (TLS + "ciphersuites: [TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256]}", "http.tls.ciphersuites[0]", "is insecure"),
    (TLS + "ciphersuites: [TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA]}", "http.tls.ciphersuites[0]", "is insecure"),
    (TLS + "ciphersuites: [TLS_ECDHE_ECDSA_WITH_RC4_128_SHA]}", "http.tls.ciphersuites[0]", "is insecure"),
    (TLS + "ciphersuites: [TLS_RSA_WITH_AES_256_GCM_SHA384]}", "http.tls.ciphersuites[0]", "is insecure"),
    (TLS + f"ciphersuites: [{OFFERED['RSA'][0]}, {TLS13[0]}, {TLS13[1]}]}}", "http.tls.ciphersuites[2]",
     "TLS_AES_256_GCM_SHA384 is a suite of TLS 1.3, of which all three are always offered and none can be chosen"),
    (TLS + "ciphersuites: [TLS_AES_128_GCM_SHA256]}", "http.tls.ciphersuites", "or set http.tls.minimumtls"),
    (TLS + f"ciphersuites: [{', '.join(TLS13)}]}}", "http.tls.ciphersuites", "names no suite of TLS 1.2"),
    (BASE + "  tls: {certificates: [{certificate: /etc/passwd, key: /etc/passwd}]}", "http.tls.certificates",
     "needs http.tls.certificate and key"),
    (ACME + "cachefile: /x, hosts: [r.test]}, certificates: [{certificate: /etc/passwd, key: /etc/passwd}]}",
     "http.tls.certificates", "cannot be combined with letsencrypt"),
    (TLS + "certificates: [{certificate: /etc/passwd}]}", "http.tls.certificates[0].key", "required and missing"),
    (TLS + "certificates: [{key: /etc/passwd}]}", "http.tls.certificates[0].certificate", "required and missing"),
    (TLS + "certificates: [{certificate: /nowhere, key: /etc/passwd}]}", "http.tls.certificates[0].certificate",
     "cannot read '/nowhere'"),
    (TLS + "certificates: [{certificate: /etc/passwd, key: /nowhere}]}", "http.tls.certificates[0].key",
     "cannot read '/nowhere'"),
    (TLS + "certificates: /etc/passwd}", "http.tls.certificates", "expected a list"),
    (ACME + "cachefile: /etc/passwd, hosts: [r.test]}}", "http.tls.letsencrypt.cachefile", "is a file, as CNCF"),
    (ACME + "cachefile: /x}}", "http.tls.letsencrypt.hosts", "required with cachefile"),
    (ACME + "cachefile: /x, hosts: [r.test, '*.r.test']}}", "http.tls.letsencrypt.hosts[1]", "wildcards"),
    (ACME + "cachefile: /x, hosts: [10.0.0.1]}}", "http.tls.letsencrypt.hosts[0]", "certificates for addresses"),
    (ACME + "cachefile: /x, hosts: ['::1']}}", "http.tls.letsencrypt.hosts[0]", "certificates for addresses"),
    (ACME + "cachefile: /x, hosts: ['r.test:443']}}", "http.tls.letsencrypt.hosts[0]", "without port"),
    (ACME + "cachefile: /x, hosts: ['../r.test']}}", "http.tls.letsencrypt.hosts[0]", "the name of a host"),
    (ACME + "cachefile: /x, hosts: ['']}}", "http.tls.letsencrypt.hosts[0]", "the name of a host"),
    (ACME + "cachefile: /x, hosts: [bücher.test]}}", "http.tls.letsencrypt.hosts[0]", "begins with xn--"),
    (ACME + "cachefile: /x, hosts: [r.test], directoryurl: 'http://x'}}", "http.tls.letsencrypt.directoryurl",
     "expected an https URL"),
    (ACME + "cachefile: /x, hosts: [r.test], http01: '80'}}", "http.tls.letsencrypt.http01", "expected host:port"),
    (ACME + "cachefile: /x, hosts: [r.test]}}\n  net: unix", "http.tls.letsencrypt.http01", "no authority"),
    (ACME + "cachefile: /x, cachedir: /y, hosts: [r.test]}}", "http.tls.letsencrypt.cachedir", "remove one"),
    (BASE + "  tls: {certificate: /etc/passwd, key: /etc/passwd, letsencrypt: {cachefile: /x, hosts: [r.test]}}",
     "http.tls", "either a certificate or letsencrypt"),
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
    (BASE + "auth: {htpasswd: {realm: r}}", "auth.htpasswd.path", "required and missing"),
    (BASE + "auth: {htpasswd: {path: p}}", "auth.htpasswd.realm", "required and missing"),
    (BASE + "auth: {silly: {realm: r}}", "auth.silly.service", "required and missing"),
    (BASE + "auth: {local: {users: u}}", "auth.local.policy", "required and missing"),
    (BASE + "  secret: short\nauth: {local: {policy: p}}", "http.secret", "at least 32 random characters"),
    (BASE + "auth: {local: {policy: p, service: ''}}", "auth.local.service", "expected a name"),
    (BASE + "auth: {local: {policy: p, realm: /token}}", "auth.local.realm", "expected an http or https URL"),
    (BASE + "auth: {local: {policy: p, tokenlifetime: 30s}}", "auth.local.tokenlifetime", "from 1m to 24h"),
    (BASE + "auth: {local: {policy: p, tokenlifetime: 300}}", "auth.local.tokenlifetime", "with its unit"),
    (BASE + "auth: {local: {policy: p, loginlifetime: -1s}}", "auth.local.loginlifetime", "from 0s to"),
    (BASE + "auth: {local: {policy: p, keyrotation: 1s}}", "auth.local.keyrotation", "from 1m to"),
    (BASE + "auth: {local: {policy: p}, silly: {realm: r, service: s}}", "auth", "more than one way"),
    (BASE + "guessing: {failures: -1}", "guessing.failures", "from 0 to"),
    (BASE + "guessing: {window: 60}", "guessing.window", "with its unit"),
    (BASE + "guessing: {longestwait: 0s}", "guessing.longestwait", "above 0"),
    (BASE + "log: {formatter: xml}", "log.formatter", "expected text, json or logstash"),
    (BASE + "log: {fields: [a]}", "log.fields", "expected a mapping"),
    (BASE + "log: {hooks: [{levels: [panic]}]}", "log.hooks[0].type", "expected mail"),
    (BASE + "log: {hooks: [{disabled: true}, {type: slack}]}", "log.hooks[1].type", "found 'slack'"),
    (BASE + "log: {hooks: [{type: mail}]}", "log.hooks[0].levels", "required"),
    (BASE + "log: {hooks: [{type: mail, levels: [panic, critical]}]}", "log.hooks[0].levels[1]", "one of panic"),
    (BASE + "log: {hooks: [{type: mail}]}", "log.hooks[0].options.smtp.addr", "required"),
    (HOOK.format("smtp: {addr: mail.example}"), "log.hooks[0].options.smtp.addr", "expected host:port"),
    (HOOK.format("smtp: {addr: '::1:25'}"), "log.hooks[0].options.smtp.addr", "in brackets"),
    (HOOK.format("smtp: {addr: ':25'}"), "log.hooks[0].options.smtp.addr", "expected host and port"),
    (HOOK.format("smtp: {addr: 'h:25', password: x}"), "log.hooks[0].options.smtp.username", "no use without it"),
    (HOOK.format("to: [a@b]"), "log.hooks[0].options.from", "sender's address"),
    (HOOK.format("from: nobody at all"), "log.hooks[0].options.from", "expected an address"),
    (HOOK.format("from: a@b"), "log.hooks[0].options.to", "receivers' addresses"),
    (HOOK.format('from: a@b, to: [c@d, "e@f\\r\\nBcc: g@h"]'), "log.hooks[0].options.to[1]", "an address"),
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


def test_headers_for_browsers_give_way_to_the_setting(tmp_path: Path) -> None:
    """Both at once would be two answers to one question; the older one, from a guide, is named."""
    text = "  cors: {origins: ['*']}\n  headers:\n    X-A: [b]\n    access-control-max-age: ['5']"
    (warning,) = load_text(tmp_path, BASE + text).warnings
    assert (warning.key, warning.origin.line) == ("http.headers.access-control-max-age", 10)


def test_proxies_and_origins_are_read_in_every_spelling(tmp_path: Path) -> None:
    """An origin is compared letter by letter with what the browser sends."""
    text = (
        "  trustedproxies: [10.0.0.1, 10.0.0.0/8, '2001:DB8::/32', unix, private]\n"
        "  cors: {origins: ['https://UI.example:443', 'http://ui.test:8080', 'http://[::1]:80'], methods: [get]}"
    )
    http = load_text(tmp_path, BASE + text).settings.http
    assert http.trustedproxies == ("10.0.0.1/32", "10.0.0.0/8", "2001:db8::/32", "unix", "private")
    assert http.cors.origins == ("https://ui.example", "http://ui.test:8080", "http://[::1]")
    assert http.cors.methods == ("GET",)


def test_trusting_nobody_is_not_trusting_everybody(tmp_path: Path) -> None:
    assert load_text(tmp_path, BASE).settings.http.trustedproxies is None
    assert load_text(tmp_path, BASE + "  trustedproxies: []").settings.http.trustedproxies == ()
    assert load_text(tmp_path, BASE, {"REGISTRY_HTTP_TRUSTEDPROXIES": "[unix]"}).settings.http.trustedproxies == (
        "unix",
    )


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


@pytest.mark.parametrize(("text", "key", "said"), WRONG_GCS)
def test_what_gcs_cannot_honour_is_refused_by_name(tmp_path: Path, text: str, key: str, said: str) -> None:
    """A wrong key would be found out with the first push."""
    (error,) = errors_of(tmp_path, GCS + text)
    assert error.key == f"storage.gcs.{key}"
    assert said in error.message


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
    """As in the reference; whoever gives both is told."""
    (tmp_path / "key.json").write_text("{}")
    text = f"{GCS} keyfile: {tmp_path / 'key.json'}, credentials: {{type: service_account}}}}}}"
    (warning,) = load_text(tmp_path, text).warnings
    assert (warning.key, warning.message) == ("storage.gcs.credentials", "has no effect beside keyfile")


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


@pytest.mark.parametrize("host", ["r.test", "registry", "xn--bcher-kva.test", "A-1.b_c.test", "1.test"])
def test_names_of_hosts_are_taken(tmp_path: Path, host: str) -> None:
    """A private authority certifies names that are known in one house only."""
    text = ACME + f"cachedir: /x, hosts: [{host}], http01: ':80'}}}}\n  net: unix"
    acme = load_text(tmp_path, text).settings.http.tls.letsencrypt
    assert (acme.cachefile, acme.cachedir, acme.names) == ("/x", "", (host.lower(),))


def test_the_directory_of_certificates_has_two_names(tmp_path: Path) -> None:
    """The reference calls a directory a file; both names work together, and as variables."""
    for text in ("cachedir: /x", "cachefile: /x", "cachefile: /x, cachedir: /x", "cachefile: '', cachedir: /x"):
        loaded = load_text(tmp_path, ACME + f"{text}, hosts: [r.test]}}}}")
        assert (loaded.settings.http.tls.letsencrypt.cachefile, loaded.warnings) == ("/x", ())
    environ = {
        "REGISTRY_HTTP_TLS_LETSENCRYPT_CACHEDIR": "/x",
        "REGISTRY_HTTP_TLS_LETSENCRYPT_HOSTS": "[r.test]",
        "REGISTRY_HTTP_TLS_LETSENCRYPT_HTTP01": ":80",
    }
    acme = load_text(tmp_path, BASE, environ).settings.http.tls.letsencrypt
    assert (acme.cachefile, acme.hosts, acme.http01) == ("/x", ("r.test",), ":80")


TOKEN = BASE + "auth: {token: {realm: r, service: s, issuer: i, "
PATHS = [
    PLAIN + "storage: {filesystem: {rootdirectory: PATH}}", "storage.filesystem.rootdirectory",
    PLAIN + "storage: {s3: {bucket: b, region: r, cabundle: PATH}}", "storage.s3.cabundle",
    PLAIN + "storage: {s3: {bucket: b, region: r, rootdirectory: PATH}}", "storage.s3.rootdirectory",
    PLAIN + "storage: {gcs: {bucket: b, keyfile: PATH}}", "storage.gcs.keyfile",
    BASE + "  tls: {certificate: PATH, key: /etc/passwd}", "http.tls.certificate",
    BASE + "  tls: {certificate: /etc/passwd, key: PATH}", "http.tls.key",
    BASE + "  tls: {certificate: /etc/passwd, key: /etc/passwd, clientcas: [PATH]}", "http.tls.clientcas[0]",
    BASE + "  tls: {letsencrypt: {cachefile: PATH, hosts: [r.example]}}", "http.tls.letsencrypt.cachefile",
    BASE + "auth: {htpasswd: {realm: r, path: PATH}}", "auth.htpasswd.path",
    TOKEN + "jwks: /j, rootcertbundle: PATH}}", "auth.token.rootcertbundle",
    TOKEN + "rootcertbundle: /r, jwks: PATH}}", "auth.token.jwks",
    BASE + "health: {file: [{file: PATH}]}", "health.file[0].file",
    BASE.replace("127.0.0.1:5000", "PATH") + "  net: unix", "http.addr",
]  # fmt: skip


@pytest.mark.parametrize(("text", "key"), list(zip(PATHS[::2], PATHS[1::2], strict=True)))
@pytest.mark.parametrize(("path", "told"), [(r'"/tmp/\0x"', "no NUL"), (r'"/tmp/\ud800x"', "no lone surrogate")])
def test_a_text_that_can_be_no_path_is_refused(tmp_path: Path, text: str, key: str, path: str, told: str) -> None:
    """The system call behind it raises ValueError, which would be a traceback at the start."""
    (error,) = errors_of(tmp_path, text.replace("PATH", path))
    assert error.key == key
    assert told in error.message
    assert str(error).isprintable()


def test_bytes_that_are_no_text_may_be_a_path(tmp_path: Path) -> None:
    """Linux takes them; in Python they are lone surrogates of one range."""
    loaded = load_text(tmp_path, BASE.replace("/srv/registry", r'"/srv/caf\udce9"'))
    assert loaded.settings.storage.filesystem is not None
    assert loaded.settings.storage.filesystem.rootdirectory == "/srv/caf\udce9"
