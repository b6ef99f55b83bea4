"""Manifests through a mirror: tags are checked, cached ones served while the upstream registry fails."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.proxy.mirrors import APP, LATEST, mirror_of
from tests.upstream.faulty import OCI_INDEX, FaultyRegistry, Gate

from moorage.errors import ManifestUnknown, UpstreamDenies, UpstreamFailed, UpstreamLimits
from moorage.patterns import Glob
from moorage.proxy.checks import TagChecks
from moorage.proxy.upstreams import Upstream, UpstreamOptions, Upstreams
from moorage.registry.interface import Page
from moorage.types import Digest, parse_repo_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.asyncio

MANIFESTS = f"/v2/{APP}/manifests"


def asked(upstream: FaultyRegistry, reference: str = LATEST) -> tuple[int, int]:
    """Return the numbers of HEAD and GET requests for a manifest."""
    return tuple(upstream.requests[method, f"{MANIFESTS}/{reference}"] for method in ("HEAD", "GET"))  # type: ignore[return-value]


async def test_a_tag_is_fetched_once_and_then_checked_by_head(tmp_path: Path) -> None:
    """A HEAD does not count against the limits of Docker Hub; a GET does."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_image(APP, LATEST)
        for _ in range(3):
            found = await mirror.tag()
            assert (found.digest, found.data, found.stale) == (digest, upstream.manifest_of(APP, digest), "")
        assert asked(upstream) == (2, 1)
        size = len(upstream.manifest_of(APP, digest))
        assert (mirror.counts.requests["manifest"], mirror.counts.hits["manifest"]) == (3, 2)
        assert (mirror.counts.pulled["manifest"], mirror.counts.pushed["manifest"]) == (size, 3 * size)
        assert (await mirror.manifests.get(APP, digest)).digest == digest
        assert asked(upstream, str(digest)) == (0, 0)


async def test_a_tag_that_moves_is_followed(tmp_path: Path) -> None:
    """The default is that of the reference: a client never gets an old image from a mirror that can ask."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        upstream.add_image(APP, LATEST, [b"old"])
        old = await mirror.tag()
        new = upstream.add_image(APP, LATEST, [b"new"])
        assert (await mirror.tag()).digest == new
        assert (await mirror.manifests.get(APP, old.digest)).digest == old.digest, "a pull in progress needs it"


async def test_within_the_interval_the_upstream_is_not_asked(tmp_path: Path) -> None:
    """Not by another process either, nor after a restart."""
    now = [1_700_000_000.0]

    def checks() -> TagChecks:
        return TagChecks(tmp_path / "checks", now=lambda: now[0])

    options = UpstreamOptions(check_interval_s=60)
    async with FaultyRegistry() as upstream:
        digest = upstream.add_image(APP, LATEST)
        async with mirror_of(upstream, tmp_path, options=options, checks=checks()) as mirror:
            await mirror.tag()
            await mirror.tag()
        async with mirror_of(upstream, tmp_path, options=options, checks=checks()) as mirror:
            now[0] += 59
            assert (await mirror.tag()).digest == digest
            assert asked(upstream) == (0, 1)
            now[0] += 2
            await mirror.tag()
            assert asked(upstream) == (1, 1)


FAULTS: dict[str, dict[str, Any]] = {
    "down": {"disconnect": True},
    "limited": {"status": 429, "headers": {"Retry-After": "7"}},
    "denied": {"status": 401},
    "failing": {"status": 500},
    "nonsense": {"body": b"{", "headers": {"Content-Type": OCI_INDEX}, "method": "GET"},
}
ERRORS = {
    "down": UpstreamFailed,
    "limited": UpstreamLimits,
    "denied": UpstreamDenies,
    "failing": UpstreamFailed,
    "nonsense": UpstreamFailed,
}


@pytest.mark.parametrize("kind", FAULTS)
async def test_a_cached_tag_is_served_while_the_upstream_fails(tmp_path: Path, kind: str) -> None:
    """Deployments must go on while Docker Hub is down or limits the rate; what is not cached is a clear error."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_image(APP, LATEST)
        upstream.add_image(APP, "other")
        await mirror.tag()
        upstream.add_image(APP, LATEST, [b"new"])
        upstream.fail("/manifests/", **FAULTS[kind])
        found = await mirror.tag()
        assert found.digest == digest
        assert upstream.host in found.stale
        with pytest.raises(ERRORS[kind]) as caught:
            await mirror.tag("other")
        if isinstance(caught.value, UpstreamLimits):
            assert caught.value.retry_after_s == 7


