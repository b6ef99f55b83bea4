"""Checks of `middleware`: known names, and the options of each.

The options of an entry are untyped in the file, as in CNCF Distribution; here they are parsed to a frozen value,
or to problems with the option's key.  An entry with `disabled: true` is ignored (CNCF Distribution does not read
`disabled`).

Above: `dependencies.py`; `moorage.wiring.redirects` reads the values.
Source: docs/reference/configuration.md, section 8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from moorage.config.checks.files import unreadable
from moorage.config.problems import Problem, nearest
from moorage.config.scalars import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from moorage.config.model import Settings
    from moorage.config.sections.services import MiddlewareEntry

__all__ = [
    "CloudFrontOptions",
    "Options",
    "RedirectOptions",
    "RewriteOptions",
    "check_middleware",
    "enabled",
    "read_options",
]

_IP_RANGES_URL: Final = "https://ip-ranges.amazonaws.com/ip-ranges.json"


@dataclass(frozen=True, slots=True)
class RedirectOptions:
    baseurl: str


@dataclass(frozen=True, slots=True)
class RewriteOptions:
    scheme: str = ""
    host: str = ""
    trimpathprefix: str = ""


@dataclass(frozen=True, slots=True)
class CloudFrontOptions:
    """Durations are seconds; `regions` None: no distinction of clients by region."""

    baseurl: str
    privatekey: str
    keypairid: str
    duration: float
    ipfilteredby: str
    regions: frozenset[str] | None
    updatefrequency: float
    iprangesurl: str


Options = RedirectOptions | RewriteOptions | CloudFrontOptions


def enabled(settings: Settings) -> list[tuple[str, MiddlewareEntry]]:
    """Return the enabled storage middleware, each with its key."""
    entries = enumerate(settings.middleware.storage)
    return [(f"middleware.storage[{index}]", entry) for index, entry in entries if not entry.disabled]


def check_middleware(settings: Settings) -> Iterator[Problem]:
    """Yield the problems of the `middleware` section."""
    for part in ("registry", "repository"):
        for index, entry in enumerate(getattr(settings.middleware, part)):
            if entry.name and not entry.disabled:
                message = (
                    f"unknown middleware {entry.name!r}: there is none for a {part}, as in releases of CNCF "
                    "Distribution; remove it or add disabled: true"
                )
                yield Problem(message, f"middleware.{part}[{index}].name")
    for position, (key, entry) in enumerate(enabled(settings)):
        if entry.name and entry.name not in _READERS:
            names = ", ".join(sorted(_READERS))
            yield Problem(
                f"unknown middleware {entry.name!r}; expected one of {names}",
                f"{key}.name",
                nearest=nearest(entry.name, list(_READERS)),
            )
        elif entry.name:
            yield from read_options(entry, key)[1]
        if entry.name == "cloudfront":
            yield from _below_cloudfront(settings, key, position)
    if settings.storage.redirect.disable and enabled(settings):
        message = "has no effect while storage.redirect.disable is true: every blob passes through the registry"
        yield Problem(message, "middleware.storage", kind="warning")


def _below_cloudfront(settings: Settings, key: str, position: int) -> Iterator[Problem]:
    if settings.storage.s3 is None:
        found = settings.storage.driver or "nothing"
        yield Problem(f"cloudfront needs storage.s3, found {found}: it serves an S3 bucket", f"{key}.name")
    elif position:
        message = "cloudfront must be first in the list: it needs the S3 driver directly below it"
        yield Problem(message, f"{key}.name")


def read_options(entry: MiddlewareEntry, key: str) -> tuple[Options | None, list[Problem]]:
    """Parse the options of an entry with a known name; return them, None with an error, and the problems."""
    options = _Parser(entry.options, f"{key}.options")
    found = _READERS[entry.name](options)
    options.report_unknown()
    errors = [problem for problem in options.problems if problem.kind == "error"]
    return (None if errors else found), options.problems


class _Parser:
    """Parser of the options of one entry; collects problems."""

    def __init__(self, options: Mapping[str, Any], key: str) -> None:
        self._options = options
        self._key = key
        self._known: list[str] = []
        self.problems: list[Problem] = []

    def add_problem(self, name: str, message: str) -> None:
        self.problems.append(Problem(message, f"{self._key}.{name}"))

    def text(self, name: str, *, required: bool = False) -> str:
        self._known.append(name)
        value = self._options.get(name)
        if value is None or value == "":
            if required:
                self.add_problem(name, "required and missing")
            return ""
        if not isinstance(value, str):
            self.add_problem(name, "expected text (quote it)")
            return ""
        return value

    def duration(self, name: str, default_s: float) -> float:
        text = self.text(name)
        if not text:
            return default_s
        try:
            found = parse_duration(text)
        except ValueError:
            found = 0.0
        if found <= 0:
            self.add_problem(name, f"expected a duration above 0 such as 20m, found {text!r}")
            return default_s
        return found

    def report_unknown(self) -> None:
        for name in self._options:
            if name not in self._known:
                meant = nearest(name, self._known)
                whole = f"{self._key}.{meant}" if meant else None
                self.problems.append(Problem("unknown key", f"{self._key}.{name}", kind="unknown", nearest=whole))


def _web_url(options: _Parser, name: str, text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    plain = text.isascii() and text.isprintable() and not set(text) & set(' "\\<>')
    if text and not (usable and plain and not parts.query and not parts.fragment):
        options.add_problem(
            name, f"expected a URL with scheme and host such as https://cdn.example.com, found {text!r}"
        )
    return text


def _redirect(options: _Parser) -> RedirectOptions:
    return RedirectOptions(_web_url(options, "baseurl", options.text("baseurl", required=True)))


def _rewrite(options: _Parser) -> RewriteOptions:
    scheme, host = options.text("scheme"), options.text("host")
    prefix = options.text("trimpathprefix")
    if scheme and scheme not in {"http", "https"}:
        options.add_problem("scheme", f"expected http or https, found {scheme!r}")
    if host and not re.fullmatch(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", host, re.ASCII):
        options.add_problem(
            "host", f"expected a host such as cdn.example.com or cdn.example.com:8443, found {host!r}"
        )
    if prefix and not re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*", prefix, re.ASCII):
        options.add_problem("trimpathprefix", f"expected a path such as /bucket, found {prefix!r}")
    return RewriteOptions(scheme, host, prefix)


def _cloudfront(options: _Parser) -> CloudFrontOptions:
    base = options.text("baseurl", required=True)
    if base and "://" not in base:
        base = f"https://{base}"
    key = options.text("privatekey", required=True)
    if key and (reason := unreadable(key)):
        options.add_problem("privatekey", f"cannot read {key!r}: {reason}")
    pair = options.text("keypairid", required=True)
    if pair and not re.fullmatch(r"[A-Za-z0-9_-]+", pair, re.ASCII):
        options.add_problem("keypairid", "expected letters and digits, as CloudFront shows them")
    filtered_by = options.text("ipfilteredby").lower() or "none"
    if filtered_by not in {"none", "aws", "awsregion"}:
        options.add_problem("ipfilteredby", f"expected none, aws or awsregion, found {filtered_by!r}")
    regions = options.text("awsregion", required=filtered_by == "awsregion")
    named = frozenset(part.strip().lower() for part in regions.split(",") if part.strip())
    if regions and not named:
        options.add_problem("awsregion", f"expected regions such as us-east-1,eu-west-1, found {regions!r}")
    old = options.duration("updatefrenquency", 12 * 3600.0)  # the only spelling that 2.8 knows
    often = options.duration("updatefrequency", old)
    ranges = _web_url(options, "iprangesurl", options.text("iprangesurl") or _IP_RANGES_URL)
    return CloudFrontOptions(
        _web_url(options, "baseurl", base),
        key,
        pair,
        options.duration("duration", 20 * 60.0),
        filtered_by,
        named if filtered_by == "awsregion" else None,
        often,
        ranges,
    )


_READERS: Final[dict[str, Callable[[_Parser], Options]]] = {
    "cloudfront": _cloudfront,
    "redirect": _redirect,
    "rewrite": _rewrite,
}
