"""Refusals and warnings of the section `http`: addresses, secret, TLS, ACME, headers, proxies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.config.helpers import BASE, errors_of, load_text

from moorage.config.cipher_suites import OFFERED, TLS13

TLS = BASE + "  tls: {certificate: /etc/passwd, key: /etc/passwd, "

ACME = BASE + "  tls: {letsencrypt: {"


@pytest.mark.parametrize("secret", ["asecretforlocaldevelopment", "changeme", "Change-Me", "CHANGEIT"])
@pytest.mark.parametrize("auth", ["", "auth: {local: {policy: p}}"])
def test_a_sample_secret_is_refused_with_the_remedy(tmp_path: Path, secret: str, auth: str) -> None:
    """Every reader of the manual could sign the state of uploads, and the tokens of `auth.local`."""
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
    ("addr", "rest", "warned"),
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
def test_passwords_in_clear_text_are_warned_about(tmp_path: Path, addr: str, rest: str, warned: bool) -> None:
    """Basic credentials are the password itself; an eavesdropper may push."""
    text = f"version: 0.1\nstorage: inmemory\nhttp:\n  addr: {addr}\n{rest}"
    warnings = load_text(tmp_path, text).warnings
    assert [problem.key.split(".")[0] for problem in warnings] == (["auth"] if warned else [])
    for problem in warnings:
        assert (problem.kind, problem.origin.line) == ("warning", text[: text.index("auth:")].count("\n") + 1)
        assert "set http.tls.certificate and http.tls.key, or listen on 127.0.0.1" in problem.message


def test_suites_may_be_listed(tmp_path: Path) -> None:
    """The defaults of CNCF Distribution, suites for one kind of key, and any list with TLS 1.3."""
    default = [*OFFERED["RSA"], *OFFERED["ECDSA"], *TLS13]
    for names in (default, OFFERED["RSA"], OFFERED["ECDSA"][1:], ["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"]):
        assert load_text(tmp_path, TLS + f"ciphersuites: [{', '.join(names)}]}}").warnings == ()
    old = "ciphersuites: [TLS_RSA_WITH_AES_128_CBC_SHA], minimumtls: tls1.3}"
    (warning,) = load_text(tmp_path, TLS + old).warnings
    assert (warning.key, warning.message) == (
        "http.tls.ciphersuites",
        "has no effect; the suites of TLS 1.3 cannot be selected",
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


WRONG = [
    ("version: 0.1\nstorage: inmemory\nhttp: {addr: ':1', workers: 2}", "http.workers", "limited to one process"),
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
    (BASE + "  cors: {origins: ['*', http://a], credentials: true}", "http.cors.credentials", "be combined with"),
    (BASE + "  cors: {origins: ['null']}", "http.cors.origins[0]", "every page that hides its origin"),
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
    (BASE + "  headers: {'a b': [c]}", "http.headers.a b", "expected the name of a header"),
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
     "TLS_AES_256_GCM_SHA384 is a suite of TLS 1.3; all three of them are always offered"),
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
    (BASE + "  secret: short\nauth: {local: {policy: p}}", "http.secret", "at least 32 random characters"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "fragment"), WRONG)
def test_a_wrong_setting_is_refused_with_its_key(tmp_path: Path, text: str, key: str, fragment: str) -> None:
    """The message is all that the operator has: key, file, and what was expected."""
    errors = {error.key: error for error in errors_of(tmp_path, text)}
    assert key in errors
    assert any(part in errors[key].message for part in fragment.split("|"))
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


def test_an_empty_list_of_proxies_is_not_the_default(tmp_path: Path) -> None:
    assert load_text(tmp_path, BASE).settings.http.trustedproxies is None
    assert load_text(tmp_path, BASE + "  trustedproxies: []").settings.http.trustedproxies == ()
    assert load_text(tmp_path, BASE, {"REGISTRY_HTTP_TRUSTEDPROXIES": "[unix]"}).settings.http.trustedproxies == (
        "unix",
    )


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
