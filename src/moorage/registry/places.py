"""Keys read back: what `layout.py` wrote them for, and the digests that lie below one.

Source: `layout.py`, whose tree this is; every key that it can build is one of these places (tests/registry).
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.errors import DigestInvalid, RegistryError
from moorage.registry import layout
from moorage.types import Digest, RepoName, Tag, parse_repo_name, parse_tag

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from moorage.storage.driver import Driver, Key

__all__ = ["Place", "digests", "place_of"]

_HEX: Final = re.compile(r"[a-f0-9]+")
_DIGEST: Final = r"(?P<algorithm>[a-z0-9]+)/(?P<hex>[a-f0-9]+)"
_FORMS: Final = {
    "blob": re.compile(r"blobs/(?P<algorithm>[a-z0-9]+)/(?P<first>[a-f0-9]{2})/(?P<hex>(?P=first)[a-f0-9]+)/data"),
    "torn": re.compile(r"blobs/(?P<algorithm>[a-z0-9]+)/(?P<first>[a-f0-9]{2})/(?P<hex>(?P=first)[a-f0-9]+)/torn"),
    "layer": re.compile(rf"repositories/(?P<name>.+)/_layers/{_DIGEST}/link"),
    "revision": re.compile(rf"repositories/(?P<name>.+)/_manifests/revisions/{_DIGEST}/link"),
    "tag": re.compile(r"repositories/(?P<name>.+)/_manifests/tags/(?P<tag>[^/]+)/current/link"),
    "history": re.compile(rf"repositories/(?P<name>.+)/_manifests/tags/(?P<tag>[^/]+)/index/{_DIGEST}/link"),
    "mark": re.compile(rf"repositories/(?P<name>.+)/_manifests/_deleted/{_DIGEST}"),
    "referrer": re.compile(
        rf"repositories/(?P<name>.+)/_referrers/(?P<subject>[a-z0-9]+/[a-f0-9]+)/{_DIGEST}/link"
    ),
    "upload": re.compile(r"repositories/(?P<name>.+)/_uploads/[^/]+/.+"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """`kind` is one of blob, torn, layer, revision, tag, history, mark, referrer, upload; the rest is what the key
    says.

    `digest` is the one in the path, which is usually also what lies there.
    """

    kind: str
    name: RepoName | None = None
    digest: Digest | None = None
    tag: Tag | None = None
    subject: Digest | None = None


def place_of(key: Key) -> Place | None:
    """None for what no version of this registry, or of CNCF Distribution, writes."""
    rest = key.removeprefix(f"{layout.ROOT}/")
    if rest == key:
        return None
    for kind, form in _FORMS.items():
        if (match := form.fullmatch(rest)) is not None:
            try:
                return _place(kind, match.groupdict())
            except RegistryError:
                return None
    return None


def _place(kind: str, parts: dict[str, str]) -> Place:
    """Raises a refusal for a part that is not spelt as it must be."""
    return Place(
        kind,
        name=parse_repo_name(parts["name"]) if "name" in parts else None,
        digest=Digest.parse(f"{parts['algorithm']}:{parts['hex']}") if "hex" in parts else None,
        tag=parse_tag(parts["tag"]) if "tag" in parts else None,
        subject=Digest.parse(parts["subject"].replace("/", ":")) if "subject" in parts else None,
    )


async def digests(driver: Driver, prefix: Key, *, after: str = "") -> AsyncGenerator[Sequence[Digest], None]:
    """What a tree of ALG/HEX names, in pages, in order of the digests' texts; only those greater than `after`.
    What else lies there is left out: it is not ours.

    Raises StorageUnavailable.
    """
    async for algorithms in driver.children(prefix):
        for algorithm in algorithms:
            start = after.removeprefix(f"{algorithm}:")
            start = start if start != after and _HEX.fullmatch(start) else ""
            async for names in driver.children(layout.below(prefix, algorithm), after=start):
                found = []
                for encoded in names:
                    with suppress(DigestInvalid):
                        digest = Digest.parse(f"{algorithm}:{encoded}")
                        if str(digest) > after:
                            found.append(digest)
                yield found
