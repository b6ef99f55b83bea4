"""Eviction from a pull-through cache over a store: what goes, what stays, and the job of the housekeeper."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from structlog.testing import capture_logs
from tests.fsck.test_damage import kinds as fsck_kinds
from tests.gc.running import AT_ONCE
from tests.gc.running import run as collected
from tests.registry.instrumented import InstrumentedDriver
from tests.retention.repositories import Repository

from moorage.config.model import Settings
from moorage.config.sections.proxy import Proxy, ProxyUpstream
from moorage.config.sections.storage import Filesystem, Inmemory, Maintenance, ReadOnly, Storage
from moorage.proxy.eviction import MirrorLimits
from moorage.registry import layout
from moorage.registry.lease import Lease
from moorage.registry.pulls import PullRecorder
from moorage.storage.driver import StorageUnavailable
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.builders import artifact, blob, image, index
from moorage.testing.memory_objects import Bucket, MemoryObjects
from moorage.types import RepoName, Tag, parse_repo_name
from moorage.wiring.proxy import cache_limits
from moorage.wiring.proxy_eviction import EvictionJob, EvictionSummary, evict
from moorage.wiring.retention import records_pulls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from moorage.storage.driver import Driver, Key, Stat
    from moorage.testing.builders import Built
    from moorage.types import Reference

DAY: Final = timedelta(days=1)
ALPINE, NGINX = RepoName("docker.io/library/alpine"), RepoName("docker.io/library/nginx")
TOOLS, OWN = RepoName("ghcr.io/acme/tools"), RepoName("team/app")
LAYERS: Final = [blob(size=10_000, seed=seed) for seed in range(6)]


def limits_of(ttl: timedelta = timedelta(0), **max_bytes: int) -> Callable[[RepoName], MirrorLimits | None]:
    """Return the limits of two upstreams; `docker=` and `ghcr=` are their sizes."""
    upstreams = {"docker.io": "docker", "ghcr.io": "ghcr"}

    def found(name: RepoName) -> MirrorLimits | None:
        host = name.partition("/")[0]
        if host not in upstreams:
            return None
        return MirrorLimits(host, ttl.total_seconds(), max_bytes.get(upstreams[host]))

    return found


class Cache:
    """A store, filled now, of which passes run `later`."""

    def __init__(self, driver: Driver, settings: Settings | None = None) -> None:
        self.driver = driver
        self.settings = settings or Settings.model_validate({"storage": {"inmemory": {}}})
        self.began = datetime.now(UTC)

    def of(self, name: RepoName) -> Repository:
        return Repository(self.driver, name)

    async def store(self, name: RepoName, built: Built, *tags: str) -> Built:
        await self.of(name).push(built, *tags)
        return built

    async def pull(self, name: RepoName, reference: Reference, later: timedelta) -> None:
        """Record a pull, as a process does that ends then."""
        recorder = PullRecorder(self.driver, flush_s=60, now=(self.began + later).timestamp)
        recorder.note(name, reference)
        await recorder.close()

    async def evict(
        self,
        limits: Callable[[RepoName], MirrorLimits | None],
        later: timedelta,
        *,
        driver: Driver | None = None,
        recorded_since: timedelta = -1000 * DAY,
    ) -> EvictionSummary:
        """Take one pass; pulls were recorded all the time, unless it is given since when."""
        now = self.began + later
        since = {
            "version": 1,
            "since": int((self.began + recorded_since).timestamp()),
            "alive": int(now.timestamp()),
        }
        await self.driver.write(layout.pulls("since"), json.dumps(since).encode())
        return await evict(driver or self.driver, self.settings, limits, now=lambda: now)

    async def has(self, name: RepoName, *built: Built) -> list[bool]:
        return [await self.driver.find(layout.revision_link(name, each.digest)) is not None for each in built]

    async def tags(self, name: RepoName) -> set[str]:
        return {str(state.tag) for state in (await self.of(name).store.facts.read(name)).tags.values()}


@pytest.fixture
def cache() -> Cache:
    return Cache(MemoryDriver())


def images(count: int = 3) -> Sequence[Built]:
    return [image(LAYERS[number], seed=number) for number in range(count)]


@pytest.mark.parametrize("kind", ["memory", "filesystem", "objects"])
async def test_what_was_not_pulled_goes_with_its_tags_and_bytes(kind: str, tmp_path: Path) -> None:
    """Times survive restarts, since they are in the store; the collector frees the bytes."""
    drivers: dict[str, Callable[[], Driver]] = {
        "memory": MemoryDriver,
        "filesystem": lambda: FilesystemDriver(tmp_path / "store"),
        "objects": lambda: ObjectDriver.with_chunk_log(MemoryObjects(Bucket())),
    }
    cache = Cache(drivers[kind]())
    by_tag, by_digest, unused = images()
    await cache.store(ALPINE, by_tag, "3.20")
    await cache.store(ALPINE, by_digest, "3.19")
    await cache.store(ALPINE, unused, "3.18", "edge")
    await cache.store(OWN, image(LAYERS[5], seed=5), "v1")
    await cache.pull(ALPINE, Tag("3.20"), 6 * DAY)
    await cache.pull(ALPINE, by_digest.digest, 7 * DAY)
    with capture_logs() as logs:
        summary = await cache.evict(limits_of(7 * DAY), 8 * DAY + timedelta(hours=1))
    assert (summary.families, summary.manifests, summary.tags, summary.kept) == (1, 1, 2, 0)
    assert await cache.has(ALPINE, by_tag, by_digest, unused) == [True, True, False]
    assert await cache.tags(ALPINE) == {"3.20", "3.19"}
    assert await cache.tags(OWN) == {"v1"}
    [line] = [line for line in logs if line["event"] == "evicted from the cache"]
    assert (line["repository"], line["digest"]) == (ALPINE, str(unused.digest))
    assert line["reason"] == "not pulled for 8 days; the ttl is 7 days"
    report = await collected(cache.driver, AT_ONCE)
    assert report.freed.objects == len(unused.closure)
    assert await cache.driver.find(layout.blob_data(LAYERS[2].digest)) is None
    assert await cache.driver.find(layout.blob_data(LAYERS[5].digest)) is not None
    await cache.driver.close()


async def test_a_manifest_that_was_never_pulled_counts_from_its_storing(cache: Cache) -> None:
    [built] = images(1)
    await cache.store(ALPINE, built, "3.20")
    assert not (await cache.evict(limits_of(7 * DAY), 7 * DAY - timedelta(minutes=1))).families
    assert (await cache.evict(limits_of(7 * DAY), 7 * DAY + timedelta(minutes=1))).families == 1


async def test_pulls_by_a_tag_count_for_what_it_named_then(tmp_path: Path) -> None:
    """`latest` moves, and its clients fetch it by tag: an image was used until another one replaced it."""
    cache = Cache(FilesystemDriver(tmp_path))
    first, second, third = images()

    def set_back(key: str, later: timedelta) -> None:
        at = (cache.began + later).timestamp()
        os.utime(tmp_path / key, (at, at))

    for built, later in ((first, 0 * DAY), (second, 5 * DAY), (third, 20 * DAY)):
        await cache.store(ALPINE, built, "latest")
        set_back(layout.revision_link(ALPINE, built.digest), 0 * DAY)
        set_back(layout.tag_history_link(ALPINE, Tag("latest"), built.digest), later)
    set_back(layout.tag_link(ALPINE, Tag("latest")), 20 * DAY)
    await cache.pull(ALPINE, Tag("latest"), 21 * DAY)
    assert not (await cache.evict(limits_of(21 * DAY), 25 * DAY)).families
    assert (await cache.evict(limits_of(20 * DAY), 25 * DAY + timedelta(minutes=1))).families == 1
    assert await cache.has(ALPINE, first, second, third) == [False, True, True]
    # Not by pulls of what replaced it.
    await cache.pull(ALPINE, Tag("latest"), 35 * DAY)
    assert (await cache.evict(limits_of(20 * DAY), 40 * DAY + timedelta(minutes=1))).families == 1
    assert await cache.has(ALPINE, second, third) == [False, True]
    await cache.driver.close()


async def test_nothing_expires_before_pulls_are_known(cache: Cache) -> None:
    """A week after an update, at the earliest."""
    [built] = images(1)
    await cache.store(ALPINE, built, "3.20")
    summary = await cache.evict(limits_of(7 * DAY), 30 * DAY, recorded_since=24 * DAY)
    assert not summary.families
    assert (await cache.evict(limits_of(7 * DAY), 30 * DAY, recorded_since=23 * DAY)).families == 1


async def test_the_size_is_kept_for_each_upstream(cache: Cache) -> None:
    """Across its repositories, with a shared layer counted once."""
    first, second, third = images()
    await cache.store(ALPINE, first, "a")
    await cache.store(NGINX, image(LAYERS[0], seed=9), "b")
    await cache.store(NGINX, second, "c")
    await cache.store(TOOLS, third, "d")
    await cache.pull(ALPINE, Tag("a"), DAY)
    await cache.pull(NGINX, Tag("c"), 2 * DAY)
    await cache.pull(NGINX, Tag("b"), 3 * DAY)
    everything = await cache.evict(limits_of(), 4 * DAY)
    sizes = {usage.limits.upstream: usage.before for usage in everything.usage}
    assert 20_000 < sizes["docker.io"] < 23_000, "two layers, three manifests and configs"
    assert 10_000 < sizes["ghcr.io"] < 11_000
    summary = await cache.evict(limits_of(docker=sizes["docker.io"] - 1, ghcr=sizes["ghcr.io"]), 4 * DAY)
    assert summary.families == 1
    assert await cache.has(ALPINE, first) == [False], "the one that was not pulled for the longest time"
    summary = await cache.evict(limits_of(docker=12_000, ghcr=sizes["ghcr.io"]), 4 * DAY)
    assert await cache.has(NGINX, second, image(LAYERS[0], seed=9)) == [False, True]
    assert await cache.has(TOOLS, third) == [True]
    [docker] = [usage for usage in summary.usage if usage.limits.upstream == "docker.io"]
    assert docker.after <= 12_000 < docker.before


async def test_layers_that_were_never_pulled_have_no_size(cache: Cache) -> None:
    """A mirror keeps the manifest of a `docker manifest inspect`, and none of its layers."""
    await cache.of(ALPINE).push(index(), "empty")
    built = image(LAYERS[0], seed=1)
    await cache.driver.write(layout.blob_data(built.digest), built.data)
    await cache.driver.write(layout.revision_link(ALPINE, built.digest), str(built.digest).encode())
    [usage] = (await cache.evict(limits_of(docker=5_000), DAY)).usage
    assert usage.before == usage.after < 2_000


async def test_a_family_stays_or_goes_as_one(cache: Cache) -> None:
    """An index, its platforms, its signature, and cosign's tag: a pull of any of it keeps all."""
    amd, arm, _ = images()
    both = index(amd, arm)
    signature = artifact("application/vnd.example.sig", subject=both)
    cosign = image(LAYERS[3], seed=3)
    for built, tags in ((both, ["1"]), (signature, []), (cosign, [f"sha256-{both.digest.hex}.sig"])):
        await cache.store(ALPINE, built, *tags)
    everything = (both, amd, arm, signature, cosign)
    references: list[Reference] = [amd.digest, signature.digest, Tag(f"sha256-{both.digest.hex}.sig")]
    for number, reference in enumerate(references):
        later = (number + 1) * 8 * DAY
        await cache.pull(ALPINE, reference, later - DAY)
        assert not (await cache.evict(limits_of(7 * DAY), later)).families
        assert all(await cache.has(ALPINE, *everything))
    summary = await cache.evict(limits_of(7 * DAY), 40 * DAY)
    assert (summary.families, summary.manifests, summary.tags) == (1, 5, 2)
    assert not any(await cache.has(ALPINE, *everything))
    assert await cache.driver.find(layout.referrer_link(ALPINE, both.digest, signature.digest)) is None
    assert not await cache.tags(ALPINE)
    assert not await fsck_kinds(cache.driver), "nothing torn is left"


