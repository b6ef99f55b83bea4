"""Checks the tags of one repository: each names a manifest of the repository, or was deleted.

A tag whose manifest was deleted by digest keeps its link (`registry/tags.py`); the mark of the deletion shows
it, and it is no damage.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from moorage.fsck.repairs import exists, overwrite, point_at_nothing, write_absent
from moorage.registry import layout
from moorage.registry.links import has_link, read_link, resolve
from moorage.registry.referrer_links import encode
from moorage.registry.tags import NOWHERE, TagStore
from moorage.registry.walk import list_digests
from moorage.storage.driver import ABSENT, KeyMissing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.fsck.repository import RepositoryCheck
    from moorage.storage.driver import Stat, When
    from moorage.types import Digest, Tag

__all__ = ["check_tag"]


async def check_tag(repository: RepositoryCheck, tag: Tag) -> None:
    """Check one tag; `RepositoryCheck.run` must have ended."""
    context, name = repository.context, repository.name
    key = layout.tag_link(name, tag)
    digest, when = await resolve(context.driver, key)
    if digest is None:
        await _without_digest(repository, tag, when)
        return
    revision = layout.revision_link(name, digest)
    if digest not in repository.revisions and not await has_link(context.driver, revision):
        if digest == NOWHERE or await exists(context.driver, layout.deleted_mark(name, digest)):
            return
        if await read_link(context.driver, key) == digest and not await has_link(context.driver, revision):
            fix = partial(_revive, repository, tag, digest, when)
            await context.report("tag-dangling", key, f"{digest} is not a manifest of this repository", fix)
        return
    history = layout.tag_history_link(name, tag, digest)
    if not await exists(context.driver, history) and await read_link(context.driver, key) == digest:
        fix = partial(write_absent, context.driver, history, digest)
        await context.report("history-missing", history, f"the tag points at {digest}", fix)


async def _without_digest(repository: RepositoryCheck, tag: Tag, when: When) -> None:
    context, name = repository.context, repository.name
    key = layout.tag_link(name, tag)
    history = await _history(repository, tag)
    if when is ABSENT and any(stat.modified >= context.settled_before for _, stat in history):
        return  # the push may not have ended
    if when is ABSENT and await exists(context.driver, layout.tag(name, tag)):
        return  # a file of an operator, which the inventory reports
    last = max(history, key=lambda entry: entry[1].modified)[0] if history else None
    hint = f"; the last manifest pushed to it is {last}" if last is not None else ""
    if when is ABSENT:
        fix = partial(_remove, repository, tag)
        await context.report("tag-half", key, f"there is no link{hint}", fix)
        return
    alive = [digest for digest, _ in history if digest in repository.revisions]
    if len(history) == 1 and alive:
        fix = partial(overwrite, context.driver, key, alive[0], when)
    else:
        fix = partial(point_at_nothing, context.driver, name, tag, when)
    await context.report("tag-torn", key, f"the link holds no digest{hint}", fix)


async def _remove(repository: RepositoryCheck, tag: Tag) -> bool:
    """Remove what an interrupted push left of a tag; true also if another push has set the tag meanwhile."""
    context, name = repository.context, repository.name
    if await TagStore(context.driver).remove_unfinished(name, tag, context.settled_before):
        return True
    return await read_link(context.driver, layout.tag_link(name, tag)) is not None


async def _history(repository: RepositoryCheck, tag: Tag) -> Sequence[tuple[Digest, Stat]]:
    """Return every manifest that the tag ever named, with the object of its entry."""
    driver, found = repository.context.driver, []
    async for page in list_digests(driver, layout.tag_history(repository.name, tag)):
        for digest in page:
            with suppress(KeyMissing):
                found.append((digest, await driver.stat(layout.tag_history_link(repository.name, tag, digest))))
    return found


async def _revive(repository: RepositoryCheck, tag: Tag, digest: Digest, when: When) -> bool:
    """Link the manifest again if it is complete; else point the tag at nothing."""
    context, name = repository.context, repository.name
    complete = await repository.complete(digest)
    if complete is None:
        return await point_at_nothing(context.driver, name, tag, when)
    await context.manifests.link(name, digest, encode(digest, *complete))
    repository.revisions.add(digest)
    await repository.manifest(digest)
    return True
