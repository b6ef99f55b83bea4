"""Checks of `storage.s3` and `storage.gcs`.

Above: `dependencies.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.config.addresses import is_address
from moorage.config.checks.files import unreadable
from moorage.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.config.sections.storage import S3, Gcs

__all__ = ["check_gcs", "check_s3", "is_prefix"]

_LOG_LEVELS: Final = {"off", "debug", "debugwithrequestretries", "debugwithrequesterrors"}
_NEVER_LOG_LEVELS: Final = {"debugwithsigning", "debugwithhttpbody", "debugwitheventstreambody"}
_COPIES_LIMIT: Final = 8
_DEFAULT_COPIES: Final = 100
_GCS_CHUNK_MULTIPLE: Final = 256 * 1024


def check_s3(s3: S3) -> Iterator[Problem]:
    """Yield the problems of `storage.s3`."""
    if not (s3.region or s3.regionendpoint):
        yield Problem("required unless storage.s3.regionendpoint is set", "storage.s3.region")
    if not s3.v4auth:
        message = "signature version 2 is not supported; every S3 service accepts version 4: remove it"
        yield Problem(message, "storage.s3.v4auth")
    yield from _endpoints(s3)
    yield from _log_level(s3.loglevel)
    if s3.rootdirectory and not is_prefix(s3.rootdirectory):
        found = f"expected a prefix such as registries/main, found {s3.rootdirectory!r}"
        yield Problem(found, "storage.s3.rootdirectory")
    if s3.cabundle and (reason := unreadable(s3.cabundle)):
        yield Problem(f"cannot read {s3.cabundle!r}: {reason}", "storage.s3.cabundle")
    yield from _without_effect(s3)


def check_gcs(gcs: Gcs) -> Iterator[Problem]:
    """Yield the problems of `storage.gcs`.  Those of credentials are reported when they are first read."""
    if gcs.chunksize % _GCS_CHUNK_MULTIPLE:
        yield Problem("expected a multiple of 262144 (256 KiB)", "storage.gcs.chunksize")
    if gcs.endpoint and not is_address(gcs.endpoint, scheme=True):
        message = f"expected a scheme and a host such as https://storage.googleapis.com, found {gcs.endpoint!r}"
        yield Problem(message, "storage.gcs.endpoint")
    if {".", ".."} & set(gcs.rootdirectory.split("/")) or not gcs.rootdirectory.isprintable():
        found = f"expected a prefix such as registries/main, found {gcs.rootdirectory!r}"
        yield Problem(found, "storage.gcs.rootdirectory")
    for name in ("cabundle", "keyfile"):
        path = getattr(gcs, name)
        if path and (reason := unreadable(path)):
            yield Problem(f"cannot read {path!r}: {reason}", f"storage.gcs.{name}")
    if gcs.keyfile and gcs.credentials:
        yield Problem("has no effect beside keyfile", "storage.gcs.credentials", kind="warning")


def _endpoints(s3: S3) -> Iterator[Problem]:
    if s3.regionendpoint and not is_address(s3.regionendpoint, scheme=False):
        message = f"expected an address such as https://s3.example.com:9000, found {s3.regionendpoint!r}"
        yield Problem(message, "storage.s3.regionendpoint")
    if s3.redirectendpoint and not is_address(s3.redirectendpoint, scheme=True):
        message = f"expected a scheme and a host such as https://cdn.example.com, found {s3.redirectendpoint!r}"
        yield Problem(message, "storage.s3.redirectendpoint")
    for name in ("usedualstack", "accelerate", "usefipsendpoint"):
        if getattr(s3, name) and s3.regionendpoint:
            yield Problem(
                "chooses among Amazon's addresses; expected this or regionendpoint", f"storage.s3.{name}"
            )
    if s3.accelerate and s3.forcepathstyle:
        yield Problem(
            "needs the bucket in the host name; expected this or forcepathstyle", "storage.s3.accelerate"
        )


def _log_level(level: str) -> Iterator[Problem]:
    if level in _NEVER_LOG_LEVELS:
        message = f"{level} would write signatures or whole layers to the log, and is not supported; use debug"
        yield Problem(message, "storage.s3.loglevel")
    elif level not in _LOG_LEVELS:
        yield Problem(f"{level!r} counts as off; expected off or debug", "storage.s3.loglevel", kind="warning")


def _without_effect(s3: S3) -> Iterator[Problem]:
    if s3.keyid and not s3.encrypt:
        yield Problem("has no effect without encrypt: true", "storage.s3.keyid", kind="warning")
    keys = bool(s3.accesskey) + bool(s3.secretkey)
    if keys == 1:
        message = "has no effect alone; set both accesskey and secretkey"
        yield Problem(message, f"storage.s3.{'accesskey' if s3.accesskey else 'secretkey'}", kind="warning")
    if s3.sessiontoken and keys < 2:  # noqa: PLR2004  both keys
        yield Problem("has no effect without accesskey and secretkey", "storage.s3.sessiontoken", kind="warning")
    if s3.multipartcopymaxconcurrency not in {*range(1, _COPIES_LIMIT + 1), _DEFAULT_COPIES}:
        message = f"counts as {_COPIES_LIMIT}, the maximum per worker"
        yield Problem(message, "storage.s3.multipartcopymaxconcurrency", kind="warning")


def is_prefix(text: str) -> bool:
    """Return whether `rootdirectory` is a valid key prefix."""
    parts = text.strip("/").split("/")
    return text.isprintable() and not {"", ".", ".."} & set(parts) if text.strip("/") else True
