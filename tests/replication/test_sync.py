"""Jobs of sync: what is selected arrives, what is missing is named, a failing registry ends a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from tests.replication.places import RecordingTarget, StubbornSource, has_whole, new_registry, no_sleep, push

from moorage.errors import StorageFull, Unauthorized
from moorage.patterns import Glob
from moorage.registry.protection import ImmutableRule, Protection
from moorage.registry.stored import StoredOptions
from moorage.registry.tag_selection import TagSelector
from moorage.replication.platforms import ImagePlatform
from moorage.replication.rate import RateLimit
from moorage.replication.report import SyncOutcome, SyncReport, SyncRow
from moorage.replication.selection import RepositorySelection
from moorage.replication.sync import SyncJob, SyncRun
from moorage.testing import builders
from moorage.types import RepoName, parse_repo_name, parse_tag
from moorage.upstream.errors import UpstreamRateLimited

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.registry.stored import StoredRegistry
    from moorage.types import Digest, Tag

APP, WEB = parse_repo_name("team/app"), parse_repo_name("team/web")
IMAGES = [builders.image(seed=seed) for seed in range(4)]


@pytest_asyncio.fixture
async def here() -> AsyncIterator[StoredRegistry]:
    """`team/app` has 1.0.0 to 1.2.0 and latest, `team/web` 2.0.0."""
    registry = new_registry(StoredOptions(delete_enabled=True))
    for tag, built in zip(("1.0.0", "1.1.0", "1.2.0"), IMAGES, strict=False):
        await push(registry, built, tag, name=APP)
    await push(registry, IMAGES[2], "latest", name=APP)
    await push(registry, IMAGES[3], "2.0.0", name=WEB)
    yield registry
    await registry.close()


def select(name: str, target: str = "", newest: int | None = None, **conditions: object) -> RepositorySelection:
    tags = TagSelector.parse(**conditions)  # type: ignore[arg-type]
    return RepositorySelection(Glob.parse(name), tags, newest, target=target)


async def run(
    source: StubbornSource, target: RecordingTarget, *selections: RepositorySelection
) -> tuple[SyncReport, list[SyncRow]]:
    report, rows = SyncReport(), list[SyncRow]()

    def done(row: SyncRow) -> None:
        report.add(row)
        rows.append(row)

    job = SyncJob("job", selections)
    await SyncRun(job, source, target, done=done, parallelism=2, sleep=no_sleep).run()
    return report, rows


def outcomes(rows: list[SyncRow]) -> dict[str, SyncOutcome]:
    return {row.source.partition("/")[2]: row.outcome for row in rows}


async def test_repositories_by_pattern_with_a_prefix(
    there: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    report, rows = await run(source, target, select("team/*", "mirror/"))
    assert report.is_complete
    assert report.outcomes[SyncOutcome.COPIED] == len(rows) == 5
    assert await has_whole(there, IMAGES[3], name=RepoName("mirror/team/web"))
    assert (await there.tags.list(RepoName("mirror/team/app"))).names == ("1.0.0", "1.1.0", "1.2.0", "latest")
    again, _ = await run(source, target, select("team/*", "mirror/"))
    assert again.outcomes[SyncOutcome.PRESENT] == 5
    assert again.counts.blob_bytes == 0


async def test_tags_by_version(source: StubbornSource, target: RecordingTarget) -> None:
    _, rows = await run(source, target, select("team/app", semver="^1", newest=2))
    assert set(outcomes(rows)) == {"team/app:1.1.0", "team/app:1.2.0"}


async def test_an_image_that_two_entries_select_is_copied_once(
    source: StubbornSource, target: RecordingTarget
) -> None:
    _, rows = await run(source, target, select("team/web"), select("team/*", match=["2*", "9*"]))
    assert [row.source for row in rows if row.outcome is SyncOutcome.COPIED] == ["source.test/team/web:2.0.0"]


@pytest.mark.parametrize(
    ("selection", "where", "reason"),
    [
        (select("team/none", match=["*"]), "team/none", "the source has no such repository"),
        (select("none/*"), "none/*", "no repository has such a name"),
        (select("team/app", match=["9.*"]), "team/app", "none of its 4 tags is selected"),
        (select("team/app", match=["9.0", "1.*"]), "team/app:9.0", "the source has no such tag"),
        (select("team/app", match=["9.0"]), "team/app:9.0", "source.test has no team/app:9.0"),
    ],
)
async def test_what_is_missing_is_named(
    source: StubbornSource, target: RecordingTarget, selection: RepositorySelection, where: str, reason: str
) -> None:
    """Else a typo in a pattern is a mirror that stays empty unnoticed."""
    report, rows = await run(source, target, selection)
    assert not report.is_complete
    missing = next(row for row in rows if row.outcome is SyncOutcome.MISSING)
    assert (missing.source, missing.reason) == (f"source.test/{where}", reason)


async def test_an_image_that_fails_does_not_end_the_job(
    here: StoredRegistry, there: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    await here.blobs.delete(APP, IMAGES[1].blobs[0].digest)
    report, rows = await run(source, target, select("team/app"))
    assert outcomes(rows)["team/app:1.1.0"] is SyncOutcome.MISSING
    assert report.outcomes[SyncOutcome.COPIED] == 3
    assert (await there.tags.list(APP)).names == ("1.0.0", "1.2.0", "latest")


async def test_an_image_without_the_platforms_is_skipped(source: StubbornSource, target: RecordingTarget) -> None:
    """A repository with images for single platforms under tags of their own is complete without the others."""
    selection = RepositorySelection(Glob.parse("team/web"), platforms=(ImagePlatform.parse("linux/arm64"),))
    report, rows = await run(source, target, selection)
    assert outcomes(rows) == {"team/web:2.0.0": SyncOutcome.SKIPPED}
    assert report.is_complete


async def test_a_registry_that_fails_ends_the_job(
    here: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    """A thousand images would be tried three times each."""
    for seed in range(20):
        await push(here, IMAGES[0], f"3.0.{seed}", name=APP)
    source.failures = 10_000
    report, _ = await run(source, target, select("team/app"), select("team/web", match=["*"]))
    assert report.outcomes[SyncOutcome.FAILED] in {5, 6}  # two at a time
    assert report.outcomes[SyncOutcome.NOT_TRIED] >= 18
    assert not report.is_complete


async def test_a_long_wait_for_a_rate_limit_is_left_to_the_next_run(
    source: StubbornSource, target: RecordingTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker Hub asks for hours; a run that waits holds its lease and its connections."""

    async def limited(name: RepoName, tag: Tag) -> Digest:
        raise UpstreamRateLimited("too many pulls", registry="source.test", retry_after_s=3600)

    monkeypatch.setattr(source, "resolve", limited)
    report, rows = await run(source, target, select("team/app"))
    assert report.outcomes[SyncOutcome.FAILED] <= 2
    left = next(row for row in rows if row.outcome is SyncOutcome.NOT_TRIED)
    assert left.reason == "the rest is left to the next run: source.test: too many pulls"


