"""Password files: who gets in, what it costs, and that every edit holds at once."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Final, Protocol

import bcrypt
import pytest
from structlog.testing import capture_logs

from moorage.auth import password_file
from moorage.auth.password_file import PasswordFile, parse
from moorage.errors import Unavailable
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HASHPW: Final = bcrypt.hashpw


def hashed(password: bytes, variant: bytes = b"2b", cost: int = 4) -> bytes:
    return HASHPW(password, b"$%b$%02d$abcdefghijklmnopqrstuu" % (variant, cost))


ALICE: Final = b"alice:" + hashed(b"secret") + b"\n"
BOB: Final = b"bob:" + hashed(b"letmein") + b"\n"


class Clock:
    """Seconds, moved by hand."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Users(Protocol):
    def __call__(self, data: bytes, clock: Clock | None = None) -> PasswordFile: ...


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "htpasswd"


@pytest.fixture
async def users(path: Path) -> AsyncIterator[Users]:
    """A file with these bytes; it is old, so that it is read again only when it changes."""
    opened: list[PasswordFile] = []

    def make(data: bytes, clock: Clock | None = None) -> PasswordFile:
        put(path, data)
        opened.append(PasswordFile(path, clock=clock or Clock(), wall=Clock(path.stat().st_mtime + 60)))
        return opened[-1]

    yield make
    for each in opened:
        await each.close()


def put(path: Path, data: bytes) -> None:
    """As an editor does that takes care: a new file in the old one's place."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


class Counted:
    """Bcrypt, and the costs it was asked for; `hold` makes it wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.costs: list[int] = []
        self.hold = threading.Event()
        self.hold.set()
        self.begun = threading.Event()

        def hashpw(password: bytes, salt: bytes) -> bytes:
            self.costs.append(int(salt[4:6]))
            self.begun.set()
            assert self.hold.wait(60)
            return HASHPW(password, salt)

        monkeypatch.setattr(bcrypt, "hashpw", hashpw)

    @property
    def work(self) -> int:
        return sum(2**cost for cost in self.costs)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def test_the_file_is_read_as_the_reference_reads_it() -> None:
    """Comments, blanks, Windows line ends, colons in hashes' tails, and the later of two lines."""
    data = b"# users\r\n\n  alice:" + hashed(b"old") + b"\nbob:" + hashed(b"b") + b":more\r\n  alice:"
    found = parse(data + hashed(b"new", cost=5) + b"  \n")
    assert found.hashes == {b"alice": hashed(b"new", cost=5), b"bob": hashed(b"b")}
    assert (found.cost, found.warnings) == (5, ())


def test_a_line_without_a_colon_is_named() -> None:
    """The number is all that an operator needs."""
    with pytest.raises(ValueError, match=r"^line 3 has no colon between user and hash$"):
        parse(ALICE + b"\nalice\n")


async def test_a_byte_order_mark_does_not_lock_out_the_first_user(users: Users) -> None:
    """Notepad writes one, invisibly; CNCF Distribution takes it for a part of the name."""
    file = users(b"\xef\xbb\xbf" + ALICE + BOB)
    assert await file.verify(b"alice", b"secret")
    assert await file.verify(b"bob", b"letmein")
    assert file.hash_of(b"\xef\xbb\xbfalice") is None


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_told(path: Path, encoding: str) -> None:
    """`htpasswd ... > FILE` in PowerShell: no line of it would ever match."""
    put(path, ("\ufeff" + ALICE.decode()).encode(encoding))
    with pytest.raises(StartupError, match="it is UTF-16, as PowerShell writes it; save it as UTF-8"):
        PasswordFile(path)


@pytest.fixture
def directory(path: Path) -> Path:
    path.mkdir()
    return path


