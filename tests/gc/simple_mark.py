"""A mark of the tests: short enough to be judged by reading, and independent of `moorage.gc.mark`.

A repository needs the manifests that its tags name, with all that these name; without `delete_untagged`, all
manifests.  Young objects are kept; no trash, no history.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from moorage.errors import ManifestInvalid
from moorage.gc.mark import Marked
from moorage.gc.references import packed
from moorage.registry import layout, media
from moorage.storage.driver import KeyMissing
from moorage.types import Digest

if TYPE_CHECKING:
    from moorage.gc.options import CollectionOptions
    from moorage.gc.work import Work
    from moorage.storage.driver import Driver, Stat
    from moorage.types import RepoName

__all__ = ["SimpleMark"]


class SimpleMark:
    """See `moorage.gc.run.MarkSource`."""

    def __init__(self, driver: Driver, options: CollectionOptions, now: datetime) -> None:
        self._driver = driver
        self._untagged = options.delete_untagged
        self._before = now - timedelta(seconds=options.grace_s)
        self.calls = 0

    async def mark(self, wanted: Work | None = None) -> Marked:
        del wanted  # all that is dead has it
        self.calls += 1
        marked = Marked()
        number = marked.table.number
        links: dict[str, dict[RepoName, dict[Digest, Stat]]] = {"layer": {}, "revision": {}}
        tags: dict[RepoName, set[Digest]] = {}
        names: set[RepoName] = set()
        async for page in self._driver.scan(layout.REPOSITORIES):
            for stat in page:
                parsed = layout.parse_key(stat.key)
                if parsed is None or parsed.name is None:
                    continue
                names.add(parsed.name)
                if parsed.kind in links and parsed.digest is not None:
                    links[parsed.kind].setdefault(parsed.name, {})[parsed.digest] = stat
                elif parsed.kind == "tag":
                    text = (await self._driver.read(stat.key)).data.decode()
                    tags.setdefault(parsed.name, set()).add(Digest.parse(text))
        needed_bytes: set[Digest] = set()
        for name in sorted(names):
            revisions, layers = links["revision"].get(name, {}), links["layer"].get(name, {})
            roots = tags.get(name, set()) & set(revisions)
            roots |= {digest for digest, stat in revisions.items() if self._is_kept(stat)}
            needed, blobs = await self._closure(roots, set(revisions))
            blobs |= {digest for digest, stat in layers.items() if stat.modified > self._before}
            marked.revisions.replace(
                name, (number(packed(digest)) for digest in revisions if digest not in needed)
            )
            marked.layers.replace(name, (number(packed(digest)) for digest in layers if digest not in blobs))
            needed_bytes |= needed | (blobs & set(layers))
        async for page in self._driver.scan(layout.BLOBS):
            for stat in page:
                parsed = layout.parse_key(stat.key)
                dead = parsed is not None and parsed.kind == "blob" and stat.modified <= self._before
                if dead and parsed is not None and parsed.digest not in needed_bytes and parsed.digest is not None:
                    marked.blobs.add(number(packed(parsed.digest)), stat.size)
                    marked.stats[parsed.digest] = stat
        return marked

    def _is_kept(self, stat: Stat) -> bool:
        return not self._untagged or stat.modified > self._before

    async def _closure(self, roots: set[Digest], revisions: set[Digest]) -> tuple[set[Digest], set[Digest]]:
        needed, blobs, waiting = set[Digest](), set[Digest](), sorted(roots)
        while waiting:
            digest = waiting.pop()
            if digest in needed or digest not in revisions:
                continue
            needed.add(digest)
            try:
                parsed = media.parse((await self._driver.read(layout.blob_data(digest))).data)
            except (KeyMissing, ManifestInvalid):
                continue
            blobs |= {layer.digest for layer in parsed.blobs}
            waiting += [child.digest for child in parsed.children]
        return needed, blobs
