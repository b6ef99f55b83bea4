"""What no single value shows: settings that need each other, exclude each other, or name files.

Each check takes the settings and yields problems; `origin` tells where a key was written.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from moorage.config.azure import check_azure
from moorage.config.buckets import check_s3
from moorage.config.problems import Problem
from moorage.config.schema import keys_of
from moorage.config.sections.base import Section
from moorage.config.sections.services import PROVIDERS
from moorage.config.sections.storage import DRIVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from moorage.config.model import Settings
    from moorage.config.problems import Origin

__all__ = ["check", "host_and_port"]

_OFFERED: Final = ("filesystem", "inmemory", "s3", "azure")
_PORT_LIMIT: Final = 65_535
_GCS_STEP: Final = 256 * 1024


def check(settings: Settings, origin: Callable[[str], Origin], environ: Mapping[str, str]) -> list[Problem]:
    """Every problem between settings; `environ` tells of an inherited socket (systemd)."""
    found = [
        *_version(settings),
        *_storage(settings),
        *_auth(settings),
        *_required(settings, ()),
        *_address(settings, inherited=environ.get("LISTEN_FDS", "0") not in {"", "0"}),
        *_http(settings),
        *_tls(settings),
        *_health(settings),
        *_patterns(settings),
        *_without_effect(settings),
    ]
    return [dataclasses.replace(problem, origin=origin(problem.key)) for problem in found]


def _version(settings: Settings) -> Iterator[Problem]:
    if settings.version != "0.1":
        yield Problem("expected 0.1, the only version of the format there is", "version")


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
        yield Problem("storage.inmemory lives in one process; expected 1 or nothing", "http.workers")
    if storage.s3 is not None:
        yield from check_s3(storage.s3)
    if storage.azure is not None:
        yield from check_azure(storage.azure)
    if storage.gcs is not None and storage.gcs.chunksize % _GCS_STEP:
        yield Problem("expected a multiple of 262144 (256 KiB)", "storage.gcs.chunksize")


def _auth(settings: Settings) -> Iterator[Problem]:
    auth = settings.auth
    chosen = [name for name in PROVIDERS if getattr(auth, name) is not None]
    if len(chosen) > 1:
        yield Problem(f"names more than one way of authentication: {', '.join(chosen)}; expected one", "auth")
    if auth.token is not None and not (auth.token.rootcertbundle or auth.token.jwks):
        yield Problem("expected rootcertbundle or jwks, the keys that sign tokens", "auth.token")


def _required(section: Section, path: tuple[str, ...]) -> Iterator[Problem]:
    """Keys that must not be empty where their section is there, on every level."""
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


def host_and_port(text: str) -> tuple[str, int]:
    """`host:port`, `:port` or `[v6]:port`, as Go's net package takes it.  Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) is None or int(port) > _PORT_LIMIT:
        raise ValueError("expected host:port or :port with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        ipaddress.IPv6Address(host)  # its ValueError says what is wrong
    elif ":" in host or re.search(r"[\s/\[\]]", host):
        raise ValueError("expected host:port, with an IPv6 address in brackets")
    return host, int(port)


def _address(settings: Settings, *, inherited: bool) -> Iterator[Problem]:
    http = settings.http
    if not http.addr:
        if not inherited:
            example = "a path such as /run/moorage.sock" if http.net == "unix" else "127.0.0.1:5000 or :5000"
            yield Problem(f"required; expected {example}", "http.addr")
        return
    if http.net == "unix":
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
        # What h11 and hyper take; a newline would let the file's author write a second answer.
        if re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name, re.ASCII) is None:
            yield Problem("is no name of a header", f"http.headers.{name}")
        elif any(not value.isascii() or not (value.isprintable() or "\t" in value) for value in values):
            yield Problem("expected printable ASCII text", f"http.headers.{name}")


def _tls(settings: Settings) -> Iterator[Problem]:
    tls = settings.http.tls
    if bool(tls.certificate) != bool(tls.key):
        missing = "key" if tls.certificate else "certificate"
        yield Problem("required; certificate and key come together", f"http.tls.{missing}")
    if tls.certificate and tls.letsencrypt.cachefile:
        yield Problem("expected either a certificate or letsencrypt", "http.tls")
    for name, path in (("certificate", tls.certificate), ("key", tls.key)):
        if path:
            try:
                with Path(path).open("rb") as file:
                    file.read(1)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not a path"
                yield Problem(f"cannot read {path!r}: {reason}", f"http.tls.{name}")


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
        try:
            parts = urlsplit(entry.uri)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if entry.uri and not usable:
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
                    # [[:alpha:]] is a class in Go and something else in Python, which only warns.
                    warnings.simplefilter("error")
                    re.compile(pattern)
            except (re.error, Warning, OverflowError, RecursionError) as error:
                key = f"validation.manifests.urls.{kind}[{index}]"
                yield Problem(f"is no regular expression that is understood here: {error}", key)


def _without_effect(settings: Settings) -> Iterator[Problem]:
    if settings.redis is not None and settings.storage.cache.blobdescriptor != "redis":
        yield Problem("has no effect; nothing uses Redis", "redis", kind="warning")
    if settings.reporting is not None:
        yield Problem("has no effect; errors are not reported to services", "reporting", kind="warning")
    if settings.compatibility is not None:
        message = "has no effect; image manifests of schema 1 are refused"
        yield Problem(message, "compatibility", kind="warning")