async def test_a_directory_in_the_place_of_the_file_refuses_all_logins(directory: Path) -> None:
    """Debian's package configures one; the registry starts with it, and takes the file as soon as there is one."""
    file = PasswordFile(directory, clock=Clock(), wall=Clock())
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(Unavailable):
                await file.verify(b"alice", b"secret")
    assert [(log["event"], log["cause"]) for log in logs] == [
        ("password file cannot be read; credentials are refused", "Is a directory")
    ]
    os.rmdir(directory)  # noqa: PTH106  Path's would count as blocking
    put(directory, ALICE)
    assert await file.verify(b"alice", b"secret")
    await file.close()


@pytest.mark.parametrize(
    ("stored", "scheme"),
    [
        (b"$apr1$abc$def", "MD5 (apr1)"), (b"{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"), (b"$1$a$b", "MD5"),
        (b"$5$a$b", "SHA-256"), (b"$6$a$b", "SHA-512"), (b"$y$j9T$a$b", "yescrypt"), (b"$argon2id$v=19", "Argon2"),
        (b"rl.3StKT.4T8M", "DES crypt"), (b"secret", "of an unknown form or plain text"),
        (b"", "of an unknown form"),
        (hashed(b"x")[:-1], "a damaged bcrypt hash"), (b"$2b$03$" + b"a" * 53, "a damaged bcrypt hash"),
        (b"$2x$04$" + b"a" * 53, "an unknown variant of bcrypt"),
    ],
)  # fmt: skip
async def test_other_hashes_than_bcrypt_are_reported_and_never_match(
    users: Users, stored: bytes, scheme: str
) -> None:
    """Plain `htpasswd -b` writes MD5, and its users would search for hours; the hash itself must not be logged."""
    file = users(ALICE + b"old:" + stored + b"\n")
    (warning,) = file.warnings
    assert f"line 2: the password of 'old' is {scheme}" in warning
    assert len(stored) < 5 or stored.decode() not in warning
    assert not await file.verify(b"old", b"secret")
    assert await file.verify(b"alice", b"secret")


@pytest.mark.parametrize("variant", [b"2a", b"2b", b"2y"])
async def test_each_variant_of_bcrypt_matches(users: Users, variant: bytes) -> None:
    """Apache writes 2y, Python 2b, Go 2a."""
    file = users(b"alice:" + hashed(b"secret", variant) + b"\n")
    assert await file.verify(b"alice", b"secret")
    assert not await file.verify(b"alice", b"Secret")
    assert not await file.verify(b"Alice", b"secret")
    assert not await file.verify(b"", b"")


async def test_names_and_passwords_are_bytes(users: Users) -> None:
    file = users("jürgen:".encode() + hashed("größe:1".encode()))
    assert await file.verify("jürgen".encode(), "größe:1".encode())
    assert not await file.verify("jürgen".encode("latin-1"), "größe:1".encode())


async def test_a_salt_with_bits_that_do_not_count_matches(users: Users) -> None:
    """Passlib before 1.5.3 wrote such; the reference lets their users in."""
    stored = bytearray(hashed(b"secret"))
    assert stored[28:29] == b"u"
    stored[28:29] = b"9"
    assert await users(b"alice:" + bytes(stored)).verify(b"alice", b"secret")


async def test_a_password_counts_up_to_72_bytes(users: Users) -> None:
    """As in the reference: people have tokens of a hundred characters for passwords."""
    file = users(b"alice:" + hashed(b"p" * 72))
    assert await file.verify(b"alice", b"p" * 72 + b"whatever")
    assert not await file.verify(b"alice", b"p" * 71 + b"x")
    assert not await file.verify(b"alice", b"p" * 71)


async def test_a_password_with_nul_is_wrong(users: Users) -> None:
    """Bcrypt in C ends there, so what follows would not count."""
    file = users(b"alice:" + hashed(b"secret"))
    assert not await file.verify(b"alice", b"secret\0x")


async def test_an_empty_file_refuses_all_logins(users: Users, counted: Counted) -> None:
    assert not await users(b"").verify(b"alice", b"secret")
    assert not await users(b"alice:plain\n").verify(b"alice", b"plain")
    assert counted.costs == []


