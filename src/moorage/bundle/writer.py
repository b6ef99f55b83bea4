"""Bundle in a tar file, written front to back: its table of contents, manifests, blobs.

All bytes but those of the blobs are known when writing begins, so an unfinished file is continued where it ends,
in the middle of a blob if need be.  Before, what is there is hashed: a torn end, after a power loss for one, is
written again.

    blobs/  oci-layout  moorage.json  index.json  blobs/sha256/... (manifests)  blobs/sha256/... (blobs)  end

Above: `export.py`.  Below: `archive.py`, `volumes.py`, `contents.py`.
Source: image-spec 1.1 "Image Layout".
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final

from moorage.bundle.archive import END, header, padding
from moorage.bundle.contents import CONTENTS_LIMIT_BYTES, CONTENTS_NAME
from moorage.bundle.errors import BundleError, OutputRefused
from moorage.bundle.volumes import VolumeReader
from moorage.shielding import run_to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from moorage.bundle.contents import BundleContents, ContentItem
    from moorage.bundle.volumes import VolumeWriter

__all__ = ["BundleWriter", "ContentRefused"]

_PIECE_BYTES: Final = 4 << 20
_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'


class ContentRefused(BundleError):
    """The bytes of a blob are not those of its digest; nothing of it is in the file."""


class BundleWriter:
    """Writes the content of a bundle in order.  Raises OutputRefused, OutputFull."""

    def __init__(self, volumes: VolumeWriter, contents: BundleContents) -> None:
        self._volumes = volumes
        self._items = contents.content
        self._head = _head(contents)
        self._next = 0
        self._start = 0
        """Offset of the header of the next item."""
        self._hasher = hashlib.sha256()
        self._present = 0
        """Bytes of the next item that are in the file."""

    @property
    def total(self) -> int:
        """Return the size of the finished bundle in bytes."""
        sizes = (_size(item) for item in self._items)
        return len(self._head) + sum(sizes) + len(END)

    async def prepare(self, checked: Callable[[int], None]) -> None:
        """Find out what the unfinished file contains; `checked` receives the number of bytes that were read."""
        if self._volumes.length < len(self._head):
            await _in_thread(self._begin)
            return
        with VolumeReader(self._volumes.partial_paths()) as reader:
            found = await asyncio.to_thread(reader.read_at, 0, len(self._head))
            if found != self._head:
                raise OutputRefused(
                    f"{self._volumes.partial_path(1)} is left of an export of something else; remove it, or name "
                    "another output"
                )
            self._start = len(self._head)
            while self._next < len(self._items) and await self._is_whole(reader, checked):
                self._begin_next()
        self._volumes.truncate(self._start + self._kept())

    def _begin(self) -> None:
        self._volumes.truncate(0)
        self._volumes.append(self._head)
        self._start = len(self._head)
        self._new_hash()

    def _new_hash(self) -> None:
        if self._next < len(self._items):
            self._hasher = hashlib.new(self._items[self._next].digest.algorithm)
        self._present = 0

    def _kept(self) -> int:
        """Return the bytes of header and content of the next item that stay."""
        return len(_header(self._items[self._next])) + self._present if self._present else 0

    async def _is_whole(self, reader: VolumeReader, checked: Callable[[int], None]) -> bool:
        """Return whether the next item is whole in the file; else keep what can be continued of it."""
        item = self._items[self._next]
        self._new_hash()
        expected = _header(item)
        if await asyncio.to_thread(reader.read_at, self._start, len(expected)) != expected:
            return False
        offset = self._start + len(expected)
        while self._present < item.size:
            piece = await asyncio.to_thread(
                reader.read_at, offset + self._present, min(_PIECE_BYTES, item.size - self._present)
            )
            if not piece:
                return False
            await asyncio.to_thread(self._hasher.update, piece)
            self._present += len(piece)
            checked(len(piece))
        zeros = padding(item.size)
        end = await asyncio.to_thread(reader.read_at, offset + item.size, len(zeros))
        if self._hasher.hexdigest() == item.digest.hex and end == zeros:
            return True
        self._new_hash()
        return False

    def pending(self) -> Iterator[tuple[ContentItem, int]]:
        """Yield each item that is not in the file, with the number of its bytes that are."""
        while self._next < len(self._items):
            yield self._items[self._next], self._present

    async def append(self, chunks: AsyncIterator[bytes]) -> None:
        """Write the rest of the next item.  Raises ContentRefused."""
        item = self._items[self._next]
        if not self._present:
            await _in_thread(self._volumes.append, _header(item))
        async for chunk in chunks:
            if self._present + len(chunk) > item.size:
                self._refuse(item, "more")
            await _in_thread(self._append, chunk)
        if self._present < item.size:
            self._refuse(item, "fewer")
        if self._hasher.hexdigest() != item.digest.hex:
            self._refuse(item, "")
        await _in_thread(self._volumes.append, padding(item.size))
        self._begin_next()

    def _begin_next(self) -> None:
        self._start += _size(self._items[self._next])
        self._next += 1
        self._new_hash()

    def _append(self, chunk: bytes) -> None:
        self._volumes.append(chunk)
        self._hasher.update(chunk)
        self._present += len(chunk)

    def _refuse(self, item: ContentItem, amount: str) -> None:
        reason = f"{amount} bytes than {item.size} were received" if amount else "the bytes do not have the digest"
        self.discard()
        raise ContentRefused(f"{item.digest}: {reason}; nothing of it was written")

    def discard(self) -> None:
        """Remove what is in the file of the next item."""
        self._volumes.truncate(self._start)
        self._new_hash()

    async def finish(self) -> list[Path]:
        """Write the end, make everything durable and return the files with their final names."""

        def end() -> list[Path]:
            self._volumes.append(END)
            return self._volumes.finish()

        return await run_to_completion(asyncio.to_thread(end))


async def _in_thread(work: Callable[..., None], *arguments: object) -> None:
    # Cancelled, it still ends before the file is closed.
    await run_to_completion(asyncio.to_thread(work, *arguments))


def _path(item: ContentItem) -> str:
    return f"blobs/{item.digest.algorithm}/{item.digest.hex}"


def _header(item: ContentItem) -> bytes:
    return header(_path(item), item.size)


def _size(item: ContentItem) -> int:
    return len(_header(item)) + item.size + len(padding(item.size))


def _head(contents: BundleContents) -> bytes:
    algorithms = sorted({"sha256"} | {item.digest.algorithm for item in contents.content})
    folders = ["blobs", *(f"blobs/{algorithm}" for algorithm in algorithms)]
    found = [header(f"{folder}/", 0, folder=True) for folder in folders]
    files = {"oci-layout": _LAYOUT, CONTENTS_NAME: contents.encode(), "index.json": contents.index()}
    for name, data in files.items():
        if len(data) > CONTENTS_LIMIT_BYTES:
            raise BundleError(f"{name} would have {len(data)} bytes; export fewer images into one bundle")
        found += [header(name, len(data)), data, padding(len(data))]
    return b"".join(found)