async def test_what_two_indexes_share_goes_with_the_last_one(cache: Cache) -> None:
    amd, arm, other = images()
    old, new = index(amd, arm), index(amd, other)
    await cache.store(ALPINE, old, "old")
    await cache.store(ALPINE, new, "new")
    await cache.pull(ALPINE, Tag("new"), 5 * DAY)
    summary = await cache.evict(limits_of(7 * DAY), 8 * DAY)
    assert (summary.families, summary.manifests) == (1, 2)
    assert await cache.has(ALPINE, old, arm, new, amd, other) == [False, False, True, True, True]
    assert (await cache.evict(limits_of(7 * DAY), 13 * DAY)).manifests == 3


@pytest.mark.parametrize(
    "sections",
    [
        {"retention": {"holds": ({"repositories": (str(ALPINE),), "tags": ("kept",), "reason": "case 7"},)}},
        {"immutability": {"rules": ({"repositories": (str(ALPINE),), "tags": ("kept",)},)}},
    ],
    ids=["hold", "immutable"],
)
async def test_what_is_held_or_immutable_stays(sections: dict[str, Any]) -> None:
    """Above the limits; and the operator is warned."""
    cache = Cache(MemoryDriver(), Settings.model_validate({"storage": {"filesystem": {}}, **sections}))
    kept, gone, _ = images()
    both = index(kept)
    await cache.store(ALPINE, both, "kept")
    await cache.store(ALPINE, gone, "gone")
    summary = await cache.evict(limits_of(DAY, docker=1), 400 * DAY)
    assert summary.families == 1
    assert await cache.has(ALPINE, both, kept, gone) == [True, True, False]
    assert await cache.tags(ALPINE) == {"kept"}


