"""Usage between processes: facts and bases, how far nodes may exceed a limit, and what a failing store changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.http.client import codes

from moorage.quota.count import count, publish
from moorage.quota.facts import (
    BLOB,
    TAG,
    UPLOAD,
    Base,
    Fact,
    FactId,
    StoredUsage,
    Thing,
    UsedAmount,
    encode_facts,
    new_process,
    new_token,
    read_base,
    read_facts,
)
from moorage.quota.ledger import Ledger
from moorage.quota.limits import Limit
from moorage.registry import layout
from moorage.storage.driver import StorageUnavailable
from moorage.testing.builders import blob, image
from moorage.types import RepoName

if TYPE_CHECKING:
    from tests.quota.conftest import StartNode, Time

    from moorage.storage.driver import Driver

NAME = RepoName("team-a/app")
LIMIT = Limit("team-a", bytes=10_000)


async def names(driver: Driver) -> list[str]:
    return [name async for page in driver.children(layout.USAGE) for name in page]


async def test_other_nodes_learn_of_a_push(node: StartNode) -> None:
    """Otherwise each node would grant the whole quota."""
    one, two = node(LIMIT), node(LIMIT)
    await one.client.push_blob(blob(size=6000), NAME)
    await two.client.start_upload(NAME)
    assert two.used() == (0, 0)
    await one.usage.exchange()
    await two.usage.exchange()
    assert two.used() == (6000, 0)
    answer = await two.client.start_upload(NAME, f"?digest={blob(size=6000, seed=1).digest}", bytes(6000))
    assert codes(answer) == ["DENIED"]


async def test_nodes_exceed_a_limit_by_what_they_accept_between_two_exchanges(node: StartNode) -> None:
    """The documented bound: each node keeps the limit, n at once may use it n times, then nothing more."""
    nodes = [node(LIMIT) for _ in range(3)]
    for index, each in enumerate(nodes):
        await each.usage.ready(NAME)
        await each.client.push_blob(blob(size=10_000, seed=index), NAME)
        refused = await each.client.start_upload(NAME)
        assert codes(refused) == ["DENIED"], "one process never exceeds the limit"
    for each in nodes:
        await each.usage.exchange()
    for each in nodes:
        await each.usage.exchange()
        assert each.used() == (30_000, 0)
        assert codes(await each.client.start_upload(NAME)) == ["DENIED"]


async def test_concurrent_requests_of_one_process_do_not_exceed_the_limit(node: StartNode) -> None:
    """What a running request announced is taken already."""
    started = node(LIMIT)
    uploads = started.registry.uploads
    first, second = [await uploads.start(NAME) for _ in range(2)]
    async with uploads.extend(NAME, first.uuid, first.state, length=6000) as part:
        answer = await started.client.send(
            "POST", f"/v2/{NAME}/blobs/uploads/?digest={blob(size=6000).digest}", bytes(6000)
        )
        assert codes(answer) == ["DENIED"]
        await part.write(bytes(1000))
        assert started.used() == (6000, 0)
    assert started.used() == (1000, 0), "an interrupted request leaves what it has sent"
    async with uploads.extend(NAME, second.uuid, second.state, length=6000) as part:
        await part.write(bytes(6000))


async def test_a_blob_that_two_nodes_link_at_once_counts_once(node: StartNode) -> None:
    """Both have found that it was not there."""
    one, two = node(LIMIT), node(LIMIT)
    same = blob(size=4000)
    for each in (one, two):
        await each.usage.ready(NAME)
    locations = [await each.client.location(NAME) for each in (one, two)]
    for each in (one, two):
        assert (await each.client.blob(same, NAME)).status_code == 404
        assert (await each.client.send("HEAD", f"/v2/{NAME}/blobs/{same.digest}")).status_code == 404
    for each, location in zip((one, two), locations, strict=True):
        assert (await each.client.finish(location, same.digest, same.data)).status_code == 201
    for each in (one, two, one):
        await each.usage.exchange()
    assert one.used() == two.used() == (4000, 0)


async def test_an_upload_may_move_between_nodes(node: StartNode) -> None:
    """Behind a load balancer each chunk reaches another node; the upload counts once, and not after its end."""
    one, two = node(LIMIT), node(LIMIT)
    answer = await one.client.patch(await one.client.location(NAME), bytes(3000))
    await one.usage.exchange()
    await two.usage.ready(NAME)
    await two.usage.exchange()
    answer = await two.client.patch(answer.headers["location"], bytes(3000))
    assert two.used() == (6000, 0)
    whole = blob(bytes(6000))
    # The first node does not know of the second chunk yet.
    assert (await one.client.finish(answer.headers["location"], whole.digest)).status_code == 201
    for each in (one, two, one):
        await each.usage.exchange()
    assert one.used() == two.used() == (6000, 0)


async def test_facts_become_part_of_a_base(node: StartNode, driver: Driver, time: Time) -> None:
    """Facts would fill the directory, and the memory of each process."""
    one, two = node(LIMIT), node(LIMIT)
    for seed in range(3):
        await one.client.push_blob(blob(size=1000, seed=seed), NAME)
        await one.usage.exchange()
        time.now += 1
    await two.usage.ready(NAME)
    await publish(driver, None, ["team-a"], clock=time)
    for each in (one, two):
        await each.usage.exchange()
        assert each.used() == (3000, 0)
    await one.client.push_blob(blob(size=1000, seed=9), NAME)
    time.now += 100
    await publish(driver, None, ["team-a"], clock=time)
    left = [name for name in await names(driver) if name.startswith("facts")]
    assert left == [], "what every process has read is removed"
    for each in (one, two, one, two):
        await each.usage.exchange()
    assert one.used() == two.used() == (4000, 0)
    assert node(LIMIT).used() is None, "before the first exchange"
    late = node(LIMIT)
    await late.usage.ready(NAME)
    assert late.used() == (4000, 0)


async def test_a_walk_beside_pushes_counts_everything_once(node: StartNode, driver: Driver, time: Time) -> None:
    """A walk of hours sees some of the pushes and deletions beside it."""
    started = node(LIMIT)
    client = started.client
    before = await client.push_blob(blob(size=1000), NAME)
    seen = await client.push_blob(blob(size=2000), NAME)
    gone = await client.push_blob(blob(size=500), NAME)
    counted = await count(driver, ["team-a"], clock=time)
    assert counted.amounts["team-a"] == (3500, 0)
    await client.push_blob(blob(size=3000), "team-a/later")
    await client.send("DELETE", f"/v2/{NAME}/blobs/{gone.digest}")
    await started.usage.exchange()
    await publish(driver, counted, ["team-a"], clock=time)
    fresh = node(LIMIT)
    await fresh.usage.ready(NAME)
    assert fresh.used() == (before.size + seen.size + 3000, 0)


async def test_a_walk_mends_what_no_process_has_recorded(node: StartNode, driver: Driver, time: Time) -> None:
    """A collector removes links without a fact, a process may be killed before it writes its own."""
    started = node(LIMIT)
    removed = await started.client.push_blob(blob(size=9000), NAME)
    await started.usage.exchange()
    await driver.delete([layout.layer_link(NAME, removed.digest)])
    time.now += 3600
    await publish(driver, await count(driver, ["team-a"], clock=time), ["team-a"], clock=time)
    await started.usage.exchange()
    assert started.used() == (0, 0)


async def test_a_failing_store_changes_no_decision(node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushes continue by the last known numbers, and the facts are written later."""
    started = node(LIMIT)
    await started.client.push_blob(blob(size=6000), NAME)

    async def fails(*_: object) -> None:
        raise StorageUnavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(StoredUsage, "of", fails)
        with pytest.raises(StorageUnavailable):
            await started.usage.exchange()
        patch.setattr(started.usage, "_exchanged_at", None)
        answer = await started.client.send(
            "POST", f"/v2/{NAME}/blobs/uploads/?digest={blob(size=6000, seed=1).digest}", bytes(6000)
        )
        assert codes(answer) == ["DENIED"]
        await started.client.push_blob(blob(size=2000), NAME)
    await started.usage.exchange()
    assert started.used() == (8000, 0)


