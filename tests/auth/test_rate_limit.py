"""Guessing: who has to wait, how long, and who never does."""

from __future__ import annotations

import asyncio
import random

import pytest
from structlog.testing import capture_logs

from moorage.auth import rate_limit as module
from moorage.auth.access import Basic
from moorage.auth.rate_limit import LoginRateLimit
from moorage.config.model import Settings
from moorage.config.sections.services import Guessing
from moorage.errors import TooManyRequests
from moorage.wiring.authentication import login_rate_limit

ATTACKER = "192.0.2.1"


class World:
    """A clock, and passwords: "right" is."""

    def __init__(self, *, limit: int = 3, window_s: float = 60.0, longest_s: float = 60.0) -> None:
        self.now = 1000.0
        self.checked = 0
        self.rate_limit = LoginRateLimit(
            limit=limit, window_s=window_s, longest_s=longest_s, clock=lambda: self.now
        )

    async def check(self, user: bytes, password: bytes) -> bool:
        self.checked += 1
        return password == b"right"

    async def right(self, remote: str = ATTACKER, user: bytes = b"alice") -> bool:
        return await self.rate_limit.check(remote, Basic(user, b"right"), self.check)

    async def wrong(self, remote: str = ATTACKER, times: int = 1, user: bytes = b"alice") -> None:
        for _ in range(times):
            assert not await self.rate_limit.check(remote, Basic(user, random.randbytes(8)), self.check)

    async def wait(self, remote: str = ATTACKER) -> int:
        """Return the seconds that a client at this address has to wait, 0 if none."""
        before = self.checked
        try:
            await self.right(remote)
        except TooManyRequests as error:
            assert self.checked == before, "bcrypt is what the attacker would cost us"
            return error.retry_after_s
        return 0


async def test_a_few_wrong_passwords_cost_nothing() -> None:
    """People mistype."""
    world = World()
    await world.wrong(times=2)
    assert await world.wait() == 0


async def test_waits_double_up_to_the_longest() -> None:
    """With twenty a minute at first and one a minute in the end, no password can be guessed."""
    world = World(longest_s=10)
    await world.wrong(times=3)
    waits = []
    for _ in range(6):
        waits.append(await world.wait())
        world.now += waits[-1]
        await world.wrong()
    assert waits == [1, 2, 4, 8, 10, 10]


async def test_the_settings_bound_the_failures_and_the_longest_wait() -> None:
    """`guessing.failures` and `guessing.longestwait`, as the configuration has them."""
    world = World()
    world.rate_limit = login_rate_limit(Settings(guessing=Guessing(failures=2, longestwait=4.0)))
    world.rate_limit._clock = lambda: world.now
    await world.wrong(times=2)
    waits = []
    for _ in range(4):
        waits.append(await world.wait())
        world.now += waits[-1]
        await world.wrong()
    assert waits == [1, 2, 4, 4]


async def test_a_wait_is_reported_in_whole_seconds_and_ends() -> None:
    world = World()
    await world.wrong(times=3)
    world.now += 0.5
    assert await world.wait() == 1
    world.now += 0.5
    assert await world.wait() == 0


async def test_wrong_ones_far_apart_do_not_add_up() -> None:
    world = World()
    for _ in range(10):
        await world.wrong(times=2)
        world.now += 61
    assert await world.wait() == 0


async def test_an_address_is_forgotten_after_ten_quiet_windows() -> None:
    """Addresses are given to others."""
    world = World()
    await world.wrong(times=3)
    world.now += 1 + 599
    await world.wrong()
    assert await world.wait() == 2
    world.now += 2 + 601
    await world.wrong(times=2)
    assert await world.wait() == 0


async def test_a_right_password_neither_resets_nor_counts() -> None:
    """Else an attacker with an account of his own would guess the others' for ever."""
    world = World()
    for _ in range(2):
        await world.wrong()
        assert await world.right(user=b"mallory")
    await world.wrong()
    assert await world.wait() == 1
    world.now += 1
    assert await world.right(user=b"mallory")
    await world.wrong()
    assert await world.wait() == 2


async def test_the_same_wrong_pair_counts_once() -> None:
    """A machine with yesterday's password would lock out all clients behind the same address."""
    world = World()
    for _ in range(50):
        assert not await world.rate_limit.check(ATTACKER, Basic(b"cron", b"old"), world.check)
    await world.wrong()
    assert await world.wait() == 0
    await world.wrong(user=b"cron")
    assert await world.wait() == 1


