"""When certificates are asked for, with an authority that does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.acme.certificates import Authority

from moorage.acme import pem
from moorage.acme.order_spec import HTTP_01, TLS_ALPN_01, CertificateOrder, OrderFailed, Timings
from moorage.acme.renewal import CertificateRenewal
from moorage.acme.store import CertificateStore, prepare

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, MutableMapping
    from pathlib import Path
    from typing import Any

    from moorage.acme.authority import Answers, Key

HURRY = Timings(first_retry_s=0.02, last_retry_s=0.05, poll_s=0.01, spread_s=0.02, rest_s=0.01, lock_limit_s=0.3)


class World:
    """A renewal and all that it talks to.  `trouble`: raised, one for each order, until there are certificates."""

    def __init__(self, folder: Path) -> None:
        prepare(str(folder))
        self.store = CertificateStore(str(folder))
        self.authority = Authority()
        self.trouble: list[BaseException] = []
        self.kinds: list[str] = []
        self.accounts: list[bytes] = []
        self.end = timedelta(days=60)
        self.announced = 0
        self.during: Callable[[Answers], None] = lambda answers: None
        self.spec = CertificateOrder(
            ("r.test", "s.test"), str(folder), (HTTP_01, TLS_ALPN_01), directory="https://ca/dir"
        )

    def obtain(self, spec: CertificateOrder, account: Key, kind: str, answers: Answers, timings: Timings) -> bytes:
        self.kinds.append(kind)
        self.accounts.append(account.public_key().public_numbers().__repr__().encode())
        try:
            self.during(answers)
        finally:
            answers.withdraw()
        if self.trouble:
            raise self.trouble.pop(0)
        key = pem.new_key()
        return pem.write(key, self.authority.sign(pem.request(key, spec.hosts), self.end))

    def announce(self) -> None:
        self.announced += 1

    @contextlib.asynccontextmanager
    async def renewing(
        self, *, serving: bool = False, timings: Timings = HURRY
    ) -> AsyncIterator[CertificateRenewal]:
        renewal = CertificateRenewal(
            self.spec, self.store, self.announce, serving=serving, timings=timings, obtain=self.obtain
        )
        task = asyncio.create_task(renewal.run())
        try:
            yield renewal
        finally:
            assert not task.done(), task
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def put(self, *hosts: str, begin: float = -30, end: float = 60) -> bytes:
        """Days from now."""
        made = self.authority.issue(*hosts, begin=timedelta(days=begin), end=timedelta(days=end))
        self.store.put_certificate(hosts, made)
        return made


async def until(reached: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110  files and threads have no event to await
            await asyncio.sleep(0.005)


async def rounds(world: World, many: int = 10) -> None:
    """Long enough for as many looks at the directory."""
    await asyncio.sleep(many * HURRY.poll_s)


def reported(lines: list[MutableMapping[str, Any]], level: str) -> list[str]:
    return [f"{line['event']}: {line.get('cause', '')}" for line in lines if line["log_level"] == level]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "le")


async def test_without_a_certificate_one_is_asked_for(world: World) -> None:
    async with world.renewing():
        await until(lambda: world.announced)
        await rounds(world)
    found = pem.read(world.store.certificate("s.test") or b"")
    assert found is not None
    assert found.hosts == {"r.test", "s.test"}
    assert world.store.certificate("r.test") == world.store.certificate("s.test")
    assert (world.announced, world.kinds) == (1, [HTTP_01])


async def test_the_account_is_kept(world: World) -> None:
    """Another one at each start would soon be one too many for the authority."""
    world.trouble = [OrderFailed("no")]
    async with world.renewing():
        await until(lambda: world.announced)
    (world.store.folder / "r.test").unlink()
    async with world.renewing():
        await until(lambda: world.announced == 2)
    assert len(world.accounts) == 3
    assert len(set(world.accounts)) == 1


async def test_one_that_is_good_is_left_alone(world: World) -> None:
    """A restart must cost no order: authorities count them."""
    world.put("r.test", "s.test")
    async with world.renewing(serving=True):
        await rounds(world)
    assert (world.announced, world.kinds) == (0, [])


@pytest.mark.parametrize(
    ("hosts", "begin", "end"),
    [(("r.test", "s.test"), -50, 1), (("r.test", "s.test"), -50, -1), (("r.test",), -1, 60)],
    ids=["ends soon", "has ended", "lacks a host"],
)
async def test_another_is_asked_for_in_time(
    world: World, hosts: tuple[str, ...], begin: float, end: float
) -> None:
    old = world.put(*hosts, begin=begin, end=end)
    async with world.renewing(serving=True):
        await until(lambda: world.announced)
    assert world.store.certificate("r.test") != old
    assert len(world.kinds) == 1


async def test_a_broken_file_is_replaced(world: World) -> None:
    world.store.put_certificate(["r.test"], b"rubbish")
    async with world.renewing():
        await until(lambda: world.announced)


async def test_failures_are_told_and_tried_again(world: World) -> None:
    """And the certificate that is there stays where it is."""
    old = world.put("r.test", "s.test", begin=-50, end=1)
    world.trouble = [
        OrderFailed("cannot reach ca: Connection refused"),
        OrderFailed("busy", wait_s=1.5),
        ZeroDivisionError(),
    ]
    with capture_logs() as lines:
        async with world.renewing(serving=True):
            await until(lambda: len(world.kinds) == 2)
            # The authority's own time counts, not ours.
            await rounds(world)
            assert len(world.kinds) == 2
            assert world.store.certificate("r.test") == old
            await until(lambda: world.announced)
    assert reported(lines, "error") == [
        "no new certificate: cannot reach ca: Connection refused", "no new certificate: busy",
        "asking for a certificate failed: ", "no new certificate: see above",
    ]  # fmt: skip


@pytest.mark.parametrize("told_s", [0.0, 3600.0])
async def test_a_pause_can_be_ended_unless_the_authority_has_asked_for_it(world: World, told_s: float) -> None:
    """An operator who has corrected DNS must not have to wait for four hours."""
    world.trouble = [OrderFailed("no", wait_s=told_s)]
    patient = Timings(first_retry_s=3600, poll_s=0.01, rest_s=0.01)
    async with world.renewing(timings=patient) as renewal:
        await until(lambda: not world.trouble)
        await rounds(world)
        assert len(world.kinds) == 1
        renewal.retry_now()
        if not told_s:
            await until(lambda: world.announced)
        await rounds(world)
    assert len(world.kinds) == (1 if told_s else 2)


async def test_another_kind_of_challenge_is_tried_after_one_that_failed(world: World) -> None:
    """Port 80 may be closed where 443 is open, and the other way round."""
    world.trouble = [
        OrderFailed("x"),
        OrderFailed("y", challenge=True),
        OrderFailed("z", challenge=True),
        OrderFailed("x"),
    ]
    async with world.renewing():
        await until(lambda: world.announced)
    assert world.kinds == [HTTP_01, HTTP_01, TLS_ALPN_01, HTTP_01, HTTP_01]


async def test_a_certificate_that_is_of_no_use_is_not_asked_for_for_ever(world: World) -> None:
    """A clock that is a year ahead would otherwise cost an order every second."""
    world.end = timedelta(seconds=-1)
    slow = Timings(first_retry_s=60, poll_s=0.01, rest_s=0.01)
    with capture_logs() as lines:
        async with world.renewing(timings=slow):
            await until(lambda: reported(lines, "error"))
            await rounds(world)
    assert len(world.kinds) == 1
    assert "is the clock right?" in reported(lines, "error")[0]


async def test_a_directory_that_cannot_be_read_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume that is away for a while must not end the process."""
    away = threading.Event()
    away.set()
    real = world.store.certificate

    def certificate(host: str) -> bytes | None:
        if away.is_set():
            raise OSError(116, "Stale file handle")
        return real(host)

    monkeypatch.setattr(world.store, "certificate", certificate)
    with capture_logs() as lines:
        async with world.renewing():
            await until(lambda: reported(lines, "error"))
            away.clear()
            await until(lambda: world.announced)
    assert reported(lines, "error")[0].endswith("Stale file handle")