@pytest.mark.parametrize("user", [b"alice", b"bob", b"old", b"nobody"])
async def test_a_wrong_password_costs_what_the_dearest_entry_costs(
    users: Users, counted: Counted, user: bytes
) -> None:
    """The time of an answer would disclose which users exist."""
    file = users(ALICE + b"bob:" + hashed(b"b", cost=6) + b"\nold:$apr1$a$b\n")
    assert not await file.verify(user, b"wrong")
    assert counted.work == 2**6


async def test_a_right_pair_is_computed_once_in_its_lifetime(users: Users, counted: Counted) -> None:
    """Docker sends it with each of some hundred requests of a push."""
    clock = Clock()
    file = users(ALICE, clock)
    for _ in range(3):
        assert await file.verify(b"alice", b"secret")
        clock.now += 90
    assert counted.costs == [4]
    clock.now += 31
    assert await file.verify(b"alice", b"secret")
    assert counted.costs == [4, 4]


async def test_a_wrong_pair_is_never_remembered(users: Users, counted: Counted) -> None:
    """Guesses would fill the memory, and push out those who are right."""
    file = users(ALICE)
    assert await file.verify(b"alice", b"secret")
    for number in range(20):
        assert not await file.verify(b"alice", b"%d" % number)
        assert not await file.verify(b"%d" % number, b"secret")
    assert len(file._verified) == 1
    assert await file.verify(b"alice", b"secret")
    assert len(counted.costs) == 41


