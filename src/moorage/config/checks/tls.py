"""Checks of `http.tls`, `http.http2` and `http.h2c`: keys that need or exclude each other, files, cipher suites.

Above: `dependencies.py`.  The contents of the files are validated later, by `server/tls/certificates.py`.
"""

from __future__ import annotations

import difflib
import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.config import cipher_suites
from moorage.config.addresses import host_and_port, is_web_address
from moorage.config.checks.files import unreadable
from moorage.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.config.model import Settings
    from moorage.config.sections.http import Http, Tls

__all__ = ["check_tls"]

_HTTP1: Final = "HTTP/1.1 is served, to which all clients fall back; for HTTP/2 use a proxy"


def check_tls(settings: Settings) -> Iterator[Problem]:
    """Yield the problems of the sections."""
    tls = settings.http.tls
    yield from _files(tls)
    yield from _clients(tls)
    yield from _suites(tls)
    yield from _acme(settings)
    yield from _http2(settings.http)


def _files(tls: Tls) -> Iterator[Problem]:
    if bool(tls.certificate) != bool(tls.key):
        missing = "key" if tls.certificate else "certificate"
        yield Problem("required; certificate and key come together", f"http.tls.{missing}")
    if tls.certificate and tls.letsencrypt.cachefile:
        yield Problem("expected either a certificate or letsencrypt", "http.tls")
    if tls.certificates and tls.letsencrypt.cachefile:
        message = (
            "cannot be combined with letsencrypt; list all names in http.tls.letsencrypt.hosts, or use files only"
        )
        yield Problem(message, "http.tls.certificates")
    elif tls.certificates and not tls.certificate:
        message = "needs http.tls.certificate and key, served to clients that request another host name or none"
        yield Problem(message, "http.tls.certificates")
    more = (
        (f"certificates[{index}].{key}", path)
        for index, pair in enumerate(tls.certificates)
        for key, path in (("certificate", pair.certificate), ("key", pair.key))
    )
    authorities = ((f"clientcas[{index}]", path) for index, path in enumerate(tls.clientcas))
    for name, path in (("certificate", tls.certificate), ("key", tls.key), *more, *authorities):
        if path and (reason := unreadable(path)):
            yield Problem(f"cannot read {path!r}: {reason}", f"http.tls.{name}")


def _http2(http: Http) -> Iterator[Problem]:
    """Warn about settings that request HTTP/2; an explicit `disabled: false` does, the default does not."""
    if http.h2c.enabled:
        yield Problem(f"has no effect; {_HTTP1}", "http.h2c.enabled", kind="warning")
    if "disabled" in http.http2.model_fields_set and not http.http2.disabled:
        yield Problem(f"has no effect; {_HTTP1}", "http.http2.disabled", kind="warning")


_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)


def _acme(settings: Settings) -> Iterator[Problem]:
    acme, here = settings.http.tls.letsencrypt, "http.tls.letsencrypt"
    if not acme.cachefile:
        if acme.hosts:
            message = "has no effect without cachefile, the directory that keeps the certificates"
            yield Problem(message, f"{here}.hosts", kind="warning")
        return
    if Path(acme.cachefile).is_file():
        message = (
            f"{acme.cachefile!r} is a file, as CNCF Distribution 2.8 had it for ACME version 1, which no "
            "authority supports any more; expected a directory, which may be new"
        )
        yield Problem(message, f"{here}.cachefile")
    if not acme.hosts:
        yield Problem("required with cachefile; expected the names that clients use", f"{here}.hosts")
    for index, host in enumerate(acme.hosts):
        if message := _no_host(host):
            yield Problem(f"{message}, found {host!r}", f"{here}.hosts[{index}]")
    if acme.directoryurl and not is_web_address(acme.directoryurl, ("https",)):
        yield Problem(f"expected an https URL, found {acme.directoryurl!r}", f"{here}.directoryurl")
    if acme.http01:
        try:
            host_and_port(acme.http01)
        except ValueError as error:
            yield Problem(f"{error}, found {acme.http01!r}", f"{here}.http01")
    elif settings.http.net == "unix":
        yield Problem("required where http.net is unix: no authority can reach that socket", f"{here}.http01")


def _no_host(text: str) -> str:
    """Return why no certificate can be ordered for a host name; "" if one can."""
    name = text.lower()
    if name.startswith("*."):
        return "wildcards need DNS challenges, which are not supported; expected a host name"
    if not name.isascii():
        return "expected the name in its DNS form, which begins with xn--"
    try:
        ip_address(name)
    except ValueError:
        return "" if _HOST.fullmatch(name) else "expected the name of a host, without port"
    return "expected a name; there are no certificates for addresses"


def _clients(tls: Tls) -> Iterator[Problem]:
    """Refuse client certificate settings under which no client would be verified."""
    if tls.clientcas and not (tls.certificate or tls.letsencrypt.cachefile):
        yield Problem(
            "needs http.tls.certificate and key: without TLS no client is verified", "http.tls.clientcas"
        )
    if tls.clientauth and not tls.clientcas:
        yield Problem("needs http.tls.clientcas: without it no client is verified", "http.tls.clientauth")
    if tls.clientauth in {"request-client-cert", "require-any-client-cert"}:
        message = (
            f"{tls.clientauth} accepts client certificates without verification, which is not supported; "
            "expected require-and-verify-client-cert or verify-client-cert-if-given"
        )
        yield Problem(message, "http.tls.clientauth")


def _suites(tls: Tls) -> Iterator[Problem]:
    chosen = tls.minimumtls != "tls1.3"
    all_of_tls13 = set(cipher_suites.TLS13) <= set(tls.ciphersuites)
    for index, name in enumerate(tls.ciphersuites):
        key = f"http.tls.ciphersuites[{index}]"
        if name not in cipher_suites.KNOWN:
            near = difflib.get_close_matches(name, cipher_suites.KNOWN, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield Problem(f"unknown cipher suite {name!r}{hint}", key)
        elif name in cipher_suites.INSECURE and chosen:
            yield Problem(f"{name} is insecure and not offered; remove it", key)
        elif name in cipher_suites.TLS13 and chosen and not all_of_tls13:
            message = f"{name} is a suite of TLS 1.3; all three of them are always offered; remove it"
            yield Problem(message, key)
    if not tls.ciphersuites:
        return
    if not chosen:
        yield Problem(
            "has no effect; the suites of TLS 1.3 cannot be selected", "http.tls.ciphersuites", kind="warning"
        )
    elif not any(cipher_suites.for_kind(tls.ciphersuites, kind) for kind in cipher_suites.OFFERED):
        message = "names no suite of TLS 1.2 that is offered; add one, remove the list, or set http.tls.minimumtls"
        yield Problem(f"{message} to tls1.3", "http.tls.ciphersuites")