async def test_what_another_node_has_put_there_is_taken(world: World) -> None:
    """Also while this one waits to try again."""
    world.trouble = [OrderFailed("no", wait_s=3600)]
    async with world.renewing():
        await until(lambda: world.kinds)
        await rounds(world)
        world.put("r.test", "s.test")
        await until(lambda: world.announced)
        await rounds(world)
    assert len(world.kinds) == 1


async def test_while_another_node_is_at_it_nothing_is_asked_for(world: World) -> None:
    """Two orders for the same hosts count twice with the authority."""
    patient = Timings(first_retry_s=0.02, poll_s=0.01, rest_s=0.01)
    with capture_logs() as lines, world.store.lock() as ours:
        assert ours
        async with world.renewing(timings=patient):
            await rounds(world)
            world.put("r.test", "s.test")
            await until(lambda: world.announced)
            await rounds(world)
    assert world.kinds == []
    assert [line["event"] for line in lines] == ["another node is ordering a certificate"]


async def test_a_lock_that_is_never_let_go_is_passed_over(world: World) -> None:
    """A node that hangs must not let the certificates of all of them run out."""
    with world.store.lock() as ours:
        assert ours
        with capture_logs() as lines:
            async with world.renewing():
                await until(lambda: world.announced)
    assert any("ordering all the same" in line["event"] for line in lines)


async def test_a_challenge_lies_in_the_directory_while_the_authority_asks(world: World) -> None:
    """Workers answer from there; without it the authority counts a failure."""
    world.spec = CertificateOrder(("r.test",), world.spec.folder, (TLS_ALPN_01,))
    seen: list[bytes] = []

    def during(answers: Answers) -> None:
        answers.put_alpn("r.test", b"challenge")
        answers.ready()
        seen.append(world.store.alpn_file("r.test").read_bytes())

    world.during = during
    async with world.renewing():
        await until(lambda: world.announced)
    assert seen == [b"challenge"]
    assert not world.store.alpn_file("r.test").exists()


async def test_an_order_that_is_cut_short_leaves_nothing(world: World) -> None:
    """The server stops while the authority takes its time."""
    going, over = threading.Event(), threading.Event()

    def during(answers: Answers) -> None:
        answers.put_http("token", "answer")
        answers.put_alpn("r.test", b"challenge")
        going.set()
        over.wait(20)

    world.during = during
    async with world.renewing():
        await until(going.is_set)
        assert world.store.http_answer("token") == b"answer"
    try:
        assert {path.name for path in world.store.folder.iterdir()} == {"acme_account+key", "moorage+lock"}
    finally:
        over.set()
