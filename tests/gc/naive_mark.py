"""What keeps content, written from its rules and from nothing else: slow, and short enough to be judged by eye.

`moorage.gc` is not used: links are parsed by a split of the path, manifests by `json`.  For stores of whole,
readable objects of sha256, without uploads and without trash.

    manifest    a tag names it; a needed index of the repository lists it; its subject is needed; it is young; the
                history of a tag has it, whose link or entry is young; or untagged manifests are kept
    layer       a needed manifest of the same repository names it; or its link is young
    blob        a needed manifest or layer link of any repository names it; or it is young
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Naive", "naive_mark"]


class Naive(NamedTuple):
    """Hex of dead blobs; `(repository, hex)` of dead links."""

    blobs: set[str]
    layers: set[tuple[str, str]]
    revisions: set[tuple[str, str]]


def naive_mark(root: Path, now: float, *, grace_s: float, undo_s: float, delete_untagged: bool) -> Naive:
    """Return what nothing needs in the store below `root`."""
    home = root / "docker/registry/v2"
    at = {str(path.relative_to(home)): path.stat().st_mtime for path in home.rglob("*") if path.is_file()}
    blobs = {path.split("/")[3]: time for path, time in at.items() if path.startswith("blobs/sha256/")}
    links = [path.removeprefix("repositories/") for path in at if path.startswith("repositories/")]
    dead = Naive(set(), set(), set())
    alive = {digest for digest, time in blobs.items() if time + grace_s > now}
    for name in {path.split("/_")[0] for path in links}:
        own = {
            path.removeprefix(f"{name}/"): at[f"repositories/{path}"]
            for path in links
            if path.split("/_")[0] == name
        }
        layers = {path.split("/")[2]: time for path, time in own.items() if path.startswith("_layers/")}
        revisions = {path.split("/")[3]: time for path, time in own.items() if path.startswith("_manifests/rev")}
        manifests = {digest: document(home, digest) for digest in revisions}
        needed = {digest for digest, time in revisions.items() if not delete_untagged or time + grace_s > now}
        for path, time in own.items():
            parts = path.split("/")
            if parts[1] == "tags" and parts[3] == "current":
                needed.add((home / "repositories" / name / path).read_text().removeprefix("sha256:"))
            elif parts[1] == "tags":
                moved = max(time, own.get("/".join([*parts[:3], "current", "link"]), 0))
                needed |= {parts[5]} if moved + max(grace_s, undo_s) > now else set()
        while True:
            more = {child for digest in needed & set(manifests) for child in names(manifests[digest], "manifests")}
            more |= {digest for digest, found in manifests.items() if set(names(found, "subject")) & needed}
            if more & set(manifests) <= needed:
                break
            needed |= more & set(manifests)
        needed &= set(manifests)
        used = {part for digest in needed for part in names(manifests[digest], "config", "layers", "manifests")}
        used |= {digest for digest, time in layers.items() if time + grace_s > now}
        dead.revisions.update((name, digest) for digest in revisions if digest not in needed)
        dead.layers.update((name, digest) for digest in layers if digest not in used)
        alive |= needed | used
    dead.blobs.update(digest for digest in blobs if digest not in alive)
    return dead


def document(home: Path, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "blobs/sha256" / digest[:2] / digest / "data").read_bytes())
    return found


def names(manifest: dict[str, Any], *members: str) -> list[str]:
    """Return the digests in members of a manifest, which are a descriptor or a list of them."""
    found = [manifest.get(member) or [] for member in members]
    flat = [entry for value in found for entry in (value if isinstance(value, list) else [value])]
    return [entry["digest"].removeprefix("sha256:") for entry in flat]
