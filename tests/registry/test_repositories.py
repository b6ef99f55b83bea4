"""The catalog: component by component, pages that lose nothing, only what a client can name."""

from __future__ import annotations

import random

import pytest
from tests.registry.images import add_blobs, push
from tests.registry.instrumented import InstrumentedDriver

from moorage.registry import layout
from moorage.registry.manifests import StoredManifests
from moorage.registry.repositories import StoredRepositories, repository_names
from moorage.storage.driver import Driver, Key
from moorage.testing.builders import image
from moorage.types import Digest, RepoName, Tag

DIGEST = Digest("sha256", "a" * 64)
ORDERED = (
    "0",
    "a",
    "a/b",
    "a/b/c",
    "a/b-c",
    "a/b.c",
    "a/b0",
    "a-b",
    "a.b",
    "a0",
    "a__b/x",
    "b/c/d/e/f",
    "ord",
    "ord/x",
    "ord/x/y",
    "ord-x",
    "ord.x",
    "ord0",
)


async def fill(driver: Driver, *names: str) -> None:
    for name in names:
        await driver.write(layout.revision_link(RepoName(name), DIGEST), str(DIGEST).encode())


async def names_of(driver: Driver, limit: int, last: str = "") -> list[str]:
    """All names after `last`, page by page, as a client follows the links."""
    found: list[str] = []
    while True:
        page = await StoredRepositories(driver).list(last=found[-1] if found else last, limit=limit)
        assert len(page.names) == limit or not page.more
        found += page.names
        if not page.more:
            return found


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 17, 18, 19, 1000])
async def test_pages_lose_nothing_in_component_order(driver: Driver, limit: int) -> None:
    """On S3 the reference drops repositories that are a prefix of another from its pages."""
    await fill(driver, *reversed(ORDERED))
    assert await names_of(driver, limit) == list(ORDERED)


async def test_last_need_not_exist(driver: Driver) -> None:
    """It may have been removed since, or be anything at all that a client sends."""
    await fill(driver, *ORDERED)

    def expected(last: str) -> list[str]:
        return [name for name in ORDERED if name.split("/") > last.split("/")]

    for last in ("a/b/", "a/a", "a/b/c/d", "a-", "a/zzz/y", "nope", "zzz", "A", "~", "a//b", "/", "..", "a/../b"):
        assert await names_of(driver, 3, last) == expected(last), last
    for last in (" ", "a b", "a/\n", "\U0001f680", "_", "_layers/x", "a/_manifests/tags", "%2e", "x" * 5000):
        assert await names_of(driver, 4, last) == expected(last), last


async def test_any_tree_is_listed_like_a_sorted_list(driver: Driver) -> None:
    """Random trees, random pages: the order is that of the names split at the slashes."""
    choose = random.Random(7)
    parts = ["a", "a-a", "a.a", "a0", "b", "0", "z__z"]
    names = {"/".join(choose.choice(parts) for _ in range(choose.randint(1, 4))) for _ in range(40)}
    await fill(driver, *names)
    ordered = sorted(names, key=lambda name: name.split("/"))
    for limit in (1, 4, 9, 100):
        assert await names_of(driver, limit) == ordered


async def test_a_page_of_none_is_empty(driver: Driver) -> None:
    """`n=0`, and an empty store."""
    assert await StoredRepositories(driver).list(limit=5) == await StoredRepositories(driver).list(limit=0)
    await fill(driver, "a")
    assert (await StoredRepositories(driver).list(limit=0)).names == ()


async def test_a_repository_is_one_once_it_held_a_manifest(driver: Driver) -> None:
    """Not by blobs or uploads alone; and, as in the reference, still when its last tag is gone."""
    one = image()
    await add_blobs(driver, one, name=RepoName("only/blobs"))
    manifests = StoredManifests(driver, delete_enabled=True)
    await push(driver, manifests, one, Tag("v1"), name=RepoName("emptied"))
    await manifests.delete(RepoName("emptied"), Tag("v1"))
    assert await names_of(driver, 10) == ["emptied"]


async def test_what_no_client_can_name_is_not_listed(driver: Driver) -> None:
    """Distribution took upper case; administrators and backup programs leave other things."""
    await fill(driver, "a", "UPPER/x", "a/.git/b", "-a", "a..b", "x" * 200 + "/" + "y" * 100)
    assert await names_of(driver, 3) == ["a"]


async def test_many_children_do_not_hide_the_marker(driver: Driver) -> None:
    """`_manifests` sorts behind digits: in a repository with hundreds of nested ones it is on a later page."""
    nested = [f"many/{i:03}" for i in range(60)]
    await fill(driver, "many", *nested)
    assert await names_of(driver, 5) == ["many", *nested]


async def test_a_page_looks_little_further_than_it_shows(driver: Driver) -> None:
    """The reference walks the whole store for each page, and times out on object stores."""
    await fill(driver, *(f"r{i:03}" for i in range(80)))
    watched = Counting(driver)
    page = await StoredRepositories(watched).list(last="r020", limit=10)
    assert page.names == tuple(f"r{i:03}" for i in range(21, 31))
    assert watched.listings <= 2 + 11 + 16
    watched.listings = 0
    await StoredRepositories(watched).list(last="r020", limit=1)
    assert watched.listings <= 2 + 9


async def test_directories_that_are_none_cost_few_listings(driver: Driver) -> None:
    """Thousands of repositories with blobs only, before the first real one."""
    for i in range(100):
        await driver.write(layout.layer_link(RepoName(f"blobs{i:03}"), DIGEST), b"x")
    await fill(driver, "z")
    watched = Counting(driver)
    assert (await StoredRepositories(watched).list(limit=1)).names == ("z",)
    assert watched.top <= 5


async def test_the_whole_tree_can_be_walked(driver: Driver) -> None:
    """Collectors and rebuilds use it."""
    await fill(driver, *ORDERED)
    assert [name async for name in repository_names(driver, page=2)] == list(ORDERED)


class Counting(InstrumentedDriver):
    listings = top = 0

    async def before(self, call: str) -> None:
        self.listings += call.startswith("children")
        self.top += call == f"children {Key(layout.REPOSITORIES)}"
