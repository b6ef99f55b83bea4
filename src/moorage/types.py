"""Names and digests, parsed once at the edge and trusted after.

Nothing below `http/` and `cli/` checks the spelling of a digest, a repository name or a tag again:
whoever holds one of these types holds a valid one.

Source: distribution-spec 1.1 "Pulling manifests" (names, tags), image-spec "Digests".
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NewType, Self

from moorage.errors import DigestInvalid, NameInvalid, TagInvalid

__all__ = [
    "ALGORITHMS",
    "NAME_LIMIT_CHARS",
    "Digest",
    "Reference",
    "Referrer",
    "RepoName",
    "Tag",
    "parse_reference",
    "parse_repo_name",
    "parse_tag",
]

RepoName = NewType("RepoName", str)
"""A repository's whole name, e.g. `library/alpine`: at most 255 characters of the specification's grammar."""

Tag = NewType("Tag", str)
"""A tag: 1 to 128 characters, the first of `[a-zA-Z0-9_]`, the rest also `.` and `-`."""

NAME_LIMIT_CHARS: Final = 255
"""Clients cap host + '/' + name here; the reference caps the name.  Longer is NAME_INVALID."""

ALGORITHMS: Final = {"sha256": 64, "sha512": 128}
"""Digest algorithms that content is stored under, with the length of their lower-case hex text."""

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
_HEX: Final = {name: re.compile(rf"[a-f0-9]{{{size}}}", re.ASCII) for name, size in ALGORITHMS.items()}


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The name of some bytes: algorithm and lower-case hex.  `str()` gives `sha256:abc...`."""

    algorithm: str
    hex: str
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_text", f"{self.algorithm}:{self.hex}")

    def __str__(self) -> str:
        return self._text

    # Digests are the keys of every cache: compared as one text, which remembers its hash.

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Digest) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    @lru_cache(maxsize=4096)
    def parse(cls, text: str) -> Self:
        """Raises `DigestInvalid` for anything but `sha256:` + 64 or `sha512:` + 128 lower-case hex digits."""
        algorithm, _, encoded = text.partition(":")
        pattern = _HEX.get(algorithm)
        if pattern is None or pattern.fullmatch(encoded) is None:
            raise DigestInvalid(text)
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Self:
        """The digest of `data`."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())


Reference = Tag | Digest
"""What may stand after `/manifests/`.  At run time a `Tag` is a `str`: test `isinstance(x, Digest)`."""


@dataclass(frozen=True, slots=True)
class Referrer:
    """An entry of a referrers list; `descriptor` is its JSON in UTF-8, as it is sent."""

    digest: Digest
    artifact_type: str | None
    descriptor: bytes


@lru_cache(maxsize=4096)
def parse_repo_name(text: str) -> RepoName:
    """Raises `NameInvalid` unless `text` is a repository name of at most `NAME_LIMIT_CHARS`."""
    if len(text) > NAME_LIMIT_CHARS or _NAME.fullmatch(text) is None:
        raise NameInvalid(text)
    return RepoName(text)


@lru_cache(maxsize=4096)
def parse_tag(text: str) -> Tag:
    """Raises `TagInvalid` unless `text` is a tag."""
    if _TAG.fullmatch(text) is None:
        raise TagInvalid(text)
    return Tag(text)


def parse_reference(text: str) -> Reference:
    """A digest if there is a colon in it (no tag can hold one), else a tag.

    Raises `DigestInvalid` or `TagInvalid`.
    """
    return Digest.parse(text) if ":" in text else parse_tag(text)