async def test_a_held_digest_stays() -> None:
    built, _, _ = images()
    hold = {"repositories": (str(ALPINE),), "digests": (str(built.digest),), "reason": "case 7"}
    cache = Cache(
        MemoryDriver(), Settings.model_validate({"storage": {"filesystem": {}}, "retention": {"holds": (hold,)}})
    )
    await cache.store(ALPINE, built, "v1")
    assert not (await cache.evict(limits_of(DAY), 400 * DAY)).families
    assert await cache.has(ALPINE, built) == [True]


# Meanwhile.


class Meanwhile(InstrumentedDriver):
    """Takes a step before the removal: when the repository is read for the second time."""

    def __init__(self, inner: Driver, step: Callable[[], Any]) -> None:
        super().__init__(inner)
        self._step = step
        self._looks = 0

    async def scan(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        self._looks += prefix == layout.tags(ALPINE)
        if self._looks == 2:
            self._looks += 1
            await self._step()
        async for page in super().scan(prefix):
            yield page


@pytest.mark.parametrize("reference", ["tag", "digest"])
async def test_a_pull_during_the_pass_wins(cache: Cache, reference: str) -> None:
    built, other, _ = images()
    await cache.store(ALPINE, built, "v1")
    await cache.store(ALPINE, other, "v2")
    pulled = Tag("v1") if reference == "tag" else built.digest
    driver = Meanwhile(cache.driver, lambda: cache.pull(ALPINE, pulled, 8 * DAY))
    summary = await cache.evict(limits_of(7 * DAY), 8 * DAY, driver=driver)
    assert (summary.families, summary.kept) == (1, 1)
    assert await cache.has(ALPINE, built, other) == [True, False]
    assert await cache.tags(ALPINE) == {"v1"}


async def test_what_is_stored_again_during_the_pass_stays(cache: Cache) -> None:
    """Its revision link is a new one; also a tag that is set to it."""
    built, other, _ = images()
    await cache.store(ALPINE, built, "v1")
    await cache.store(ALPINE, other, "v2")

    async def store_again() -> None:
        await cache.store(ALPINE, index(built), "new")

    summary = await cache.evict(limits_of(7 * DAY), 8 * DAY, driver=Meanwhile(cache.driver, store_again))
    assert (summary.families, summary.kept) == (1, 1)
    assert await cache.has(ALPINE, built, other) == [True, False]
    assert await cache.tags(ALPINE) == {"v1", "new"}


@pytest.mark.parametrize("moved", ["tag", "link"])
async def test_what_changes_at_the_last_moment_stays(cache: Cache, moved: str) -> None:
    """Between the second look and the removal."""
    built, _, _ = images()
    await cache.store(ALPINE, built, "v1")
    key = layout.tag_link(ALPINE, Tag("v1")) if moved == "tag" else layout.revision_link(ALPINE, built.digest)

    class Late(InstrumentedDriver):
        looks = 0

        async def before(self, call: str) -> None:
            if call.startswith(f"stat {layout.revision_link(ALPINE, built.digest)}") and not self.looks:
                self.looks += 1
                await cache.driver.write(key, str(built.digest).encode())

    summary = await cache.evict(limits_of(7 * DAY), 8 * DAY, driver=Late(cache.driver))
    assert (summary.families, summary.kept) == (0, 1)
    assert await cache.has(ALPINE, built) == [True]
    assert await cache.tags(ALPINE) == {"v1"}


async def test_what_was_evicted_is_stored_again_as_if_it_never_was(cache: Cache) -> None:
    """No mark of a deletion costs a look at every tag."""
    built, _, _ = images()
    await cache.store(ALPINE, built, "v1")
    assert (await cache.evict(limits_of(7 * DAY), 8 * DAY)).families == 1
    assert await cache.driver.find(layout.deleted_mark(ALPINE, built.digest)) is None
    await cache.store(ALPINE, built, "v1")
    assert await cache.of(ALPINE).tags() == {"v1"}


# The job.


def proxied(**proxy: Any) -> Settings:
    return Settings(
        storage=Storage(filesystem=Filesystem()),
        proxy=Proxy(**({"ttl": 3600.0} | proxy)),
    )


BOUNDED: Final = proxied(
    upstreams=(
        ProxyUpstream(prefix="docker.io", remoteurl="https://registry-1.docker.io", ttl=0.0, maxsize=1),
        ProxyUpstream(prefix="ghcr.io/team", remoteurl="https://ghcr.io"),
        ProxyUpstream(prefix="", remoteurl="https://quay.io", ttl=60.0),
    ),
    local=("team/**",),
)


def job_of(settings: Settings = BOUNDED) -> EvictionJob | None:
    return EvictionJob.needed(settings, "i")


def test_limits_need_a_job_and_the_times_of_pulls() -> None:
    unbounded = proxied(remoteurl="https://quay.io", ttl=0.0)
    for settings, needed in (
        (BOUNDED, True),
        (proxied(remoteurl="https://quay.io"), True),
        (unbounded, False),
        (proxied(), False),
    ):
        assert (job_of(settings) is not None, records_pulls(settings)) == (needed, needed)
    assert job_of(BOUNDED.model_copy(update={"storage": Storage(inmemory=Inmemory())})) is None
    readonly = Storage(filesystem=Filesystem(), maintenance=Maintenance(readonly=ReadOnly(enabled=True)))
    assert job_of(BOUNDED.model_copy(update={"storage": readonly})) is None


def test_each_upstream_has_its_own_limits() -> None:
    """What is pushed here is never evicted."""
    limits = cache_limits(BOUNDED)
    expected = {
        "docker.io/library/alpine": MirrorLimits("proxy.upstreams[0]", 0, 1),
        "ghcr.io/team/app": MirrorLimits("proxy.upstreams[1]", 3600, None),
        "ghcr.io/other": MirrorLimits("proxy.upstreams[2]", 60, None),
        "team/app": None,
    }
    assert {name: limits.of(parse_repo_name(name)) for name in expected} == expected


def test_other_mirrors_make_another_job() -> None:
    """A reload restarts the job only if what it works by has changed."""
    assert job_of() == job_of()
    assert job_of() != job_of(proxied(remoteurl="https://quay.io"))


async def test_one_node_evicts(cache: Cache) -> None:
    """And a cache that stays above its limit is a line in the log."""
    job = job_of()
    assert job is not None
    await cache.store(ALPINE, images(1)[0], "v1")
    other = Lease(cache.driver, "mirror-eviction", "other", term_s=60)
    assert await other.acquire()
    mine = Lease(cache.driver, "mirror-eviction", "i", term_s=60)
    assert await job.once(cache.driver, mine) is None
    await other.release()
    with capture_logs() as logs:
        summary = await job.once(cache.driver, mine)
    assert summary is not None
    assert not summary.families, "it was stored a moment ago"
    [line] = [line for line in logs if line["log_level"] == "warning"]
    assert (line["upstream"], line["limit"]) == ("proxy.upstreams[0]", 1)


async def test_a_failing_store_ends_the_pass_with_one_line() -> None:
    class Failing(MemoryDriver):
        async def read(self, *_args: Any, **_kwargs: Any) -> Any:
            raise StorageUnavailable("down")

    job, driver = job_of(), Failing()
    assert job is not None
    with capture_logs() as logs:
        assert await job.once(driver, Lease(driver, "mirror-eviction", "i", term_s=60)) is None
    assert [line["event"] for line in logs] == [
        "eviction from the cache failed, and is tried again after its interval"
    ]