async def test_the_common_case_reads_nothing_for_quotas(
    node: StartNode, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push after HEAD costs as many calls with a quota as without."""
    plain, limited = node(Limit("elsewhere", bytes=1)), node(LIMIT)
    await limited.usage.ready(NAME)
    counts = []
    for seed, started in enumerate((plain, limited)):
        calls: list[str] = []
        with monkeypatch.context() as patch:
            for name in ("read", "stat", "write", "delete", "write_ordered"):
                called = getattr(driver, name)

                def counted(
                    *given: object,
                    _call: object = called,
                    _name: str = name,
                    _calls: list[str] = calls,
                    **more: object,
                ) -> object:
                    _calls.append(_name)
                    return _call(*given, **more)  # type: ignore[operator]

                patch.setattr(driver, name, counted)
            new = blob(size=100, seed=seed)
            assert (await started.client.send("HEAD", f"/v2/{NAME}/blobs/{new.digest}")).status_code == 404
            await started.client.push_blob(new, NAME)
        counts.append(sorted(calls))
    assert counts[0] == counts[1]
    assert counts[0], "the calls are counted"


ENDLESS = b'{"version": 1, "patterns": {"a": {"bytes": 1e999, "tags": 0, "counted": 1}}, "folded": {}}'
WRONG = b'{"version": 1, "patterns": {"a": 1}, "folded": {}}'


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"version": 2}', WRONG, ENDLESS, b"x" * ((4 << 20) + 1)], ids=range(7)
)
async def test_a_damaged_base_is_left_out(driver: Driver, data: bytes) -> None:
    """A later version may write another form; a torn object must not stop pushes, nor be passed over silently."""
    base = Base("1800000000000-ab", {"a": UsedAmount(1, 2)}, {"a": 3.0}, {"p": 4})
    damaged = Base(new_token(1_900_000_000))
    await driver.write(base.key, base.encode())
    await driver.write(damaged.key, data)
    with capture_logs() as logs:
        for _ in range(2):
            assert await read_base(driver, await StoredUsage.of(driver)) == base
    [line] = logs
    assert line["key"] == damaged.key
    assert "counted again" in line["remedy"]


async def test_damaged_facts_are_left_out(driver: Driver) -> None:
    """Lines that are none, or of a kind that a later version adds: usage is wrong, and the log has the reason."""
    facts = [Fact(Thing(BLOB, NAME, "sha256:ab"), 0, 5, 1.5), Fact(Thing(TAG, NAME, "v1"), 1, 0, 2.0)]
    odd = b'["other", "a", "b", 0, 1, 2]\n["blob", "UPPER", "b", 0, 1, 2]\n["blob"]\n7\n'
    endless = b'["blob", "a", "sha256:00", Infinity, 0, 1]\n'
    for data, wanted, cause in (
        (encode_facts(facts), facts, None),
        (encode_facts(facts) + odd, facts, "4 of 6 lines are no facts"),
        (encode_facts([]) + endless, [], "1 of 1 lines"),
        (b'{"version": 2}\n' + odd, [], "version 2 is not known"),
        (b"", [], "it is not JSON"),
        (b"[1]\n", [], "a JSON list"),
        (b"x" * ((4 << 20) + 1), [], "larger than 4194304 bytes"),
    ):
        fact = FactId(new_process(), 0)
        await driver.write(fact.key, data)
        with capture_logs() as logs:
            for _ in range(2):
                assert await read_facts(driver, fact) == wanted
        assert [(line["key"], cause in line["cause"]) for line in logs] == (
            [] if cause is None else [(fact.key, True)]
        )
    assert await read_facts(driver, FactId("none", 0)) is None


async def test_damaged_facts_are_read_once(node: StartNode, driver: Driver) -> None:
    """Facts that are too large were read again with every exchange, and never removed."""
    started = node(LIMIT)
    await started.usage.ready(NAME)
    await driver.write(FactId("torn", 0).key, b"x" * ((4 << 20) + 1))
    await started.usage.exchange()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "read", None)
        await started.usage.exchange()
    base = await publish(driver, None, ["team-a"], clock=lambda: 1_800_000_000.0)
    assert base.folded["torn"] == 0


def test_a_base_names_the_facts_that_it_includes() -> None:
    """Else they count twice, or never."""
    base = Base("1800000000000-ab", folded={"p": 4})
    assert base.at == 1_800_000_000
    assert base.includes(FactId("p", 4))
    assert not base.includes(FactId("p", 5))
    assert not base.includes(FactId("q", 0))


def test_late_facts_are_put_in_order() -> None:
    """Objects of two processes are read in any order; the first and the last value decide."""
    thing = Thing(UPLOAD, NAME, "u")
    facts = [Fact(thing, 0, 10, 1.0), Fact(thing, 10, 30, 2.0), Fact(thing, 30, 0, 3.0)]
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)):
        ledger = Ledger(["team-a"])
        ledger.base = Base("1-a", {"team-a": UsedAmount(100, 0)}, {"team-a": 0.0})
        for index in order:
            ledger.add(facts[index])
        assert ledger.used("team-a") == (100, 0)


async def test_manifests_of_a_walk_are_counted_with_their_layers(node: StartNode, driver: Driver) -> None:
    """The walk of a volume that another registry has filled."""
    whole = await node(Limit("elsewhere", tags=1)).client.push(image(blob(size=10)), "v1", name=NAME)
    counted = await count(driver, ["*", "team-a/*", "team-*/app", "none"], clock=lambda: 0.0)
    there = UsedAmount(sum(part.size for part in whole.closure), 1)
    assert counted.amounts == {"*": there, "team-a/*": there, "team-*/app": there, "none": UsedAmount()}
