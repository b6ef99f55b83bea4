"""JSON of manifests: read strictly when pushed, as CNCF Distribution and its clients read it when stored.

    read_pushed   ambiguous JSON is refused, and so are documents that are expensive to parse
    read_stored   members are found and converted as Go's encoding/json does; only what is no object is refused

Go's encoding/json, which Distribution and most clients use, matches the names of members without regard to case,
takes the last of several equal members and replaces invalid UTF-8.  Other readers do not, so that one document can
be two images (CVE-2021-41190).  A push must therefore have one reading; stored bytes keep the one that they had.

`read_stored` is not a JSON parser: members that the image specification does not define are skipped without
building their values, at any nesting that encoding/json takes, and are not validated beyond their brackets.  Its
memory is bounded by the members that are returned, its time by the size of the document.

Above: `media.py`.
Source: RFC 8259; https://pkg.go.dev/encoding/json#Unmarshal; image-spec 1.1 "Image Manifest", "Image
Index" and "Content Descriptors".
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NoReturn

from moorage.errors import ManifestInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    _Members = Mapping[str, Callable[["_Cursor"], Any]]

__all__ = [
    "DESCRIPTOR_MEMBERS",
    "MANIFEST_MEMBERS",
    "NESTING_LIMIT",
    "PLATFORM_MEMBERS",
    "STORED_NESTING_LIMIT",
    "VALUES_LIMIT",
    "fold",
    "read_pushed",
    "read_stored",
    "well_formed",
]

MANIFEST_MEMBERS: Final = frozenset(
    {
        "schemaVersion",
        "mediaType",
        "artifactType",
        "config",
        "layers",
        "manifests",
        "subject",
        "annotations",
        "fsLayers",
    }
)
"""Members of manifests and indexes; `fsLayers` is one of Docker's schema 1, and is not read from stored ones."""
DESCRIPTOR_MEMBERS: Final = frozenset(
    {"mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform"}
)
PLATFORM_MEMBERS: Final = frozenset({"architecture", "os", "os.version", "os.features", "variant", "features"})

VALUES_LIMIT: Final = 100_000
"""Values in a pushed manifest: objects, arrays, texts, numbers; an empty object or array counts as two."""
NESTING_LIMIT: Final = 64
"""Objects and arrays within one another in a pushed manifest; the specification needs 5."""
STORED_NESTING_LIMIT: Final = 10_000
"""The same in a member of a stored one that is skipped; encoding/json refuses a document with more."""

_INTEGER_DIGITS: Final = 20
"""Longer integers fit no 64 bits, and the time to convert one grows with the square of its length."""

