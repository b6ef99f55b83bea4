"""One request's part of an upload to Azure: blocks go out while the next one fills, a checkpoint commits them.

Above: `azure/uploads.py`, which tells how it all fits.  Below: `azure/blocks.py`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.shielding import run_to_completion, run_with_thread, wait_settled
from moorage.storage.azure.blocks import Block, block_name, commit, drop, new_session, stage
from moorage.storage.azure.objects import Replaced
from moorage.storage.driver import (
    Conflict,
    Key,
    KeyMissing,
    Note,
    StorageError,
    StorageUnavailable,
    Unchanged,
    UploadChanged,
    UploadMissing,
    UploadState,
    Version,
)
from moorage.storage.object_store.chunk_buffer import Pieces
from moorage.storage.start_times import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.storage.azure.objects import AzureObjects, Found

__all__ = ["AzureAppender", "BlockLog", "decode"]

_FORMAT: Final = "1"
_NONE: Final = Version("")
_log: Final = structlog.get_logger("moorage.storage.azure")


@dataclass(frozen=True, slots=True)
class BlockLog:
    """One state of an upload.  `blocks` None: not asked for yet.  `sealed`: all its bytes, of which the last were
    never written here.  `dated`: `startedat` was written.  `adopted`: the reference began it.
    """

    started: datetime
    size: int = 0
    version: Version = _NONE
    blocks: tuple[Block, ...] | None = ()
    notes: tuple[Note, ...] = ()
    dated: bool = False
    adopted: bool = False
    sealed: bytes | None = None

    def metadata(self) -> dict[str, str]:
        """Kept with the blob, written in one step with it; 8 KiB at most.  `session` makes each one new."""
        notes = [[note.name, base64.b64encode(note.data).decode()] for note in self.notes]
        return {
            "moorage": _FORMAT,
            "session": new_session(),
            "started": self.started.isoformat(),
            "notes": base64.b64encode(json.dumps(notes, separators=(",", ":")).encode()).decode(),
            "dated": str(int(self.dated)),
            "adopted": str(int(self.adopted)),
        }

    def shown(self) -> UploadState:
        return UploadState(self.size, self.started, self.notes, self.version, held=self)


def decode(place: str, found: Found) -> BlockLog:
    """Raises StorageUnavailable for what no version of Moorage that we know has written, with `place`."""
    said = found.metadata
    try:
        if said["moorage"] != _FORMAT:
            raise ValueError(f"it has format {said['moorage']!r}, and {_FORMAT} is known")
        notes: Any = json.loads(base64.b64decode(said["notes"], validate=True))
        return BlockLog(
            datetime.fromisoformat(said["started"]),
            found.size,
            found.version,
            blocks=None if found.size else (),
            notes=tuple(Note(str(name), base64.b64decode(text, validate=True)) for name, text in notes),
            dated=said["dated"] == "1",
            adopted=said["adopted"] == "1",
        )
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise StorageUnavailable(f"{place}: this version of Moorage cannot read it: {error}") from error


class AzureAppender:
    """See `driver.Appender`.  `_log` is the last checkpoint, `_live` the blocks that the next one will name, and
    `_pieces` holds the bytes after them.
    """

    def __init__(self, place: AzureObjects, home: Key, log: BlockLog) -> None:
        self._place, self._home, self._log = place, home, log
        self._key = Key(f"{home}/blocks")
        self._small = place.options.small
        self._live = list(log.blocks or ())
        self._pieces = Pieces(place.options.chunk, self._stage)
        self._session = new_session()
        self._number = 0
        self._loaded = False
        self._torn = False
        self._sent = False  # blocks that no commit has named yet
        self._gone = False

    async def write(self, chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None = None) -> None:
        await run_with_thread(self._take(chunks), chunks, also)

    async def _take(self, chunks: Sequence[bytes]) -> None:
        if not any(chunks):
            return
        self._torn = True  # until the last of the bytes is where it belongs
        await self._load()
        await self._pieces.add(chunks)
        self._torn = False

    async def _load(self) -> None:
        """Before the first byte: take up a small last block again, or a blob that was written without blocks."""
        if self._loaded:
            return
        size = self._log.size
        length = size  # of a blob without blocks; of others only a small last one
        if self._live:
            length = self._live[-1].size if self._live[-1].size < self._small else 0
        if length:
            try:
                reader = await self._place.reader(self._key, size - length, size, version=self._log.version)
                data = b"".join([piece async for piece in reader])
            except KeyMissing as error:
                raise UploadMissing(self._home) from error
            except Replaced as error:
                raise UploadChanged(f"{self._home}: another request has extended it") from error
            self._pieces.hold([data])
            if self._live:
                self._live.pop()
        self._loaded = True

    async def _stage(self, data: list[bytes]) -> None:
        block = b"".join(data)
        data.clear()
        self._live.append(await self._put_block(block))

    async def _put_block(self, data: bytes) -> Block:
        block = Block(block_name(self._session, self._number), len(data))
        self._number += 1
        self._sent = True
        await stage(self._place, self._key, block.name, data)
        return block

    async def checkpoint(
        self,
        notes: Sequence[Note] = (),
        chunks: Sequence[bytes] = (),
        also: Callable[[Sequence[bytes]], None] | None = None,
    ) -> UploadState:
        await self._gather(chunks, also)
        await run_to_completion(self._commit(replace(self._log, notes=tuple(notes)), dated=True))
        return self._log.shown()

    async def seal(
        self, chunks: Sequence[bytes] = (), also: Callable[[Sequence[bytes]], None] | None = None
    ) -> UploadState:
        await self._gather(chunks, also)
        if not self._live:  # it is all here: published in one request
            whole = self._pieces.joined()
            return replace(self._log, size=len(whole), notes=(), sealed=whole).shown()
        await run_to_completion(self._commit(replace(self._log, notes=()), dated=False))
        return self._log.shown()

    async def _gather(self, chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None) -> None:
        await self.write(chunks, also)
        await self._pieces.landed()
        if self._torn:
            raise StorageUnavailable(f"{self._place.describe(self._key)}: a write before this failed halfway")
        if not self._live:
            await self._load()

    async def _commit(self, log: BlockLog, *, dated: bool) -> None:
        """The checkpoint itself; `dated` also writes when the upload began, unless that is done."""
        dating = asyncio.ensure_future(self._date()) if dated and not log.dated else None
        log = replace(
            log, dated=log.dated or dated, size=self._pieces.length + sum(block.size for block in self._live)
        )
        try:
            log = await self._write(log)
        except Conflict as error:
            try:
                await self._place.find(self._key)
            except KeyMissing:
                self._gone = True
                raise UploadMissing(self._home) from error
            raise UploadChanged(f"{self._home}: another request has extended it") from error
        finally:
            if dating is not None:
                await wait_settled(dating)
        if dating is not None:
            dating.result()
        self._log, self._sent = log, False

    async def _write(self, log: BlockLog) -> BlockLog:
        when, metadata = Unchanged(log.version), log.metadata()
        if not self._live and self._pieces.length < self._small:
            version = await self._place.put_blob(self._key, self._pieces.joined(), when, metadata)
            self._loaded = True
            return replace(log, version=version, blocks=None if log.size else ())
        blocks = list(self._live)
        if self._pieces.length:
            blocks.append(await self._put_block(self._pieces.joined()))
        version = await commit(self._place, self._key, [block.name for block in blocks], when, metadata)
        if self._pieces.length >= self._small:
            self._live = blocks
            self._pieces.hold(())
        return replace(log, version=version, blocks=tuple(blocks))

    async def _date(self) -> None:
        await self._place.put(Key(f"{self._home}/startedat"), [text_of(self._log.started)])

    async def leave(self) -> None:
        """Blocks that were sent and not committed go with the next commit, or with the upload; those of an upload
        that was discarded meanwhile are removed here.  Failing at it is no failure of the request.
        """
        await self._pieces.close()
        try:
            if self._gone:
                await self._place.delete([Key(f"{self._home}/startedat")])
            if self._gone or (self._sent and not await self._exists()):
                await drop(self._place, self._key)
        except StorageError as error:
            _log.warning("blocks of an upload were left behind", upload=self._home, cause=str(error))

    async def _exists(self) -> bool:
        try:
            await self._place.find(self._key)
        except KeyMissing:
            return False
        return True
