"""Critical keys: a typo in one would open the registry, disable TLS or move the data directory.

An unknown key is a warning, since CNCF Distribution ignores it and files have leftovers.  A near miss of a
critical key is an error: `atuh:` starts a registry without authentication, `tsl:` one without TLS, `rotdirectory:`
one that looks empty.  So is a critical key in the wrong section (`tls` beside `http`), as by wrong indentation.
No list of misspellings is complete: if the protection itself is not configured, every unknown key that may have
been meant for it is an error (`unprotected`).

Above: `build.py` for the file, `environment.py` for variables.
"""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from moorage.config.checks.exposure import authentication
from moorage.config.tree import Map, find, is_blank, is_null

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moorage.config.model import Settings

__all__ = [
    "CRITICAL",
    "MISPLACED",
    "dotted",
    "is_critical",
    "is_extension",
    "is_near",
    "misplaced",
    "near",
    "unprotected",
]

CRITICAL: Final = (
    "auth",
    "http.secret",
    "http.tls",
    "http.trustedproxies",
    "immutability",
    "policy",
    "proxy.password",
    "proxy.remoteurl",
    "proxy.username",
    "redis.tls",
    "retention",
    "storage.azure.accountname",
    "storage.azure.container",
    "storage.azure.realm",
    "storage.azure.rootdirectory",
    "storage.azure.serviceurl",
    "storage.delete",
    "storage.filesystem.rootdirectory",
    "storage.gcs.bucket",
    "storage.gcs.endpoint",
    "storage.gcs.rootdirectory",
    "storage.maintenance.garbagecollection",
    "storage.maintenance.readonly",
    "storage.maintenance.uploadpurging",
    "storage.redirect",
    "storage.s3.bucket",
    "storage.s3.encrypt",
    "storage.s3.keyid",
    "storage.s3.regionendpoint",
    "storage.s3.rootdirectory",
    "validation.manifests.urls",
)
"""Each includes all keys below it and the sections that lead to it.

Authentication, TLS, the secret, rules for pushes, deletion, holds, purging, garbage collection, the location of
data.  Not included: keys that only tune (`maxthreads`) or are safe if missing (`http.cors`).
"""

_SYNONYMS: Final = {
    "authentication": "auth",
    "authentification": "auth",
    "authorisation": "auth",
    "authorization": "auth",
    "cert": "certificate",
    "ssl": "tls",
    "trustedproxy": "trustedproxies",
}
_LOCAL_SYNONYMS: Final = _SYNONYMS | {
    "directory": "rootdirectory",
    "https": "tls",
    "path": "rootdirectory",
    "prefix": "rootdirectory",
    "root": "rootdirectory",
    "rootdir": "rootdirectory",
}
"""Synonyms that have another meaning in other sections."""

MISPLACED: Final = {
    "auth": "auth",
    "certificate": "http.tls.certificate",
    "clientauth": "http.tls.clientauth",
    "clientcas": "http.tls.clientcas",
    "delete": "storage.delete",
    "filesystem": "storage.filesystem",
    "garbagecollection": "storage.maintenance.garbagecollection",
    "htpasswd": "auth.htpasswd",
    "letsencrypt": "http.tls.letsencrypt",
    "minimumtls": "http.tls.minimumtls",
    "policy": "policy",
    "readonly": "storage.maintenance.readonly",
    "rootdirectory": "storage.filesystem.rootdirectory",
    "secret": "http.secret",
    "storage": "storage",
    "tls": "http.tls",
    "token": "auth.token",
    "trustedproxies": "http.trustedproxies",
    "uploadpurging": "storage.maintenance.uploadpurging",
}
"""Names with one meaning in all sections, and the path of each."""

_SECTIONS: Final = ("auth", "http", "storage")
"""Sections, beside the top level, in which misplaced keys are searched for."""

_SHORT: Final = 4
_MISSES_SHORT: Final = 1
_MISSES_LONG: Final = 2


def is_critical(path: Iterable[str | int]) -> bool:
    """Return whether the key at `path` is one of `CRITICAL`, below one, or a section that leads to one."""
    dotted = ".".join(step for step in path if isinstance(step, str) and not step.startswith("["))
    return any(f"{dotted}.".startswith(f"{key}.") or key.startswith(f"{dotted}.") for key in CRITICAL)


def is_extension(name: str) -> bool:
    """Return whether a key only holds an anchor, by the convention of Compose (`x-`) and GitLab (`.`)."""
    return name.startswith(("x-", "."))


def near(word: str, known: Iterable[str]) -> str | None:
    """Return the known word of which `word` is a misspelling, None if it is none."""
    found = [(misses, other) for other in known if (misses := _misses(word, other)) is not None]
    return min(found)[1] if found else None


def is_near(word: str, known: str) -> bool:
    """Return whether `word` is a misspelling of `known`: another case, hyphens, or one or two letters wrong."""
    return _misses(word, known) is not None


def dotted(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the path of a key such as `tls.certificate`, empty if it begins with no known key."""
    head, *rest = name.split(".")
    found = near(head, known) if rest else None
    return (found, *rest) if found else ()


def unprotected(section: tuple[str, ...], settings: Settings, root: Map) -> str | None:
    """Return the missing protection that an unknown key of `section` may have been meant for.

    None if none is missing; `none` and `{}` disable a protection explicitly.
    """
    match section:
        case () if authentication(settings) == "none" and is_null(find(root, ("auth",))):
            return "auth"
        case ("http",) | ("http", "tls") if not settings.http.tls.enabled and not _is_empty(root, ("http", "tls")):
            return "http.tls.certificate"
        case ("storage", "filesystem") if is_blank(find(root, (*section, "rootdirectory"))):
            return "storage.filesystem.rootdirectory"
        case _:
            return None


def _is_empty(root: Map, path: tuple[str, ...]) -> bool:
    node = find(root, path)
    return isinstance(node, Map) and not node.entries


def misplaced(name: str, section: tuple[str, ...]) -> str | None:
    """Return the path to which an unknown key of `section` belongs, None if it is ambiguous."""
    if section and section[0] not in _SECTIONS:
        return None
    plain = _plain(name)
    return MISPLACED.get(_SYNONYMS.get(plain, plain)) if section[:2] != ("http", "debug") else None


def _misses(word: str, known: str) -> int | None:
    """Return the number of wrong letters; None if too many for a misspelling."""
    plain, meant = _plain(word), _plain(known)
    if _LOCAL_SYNONYMS.get(plain) == meant:
        return 0
    misses = _distance(plain, meant)
    return misses if misses <= (_MISSES_SHORT if len(meant) <= _SHORT else _MISSES_LONG) else None


def _plain(word: str) -> str:
    folded = unicodedata.normalize("NFKC", word).lower()
    return "".join(letter for letter in folded if letter not in "-_" and letter.isprintable()).strip()


def _distance(one: str, other: str) -> int:
    """Return the optimal string alignment distance: insertions, deletions, substitutions, transpositions."""
    if abs(len(one) - len(other)) > _MISSES_LONG:
        return _MISSES_LONG + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for index, (previous, letter) in enumerate(pairwise(f"\0{one}"), 1):
        earlier, before, row = before, row, [index]
        for column, (left, other_letter) in enumerate(pairwise(f"\0{other}"), 1):
            least = min(before[column] + 1, row[-1] + 1, before[column - 1] + (letter != other_letter))
            if index > 1 and column > 1 and letter == left and previous == other_letter:
                least = min(least, earlier[column - 2] + 1)
            row.append(least)
    return row[-1]
