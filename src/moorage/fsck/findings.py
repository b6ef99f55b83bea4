"""Each kind of damage: its severity, its consequence for clients, and its repair.

docs/storage/checking.md shows this table, and a test keeps them equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from moorage.storage.driver import Key

__all__ = ["KINDS", "Finding", "Kind", "Outcome", "Severity"]


class Severity(Enum):
    """`error`: clients fail; `warning`: an error that no client notices; `note`: unusual and valid."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Outcome(Enum):
    """The state of a finding at the end of the check."""

    FOUND = "found"
    REPAIRED = "repaired"


@dataclass(frozen=True, slots=True)
class Kind:
    """`clients` is the consequence; `repair` is empty where no repair is safe."""

    severity: Severity
    clients: str
    repair: str = ""


_ERROR, _WARNING, _NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

KINDS: Final = {
    "blob-empty": Kind(_ERROR, "the blob is unknown; a push of it restores it"),
    "blob-corrupt": Kind(_ERROR, "pulls of images with this blob fail with a wrong digest"),
    "blob-unreadable": Kind(_ERROR, "pulls of images with this blob fail"),
    "blob-size": Kind(_ERROR, "pulls of this image fail with a wrong size or digest"),
    "layer-torn": Kind(_ERROR, "the blob is unknown in this repository", "writes the link, or removes it"),
    "layer-astray": Kind(_ERROR, "a pull of this digest gets other bytes", "writes the link"),
    "layer-missing": Kind(_ERROR, "the blob is unknown; a push of it restores it"),
    "revision-torn": Kind(_ERROR, "the manifest is unknown", "writes the link, or removes it"),
    "revision-astray": Kind(_ERROR, "the manifest may be unknown", "writes the link"),
    "manifest-missing": Kind(_ERROR, "the manifest and its tags are unknown"),
    "manifest-corrupt": Kind(_ERROR, "pulls fail with a wrong digest"),
    "manifest-unreadable": Kind(_WARNING, "the manifest is not served: schema 1, or no manifest at all"),
    "content-unsupported": Kind(_WARNING, "the manifest is served, but not what it names by sha384, for instance"),
    "content-missing": Kind(_ERROR, "pulls of this image fail"),
    "content-absent": Kind(
        _NOTE,
        "a mirror fetches the blob; else it is unknown, as `validation.manifests.layers: none` allows",
    ),
    "content-unlinked": Kind(_ERROR, "pulls of this image fail", "writes the link"),
    "child-absent": Kind(
        _NOTE, "this platform cannot be pulled from here; an index may name images of other registries"
    ),
    "referrer-missing": Kind(_WARNING, "the artifact is not listed with its subject", "writes the link"),
    "referrer-torn": Kind(_WARNING, "none: the list is made from the manifest", "writes the link"),
    "referrer-bare": Kind(
        _NOTE,
        "none: the list is made from the manifest, which takes longer",
        "writes the descriptor into the link",
    ),
    "referrer-stale": Kind(_WARNING, "none: the list leaves it out", "removes the link"),
    "tag-torn": Kind(
        _ERROR,
        "the tag is unknown",
        "points it at the one manifest it ever named, or at nothing",
    ),
    "tag-half": Kind(
        _WARNING, "none; CNCF Distribution lists a tag that it answers with 404", "removes its history"
    ),
    "tag-dangling": Kind(
        _ERROR,
        "the tag is unknown",
        "links its manifest again if its content is complete, else points the tag at nothing",
    ),
    "history-missing": Kind(
        _WARNING, "none; the garbage collector of CNCF Distribution needs it", "writes the link"
    ),
    "history-torn": Kind(
        _WARNING, "none; the garbage collector of CNCF Distribution stops at it", "writes the link"
    ),
    "upload-stale": Kind(_WARNING, "none; it occupies space", "removes the upload"),
    "temporary-stale": Kind(_WARNING, "none; it occupies space", "removes the file or the parts"),
    "unknown-key": Kind(_WARNING, "none; not part of a registry"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One damaged object: its key, and the problem in words."""

    kind: str
    key: Key
    problem: str
    outcome: Outcome = Outcome.FOUND

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity
