"""Runs of retention: what was decided happens, and what changes meanwhile is left alone."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.registry.instrumented import InstrumentedDriver
from tests.retention.repositories import NAME, NEVER, Repository

from moorage.patterns import Glob
from moorage.registry.holds import Hold, LegalHolds
from moorage.registry.protection import Protection
from moorage.registry.tag_selection import TagSelector
from moorage.retention.families import closure
from moorage.retention.rules import RetentionPolicy, TagRule
from moorage.storage.driver import Key
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import artifact, image, index
from moorage.types import Digest, Tag

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from moorage.storage.driver import Stat
    from moorage.testing.builders import Built

EVERY = (Glob.parse("**"),)
ONE, TWO, THREE = image(seed=1), image(seed=2), image(seed=3)
_REFERRERS = Key("docker/registry/v2/repositories/team/app/_referrers")
ALL = RetentionPolicy((TagRule("all", EVERY, keep_last=0),))


@pytest.fixture(params=["memory", "filesystem"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    """Empty; on a real file system too, whose times and inodes the checks before a deletion compare."""
    return Repository(MemoryDriver() if request.param == "memory" else FilesystemDriver(tmp_path))


async def test_what_the_plan_says_happens_and_can_be_restored(repository: Repository) -> None:
    await repository.push(ONE, "v1")
    await repository.push(TWO, "keep")
    policy = RetentionPolicy((TagRule("old", EVERY, TagSelector.parse(match=["v*"]), keep_last=0),))
    (result, dry) = (None, await repository.run(policy, dry_run=True).repository(NAME))
    assert [decision.state.tag for decision in dry.plan.removed_tags] == ["v1"]
    assert await repository.tags() == {"v1", "keep"}, "a dry run deletes nothing"
    run = repository.run(policy)
    result = await run.repository(NAME)
    assert result.plan == dry.plan
    assert await run.settle() == []
    assert await repository.tags() == {"keep"}
    assert await repository.manifests() == {TWO.digest}
    entries = [entry async for page in repository.store.trash.entries(NAME) for entry in page]
    assert {(entry.kind, entry.digest, entry.reason) for entry in entries} == {
        ("tag", ONE.digest, "retention: old"), ("manifest", ONE.digest, "retention: old"),
    }  # fmt: skip


async def test_repositories_without_a_rule_are_not_read(repository: Repository) -> None:
    """A rule for one team must not cost the reading of every manifest of all others."""
    driver = InstrumentedDriver(repository.driver)

    async def forbidden(call: str) -> None:
        pytest.fail(f"{call} of a repository that no rule names")

    driver.before = forbidden  # type: ignore[method-assign]
    policy = RetentionPolicy((TagRule("r", (Glob.parse("other/*"),), keep_last=0),))
    result = await Repository(driver).run(policy).repository(NAME)
    assert result.plan.tags == ()


class _Interrupting(InstrumentedDriver):
    """Calls `then` once, directly before the first call that contains `text`."""

    text = ""

    async def then(self) -> None:
        raise NotImplementedError

    async def before(self, call: str) -> None:
        if self.text and self.text in call:
            self.text = ""
            await self.then()


@pytest.mark.parametrize("text", ["_trash/tags/v1", "tags/v1/current", "tags/v1"])
async def test_a_tag_that_moves_while_it_is_decided_stays(text: str) -> None:
    """The push was acknowledged; its tag is not deleted by what was true before."""
    driver = _Interrupting(MemoryDriver())
    repository, pusher = Repository(driver), Repository(driver)
    await repository.push(ONE, "v1")

    async def move() -> None:
        await pusher.push(TWO, "v1")

    driver.then = move  # type: ignore[method-assign]
    run = repository.run(ALL, later=timedelta(0))
    original = run._remove_tag

    async def decided(*args: object) -> bool:
        driver.text = text
        return await original(*args)  # type: ignore[arg-type]

    run._remove_tag = decided  # type: ignore[method-assign, assignment]
    result = await run.repository(NAME)
    await run.settle()
    assert [decision.state.tag for decision in result.changed] == ["v1"]
    assert await repository.tags() == {"v1"}
    assert (await repository.store.tags.resolve(NAME, Tag("v1"))) == TWO.digest


async def test_a_push_in_the_instant_of_the_removal_is_not_lost() -> None:
    """On a store that removes unconditionally: between the last look and the removal."""
    driver = _Interrupting(MemoryDriver())
    repository, pusher = Repository(driver), Repository(driver)
    await repository.push(ONE, "v1")
    (state,) = await repository.store.tags.examine(NAME)

    async def move() -> None:
        await pusher.push(TWO, "v1")

    async def removed(objects: object) -> list[object]:
        del objects
        await move()
        await driver.delete([state.link.key])
        return []

    driver.remove_unchanged = removed  # type: ignore[method-assign, assignment]
    assert not await repository.store.tags.remove_unchanged(NAME, state)
    assert (await repository.store.tags.resolve(NAME, Tag("v1"))) == TWO.digest


async def test_a_tag_that_moved_back_is_seen_without_a_new_entry() -> None:
    """On a store that removes unconditionally, and whose pusher need not write the known entry of the history."""
    driver = InstrumentedDriver(MemoryDriver())
    repository = Repository(driver)
    await repository.push(ONE, "v1")
    await repository.push(TWO, "v1")
    (state,) = await repository.store.tags.examine(NAME)
    await repository.push(ONE, "v1")

    async def removed(objects: Sequence[Stat]) -> list[Key]:
        await driver.delete([stat.key for stat in objects])
        return []

    driver.remove_unchanged = removed  # type: ignore[method-assign]
    assert not await repository.store.tags.remove_unchanged(NAME, state)
    assert (await repository.store.tags.resolve(NAME, Tag("v1"))) == ONE.digest


async def test_a_manifest_that_is_tagged_while_it_is_deleted_comes_back_with_its_family(
    repository: Repository,
) -> None:
    """A push of a known manifest writes its tag after a look at the revision link, which goes in between."""
    both = index(ONE, TWO)
    signature = artifact("application/vnd.example.sig", subject=both)
    await repository.push(both, "v1")
    await repository.push(signature)
    run = repository.run(ALL)
    result = await run.repository(NAME)
    assert len(result.manifests) == 4
    await repository.store.tags.record(NAME, Tag("new"), both.digest)
    await repository.store.tags.set(NAME, Tag("new"), both.digest)
    assert {digest for _, digest in await run.settle()} == {part.digest for part in (both, ONE, TWO, signature)}
    assert await repository.tags() == {"new"}
    referrers = [key async for page in repository.driver.scan(_REFERRERS) for key in page]
    assert len(referrers) == 1


async def test_an_index_that_is_pushed_meanwhile_keeps_its_platform(repository: Repository) -> None:
    """Second look: the plan was made before the index existed."""
    await repository.push(ONE, "v1")
    run = repository.run(ALL, later=timedelta(days=1))
    original = run._remove_tag

    async def push_index(*args: object) -> bool:
        removed = await original(*args)  # type: ignore[arg-type]
        await repository.push(index(ONE, TWO), "both")
        return removed

    run._remove_tag = push_index  # type: ignore[method-assign, assignment]
    result = await run.repository(NAME)
    assert result.manifests == []
    assert await repository.tags() == {"both"}
    assert {ONE.digest, TWO.digest} <= await repository.manifests()


async def test_a_torn_manifest_is_reported_and_nothing_depends_on_it(repository: Repository) -> None:
    await repository.push(ONE, "v1")
    await repository.push(TWO, "v2")
    from moorage.registry import layout

    await repository.driver.write(layout.blob_data(TWO.digest), b"{")
    fresh = Repository(repository.driver)
    result = await fresh.run(ALL).repository(NAME)
    assert not result.readable
    assert result.manifests == []
    assert [decision.state.tag for decision in result.tags] == ["v1"]


def _random_family(dice: random.Random, seed: int) -> list[tuple[Built, list[str]]]:
    """Return manifests with their tags: an image or index, signatures of anything, tags of cosign."""
    images = [image(seed=1000 + dice.randrange(6)) for _ in range(dice.randint(1, 3))]
    top = images[0] if dice.random() < 0.3 else index(*dict.fromkeys(images))
    parts: list[tuple[Built, list[str]]] = [(top, [f"v{seed}"] if dice.random() < 0.8 else [])]
    subjects = [top, *images]
    for number in range(dice.randint(0, 4)):
        subject = dice.choice(subjects)
        referrer = artifact(f"application/vnd.example.{seed}.{number}", subject=subject)
        subjects.append(referrer)
        parts.append((referrer, [f"ref{seed}-{number}"] if dice.random() < 0.2 else []))
    if dice.random() < 0.4:
        subject = dice.choice(subjects)
        parts.append((image(seed=5000 + seed), [f"sha256-{subject.digest.hex}.sig"]))
    return parts


@pytest.mark.parametrize("repository", ["memory"], indirect=True)
@pytest.mark.parametrize("seed", range(25))
async def test_families_are_never_half_removed(repository: Repository, seed: int) -> None:
    """For random families, rules and holds: the plan is what happens, and nobody loses a part of an image."""
    dice = random.Random(seed)
    for number in range(dice.randint(2, 5)):
        for built, tags in _random_family(dice, number):
            await repository.push(built, *tags)
    before = await repository.store.facts.read(NAME)
    held = [str(dice.choice(sorted(before.manifests)))] if dice.random() < 0.3 else []
    holds = LegalHolds([Hold.parse(["**"], "held", digests=held)] if held else [])
    policy = RetentionPolicy(
        (TagRule("few", EVERY, TagSelector.parse(match=["v*"]), keep_last=dice.randint(0, 2)),),
        timedelta(days=30) if dice.random() < 0.5 else None,
        protection=Protection(holds=holds),
    )
    run = repository.run(policy)
    result = await run.repository(NAME)
    assert await run.settle() == []
    after = await repository.store.facts.read(NAME)

    planned = {removed.digest for removed in result.plan.manifests}
    assert before.manifests.keys() - after.manifests.keys() == planned
    assert {*before.tags} - {*after.tags} == {decision.state.tag for decision in result.plan.removed_tags}
    assert all(Digest.parse(text) in after.manifests for text in held)
    for state in after.alive():
        assert closure(before, [state.digest]) <= after.manifests.keys(), "a kept tag lost a part"
    for digest, manifest in after.manifests.items():
        assert {*manifest.children} & {*before.manifests} <= after.manifests.keys(), "an index lost a platform"
        if manifest.subject in before.manifests and digest not in {state.digest for state in after.alive()}:
            assert manifest.subject in after.manifests or _is_needed(before, after, digest), "an orphan is left"
    assert (await repository.run(policy).repository(NAME)).plan.removed_tags == []


def _is_needed(before: object, after: object, digest: Digest) -> bool:
    """A referrer stays without its subject only if something else that stays contains it."""
    from moorage.retention.families import Facts

    assert isinstance(before, Facts)
    assert isinstance(after, Facts)
    others = [other for other in after.manifests if other != digest]
    return digest in closure(before, others)


def test_never_is_no_record_of_pulls() -> None:
    assert NEVER.since is None