async def test_a_full_store_ends_the_job_with_nothing_torn(
    here: StoredRegistry, there: StoredRegistry, source: StubbornSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(10, 30):
        await push(here, builders.image(seed=seed), f"3.0.{seed}", name=APP)
    target = RecordingTarget(there)

    async def full(*_: object) -> None:
        raise StorageFull("the disk has no space left")

    monkeypatch.setattr(target, "put_blob", full)
    report, rows = await run(source, target, select("team/app"))
    assert report.outcomes[SyncOutcome.FAILED] in {5, 6}
    assert report.outcomes[SyncOutcome.NOT_TRIED] >= 15
    assert "the disk has no space left" in rows[-1].reason
    assert target.written == []


async def test_a_list_of_repositories_that_is_refused_is_explained(
    source: StubbornSource, target: RecordingTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused() -> AsyncIterator[list[RepoName]]:
        pages: list[list[RepoName]] = [[]]
        for page in pages:
            yield page
        raise Unauthorized("no catalog")

    monkeypatch.setattr(source, "list_repositories", refused)
    report, rows = await run(source, target, select("team/*"))
    assert "name each repository without a star" in rows[0].reason
    assert not report.is_complete


async def test_an_immutable_tag_stays_and_is_reported(here: StoredRegistry, source: StubbornSource) -> None:
    """Rules for pushes apply to copies: sync is no way around them."""
    guarded = new_registry(StoredOptions(protection=Protection([ImmutableRule.parse("rule", ["**"])])))
    await push(guarded, IMAGES[0], "2.0.0", name=WEB)
    report, rows = await run(source, RecordingTarget(guarded), select("team/web"))
    assert report.outcomes[SyncOutcome.FAILED] == 1
    assert rows[0].reason.startswith("target.test refuses team/web:2.0.0: ")
    assert (await guarded.manifests.get(WEB, parse_tag("2.0.0"))).digest == IMAGES[0].digest
    await guarded.close()


async def test_a_rate_limit_spreads_the_bytes() -> None:
    now = 0.0
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        now += seconds

    limit = RateLimit(1000, clock=lambda: now, sleep=sleep)
    for _ in range(5):
        await limit.take(500)
    assert (waits, now) == ([0.5] * 4, 2.0)
    now += 60  # an idle minute is not saved up
    await limit.take(500)
    await limit.take(500)
    assert waits[4:] == [0.5]
