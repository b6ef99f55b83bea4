"""Checks between settings: keys that need or exclude each other, and files that they name.

Each check takes the settings and yields problems; `origin` returns the origin of a key.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from typing import TYPE_CHECKING, Final

from moorage.config.addresses import host_and_port, is_web_address
from moorage.config.checks.azure import check_azure
from moorage.config.checks.exposure import beyond_loopback
from moorage.config.checks.garbage_collection import check_garbage_collection
from moorage.config.checks.log_hooks import check_hooks
from moorage.config.checks.middleware import check_middleware
from moorage.config.checks.proxy import check_proxy
from moorage.config.checks.quota import check_quota
from moorage.config.checks.redis import check_redis
from moorage.config.checks.retention import check_retention
from moorage.config.checks.s3_gcs import check_gcs, check_s3
from moorage.config.checks.sync import check_sync
from moorage.config.checks.tls import check_tls
from moorage.config.problems import Problem
from moorage.config.scalars import path_problem
from moorage.config.schema import keys_of
from moorage.config.sections.base import Section
from moorage.config.sections.clients import EVERY_ORIGIN
from moorage.config.sections.services import PROVIDERS
from moorage.config.sections.storage import DRIVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from moorage.config.model import Settings
    from moorage.config.problems import Origin

__all__ = ["check"]

_OFFERED: Final = ("filesystem", "inmemory", "s3", "gcs", "azure")
_SECRET_LEAST_CHARS: Final = 32
_SAMPLE_SECRETS: Final = frozenset(
    {
        "asecretforlocaldevelopment",  # CNCF Distribution's documentation and development files
        "a-long-random-text-the-same-on-every-node",  # docs/deploying/index.md
        "5ebe2294ecd0e0f08eab7690d2a6ee69...",  # docs/auth/local.md
        "...",  # docs/installing.md
        "change-me", "change_me", "changeit", "changeme", "replace-me", "replace_me", "replaceme",
    }
)  # fmt: skip
"""Placeholders of documentations, published and therefore no secrets."""


def check(settings: Settings, origin: Callable[[str], Origin], environ: Mapping[str, str]) -> list[Problem]:
    """Return the problems between settings; `environ` shows an inherited socket (systemd)."""
    found = [
        *_version(settings),
        *check_hooks(settings.log),
        *_storage(settings),
        *check_garbage_collection(settings),
        *_auth(settings),
        *_required(settings, ()),
        *_secret(settings),
        *_address(settings, inherited=environ.get("LISTEN_FDS", "0") not in {"", "0"}),
        *_http(settings),
        *_debug(settings),
        *_cors(settings),
        *check_tls(settings),
        *_health(settings),
        *_patterns(settings),
        *check_middleware(settings),
        *check_redis(settings),
        *check_proxy(settings),
        *check_quota(settings.quota),
        *check_retention(settings),
        *check_sync(settings),
        *_without_effect(settings),
    ]
    return [dataclasses.replace(problem, origin=origin(problem.key)) for problem in found]


def _version(settings: Settings) -> Iterator[Problem]:
    if settings.version != "0.1":
        yield Problem("expected 0.1, the only version of the format", "version")


def _storage(settings: Settings) -> Iterator[Problem]:
    storage = settings.storage
    chosen = [name for name in (*DRIVERS, "s3aws") if getattr(storage, name) is not None]
    if not chosen:
        yield Problem(f"names no driver; expected {' or '.join(_OFFERED)} below it", "storage")
    if len(chosen) > 1:
        yield Problem(f"names more than one driver: {', '.join(chosen)}; expected one", "storage")
    if storage.filesystem is not None and not storage.filesystem.rootdirectory:
        yield Problem("expected a directory, found nothing", "storage.filesystem.rootdirectory")
    if storage.inmemory is not None and (settings.http.workers or 1) > 1:
        yield Problem("storage.inmemory is limited to one process; expected 1 or no value", "http.workers")
    if storage.s3 is not None:
        yield from check_s3(storage.s3)
    if storage.gcs is not None:
        yield from check_gcs(storage.gcs)
    if storage.azure is not None:
        yield from check_azure(storage.azure)


def _auth(settings: Settings) -> Iterator[Problem]:
    auth = settings.auth
    chosen = [name for name in PROVIDERS if getattr(auth, name) is not None]
    if len(chosen) > 1:
        yield Problem(f"names more than one way of authentication: {', '.join(chosen)}; expected one", "auth")
    if auth.token is not None and not (auth.token.rootcertbundle or auth.token.jwks):
        yield Problem("expected rootcertbundle or jwks, the keys that sign tokens", "auth.token")
    known = settings.http.secret.lower() in _SAMPLE_SECRETS
    if auth.local is not None and 0 < len(settings.http.secret) < _SECRET_LEAST_CHARS and not known:
        yield Problem(
            f"expected at least {_SECRET_LEAST_CHARS} random characters, such as openssl rand -hex 32 makes: "
            "auth.local derives its keys from it, and short ones can be found by trial with any token",
            "http.secret",
        )
    if auth.local is not None and not auth.local.service:
        yield Problem("expected a name, found nothing", "auth.local.service")
    if auth.local is not None and auth.local.realm and not is_web_address(auth.local.realm):
        yield Problem(f"expected an http or https URL, found {auth.local.realm!r}", "auth.local.realm")
    if auth.provider != "none" and _in_the_clear(settings):
        yield Problem(
            "passwords and tokens are sent in clear text: http.addr is beyond loopback and there is no TLS; "
            "set http.tls.certificate and http.tls.key, or listen on 127.0.0.1 behind a proxy with TLS; "
            "if such a proxy runs on another host, set http.host to the https:// address that clients use",
            f"auth.{auth.provider}",
            kind="warning",
        )


def _in_the_clear(settings: Settings) -> bool:
    """Return whether clients may connect over a network without TLS; False for an inherited socket."""
    http = settings.http
    if http.tls.enabled:
        return False
    if http.host.startswith("https://") or http.trustedproxies:
        return False
    return beyond_loopback(http)


def _required(section: Section, path: tuple[str, ...]) -> Iterator[Problem]:
    """Yield the required keys that are empty in a present section, on every level."""
    for key in keys_of(type(section)).values():
        value = getattr(section, key.field)
        here = (*path, key.name)
        if key.required and not value:
            yield Problem("required and missing", ".".join(here))
        if isinstance(value, Section):
            yield from _required(value, here)
        if isinstance(value, tuple):
            for index, entry in enumerate(value):
                if isinstance(entry, Section):
                    yield from _required(entry, (*path, f"{key.name}[{index}]"))


def _secret(settings: Settings) -> Iterator[Problem]:
    if settings.http.secret.lower() in _SAMPLE_SECRETS:
        message = (
            "is a published sample secret; replace it by a random one, the same on every node: "
            "openssl rand -hex 32"
        )
        yield Problem(message, "http.secret")


def _address(settings: Settings, *, inherited: bool) -> Iterator[Problem]:
    http = settings.http
    if not http.addr:
        if not inherited:
            example = "a path such as /run/moorage.sock" if http.net == "unix" else "127.0.0.1:5000 or :5000"
            yield Problem(f"required; expected {example}", "http.addr")
        return
    if http.net == "unix":
        if problem := path_problem(http.addr):
            yield Problem(f"{problem}, found {http.addr!r}", "http.addr")
        return
    try:
        host_and_port(http.addr)
    except ValueError as error:
        yield Problem(f"{error}, found {http.addr!r}", "http.addr")


def _http(settings: Settings) -> Iterator[Problem]:
    http = settings.http
    if http.prefix and not re.fullmatch(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@%-]+/?)*", http.prefix, re.ASCII):
        yield Problem(f"expected a path such as /registry/, found {http.prefix!r}", "http.prefix")
    for name, values in http.headers.items():
        # The grammar of h11 and hyper; a newline would allow response splitting.
        if re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name, re.ASCII) is None:
            yield Problem("expected the name of a header", f"http.headers.{name}")
        elif any(not value.isascii() or not (value.isprintable() or "\t" in value) for value in values):
            yield Problem("expected printable ASCII text", f"http.headers.{name}")


def _debug(settings: Settings) -> Iterator[Problem]:
    debug = settings.http.debug
    if debug.addr:
        try:
            host_and_port(debug.addr)
        except ValueError as error:
            yield Problem(f"{error}, found {debug.addr!r}", "http.debug.addr")
    path = debug.prometheus.path
    if path and (not path.startswith("/") or path in {"/debug/health", "/livez", "/readyz"}):
        yield Problem(f"expected a path of its own such as /metrics, found {path!r}", "http.debug.prometheus.path")


def _cors(settings: Settings) -> Iterator[Problem]:
    cors = settings.http.cors
    configured = []
    for name, values in settings.http.headers.items():
        if name.lower().startswith("access-control-"):
            configured.append(name)
        if name.lower() == "access-control-allow-origin" and len(values) > 1:
            message = "browsers accept one origin only; list several in http.cors.origins"
            yield Problem(message, f"http.headers.{name}", kind="warning")
    if not cors.origins:
        if cors != type(cors)():
            yield Problem("has no effect without origins", "http.cors", kind="warning")
        return
    if EVERY_ORIGIN in cors.origins and cors.credentials:
        message = (
            "cannot be combined with the origin *: every page on the internet could use the password that a "
            "browser stores for this registry; list the allowed origins"
        )
        yield Problem(message, "http.cors.credentials")
    for name in configured:
        yield Problem("has no effect; http.cors replaces it", f"http.headers.{name}", kind="warning")


def _health(settings: Settings) -> Iterator[Problem]:
    health = settings.health
    for kind, names in (
        ("file", [entry.file for entry in health.file]),
        ("http", [entry.uri for entry in health.http]),
        ("tcp", [entry.addr for entry in health.tcp]),
    ):
        for index, name in enumerate(names):
            if name and name in names[:index]:
                yield Problem(f"checks {name!r} a second time; remove one", f"health.{kind}[{index}]")
    for index, entry in enumerate(health.http):
        if entry.uri and not is_web_address(entry.uri):
            yield Problem(f"expected an http or https URL, found {entry.uri!r}", f"health.http[{index}].uri")
    for index, target in enumerate(health.tcp):
        try:
            if target.addr:
                host_and_port(target.addr)
        except ValueError as error:
            yield Problem(f"{error}, found {target.addr!r}", f"health.tcp[{index}].addr")


def _patterns(settings: Settings) -> Iterator[Problem]:
    urls = settings.validation.manifests.urls
    for kind, patterns in (("allow", urls.allow), ("deny", urls.deny)):
        for index, pattern in enumerate(patterns):
            try:
                with warnings.catch_warnings():
                    # [[:alpha:]] is a class in Go but not in Python, which only warns.
                    warnings.simplefilter("error")
                    re.compile(pattern)
            except (re.error, Warning, OverflowError, RecursionError) as error:
                key = f"validation.manifests.urls.{kind}[{index}]"
                yield Problem(f"is not a supported regular expression: {error}", key)


def _without_effect(settings: Settings) -> Iterator[Problem]:
    if settings.reporting is not None:
        yield Problem("has no effect; errors are not reported to services", "reporting", kind="warning")
    if settings.compatibility is not None:
        message = "has no effect; image manifests of schema 1 are refused"
        yield Problem(message, "compatibility", kind="warning")
