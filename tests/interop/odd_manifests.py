"""Manifests that encoding/json of Go reads and that no builder writes: other spellings, repeated members, null...

`documents` generates them for an image whose only blob is `BLOB`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st

from moorage.testing.builders import DOCKER_LIST, DOCKER_MANIFEST, EMPTY, OCI_INDEX, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BLOB", "TYPES", "documents", "written"]

BLOB: Final = EMPTY
TYPES: Final = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)

_DESCRIPTOR: Final = json.dumps(BLOB.entry).encode()
_BARE: Final = _DESCRIPTOR[1:-1]
_ODD: Final[dict[str, Sequence[bytes]]] = {
    "schemaVersion": [b"2", b"null", b"1", b"2.0", b'"2"'],
    "mediaType": [*(json.dumps(name).encode() for name in TYPES), b'""', b"null", b'"text/html"', b"1"],
    "config": [
        _DESCRIPTOR,
        b"null",
        b"{" + _BARE + b',"Digest":null,"SIZE":2,"platform":{"OS":"linux","os.features":["x"]},"DATA":"e30="}',
        b"{" + _BARE.replace(b'"digest"', b'"DIGEST"').replace(b'"size"', '"\u017fize"'.encode()) + b"}",
    ],
    "layers": [
        b"[]",
        b"null",
        b"[" + _DESCRIPTOR + b"]",
        b"[{" + _BARE + b',"urls":["x"],"annotations":{"a":null}}]',
    ],
    "manifests": [b"[]", b"null", b"{}", b"1", b"[null]"],
    "annotations": [
        b'{"a":null}',
        b'{"a":"\xe9"}',
        b'{"a":1}',
        b"null",
        b"[]",
        b'{"a":"x","a":"y","A":"\\ud800"}',
    ],
    "subject": [_DESCRIPTOR, b"null", b'"x"', b'{"digest":"x"}'],
    "artifactType": [b'"a/b"', b"null", b"7"],
    "fsLayers": [b"[]", b"null"],
    "other": [
        b"9" * 5_000,
        b"-1e" + b"9" * 50,
        b"[" * 2_000 + b"]" * 2_000,
        b'{"x":1,"x":2}',
        b'"\\udfff\\ud800"',
    ],
}
"""Values for each member; not all of them are read by the reference."""


def written(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A JSON object with these members, whose values are JSON."""
    return b"{%b}" % b",".join(json.dumps(name).encode() + b":" + value for name, value in members)


def _spelled(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from([name, name, name, name.upper(), name.title(), name.replace("s", "\u017f")])


@st.composite
def documents(draw: Any) -> bytes:
    """The members of one type, some of them spelled otherwise, and up to three odd ones before or after them."""
    media_type = draw(st.sampled_from(TYPES))
    base = [("schemaVersion", b"2"), ("mediaType", json.dumps(media_type).encode())]
    if media_type in {OCI_INDEX, DOCKER_LIST}:
        base += [("manifests", b"[]")]
    else:
        base += [("config", _DESCRIPTOR), ("layers", b"[" + _DESCRIPTOR + b"]")]
    left_out = draw(st.sampled_from(["", "", "", "mediaType", "layers"]))
    members = [(name, value) for name, value in base if name != left_out]
    for name in draw(st.lists(st.sampled_from(sorted(_ODD)), max_size=3)):
        members.insert(draw(st.integers(0, len(members))), (name, draw(st.sampled_from(_ODD[name]))))
    return written([(draw(_spelled(name)), value) for name, value in members])
