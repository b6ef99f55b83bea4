"""Content of the object `HOME/state` of an upload; see `chunk_log.py`.

    {"moorage":1,"started":...,"chunk":10485760,"session":...,"chunks":[[NAME,SIZE,VERSION],...],
     "dead":[NAME,...],"notes":[[NAME,BASE64],...],"dated":...,"adopted":...}
    (a newline) the tail's bytes

The bytes of the upload are those of the chunks, in order, and then the tail.  `session` is unique to a written
state, so that a writer whose response was lost recognizes its own state.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from moorage.storage.driver import Note, StorageUnavailable, UploadState, Version

if TYPE_CHECKING:
    from moorage.storage.driver import Content

__all__ = ["Chunk", "LogState", "decode"]

_FORMAT: Final = 1
_NONE: Final = Version("")


@dataclass(frozen=True, slots=True)
class Chunk:
    """An object below the upload's home; `name` is relative to it."""

    name: str
    size: int
    version: Version


@dataclass(frozen=True, slots=True)
class LogState:
    """One state of an upload.  `dead` names chunks that others have superseded; only clearing needs them."""

    started: datetime
    chunk: int
    session: str = ""
    chunks: tuple[Chunk, ...] = ()
    tail: bytes = b""
    dead: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    dated: bool = False
    """`startedat` has been written."""
    adopted: bool = False
    """CNCF Distribution began the upload, so it has objects that no state names."""
    version: Version = _NONE
    """Of the object that holds this state; not part of its content."""

    @property
    def offset(self) -> int:
        return self.stored + len(self.tail)

    @property
    def stored(self) -> int:
        """Bytes in chunks."""
        return sum(chunk.size for chunk in self.chunks)

    @property
    def names(self) -> list[str]:
        """Names of all objects of an upload begun here, the state first."""
        return ["state", "startedat", *(chunk.name for chunk in self.chunks), *self.dead]

    def upload_state(self) -> UploadState:
        return UploadState(self.offset, self.started, self.notes, self.version, held=self)

    def encode(self) -> bytes:
        header = {
            "moorage": _FORMAT,
            "started": self.started.isoformat(),
            "chunk": self.chunk,
            "session": self.session,
            "chunks": [[chunk.name, chunk.size, chunk.version] for chunk in self.chunks],
            "dead": list(self.dead),
            "notes": [[note.name, base64.b64encode(note.data).decode()] for note in self.notes],
            "dated": self.dated,
            "adopted": self.adopted,
        }
        return json.dumps(header, separators=(",", ":")).encode() + b"\n" + self.tail


def decode(place: str, content: Content) -> LogState:
    """Return the state that an object holds.  Raises StorageUnavailable, naming `place`, for an unknown format."""
    header, newline, tail = content.data.partition(b"\n")
    try:
        fields: Any = json.loads(header)
        if not newline or fields["moorage"] != _FORMAT:
            raise ValueError(f"it has format {fields['moorage']!r}, and {_FORMAT} is known")
        return LogState(
            started=datetime.fromisoformat(fields["started"]),
            chunk=int(fields["chunk"]),
            session=str(fields["session"]),
            chunks=tuple(
                Chunk(str(name), int(size), Version(version)) for name, size, version in fields["chunks"]
            ),
            tail=tail,
            dead=tuple(str(name) for name in fields["dead"]),
            notes=tuple(Note(str(name), base64.b64decode(text, validate=True)) for name, text in fields["notes"]),
            dated=bool(fields["dated"]),
            adopted=bool(fields.get("adopted")),
            version=content.version,
        )
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise StorageUnavailable(f"{place}: this version of Moorage cannot read it: {error}") from error