async def test_another_address_and_the_same_name_go_on() -> None:
    """An attacker could lock out any user by name."""
    world = World()
    await world.wrong(times=3)
    assert await world.wait() == 1
    assert await world.right("192.0.2.2")


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
    ],
)
async def test_addresses_of_one_customer_count_together(first: str, second: str, together: bool) -> None:
    """One machine may take 2 to the 64 addresses of IPv6."""
    world = World()
    await world.wrong(first, times=3)
    assert (await world.wait(second) == 1) == together


@pytest.mark.parametrize("remote", ["", "unix:", "proxy.example"])
async def test_an_unknown_address_is_never_slowed(remote: str) -> None:
    """All clients would share it."""
    world = World()
    await world.wrong(remote, times=50)
    assert await world.wait(remote) == 0


async def test_a_limit_of_zero_only_logs() -> None:
    world = World(limit=0)
    with capture_logs() as logs:
        await world.wrong(times=50)
    assert await world.wait() == 0
    assert len(logs) == 50


async def test_failures_are_logged_with_name_and_address_and_never_the_password() -> None:
    """What fail2ban reads; people type their password into the field for the name too, but we cannot know."""
    world = World(limit=2)
    with capture_logs() as logs:
        for password in (b"hush1", b"hush2"):
            assert not await world.rate_limit.check(ATTACKER, Basic("jürgen\n".encode(), password), world.check)
        await world.right("192.0.2.9")
    assert [(line["event"], line["log_level"], line.get("user"), line["remote"]) for line in logs] == [
        ("wrong user or password", "warning", "jürgen\n", ATTACKER),
        ("wrong user or password", "warning", "jürgen\n", ATTACKER),
        ("too many wrong credentials; the next ones have to wait", "warning", None, ATTACKER),
    ]
    assert "hush" not in str(logs)


async def test_after_a_wait_one_pair_is_checked_at_a_time() -> None:
    """Else hundreds at once would be checked before the first of them counts; a pull's requests share one pair."""
    world = World()
    await world.wrong(times=3)
    world.now += 1
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def held(user: bytes, password: bytes) -> bool:
        begun.set()
        await go_on.wait()
        return password == b"right"

    requested = [
        asyncio.create_task(world.rate_limit.check(ATTACKER, Basic(b"a", b"right"), held)) for _ in range(3)
    ]
    await begun.wait()
    with pytest.raises(TooManyRequests) as refused:
        await world.rate_limit.check(ATTACKER, Basic(b"a", b"other"), held)
    assert refused.value.retry_after_s == 1
    go_on.set()
    assert await asyncio.gather(*requested) == [True] * 3
    assert await world.right()


async def test_no_more_than_the_limit_is_checked_at_once() -> None:
    """The first burst of an attacker would be checked whole; concurrent requests with one pair count once."""
    world = World()
    go_on = asyncio.Event()

    async def held(user: bytes, password: bytes) -> bool:
        await go_on.wait()
        return await world.check(user, password)

    def guess(remote: str, password: bytes) -> asyncio.Task[bool]:
        return asyncio.create_task(world.rate_limit.check(remote, Basic(b"a", password), held))

    requested = [guess(ATTACKER, b"%d" % (number % 3)) for number in range(30)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests):
        await guess(ATTACKER, b"right")
    other = guess("192.0.2.2", b"right")
    go_on.set()
    assert await asyncio.gather(*requested) == [False] * 30
    assert await other
    assert await world.wait() == 1
    assert world.rate_limit._checking == {}


async def test_a_check_that_fails_leaves_the_place_free() -> None:
    world = World()
    await world.wrong(times=3)
    world.now += 1

    async def broken(user: bytes, password: bytes) -> bool:
        raise OSError

    with pytest.raises(OSError):
        await world.rate_limit.check(ATTACKER, Basic(b"a", b"b"), broken)
    assert await world.right()


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker has more addresses than we have memory."""
    monkeypatch.setattr(module, "_ADDRESSES", 10)
    world = World()
    for number in range(50):
        await world.wrong(f"192.0.2.{number}", times=1)
    await world.wrong("192.0.2.49", times=2)
    assert len(world.rate_limit._addresses) == 10
    assert await world.wait("192.0.2.49") == 1
    for _ in range(200):
        world.now += 60
        await world.wrong("192.0.2.49")
    state = world.rate_limit._addresses.get("192.0.2.49")
    assert state is not None
    assert len(state.failed) == 3
