"""Names and digests, parsed once at the edge and trusted after.

Nothing below `http/` and `cli/` checks the spelling of a digest, a repository name or a tag again: a value of one
of these types is valid.

Source: distribution-spec 1.1 "Pulling manifests" (names, tags), image-spec "Digests".
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
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


class Digest(str):
    """Digest of bytes, `sha256:abc...`, with its algorithm and its lower-case hex.

    A `str`, since digests are the keys of every cache: CPython compares one and remembers its hash without a call
    of Python code.  Made by `parse` and `of`, or of parts that are known to be valid.
    """

    __slots__ = ("algorithm", "hex")
    algorithm: str
    hex: str

    def __new__(cls, algorithm: str, encoded: str) -> Self:
        self = super().__new__(cls, f"{algorithm}:{encoded}")
        self.algorithm = algorithm
        self.hex = encoded
        return self

    @classmethod
    @lru_cache(maxsize=4096)
    def parse(cls, text: str) -> Self:
        """Parse `sha256:` and 64, or `sha512:` and 128 lower-case hex digits.  Raises `DigestInvalid`."""
        algorithm, _, encoded = text.partition(":")
        pattern = _HEX.get(algorithm)
        if pattern is None or pattern.fullmatch(encoded) is None:
            raise DigestInvalid(text)
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Self:
        """Return the digest of `data`."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())


Reference = Tag | Digest
"""The part of a path after `/manifests/`.  At run time a `Tag` is a `str`: test `isinstance(x, Digest)`."""


@dataclass(frozen=True, slots=True)
class Referrer:
    """An entry of a referrers list; `descriptor` is its JSON in UTF-8, as it is sent."""

    digest: Digest
    artifact_type: str | None
    descriptor: bytes


@lru_cache(maxsize=4096)
def parse_repo_name(text: str) -> RepoName:
    """Parse a repository name of at most `NAME_LIMIT_CHARS`.  Raises `NameInvalid`."""
    if len(text) > NAME_LIMIT_CHARS or _NAME.fullmatch(text) is None:
        raise NameInvalid(text)
    return RepoName(text)


@lru_cache(maxsize=4096)
def parse_tag(text: str) -> Tag:
    """Parse a tag.  Raises `TagInvalid`."""
    if _TAG.fullmatch(text) is None:
        raise TagInvalid(text)
    return Tag(text)


def parse_reference(text: str) -> Reference:
    """Parse a digest if `text` contains a colon (which no tag does), else a tag.

    Raises `DigestInvalid` or `TagInvalid`.
    """
    return Digest.parse(text) if ":" in text else parse_tag(text)