async def test_a_tag_that_is_too_old_is_not_served(tmp_path: Path) -> None:
    """An operator may prefer an error to an image of last year."""
    now = [1_700_000_000.0]
    checks = TagChecks(tmp_path / "checks", now=lambda: now[0])
    options = UpstreamOptions(stale_s=3600)
    async with (
        FaultyRegistry() as upstream,
        mirror_of(upstream, tmp_path, options=options, checks=checks) as mirror,
    ):
        upstream.add_image(APP, LATEST)
        await mirror.tag()
        upstream.fail("/manifests/", status=503)
        now[0] += 3500
        assert (await mirror.tag()).stale
        now[0] += 200
        with pytest.raises(UpstreamFailed):
            await mirror.tag()


async def test_a_slow_upstream_does_not_hold_up_a_cached_tag(tmp_path: Path) -> None:
    """The check continues behind the answer, and the next pull has its result."""
    gate = Gate()
    options = UpstreamOptions(check_timeout_s=0.02)
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path, options=options) as mirror:
        old = upstream.add_image(APP, LATEST, [b"old"])
        await mirror.tag()
        new = upstream.add_image(APP, LATEST, [b"new"])
        upstream.fail("/manifests/", hold=gate, times=1)
        found = await mirror.tag()
        assert (found.digest, "no answer" in found.stale) == (old, True)
        gate.release()
        async with asyncio.timeout(10):
            while (await mirror.tag()).digest != new:  # noqa: ASYNC110  the check ends by itself
                await asyncio.sleep(0)


async def test_concurrent_pulls_share_a_check(tmp_path: Path) -> None:
    """A rollout of 100 pods is one request to Docker Hub."""
    gate = Gate()
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_image(APP, LATEST)
        upstream.fail("/manifests/", hold=gate)
        pulls = [asyncio.create_task(mirror.tag()) for _ in range(20)]
        await gate.entered()
        gate.release()
        assert {found.digest for found in await asyncio.gather(*pulls)} == {digest}
        assert asked(upstream) == (0, 1)


async def test_a_tag_that_is_gone_is_not_asked_for_again_and_its_digest_stays(tmp_path: Path) -> None:
    """A crash loop with a wrong tag must not use up the limit; what runs by digest goes on."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_image(APP, LATEST)
        await mirror.tag()
        del upstream.tags_of(APP)[LATEST]
        for _ in range(3):
            with pytest.raises(ManifestUnknown):
                await mirror.tag()
            with pytest.raises(ManifestUnknown):
                await mirror.tag("never")
        assert asked(upstream) == (1, 1)
        assert asked(upstream, "never") == (0, 1)
        assert (await mirror.manifests.get(APP, digest)).digest == digest


async def test_a_tag_that_was_gone_does_not_come_back_while_the_upstream_fails(tmp_path: Path) -> None:
    """Its owner has removed it, perhaps for a reason; another process knows that, too."""
    async with FaultyRegistry() as upstream:
        digest = upstream.add_image(APP, LATEST)
        async with mirror_of(upstream, tmp_path) as mirror:
            await mirror.tag()
            del upstream.tags_of(APP)[LATEST]
            with pytest.raises(ManifestUnknown):
                await mirror.tag()
        upstream.fail("/manifests/", status=503)
        async with mirror_of(upstream, tmp_path) as mirror:
            with pytest.raises(ManifestUnknown, match="did not have it any more"):
                await mirror.tag()
        upstream.recover()
        upstream.tags_of(APP)[LATEST] = digest
        async with mirror_of(upstream, tmp_path) as mirror:
            assert (await mirror.tag()).digest == digest
            upstream.fail("/manifests/", status=503)
            assert (await mirror.tag()).stale


async def test_a_manifest_with_another_digest_is_not_stored(tmp_path: Path) -> None:
    """A proxy in between may answer anything."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_image(APP, LATEST)
        upstream.fail("/manifests/", corrupt_at=30)
        with pytest.raises(UpstreamFailed):
            await mirror.manifests.get(APP, digest)
        with pytest.raises(ManifestUnknown):
            await mirror.stored.manifests.get(APP, digest)


async def test_a_manifest_that_cannot_be_pushed_here_is_passed_on(tmp_path: Path) -> None:
    """The client may understand it."""
    odd = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "layers": []}).encode()
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_manifest(APP, odd, OCI_INDEX, tag=LATEST)
        assert (await mirror.tag()).data == odd
        assert (await mirror.manifests.get(APP, digest)).data == odd


