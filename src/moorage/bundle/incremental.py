"""Blobs that the other side has: those of an earlier bundle, or of a list of digests.

A line of a list is a digest, and optionally repositories that have it there; # begins a comment.

Above: `cli/export.py`.  Below: `reader.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final

from moorage.bundle.archive import members
from moorage.bundle.contents import CONTENTS_LIMIT_BYTES, CONTENTS_NAME, BaseBundle, BundleContents
from moorage.bundle.errors import BundleError
from moorage.bundle.files import open_files
from moorage.bundle.reader import LayoutBlobs, open_layout
from moorage.bundle.volumes import VolumeReader, find_volumes
from moorage.errors import RegistryError
from moorage.types import Digest, parse_repo_name

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HaveListInvalid", "blobs_of_bundle", "blobs_of_list"]

_LIMIT_BYTES: Final = 256 << 20
_FIRST: Final = 8
"""Members among which the table of contents is: `writer.py` writes it fifth at most."""


class HaveListInvalid(BundleError):
    """A list of digests that cannot be read."""


def blobs_of_list(path: Path) -> dict[Digest, tuple[str, ...]]:
    """Return the digests of a list, with the repositories that it names.  Raises HaveListInvalid."""
    found: dict[Digest, tuple[str, ...]] = {}
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise HaveListInvalid(f"{path} has more than {_LIMIT_BYTES >> 20} MiB; expected a list of digests")
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                words = line.partition("#")[0].split()
                if not words:
                    continue
                try:
                    digest = Digest.parse(words[0])
                    names = tuple(map(parse_repo_name, words[1:]))
                except RegistryError:
                    raise HaveListInvalid(
                        f"{path}, line {number}: expected a digest such as sha256:..., or one and the "
                        f"repositories that have it, found {line.strip()!a:.100}"
                    ) from None
                found[digest] = (*found.get(digest, ()), *names)
    except OSError as error:
        raise HaveListInvalid(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise HaveListInvalid(f"{path} is not UTF-8; expected a list of digests") from error
    return found


async def blobs_of_bundle(path: Path) -> tuple[dict[Digest, tuple[str, ...]], BaseBundle]:
    """Return the content of a bundle and what it leaves out itself, with the repositories.  Raises BundleError.

    Of a bundle with a table of contents no more than that is read: its beginning is enough.
    """
    contents = await asyncio.to_thread(_contents, path)
    if contents is not None:
        found = {item.digest: item.repositories for item in (*contents.omitted, *contents.content)}
        return found, BaseBundle(path.name, contents.id)
    files = await asyncio.to_thread(open_files, path)
    try:
        source = await open_layout(files)
        names = tuple(dict.fromkeys(image.name for image in source.images if image.name))
        digests = LayoutBlobs(files).digests()
        listed = Digest.of("\n".join(sorted(digests)).encode())
        return dict.fromkeys(digests, names), BaseBundle(path.name, str(listed))
    finally:
        files.close()


def _contents(path: Path) -> BundleContents | None:
    """Return the table of contents of a tar file, None if it has none among its first members."""
    if path.is_dir():
        return None
    try:
        with VolumeReader(find_volumes(path)) as reader:
            first = itertools.islice(members(reader.read_at, reader.length, str(path)), _FIRST)
            for member in first:
                if member.name == CONTENTS_NAME and member.size <= CONTENTS_LIMIT_BYTES:
                    return BundleContents.parse(reader.read_at(member.offset, member.size), str(path))
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    return None