_SPACE: Final = re.compile(r"[ \t\n\r]*+")
_SCALAR: Final = re.compile(r"[-+.0-9A-Za-z]++")
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_QUOTED: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT: Final = rf'(?:[^][{{}}"]++|{_QUOTED})*+'
_STRUCTURE: Final = re.compile(
    rf'(?:[^][{{}}"]++|{_QUOTED}|[\[{{]{_FLAT}[\]}}])*+(?:([\[{{](?:[\[{{](?=[\[{{]))*+)|([\]}}]++))', re.DOTALL
)
"""The next brackets, opening or closing, several at once if nothing is between them.

Texts are passed over, and so are objects and arrays without any in them: 3.5 MB of nested arrays take 0.1 to
0.6 s; with a step for each bracket and each text they took 2 s.
"""
_STRING: Final = re.compile(_QUOTED, re.DOTALL)
_STRING_IN_BYTES: Final = re.compile(_QUOTED.encode(), re.DOTALL)
_DEPTHS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_ESCAPED_BYTE: Final = re.compile("[\udc80-\udcff]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_REPLACEMENT: Final = "\ufffd"
_decode: Final = json.JSONDecoder().raw_decode


def well_formed(text: str) -> str:
    """Return a text that UTF-8 can encode: encoding/json, too, reads half of a surrogate pair as U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub(_REPLACEMENT, text)


def fold(name: str) -> str:
    """Return a member's name as Go's encoding/json compares it: equal for names that select the same field.

    Only ASCII names can be compared.  Beside the ASCII letters, Unicode's simple case folding maps U+017F to `s`
    and U+212A to `k`; `str.lower` does the latter.
    """
    return name.lower().replace("\u017f", "s")


# --- pushed ------------------------------------------------------------------------------------------------------


def read_pushed(data: bytes) -> dict[str, Any]:
    """Read a manifest that a client pushes.

    Raises ManifestInvalid for bytes that are not UTF-8 or not a JSON object, for a name that occurs twice in one
    object (halves of surrogate pairs count as U+FFFD), for a name that differs from a specified one only in case
    where the specification defines names (names of annotations are free), and above `VALUES_LIMIT` or
    `NESTING_LIMIT`.  Integers of more than 20 digits are returned as floats: no specified member has room for one.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ManifestInvalid("it is not UTF-8 text") from error
    _check_cost(data)
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_int=_integer, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ManifestInvalid(f"it is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ManifestInvalid("it is not a JSON object")
    _check_names(document, MANIFEST_MEMBERS, "")
    for name in ("config", "subject"):
        _check_descriptor(document.get(name), name)
    for name in ("layers", "manifests"):
        items = document.get(name)
        for i, item in enumerate(items if isinstance(items, list) else ()):
            _check_descriptor(item, f"{name}[{i}]")
    return document


def _check_cost(data: bytes) -> None:
    """Count values and nesting without building anything; most manifests are too small to need it.

    What follows a text without an end is not counted: the parser reports it.
    """
    opened = data.count(b"{") + data.count(b"[")
    if opened <= NESTING_LIMIT and opened + data.count(b",") < VALUES_LIMIT:
        return
    most = 2 * VALUES_LIMIT  # texts: a key and a text for each
    rest, texts = _STRING_IN_BYTES.subn(b"", data, most + 1)
    rest = rest.partition(b'"')[0]
    steps = memoryview(rest.translate(_DEPTHS, _NO_BRACKETS)[:most]).cast("b")
    if max(accumulate(steps), default=0) > NESTING_LIMIT:
        raise ManifestInvalid(f"its JSON is nested more than {NESTING_LIMIT} levels deep")
    if texts > most or rest.count(b"{") + rest.count(b"[") + rest.count(b",") >= VALUES_LIMIT:
        raise ManifestInvalid(f"its JSON has more than {VALUES_LIMIT} values")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # Names with halves of surrogate pairs are equal once they are replaced, as encoding/json does.
    if len(found) != len(pairs) or len({well_formed(name) for name in found}) != len(found):
        raise ValueError("a key occurs twice in one object")
    return found


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= _INTEGER_DIGITS else float(digits)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


def _check_descriptor(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        return
    _check_names(value, DESCRIPTOR_MEMBERS, where)
    platform = value.get("platform")
    if isinstance(platform, dict):
        _check_names(platform, PLATFORM_MEMBERS, f"{where}.platform")


def _check_names(found: dict[str, Any], specified: frozenset[str], where: str) -> None:
    for name in found:
        if name not in specified and (meant := _FOLDED.get(fold(name))) in specified:
            place = f" in {where}" if where else ""
            raise ManifestInvalid(f"the key {name!a}{place} must be written {meant}: some clients ignore case")


_FOLDED: Final = {fold(name): name for name in MANIFEST_MEMBERS | DESCRIPTOR_MEMBERS | PLATFORM_MEMBERS}


# --- stored ------------------------------------------------------------------------------------------------------


def read_stored(data: bytes, members: frozenset[str] = MANIFEST_MEMBERS) -> dict[str, Any]:
    """Read a manifest whose digest has been verified; only `members` of it are read and returned.

    The result has the specified members only, under their specified names, each with the specified type or absent:

        schemaVersion, size             int of 64 bits
        mediaType, artifactType, digest, os, architecture   str
        urls                            list of str
        annotations                     dict of str to str
        config, subject                 dict, a descriptor: mediaType, digest, size, urls, artifactType, platform
        layers, manifests               list of descriptors
        platform                        dict: os, architecture

    As Go's encoding/json: names match exactly or without regard to case; of several members that match the same
    name the last one counts; null is absent (it leaves an earlier text or number, and removes anything else; as
    an annotation it is an empty text); a byte that is not UTF-8, and half of a surrogate pair, is U+FFFD.
    Values of another type, on which encoding/json fails, are absent, and so are such entries of lists and maps.

    Raises ManifestInvalid if the bytes are not one JSON object, as far as that is read.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        # One U+FFFD for each invalid byte; Python's "replace" would write one for several.
        text = _ESCAPED_BYTE.sub(_REPLACEMENT, data.decode("utf-8", "surrogateescape"))
    cursor = _Cursor(text)
    try:
        if cursor.peek() != "{":
            raise ManifestInvalid("it is not a JSON object")
        readers = {name: _MANIFEST[name] for name in _MANIFEST if name in members}
        document = _object(cursor, readers)
        if cursor.peek():
            raise ValueError(f"text follows the object at character {cursor.at}")
    except ValueError as error:
        raise ManifestInvalid(f"it is not JSON: {error}") from error
    return document


class _Cursor:
    """A place in a JSON text.  Methods that read a value leave the cursor after it, or raise ValueError."""

    __slots__ = ("at", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def peek(self) -> str:
        """The first character of what follows after white space; empty at the end."""
        found = self.text[self.at : self.at + 1]
        if found and found in " \t\n\r":
            match = _SPACE.match(self.text, self.at)
            self.at = self.at if match is None else match.end()
            found = self.text[self.at : self.at + 1]
        return found

    def fail(self) -> NoReturn:
        raise ValueError(f"unexpected character or end at character {self.at}")

    def string(self) -> str:
        """A string, with U+FFFD for halves of surrogate pairs."""
        found: str
        found, self.at = _decode(self.text, self.at)
        return well_formed(found)

    def scalar(self) -> str:
        """The text of a number, true, false or null."""
        match = _SCALAR.match(self.text, self.at)
        if match is None:
            self.fail()
        self.at = match.end()
        return match[0]

    def skip(self) -> None:
        """Any value."""
        text, at = self.text, self.at
        first = text[at : at + 1]
        if first == '"':
            end = _STRING.match(text, at)
            if end is None:
                self.fail()
            self.at = end.end()
            return
        if first not in {"[", "{"}:
            self.scalar()
            return
        depth = 1
        at += 1
        while True:
            match = _STRUCTURE.match(text, at)
            if match is None:
                self.fail()
            at = match.end()
            if match.lastindex == 1:
                depth += at - match.start(1)
                if depth > STORED_NESTING_LIMIT:
                    raise ValueError(f"nested more than {STORED_NESTING_LIMIT} levels deep")
            elif (closed := at - match.start(2)) < depth:
                depth -= closed
            else:
                self.at = match.start(2) + depth
                return

    def names(self) -> Iterator[str]:
        """The names of an object's members, each with the cursor at its value, which the caller must consume."""
        yield from self._entries("}", named=True)

    def entries(self) -> Iterator[None]:
        """The entries of an array, as `names`."""
        for _ in self._entries("]", named=False):
            yield

    def _entries(self, closing: str, *, named: bool) -> Iterator[str]:
        self.at += 1
        if self.peek() == closing:
            self.at += 1
            return
        while True:
            name = ""
            if named:
                if self.peek() != '"':
                    self.fail()
                name = self.string()
                if self.peek() != ":":
                    self.fail()
                self.at += 1
            if not self.peek():
                self.fail()
            yield name
            following = self.peek()
            if following not in {",", closing}:
                self.fail()
            self.at += 1
            if following == closing:
                return


_ABSENT: Final = object()
_NULL: Final = object()


def _text(cursor: _Cursor) -> Any:
    return cursor.string() if cursor.peek() == '"' else _other(cursor)


def _number(cursor: _Cursor) -> Any:
    if cursor.peek() in {'"', "[", "{"}:
        return _other(cursor)
    found = cursor.scalar()
    if found == "null":
        return _NULL
    if _INTEGER.fullmatch(found) is None or not -1 << 63 <= (number := int(found)) < 1 << 63:
        return _ABSENT
    return number


def _texts(cursor: _Cursor) -> Any:
    if cursor.peek() != "[":
        return _other(cursor)
    found = []
    for _ in cursor.entries():
        value = _text(cursor)
        if value is not _ABSENT:
            found.append("" if value is _NULL else value)
    return found


def _map(cursor: _Cursor) -> Any:
    if cursor.peek() != "{":
        return _other(cursor)
    found = {}
    for name in cursor.names():
        value = _text(cursor)
        if value is not _ABSENT:
            found[name] = "" if value is _NULL else value
    return found


def _descriptor(cursor: _Cursor) -> Any:
    return _object(cursor, _DESCRIPTOR) if cursor.peek() == "{" else _other(cursor)


def _descriptors(cursor: _Cursor) -> Any:
    """Entries without a digest name nothing; leaving them out bounds the memory that they take."""
    if cursor.peek() != "[":
        return _other(cursor)
    found = []
    for _ in cursor.entries():
        value = _descriptor(cursor)
        if isinstance(value, dict) and "digest" in value:
            found.append(value)
    return found


def _platform(cursor: _Cursor) -> Any:
    return _object(cursor, _PLATFORM) if cursor.peek() == "{" else _other(cursor)


def _other(cursor: _Cursor) -> Any:
    """A value of another type, null among them."""
    start = cursor.at
    cursor.skip()
    return _NULL if cursor.text.startswith("null", start) else _ABSENT


_PLATFORM: Final[_Members] = {"architecture": _text, "os": _text}
_DESCRIPTOR: Final[_Members] = {
    "mediaType": _text,
    "digest": _text,
    "size": _number,
    "urls": _texts,
    "artifactType": _text,
    "platform": _platform,
}
_MANIFEST: Final[_Members] = {
    "schemaVersion": _number,
    "mediaType": _text,
    "artifactType": _text,
    "config": _descriptor,
    "layers": _descriptors,
    "manifests": _descriptors,
    "subject": _descriptor,
    "annotations": _map,
}


def _object(cursor: _Cursor, members: _Members) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in cursor.names():
        meant = name if name in members else _FOLDED.get(fold(name), name)
        read = members.get(meant)
        if read is None:
            cursor.skip()
            continue
        value = read(cursor)
        if value is _NULL and read in {_text, _number}:
            continue  # encoding/json leaves what an earlier member of this name has set
        if value is _NULL or value is _ABSENT:
            found.pop(meant, None)
        else:
            found[meant] = value
    return found
