"""State objects and records that no release has written: neither a run nor a request may hang or fail on them."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tests.gc.running import AT_ONCE, FakeClock, Garbage, put, run, state_of

from moorage.gc.cache import MarkCache
from moorage.gc.manifest_graph import Edges, topological_levels
from moorage.gc.options import CollectionOptions
from moorage.gc.repositories import list_repositories
from moorage.registry import layout
from moorage.registry.collection_gate import CollectionGate
from moorage.registry.collection_state import StateName
from moorage.registry.stamps import new_stamp
from moorage.storage.driver import READ_LIMIT_BYTES, Key, StorageUnavailable
from moorage.testing.builders import image
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.gc.stores import Store

X, Y = Digest.of(b"x"), Digest.of(b"y")
APP = RepoName("team/app")
YEAR_S = 365 * 86400


@pytest.mark.parametrize(
    "name",
    [
        "doomed.x.1",
        "doomed.x.000001",
        "condemned.x.\N{ARABIC-INDIC DIGIT THREE}",
        "doomed..00001",
        "doomed.x",
        "running.x.",
        "running.",
        "running.x.00001",
        "future.x",
    ],
)
def test_a_name_that_would_be_written_in_another_way_is_none(name: str) -> None:
    """Its object would not be found: every push was refused with 503, and no run ended, until it was removed."""
    assert StateName.parse(name) is None


@pytest.mark.parametrize("name", ["doomed.x.00001", "condemned.x.123456", "running.x", "ended.1-a", "probe.x"])
def test_names_of_state_objects(name: str) -> None:
    assert str(StateName.parse(name)) == name


def _directory(path: Path) -> None:
    path.mkdir(parents=True)


def _link_to_nowhere(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/nonexistent/moorage")


@pytest.mark.parametrize(
    ("name", "make"),
    [("doomed.x.00000", _directory), ("running.x", _directory), ("doomed.x.00000", _link_to_nowhere)],
)
async def test_what_is_no_object_stops_neither_requests_nor_runs(
    store: Store, name: str, make: Callable[[Path], None]
) -> None:
    """A directory or a link to nowhere among the state objects refused every push with 503."""
    garbage = Garbage()
    await garbage.write(store.driver)
    make(store.root / layout.collection(name))
    gate = CollectionGate(store.driver)
    begun = await gate.begin()
    assert begun.in_progress
    assert await gate.admits(begun, APP, X)
    assert (await run(store.driver)).outcome == "finished"
    await garbage.check(store.driver)


@pytest.mark.parametrize("kind", ["doomed", "condemned"])
async def test_a_list_that_is_too_large_is_named_and_goes_with_the_next_run(store: Store, kind: str) -> None:
    """What it names is unknown, so pushes are refused; but not for ever, and with the reason."""
    name = f"{kind}.x.00000"
    store.write(layout.collection(name), b"x" * (READ_LIMIT_BYTES + 1))
    (store.root / layout.collection(name)).touch()
    gate = CollectionGate(store.driver)
    with pytest.raises(StorageUnavailable, match=f"{name}.*remove it by hand"):
        await gate.begin()
    assert (await run(store.driver)).outcome == "finished"
    assert await state_of(store.driver) == {"ended", "reserve"}
    assert not (await gate.begin()).in_progress


@pytest.mark.parametrize(("kind", "bound_s"), [("condemned", 700), ("doomed", 1700)])
async def test_a_list_from_the_future_is_waited_for_as_one_of_now(store: Store, kind: str, bound_s: int) -> None:
    """A clock was a year ahead when it was written: the run waited for a year."""
    garbage = Garbage()
    await garbage.write(store.driver)
    dead = [part.digest for part in garbage.dead.closure if part.digest != garbage.base.digest]
    ahead = time.time() + YEAR_S
    for name, data in (("running.x", b""), (f"{kind}.x.00000", "\n".join(map(str, dead)).encode())):
        key = layout.collection(name)
        await store.driver.write(key, data)
        os.utime(store.root / key, (ahead, ahead))
    clock = FakeClock()
    assert (await run(store.driver, clock=clock)).outcome == "finished"
    assert clock.seconds < bound_s
    # What is on the list of a dead run keeps all that it names.
    await run(store.driver)
    await garbage.check(store.driver)


async def test_a_run_that_finds_another_one_removing_ends_with_a_report(store: Store) -> None:
    """It ended with an exception that no caller expects."""
    garbage = Garbage()
    await garbage.write(store.driver)

    async def doom(seconds: float) -> None:
        if seconds > 8:
            await store.driver.write(layout.collection("doomed.z.00000"), f"{X}\n".encode())

    report = await run(store.driver, clock=FakeClock(doom))
    assert (report.outcome, "another collector" in report.reason) == ("interrupted", True)
    await garbage.check(store.driver, removed=False)


async def test_an_upload_of_an_impossible_year_does_not_end_the_run(store: Store) -> None:
    """UUIDs of version 7 have times up to the year 10889, and `datetime` ends in 9999."""
    home = "repositories/team/app/_uploads/ffffffff-ffff-7fff-bfff-ffffffffffff"
    await store.driver.write(Key(f"{layout.ROOT}/{home}/startedat"), b"2026-11-29T00:00:00Z")
    assert (await run(store.driver)).outcome == "finished"


async def test_a_damaged_record_of_a_deletion_is_reported(store: Store) -> None:
    """One such record ended every run with an exception."""
    garbage = Garbage()
    await garbage.write(store.driver)
    key = layout.below(layout.trashed_repository(APP), f"{new_stamp(datetime.now(UTC))}.00000")
    header = json.dumps({"version": 1, "by": "", "reason": ""})
    await store.driver.write(key, f'{header}\n{{"of": "v1", "earlier": []}}'.encode())
    options = CollectionOptions(delete_untagged=True, grace_s=0, undo_s=86400, wait_s=600)
    report = await run(store.driver, options)
    assert report.outcome == "finished"
    assert [problem.key for problem in report.problems] == [key]


def test_manifests_that_list_each_other_are_in_the_last_group() -> None:
    """They were in none, so their bytes went while their links stayed."""
    edges = {X: Edges((Y,), None), Y: Edges((X, Y), None)}
    assert topological_levels([(APP, X), (APP, Y)], edges) == [sorted([(APP, X), (APP, Y)])]


async def test_an_index_that_lists_itself_goes_in_one_round(store: Store) -> None:
    """Only bytes that are not those of their digest can: a damaged or made-up object."""
    kind = "application/vnd.oci.image.index.v1+json"
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "manifests": [{"mediaType": kind, "digest": str(X), "size": 1}],
    }
    await put(store.driver, image(), "v1")
    await store.driver.write(layout.blob_data(X), json.dumps(document).encode())
    await store.driver.write(layout.revision_link(APP, X), str(X).encode())
    report = await run(store.driver, AT_ONCE)
    assert (report.outcome, report.manifests) == ("finished", 1)
    assert await store.driver.find(layout.blob_data(X)) is None
    assert await store.driver.find(layout.revision_link(APP, X)) is None


@pytest.mark.slow
async def test_symbolic_links_that_lead_back_cost_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two links in one directory lead to 2 to the power of 40 paths."""
    monkeypatch.setattr("moorage.storage.filesystem.bulk.SETTLED_NS", 0)
    await put(store.driver, image(), "v1")
    home = store.root / layout.REPOSITORIES
    (home / "one").symlink_to(".")
    (home / "team/two").symlink_to("..")
    cache = MarkCache()
    for _ in range(2):
        found = await list_repositories(store.driver, cache)
        assert [names.name for names in found] == ["team/app"]
