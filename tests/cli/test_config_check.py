"""`config check` reports everything that `serve` refuses at start, in the same words."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest
from structlog.testing import capture_logs
from tests.server import certs

from moorage import server
from moorage.config.load import load
from moorage.logs import log_setup
from moorage.server import preflight
from moorage.wiring import app, serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

TCP: Final = "http: {addr: '127.0.0.1:0', secret: 0123456789abcdef0123456789abcdef"
BCRYPT: Final = "$2y$05$abcdefghijklmnopqrstuuXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"


@dataclass
class Case:
    """A configuration that is refused by `check`; `{home}` is replaced by a directory that holds `files`."""

    check: str
    text: str
    message: str
    files: dict[str, bytes] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)


def http(more: str = "") -> str:
    return f"{TCP}{more}}}\nstorage: inmemory\n"


def unix(path: str) -> str:
    return f"http: {{addr: '{path}', net: unix}}\nstorage: inmemory\n"


def auth(text: str) -> str:
    return http() + f"auth: {{{text}}}\n"


PAIR: Final = ", tls: {certificate: '{home}/a.crt', key: '{home}/a.key'}"
CLIENTS: Final = ", tls: {certificate: '{home}/a.crt', key: '{home}/a.key', clientcas: ['{home}/ca']}"
ACME: Final = ", tls: {letsencrypt: {cachefile: '{home}/%s', hosts: [r.example.com]}}"
TOKEN: Final = "token: {realm: 'https://a', service: s, issuer: i, %s}"
CLOUDFRONT: Final = (
    TCP + "}\nstorage: {s3: {bucket: b, region: r}}\nmiddleware: {storage: [{name: cloudfront, options: "
    "{baseurl: 'https://c', keypairid: K, privatekey: '{home}/key'}}]}\n"
)
REDIS: Final = (
    TCP + "}\nstorage: {inmemory: {}, cache: {blobdescriptor: redis}}\nredis: {addrs: ['h:1'], tls: {rootcas: "
    "['{home}/ca']}}\n"
)
LOCAL: Final = "local: {policy: '{home}/policy', users: '{home}/users'}"
MIRROR: Final = TCP + (
    "}\nstorage: {filesystem: {rootdirectory: '{home}'}}\nproxy: {remoteurl: 'https://b.test', ttl: 0s%s}\n"
)
SYNC: Final = TCP + (
    "}\nstorage: {filesystem: {rootdirectory: '{home}'}}\nsync: {enabled: true, jobs: [{name: a, "
    "source: {registry: b.test%s}, repositories: [{match: c}]}]}\n"
)


CASES: Final = {
    "a certificate that is none": Case(
        "_certificates", http(PAIR), "http.tls.certificate: {home}/a.crt holds no PEM block",
        {"a.crt": b"x", "a.key": b"x"},
    ),
    "a key of another certificate": Case("_certificates", http(PAIR), "does not belong to", {"a.crt": b"?"}),
    "client authorities that are none": Case(
        "_certificates", http(CLIENTS),
        "http.tls.clientcas[0]: {home}/ca holds no PEM block", {"a.crt": b"?", "ca": b"x"},
    ),
    "an unknown exporter of traces": Case(
        "_traces", http(), "OTEL_TRACES_EXPORTER: expected otlp, console or none",
        environ={"OTEL_TRACES_EXPORTER": "jaeger"},
    ),
    "traces without their library": Case(
        "_traces", http(), "moorage[tracing], which is not installed (no opentelemetry); install it with: ",
        missing=("opentelemetry",), environ={"OTEL_TRACES_EXPORTER": "otlp"},
    ),
    "a directory of a socket that is missing": Case(
        "_socket", unix("{home}/none/s"), "http.addr: cannot listen on {home}/none/s: there is no directory",
    ),
    "a file in the place of that directory": Case(
        "_socket", unix("{home}/file/s"), "{home}/file is not a directory", {"file": b""},
    ),
    "a file in the place of a socket": Case(
        "_socket", unix("{home}/file"), "{home}/file: there is a file that is no socket", {"file": b""},
    ),
    "a socket with a long name": Case("_socket", unix("/tmp/" + "x" * 103), "longer than the 107 bytes"),
    "an authority without its library": Case(
        "_authority", http(ACME % "le"), "extra moorage[letsencrypt], which is not installed (no acme)",
        missing=("acme",),
    ),
    "a directory of certificates below a file": Case(
        "_authority", http(ACME % "file/le"),
        "http.tls.letsencrypt.cachefile: cannot use {home}/file/le: {home}/file is not a directory", {"file": b""},
    ),
    "a data directory that is a file": Case(
        "_data_directory", TCP + "}\nstorage: {filesystem: {rootdirectory: '{home}/file'}}\n",
        "storage.filesystem.rootdirectory cannot be used: {home}/file: Not a directory", {"file": b""},
    ),
    "a data directory below a file": Case(
        "_data_directory", TCP + "}\nstorage: {filesystem: {rootdirectory: '{home}/file/data'}}\n",
        "Not a directory", {"file": b""},
    ),
    "S3 without its library": Case(
        "_check_driver", TCP + "}\nstorage: {s3: {bucket: b, region: r}}\n",
        "storage.s3 needs the extra moorage[s3], which is not installed", missing=("obstore.store",),
    ),
    "Google without its library": Case(
        "_check_driver", TCP + "}\nstorage: {gcs: {bucket: b}}\n", "moorage[gcs]", missing=("gcloud.aio.auth",),
    ),
    "credentials of Google that are none": Case(
        "_check_driver", TCP + "}\nstorage: {gcs: {bucket: b, keyfile: '{home}/key'}}\n",
        "'{home}/key' is not a JSON file", {"key": b"x"},
    ),
    "Azure without its library": Case(
        "_check_driver", TCP + "}\nstorage: {azure: {accountname: abc, accountkey: aGk=, container: abc}}\n",
        "moorage[azure]", missing=("azure.storage.blob.aio",),
    ),
    "Redis without its library": Case("_check_cache", REDIS, "moorage[redis]", {"ca": b"x"}, ("redis.asyncio",)),
    "authorities of Redis that are none": Case(
        "_check_cache", REDIS, "redis.tls.rootcas: no certificate in PEM", {"ca": b"x"},
    ),
    "a mirror without its library": Case(
        "_check_mirror", MIRROR % "", "proxy needs the extra moorage[mirror], which is not installed",
        missing=("aiohttp",),
    ),
    "authorities of an upstream registry that are none": Case(
        "_check_mirror", MIRROR % ", cafile: '{home}/ca'",
        "proxy.cafile: {home}/ca is not a readable file of certificates: ", {"ca": b"x"},
    ),
    "a credential helper that is missing": Case(
        "_check_mirror", MIRROR % ", exec: {command: docker-credential-none}",
        "proxy.exec.command: docker-credential-none is no program that can be run",
    ),
    "sync without its library": Case(
        "_check_sync", SYNC % "", "sync.enabled needs the extra moorage[mirror], which is not installed",
        missing=("aiohttp",),
    ),
    "authorities of a source that are none": Case(
        "_check_sync", SYNC % ", ca: '{home}/ca'",
        "sync.jobs[0].source.ca: {home}/ca is not a readable file of certificates: ", {"ca": b"x"},
    ),
    "a key of CloudFront that is none": Case(
        "_check_redirects", CLOUDFRONT, "middleware.storage[0].options.privatekey: ", {"key": b"x"},
    ),
    "a password file without colons": Case(
        "check_authority", auth("htpasswd: {realm: r, path: '{home}/users'}"),
        "cannot use the password file {home}/users: line 2 has no colon", {"users": b"# me\nalice\n"},
    ),
    "a password file in UTF-16": Case(
        "check_authority", auth("htpasswd: {realm: r, path: '{home}/users'}"), "it is UTF-16",
        {"users": f"\ufeffalice:{BCRYPT}".encode("utf-16-le")},
    ),
    "a password file that cannot be made": Case(
        "check_authority", auth("htpasswd: {realm: r, path: '{home}/file/users'}"),
        "cannot make the password file {home}/file/users: {home}/file is not a directory", {"file": b""},
    ),
    "keys of a token server that are none": Case(
        "check_authority", auth(TOKEN % "rootcertbundle: '{home}/ca'"), "auth.token.rootcertbundle ",
        {"ca": b"x"},
    ),
    "a key set that is none": Case(
        "check_authority", auth(TOKEN % "jwks: '{home}/jwks'"), "auth.token.jwks {home}/jwks: it is no JSON",
        {"jwks": b"x"},
    ),
    "a policy with mistakes": Case(
        "check_authority", auth(LOCAL), "{home}/policy:1: acess: unknown key",
        {"policy": b"acess: []\n", "users": b""},
    ),
    "users of a policy that are missing": Case(
        "check_authority", auth(LOCAL), "{home}/users: cannot be used: No such file", {"policy": b"access: []\n"},
    ),
    "users of a policy without colons": Case(
        "check_authority", auth(LOCAL), "{home}/users: cannot be used: line 1 has no colon",
        {"policy": b"access: []\n", "users": b"alice"},
    ),
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def written(case: Case, home: Path) -> Path:
    """The configuration and the files of a case; "?" is the part of a good pair of certificate and key."""
    home.mkdir()
    holder = certs.self_signed()
    for name, data in case.files.items():
        (home / name).write_bytes(holder.pem if data == b"?" else data)
    if case.files.get("a.crt") == b"?":
        other = certs.self_signed() if "belong" in case.message else holder
        (home / "a.key").write_bytes(other.key_pem())
    file = home / "config.yml"
    file.write_text("version: 0.1\n" + case.text.replace("{home}", str(home)))
    return file


def without(monkeypatch: pytest.MonkeyPatch, modules: tuple[str, ...]) -> None:
    """As if the libraries were not installed."""
    find = importlib.util.find_spec
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)

    def found(name: str, package: str | None = None) -> object:
        return None if name in modules else find(name, package)

    monkeypatch.setattr("moorage.extras.find_spec", found)


@pytest.mark.parametrize("name", CASES)
def test_what_serve_refuses_is_reported_by_check(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A pipeline that has checked a configuration must not fail at the start."""
    case = CASES[name]
    file = written(case, home)
    for variable, value in case.environ.items():
        monkeypatch.setenv(variable, value)
    without(monkeypatch, case.missing)
    monkeypatch.setattr(log_setup, "configure", lambda *_, **__: None)
    monkeypatch.setattr(server, "Master", lambda *_: pytest.fail("it was started"))
    with capture_logs() as logged:
        assert serving.run(load(file, {})) == 1
    refused = [str(line["event"]) for line in logged if line["log_level"] == "critical"]
    assert refused
    assert case.message.replace("{home}", str(home)) in refused[0]
    result = run("config", "check", file, **case.environ)
    assert result.returncode == 1
    for line in refused:
        assert f"error: {line}\n" in result.stderr