async def test_an_index_comes_without_its_other_platforms(tmp_path: Path) -> None:
    """A node of one platform must not make the mirror fetch the others."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        children = {
            name: upstream.add_image(APP, None, [name.encode()]) for name in ("linux/amd64", "linux/arm64")
        }
        index = upstream.add_index(APP, LATEST, children)
        assert (await mirror.tag()).digest == index
        child = await mirror.manifests.get(APP, children["linux/arm64"])
        assert child.digest == children["linux/arm64"]
        assert asked(upstream, str(children["linux/amd64"])) == (0, 0)


async def test_companions_come_with_a_new_tag(tmp_path: Path) -> None:
    """An image that is verified before it runs needs its signature when the network is gone, too."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path, companions=True) as mirror:
        subject = upstream.add_image(APP, LATEST)
        descriptor = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": subject, "size": 1}
        descriptor["size"] = len(upstream.manifest_of(APP, subject))
        signature = upstream.add_image(APP, None, [b"signature"], subject=descriptor)
        await mirror.tag()
        async with asyncio.timeout(10):
            while mirror._companions._tasks:  # noqa: ASYNC110  they end by themselves
                await asyncio.sleep(0.001)
        upstream.fail(disconnect=True)
        page = await mirror.referrers.list(APP, subject)
        assert [entry.digest for entry in page.entries] == [signature]
        assert await mirror.blob(Digest.of(b"signature")) == b"signature"


async def test_lists_come_from_the_upstream_or_else_from_the_store(tmp_path: Path) -> None:
    """A list of the cache alone would hide tags."""
    async with FaultyRegistry() as upstream:
        async with mirror_of(upstream, tmp_path) as mirror:
            for tag in ("a", "b", "c"):
                upstream.add_image(APP, tag)
            await mirror.tag("b")
            assert await mirror.tags.list(APP, limit=2) == Page(("a", "b"), more=True)
            assert await mirror.tags.list(APP, last="b", limit=2) == Page(("c",), more=False)
        upstream.fail(disconnect=True)
        async with mirror_of(upstream, tmp_path) as mirror:
            assert await mirror.tags.list(APP) == Page(("b",), more=False)
            assert await mirror.repositories.list(limit=10) == Page((APP,), more=False)


def table(*options: UpstreamOptions, local: tuple[str, ...] = ()) -> Upstreams:
    return Upstreams([Upstream(one, []) for one in options], local=tuple(map(Glob.parse, local)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docker.io/alpine", ("library/alpine", "docker.io/library/alpine")),
        ("docker.io/team/app", ("team/app", "docker.io/team/app")),
        ("ghcr.io/app", ("app", "ghcr.io/app")),
        ("ghcr.io/special/app", ("app", "ghcr.io/special/app")),
        ("docker.io", None),
        ("docker.iox/app", None),
        ("team/app", None),
    ],
)
async def test_the_longest_prefix_decides(name: str, expected: tuple[str, str] | None) -> None:
    """A repository must never be fetched from another registry than its name states."""
    found = table(
        UpstreamOptions("docker.io", library=True), UpstreamOptions("ghcr.io"), UpstreamOptions("ghcr.io/special")
    ).place_of(parse_repo_name(name))
    assert (None if found is None else (found.name, found.local)) == expected


async def test_local_repositories_beside_an_upstream_without_prefix() -> None:
    """A team pushes its own images to the registry that mirrors Docker Hub."""
    found = table(UpstreamOptions(""), local=("team/**",))
    assert found.place_of(parse_repo_name("team/app")) is None
    place = found.place_of(parse_repo_name("library/alpine"))
    assert place is not None
    assert place.name == "library/alpine"


async def test_patterns_exclude_repositories() -> None:
    """A cache for one team is not an open proxy."""
    options = UpstreamOptions("docker.io", allow=(Glob.parse("library/*"),), deny=(Glob.parse("library/secret"),))
    upstreams = Upstreams([_named(options)])
    assert upstreams.place_of(parse_repo_name("docker.io/library/alpine")) is not None
    for name in ("docker.io/team/app", "docker.io/library/secret"):
        with pytest.raises(UpstreamDenies, match="do not allow"):
            upstreams.place_of(parse_repo_name(name))


def _named(options: UpstreamOptions) -> Upstream:
    class Client:
        host = "registry.example"

    client: Any = Client()
    return Upstream(options, [client])


async def test_checks_need_no_directory(tmp_path: Path) -> None:
    """A directory that cannot be written costs requests, and no pull."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    makers: list[Callable[[], TagChecks]] = [lambda: TagChecks(None), lambda: TagChecks(blocked / "below")]
    for make in makers:
        checks = make()
        assert checks.age_s(APP, LATEST) is None
        checks.note(APP, LATEST)
        age = checks.age_s(APP, LATEST, within_s=60)
        assert age is not None
        assert age < 60
        checks.remove_abandoned()
