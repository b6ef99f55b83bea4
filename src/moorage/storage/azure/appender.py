"""One request's part of an upload to Azure: blocks go out while the next one fills, a checkpoint commits them.

Above: `azure/uploads.py`, which explains the format.  Below: `azure/blocks.py`, `object_store/appender.py`.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from moorage.storage.azure.blocks import Block, block_name, commit, drop, stage
from moorage.storage.azure.requests import Replaced
from moorage.storage.driver import (
    KeyMissing,
    Note,
    StorageUnavailable,
    Unchanged,
    UploadChanged,
    UploadMissing,
    UploadState,
    Version,
)
from moorage.storage.object_store.appender import BufferedAppender
from moorage.storage.object_store.helpers import below, new_session

if TYPE_CHECKING:
    from moorage.storage.azure.requests import AzureRequests, BlobProperties
    from moorage.storage.driver import Key

__all__ = ["AzureAppender", "BlockLog", "decode"]

_FORMAT: Final = "1"
_NONE: Final = Version("")


@dataclass(frozen=True, slots=True)
class BlockLog:
    """One state of an upload.  `blocks` None: not requested yet.  `sealed`: all its bytes, of which the last were
    never written to the upload.  `dated`: `startedat` was written.  `adopted`: CNCF Distribution began it.
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
        """Return the blob's metadata, written in one step with it; 8 KiB at most.  `session` makes it unique."""
        notes = [[note.name, base64.b64encode(note.data).decode()] for note in self.notes]
        return {
            "moorage": _FORMAT,
            "session": new_session(),
            "started": self.started.isoformat(),
            "notes": base64.b64encode(json.dumps(notes, separators=(",", ":")).encode()).decode(),
            "dated": str(int(self.dated)),
            "adopted": str(int(self.adopted)),
        }

    def upload_state(self) -> UploadState:
        return UploadState(self.size, self.started, self.notes, self.version, held=self)


def decode(place: str, found: BlobProperties) -> BlockLog:
    """Return the state that a blob holds.  Raises StorageUnavailable, naming `place`, for an unknown format."""
    metadata = found.metadata
    try:
        if metadata["moorage"] != _FORMAT:
            raise ValueError(f"it has format {metadata['moorage']!r}, and {_FORMAT} is known")
        notes: Any = json.loads(base64.b64decode(metadata["notes"], validate=True))
        return BlockLog(
            datetime.fromisoformat(metadata["started"]),
            found.size,
            found.version,
            blocks=None if found.size else (),
            notes=tuple(Note(str(name), base64.b64decode(text, validate=True)) for name, text in notes),
            dated=metadata["dated"] == "1",
            adopted=metadata["adopted"] == "1",
        )
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise StorageUnavailable(f"{place}: this version of Moorage cannot read it: {error}") from error


class AzureAppender(BufferedAppender):
    """See `driver.Appender`.  `_log` is the last checkpoint, `_live` the blocks that the next one will name; the
    buffer holds the bytes after them.
    """

    left_behind = "blocks of an upload were left behind"

    def __init__(self, requests: AzureRequests, home: Key, log: BlockLog) -> None:
        super().__init__(requests, home, log.started, piece_bytes=requests.options.chunk)
        self._requests = requests
        self._log = log
        self._key = below(home, "blocks")
        self._small = requests.options.small
        self._live = list(log.blocks or ())
        self._session = new_session()
        self._number = 0
        self._loaded = False
        self._sent = False  # blocks that no commit has named yet

    async def _prepare(self) -> None:
        """Load a small last block, or a blob that was written without blocks."""
        if self._loaded:
            return
        size = self._log.size
        length = size  # of a blob without blocks; of others only a small last one
        if self._live:
            length = self._live[-1].size if self._live[-1].size < self._small else 0
        if length:
            try:
                reader = await self._requests.reader(self._key, size - length, size, version=self._log.version)
                data = b"".join([piece async for piece in reader])
            except KeyMissing as error:
                raise UploadMissing(self._home) from error
            except Replaced as error:
                raise UploadChanged(f"{self._home}: another request has extended it") from error
            self._buffer.hold([data])
            if self._live:
                self._live.pop()
        self._loaded = True

    async def _send(self, data: list[bytes]) -> None:
        block = b"".join(data)
        data.clear()
        self._live.append(await self._put_block(block))

    async def _put_block(self, data: bytes) -> Block:
        block = Block(block_name(self._session, self._number), len(data))
        self._number += 1
        self._sent = True
        await stage(self._requests, self._key, block.name, data)
        return block

    async def _checkpoint(self, notes: tuple[Note, ...]) -> UploadState:
        if not self._live:
            await self._prepare()
        return await self._commit_log(replace(self._log, notes=notes, dated=True))

    async def _seal(self) -> UploadState:
        if self._live:
            return await self._commit_log(replace(self._log, notes=()))
        await self._prepare()
        whole = self._buffer.joined()  # all bytes are here: published by one request
        return replace(self._log, size=len(whole), notes=(), sealed=whole).upload_state()

    async def _commit_log(self, log: BlockLog) -> UploadState:
        log = replace(log, size=self._buffer.length + sum(block.size for block in self._live))
        self._log = await self._commit(lambda: self._write(log), dated=self._log.dated or not log.dated)
        self._sent = False
        return self._log.upload_state()

    async def _write(self, log: BlockLog) -> BlockLog:
        when = Unchanged(log.version)
        metadata = log.metadata()
        if not self._live and self._buffer.length < self._small:
            version = await self._requests.put_blob(self._key, self._buffer.joined(), when, metadata)
            self._loaded = True
            return replace(log, version=version, blocks=None if log.size else ())
        blocks = list(self._live)
        if self._buffer.length:
            blocks.append(await self._put_block(self._buffer.joined()))
        version = await commit(self._requests, self._key, [block.name for block in blocks], when, metadata)
        if self._buffer.length >= self._small:
            self._live = blocks
            self._buffer.hold(())
        return replace(log, version=version, blocks=tuple(blocks))

    async def _exists(self) -> bool:
        try:
            await self._requests.properties(self._key)
        except KeyMissing:
            return False
        return True

    async def _remove_unused(self) -> None:
        """Blocks that were sent and not committed are removed by the next commit, or with the upload; here only
        those of an upload that was discarded meanwhile.
        """
        if self._discarded:
            await self._requests.delete([below(self._home, "startedat")])
        if self._discarded or (self._sent and not await self._exists()):
            await drop(self._requests, self._key)