def test_every_start_check_has_a_case() -> None:
    """A check without one could refuse nothing, or be left out of one of the two."""
    checks = {check.__name__ for check in preflight._CHECKS} | {"_socket", "_data_directory"}
    source = inspect.getsource(app.check)
    checks |= set(re.findall(r"_?check_\w+", source))
    assert checks == {case.check for case in CASES.values()}


def test_serve_has_no_other_refusals() -> None:
    """Besides the shared list only what takes an address or writes, which a check must not do."""
    source = inspect.getsource(server._serve)
    refusing = source[source.index("try:") : source.index("except StartupError")]
    called = set(re.findall(r"\b([a-z_.]+)\(", refusing)) - {"pace"}
    assert called == {
        "draw", "telemetry.observe", "inherited", "_bound", "prepare_acme", "_prepare",
        "check_at_start",  # logs a directory that cannot be written to; an unreadable one is in the list
    }  # fmt: skip


def test_all_errors_are_reported_at_once(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One start, one look at the log."""
    case = Case("", unix("{home}/none/s") + "auth: {htpasswd: {realm: r, path: '{home}/users'}}\n", "",
                {"users": b"alice"})  # fmt: skip
    file = written(case, home)
    monkeypatch.setattr(log_setup, "configure", lambda *_, **__: None)
    with capture_logs() as logged:
        assert serving.run(load(file, {})) == 1
    assert [line["log_level"] for line in logged] == ["critical", "critical"]
    assert run("config", "check", file).stderr.endswith("2 errors\n")


def test_a_directory_in_the_place_of_the_password_file_is_an_error_for_check(run: Run, home: Path) -> None:
    """Debian's package ships it; `serve` starts with it as CNCF Distribution does, and refuses every login."""
    file = written(Case("", auth("htpasswd: {realm: r, path: '{home}'}"), ""), home)
    result = run("config", "check", file)
    assert result.returncode == 1
    assert f"error: auth.htpasswd.path: {home} is a directory, so no user can log in" in result.stderr


def test_a_missing_password_file_is_reported_and_not_created(run: Run, home: Path) -> None:
    file = written(Case("", auth("htpasswd: {realm: r, path: '{home}/new'}"), ""), home)
    result = run("config", "check", file)
    assert result.returncode == 0
    assert "does not exist; at start it is made with a user docker" in result.stderr
    assert not (home / "new").exists()


def test_an_open_registry_is_reported(run: Run, home: Path) -> None:
    """A warning: in a closed network it may be meant."""
    file = written(Case("", http().replace("127.0.0.1:0", ":5000"), ""), home)
    result = run("config", "check", file)
    assert result.returncode == 0
    assert result.stderr.startswith(
        "warning: no authentication: every client that reaches :5000 may pull and overwrite"
    )
