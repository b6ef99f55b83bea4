"""Repositories and tags of imported images: names as the archive has them, changed as the operator asks.

Archives name images as their registry did (`docker.io/library/alpine:3`), or only by a tag (skopeo), or not at
all.

Above: `importer.py`, `cli/import_.py`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moorage.bundle.errors import NameRefused
from moorage.errors import NameInvalid, RegistryError
from moorage.types import RepoName, Tag, parse_repo_name, parse_tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.bundle.contents import BundledImage

__all__ = ["ImportNames", "host_of"]


def host_of(name: str) -> str:
    """Return the host of a name of an image, "" if it has none: Docker's rule, a dot, a port, or localhost."""
    first, slash, _ = name.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else ""


@dataclass(frozen=True, slots=True)
class ImportNames:
    """Rules for names.

    `name`, and `tag` if it is not "", are those of an image without a name, or of the only one.  `own_host` is the
    registry into which images are imported; names that begin with it lose it.
    """

    prefix: str = ""
    strip_host: bool = False
    name: str = ""
    tag: str = ""
    own_host: str = ""

    def targets(
        self, title: str, images: Sequence[BundledImage]
    ) -> list[tuple[BundledImage, RepoName, Tag | None]]:
        """Return the images with their repositories and tags.  Raises NameRefused."""
        if not images:
            raise NameRefused(f"{title} has no images")
        digests = {image.digest for image in images}
        unnamed = {image.digest for image in images if not image.name and not image.tag}
        if self.tag and len(digests) > 1 and len(unnamed) > 1:
            raise NameRefused(f"{title} has {len(unnamed)} images without names; one tag cannot name all of them")
        found = []
        seen: dict[tuple[RepoName, Tag], BundledImage] = {}
        for image in images:
            name, tag = self._target(title, image, only=len(digests) == 1)
            if tag is not None:
                other = seen.setdefault((name, tag), image)
                if other.digest != image.digest:
                    raise NameRefused(
                        f"{title}: {other.reference} and {image.reference} would both become {name}:{tag}"
                    )
            found.append((image, name, tag))
        return found

    def _target(self, title: str, image: BundledImage, *, only: bool) -> tuple[RepoName, Tag | None]:
        name, tag = image.name, image.tag
        if self.name and (only or not name):
            name, tag = self.name, self.tag or tag
        if not name:
            known = f"of the tag {tag!a}" if tag else str(image.digest)
            raise NameRefused(f"{title}: the image {known} has no repository in the file; name one with --as")
        try:
            return self.repository(name), parse_tag(tag) if tag else None
        except RegistryError as error:
            remedy = "; --strip-host removes the host" if ":" in host_of(name) and not self.strip_host else ""
            raise NameRefused(f"{title}: {image.reference!a} cannot be imported: {error}{remedy}") from error

    def places(self, name: str) -> list[RepoName]:
        """Return repositories in which content of `name` may be: as it is imported, as it is, without its host."""
        host = host_of(name)
        stripped = name[len(host) + 1 :] if host else name
        found: dict[RepoName, None] = {}
        for rule, text in ((self, name), (ImportNames(), name), (self, stripped), (ImportNames(), stripped)):
            with suppress(NameInvalid):
                found[rule.repository(text)] = None
        return list(found)

    def repository(self, name: str) -> RepoName:
        """Return the repository of a name in the bundle.  Raises NameInvalid."""
        host = host_of(name)
        if host and (self.strip_host or host == self.own_host):
            name = name[len(host) + 1 :]
        return parse_repo_name(f"{self.prefix}/{name}" if self.prefix else name)
