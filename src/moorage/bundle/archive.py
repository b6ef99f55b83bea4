"""Members of a tar file: headers read with bounded memory, and written so that equal content gives equal bytes.

A file from another site can have headers of any size, kind and name, so each is checked here: sizes, names and
extension headers are bounded, and a member outside of the folder into which the file would be unpacked is an
error.  The file is never unpacked.

Above: `files.py`, `writer.py`.
Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from moorage.bundle.errors import BundleInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    ReadAt = Callable[[int, int], bytes]

__all__ = ["BLOCK", "END", "Member", "MemberKind", "header", "members", "padding"]

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
"""Two empty blocks end the file."""

_EXTENSION_LIMIT_BYTES: Final = 1 << 20
_MEMBERS_LIMIT: Final = 300_000
_NAME_LIMIT: Final = 4096
_EXTENSIONS: Final = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


class MemberKind(Enum):
    """Kinds of members that are distinguished; devices and all others are refused."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Member:
    """A member: `size` bytes at `offset` of the file.  `target` is that of a link, relative to the root."""

    name: str
    kind: MemberKind
    offset: int
    size: int
    target: str = ""


def header(name: str, size: int, *, folder: bool = False) -> bytes:
    """Return the header of a member without owner and time."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o755 if folder else 0o644
    info.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """Return the zeros that follow `size` bytes of content."""
    return bytes(-size % BLOCK)


def members(read_at: ReadAt, length: int, title: str) -> Iterator[Member]:
    """Yield the members of a file of `length` bytes without reading their content.

    Raises BundleInvalid if the file is truncated or no tar, and for a member that is a device or outside.
    """
    offset = 0
    count = 0
    extended: dict[str, str] = {}
    while True:
        block = read_at(offset, BLOCK)
        if len(block) < BLOCK:
            raise _truncated(
                title, f"after {offset} bytes, without the end of a tar file" if offset else "at its start"
            )
        if not block.strip(b"\0"):
            return
        info = _parsed(block, offset, title)
        count += 1
        if count > _MEMBERS_LIMIT:
            raise BundleInvalid(f"{title} has more than {_MEMBERS_LIMIT} members")
        offset += BLOCK
        if info.type in _EXTENSIONS:
            if info.size > _EXTENSION_LIMIT_BYTES:
                raise BundleInvalid(f"{title} has an extension header of {info.size} bytes; at most 1 MiB is read")
            data = read_at(offset, info.size)
            if len(data) < info.size:
                raise _truncated(title, "in an extension header")
            extended |= _extension(info.type, data, title)
            offset += info.size + len(padding(info.size))
            continue
        member = _member(info, extended, offset, title)
        extended = {}
        if member.offset + member.size > length:
            missing = member.offset + member.size - length
            raise _truncated(title, f"in {member.name!a}, of which {missing} bytes are missing")
        if member.name:
            yield member
        offset += member.size + len(padding(member.size))


def _truncated(title: str, where: str) -> BundleInvalid:
    return BundleInvalid(
        f"{title} is truncated: it ends {where}; copy the file again, and all of its volumes if it was split"
    )


def _parsed(block: bytes, offset: int, title: str) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if offset == 0:
            raise BundleInvalid(
                f"{title} is not a tar file; a compressed one must be decompressed first"
            ) from error
        raise BundleInvalid(
            f"{title} is damaged: no header of a tar file at byte {offset}; copy it again"
        ) from error
    if info.size < 0:
        raise BundleInvalid(f"{title} has a member of negative size at byte {offset}")
    return info


def _extension(kind: bytes, data: bytes, title: str) -> dict[str, str]:
    """Return the values of an extension header that replace those of the next header."""
    if kind == tarfile.XGLTYPE:
        return {}  # comments of git archive; a global path or size makes no sense
    if kind in {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}:
        key = "path" if kind == tarfile.GNUTYPE_LONGNAME else "linkpath"
        return {key: data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    found: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at] != 0:
        length, _, _ = data[at : at + 20].partition(b" ")
        # A record counts its own length: "25 path=blobs/sha256/abc\n".
        if not length.isdigit() or not len(length) + 2 < int(length) <= len(data) - at:
            raise BundleInvalid(f"{title} has an extension header that cannot be read")
        record = data[at + len(length) + 1 : at + int(length) - 1]
        key_bytes, _, value = record.partition(b"=")
        found[key_bytes.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at += int(length)
    return found


def _member(info: tarfile.TarInfo, extended: dict[str, str], offset: int, title: str) -> Member:
    name, target = extended.get("path", info.name), extended.get("linkpath", info.linkname)
    if any(key.startswith("GNU.sparse") for key in extended):
        raise BundleInvalid(f"{title}: {name!a} is a sparse file, which no bundle has")
    size_text = extended.get("size", str(info.size))
    if not (size_text.isascii() and size_text.isdigit() and len(size_text) < 20):  # noqa: PLR2004  64 bits
        raise BundleInvalid(f"{title}: the size of {name!a} is not a number of bytes")
    size = int(size_text)
    if info.type in {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}:
        return Member(_inside(name, title), MemberKind.FILE, offset, size)
    if info.type == tarfile.DIRTYPE:
        return Member(_inside(name, title), MemberKind.FOLDER, offset, size)
    if info.type in {tarfile.SYMTYPE, tarfile.LNKTYPE}:
        inside = _inside(name, title)
        # A symbolic link is relative to its folder, a hard link to the root.
        folder = inside.rpartition("/")[0] if info.type == tarfile.SYMTYPE else ""
        return Member(inside, MemberKind.LINK, offset, 0, _resolved(folder, target, inside, title))
    raise BundleInvalid(f"{title}: {name!a} is neither a file nor a folder; no bundle has devices or pipes")


def _inside(name: str, title: str) -> str:
    """Return the name without `./` before and `/` after it, "" for the root."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or ".." in parts or "\0" in name or len(name) > _NAME_LIMIT:
        shown = name if len(name) <= _NAME_LIMIT else f"{name[:80]}..."
        raise BundleInvalid(
            f"{title}: the member {shown!a} is outside of the bundle; the file is not to be trusted"
        )
    return "/".join(parts)


def _resolved(folder: str, target: str, name: str, title: str) -> str:
    found = folder.split("/") if folder else []
    for part in target.split("/"):
        if part == ".." and found:
            found.pop()
        elif part == ".." or target.startswith("/"):
            raise BundleInvalid(f"{title}: {name!a} is a link to {target!a}, outside of the bundle")
        elif part not in {"", "."}:
            found.append(part)
    return "/".join(found)