async def test_the_cache_is_bounded_and_evicts_the_least_recently_used(
    users: Users, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(password_file, "_CACHED_PAIRS", 2)
    file = users(b"".join(b"u%d:%b\n" % (number, hashed(b"p")) for number in range(3)))
    for user in (b"u0", b"u1", b"u0", b"u2", b"u0"):
        assert await file.verify(user, b"p")
    assert len(counted.costs) == 3
    assert await file.verify(b"u1", b"p")
    assert len(counted.costs) == 4


async def test_no_password_stands_in_memory(users: Users) -> None:
    """What is remembered is keyed anew in every process."""
    first, second = users(ALICE), users(ALICE)
    for file in (first, second):
        assert await file.verify(b"alice", b"secret")
    assert set(first._verified).isdisjoint(second._verified)
    assert b"secret" not in b"".join(first._verified)


async def test_requests_at_once_share_one_computation(users: Users, counted: Counted) -> None:
    """A pull of thirty layers begins with thirty requests."""
    file = users(ALICE)
    counted.hold.clear()
    requested = [asyncio.create_task(file.verify(b"alice", b"secret")) for _ in range(30)]
    wrong = [asyncio.create_task(file.verify(b"alice", b"wrong")) for _ in range(30)]
    await asyncio.to_thread(counted.begun.wait)
    counted.hold.set()
    assert await asyncio.gather(*requested) == [True] * 30
    assert await asyncio.gather(*wrong) == [False] * 30
    assert counted.costs == [4, 4]


async def test_a_cancelled_request_does_not_end_the_check_for_the_others(users: Users, counted: Counted) -> None:
    file = users(ALICE)
    counted.hold.clear()
    first, second = (asyncio.create_task(file.verify(b"alice", b"secret")) for _ in range(2))
    await asyncio.to_thread(counted.begun.wait)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    counted.hold.set()
    assert await second


async def test_the_event_loop_goes_on_meanwhile(users: Users, counted: Counted) -> None:
    """`hold` can be released by this test only because the loop runs."""
    file = users(ALICE)
    counted.hold.clear()
    requested = asyncio.create_task(file.verify(b"alice", b"secret"))
    await asyncio.to_thread(counted.begun.wait)
    counted.hold.set()
    assert await requested


async def test_a_flood_is_refused_and_logged_once(
    users: Users, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks that wait hold memory, and their clients are gone before their turn comes."""
    monkeypatch.setattr(password_file, "_WAITING_LIMIT", 3)
    file = users(ALICE)
    counted.hold.clear()
    with capture_logs() as logs:
        waiting = [asyncio.create_task(file.verify(b"u%d" % number, b"")) for number in range(3)]
        await asyncio.to_thread(counted.begun.wait)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await file.verify(b"alice", b"secret")
    assert [line["log_level"] for line in logs] == ["error"]
    counted.hold.set()
    assert await asyncio.gather(*waiting) == [False] * 3
    assert await file.verify(b"alice", b"secret")


async def test_a_changed_password_holds_at_once(users: Users, path: Path) -> None:
    """A leaked password would stay valid in the cache."""
    file = users(ALICE + BOB)
    assert await file.verify(b"alice", b"secret")
    assert await file.verify(b"bob", b"letmein")
    put(path, b"alice:" + hashed(b"fresh") + b"\n")
    assert not await file.verify(b"alice", b"secret")
    assert not await file.verify(b"bob", b"letmein")
    assert await file.verify(b"alice", b"fresh")


async def test_an_edit_that_the_clock_does_not_show_holds_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place, of the same size, within a tick of the clock: a file this young is read again anyhow."""
    put(path, ALICE)
    seen = path.stat()  # noqa: ASYNC240  nothing else runs
    file = PasswordFile(path, wall=Clock(seen.st_mtime + 1))
    with monkeypatch.context() as patch:
        patch.setattr("moorage.reloading.os.stat", lambda _: seen)
        assert await file.verify(b"alice", b"secret")
        put(path, b"alice:" + hashed(b"public") + b"\n")
        assert not await file.verify(b"alice", b"secret")
        assert await file.verify(b"alice", b"public")
    await file.close()


async def test_a_file_that_did_not_change_is_not_read_again(
    users: Users, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at with every request."""
    file = users(ALICE)
    assert await file.verify(b"alice", b"secret")
    with monkeypatch.context() as patch:
        patch.setattr("moorage.reloading.read_regular", lambda *_: pytest.fail("read"))
        assert await file.verify(b"alice", b"secret")
    put(path, BOB)
    assert not await file.verify(b"alice", b"secret")


async def test_a_broken_edit_leaves_the_old_entries_in_force_and_is_logged_once(users: Users, path: Path) -> None:
    """CNCF Distribution answers one client 400 for it, and logs nothing."""
    file = users(ALICE)
    with capture_logs() as logs:
        put(path, b"bob\n")
        for _ in range(3):
            assert await file.verify(b"alice", b"secret")
        put(path, BOB + b"old:$apr1$x$y\n")
        assert await file.verify(b"bob", b"letmein")
        assert not await file.verify(b"alice", b"secret")
    assert [(line["log_level"], line.get("cause")) for line in logs] == [
        ("error", "line 1 has no colon between user and hash"),
        ("info", None),
        ("warning", None),
    ]


async def test_a_file_that_cannot_be_read_refuses_all_logins_and_is_logged_once(users: Users, path: Path) -> None:
    """The cache must not admit users either: the file may have been removed on purpose."""
    file = users(ALICE)
    assert await file.verify(b"alice", b"secret")
    with capture_logs() as logs:
        path.unlink()  # noqa: ASYNC240  nothing else runs, here and below
        for _ in range(3):
            with pytest.raises(Unavailable):
                await file.verify(b"alice", b"secret")
        path.mkdir()  # noqa: ASYNC240
        with pytest.raises(Unavailable):
            await file.verify(b"alice", b"secret")
        path.rmdir()  # noqa: ASYNC240
        put(path, ALICE)
        assert await file.verify(b"alice", b"secret")
    assert [line.get("cause") for line in logs] == ["No such file or directory", "Is a directory", None]


def test_a_file_that_cannot_be_used_at_start_is_told(path: Path) -> None:
    """Not at the first request, which in the reference is a customer's."""
    with pytest.raises(StartupError, match="No such file or directory"):
        PasswordFile(path)
    path.write_bytes(b"alice")
    with pytest.raises(StartupError, match="htpasswd: line 1 has no colon"):
        PasswordFile(path)
