"""Password file: users and bcrypt hashes, as Apache's `htpasswd -B` writes it.

    verify ──► file changed? ──► pair verified in the last minutes? ──► one bcrypt in a thread, shared by all
               (reload it)                                              requests with the same pair

Invariant: a verified pair is cached together with the stored hash that it matched, so a change of the file takes
effect with the next request.

Bcrypt takes 50 ms and more, and Docker sends the password with every request of a pull: hence the cache.  It holds
only keyed hashes, under a key that is random in each process.  A wrong password takes as long as one of an unknown
user: as long as the most expensive entry of the file.

Above: `basic.py`, `local/`.  Source: docs/reference/auth.md, section 2; measured there.
"""

from __future__ import annotations

import asyncio
import codecs
import errno
import hashlib
import hmac
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import bcrypt
import structlog

from moorage.auth.file_log import FileLog
from moorage.caches import TTLCache
from moorage.coalescing import SingleFlight
from moorage.errors import Unavailable
from moorage.reloading import Reload, ReloadedFile, reason_of
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["PASSWORD_LIMIT_BYTES", "SIZE_LIMIT_BYTES", "PasswordFile", "fits", "parse", "read_line"]

PASSWORD_LIMIT_BYTES: Final = 72
"""Bcrypt ignores the rest, as does CNCF Distribution, so longer passwords match there too."""

_HASH_CHARS: Final = 60
_SALT_CHARS: Final = 29
_UNKNOWN: Final = bytes(_HASH_CHARS)
_BCRYPT: Final = re.compile(rb"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ALPHABET: Final = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SCHEMES: Final = (
    (rb"\$2[aby]\$", "a damaged bcrypt hash"),
    (rb"\$2", "an unknown variant of bcrypt"),
    (rb"\$apr1\$", "MD5 (apr1)"),
    (rb"\$1\$", "MD5"),
    (rb"\$5\$", "SHA-256"),
    (rb"\$6\$", "SHA-512"),
    (rb"\$y\$", "yescrypt"),
    (rb"\$argon2", "Argon2"),
    (rb"\{SHA\}", "SHA-1"),
    (rb"[./A-Za-z0-9]{13}$", "DES crypt"),
)

_CACHED_PAIRS: Final = 4096
_LIFETIME_S: Final = 300.0
_THREADS: Final = 2
"""Per worker, of which there is one per core: failed logins must not take the cores from other requests."""

_WAITING_LIMIT: Final = 256
"""About ten seconds of work; a client would not wait longer."""

SIZE_LIMIT_BYTES: Final = 64 << 20
"""Some 800,000 users."""

_PROCESS_ERRORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of one process: other workers can still read the file, so each worker reports its own."""

_log: Final = structlog.get_logger("moorage.auth")


@dataclass(frozen=True, slots=True)
class Entries:
    """Content of a password file.

    `hashes` by user, cut to 60 bytes; a user whose hash is not bcrypt is only named in `warnings`.  `cost` is the
    highest of the hashes, 0 if there are none.
    """

    hashes: Mapping[bytes, bytes]
    cost: int
    warnings: tuple[str, ...]


def parse(data: bytes) -> Entries:
    """Parse a file by the rules of CNCF Distribution: the last line of a user wins, `#` begins a comment.

    A byte order mark, which editors of Windows write, is not part of the first user's name.  Raises ValueError for
    a line without a colon, and for UTF-16.
    """
    if data.startswith(_UTF_16):
        raise ValueError("it is UTF-16, as PowerShell writes it; save it as UTF-8 or ASCII")
    data = data.removeprefix(codecs.BOM_UTF8)
    lines: dict[bytes, tuple[int, bytes]] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            found = read_line(line)
        except ValueError as error:
            raise ValueError(f"line {number} {error}") from None
        if found is not None:
            lines[found[0]] = number, found[1]
    hashes, warnings = {}, []
    for user, (number, stored) in lines.items():
        if _BCRYPT.match(stored):
            hashes[user] = stored[:_HASH_CHARS]
        else:
            warnings.append(
                f"line {number}: the password of {user.decode(errors='backslashreplace')!r} is {_scheme(stored)}, "
                "which never matches; only bcrypt does: set it anew with htpasswd -B"
            )
    cost = max((_cost(stored) for stored in hashes.values()), default=0)
    return Entries(hashes, cost, tuple(warnings))


def read_line(line: bytes) -> tuple[bytes, bytes] | None:
    """Return user and hash, None for a comment or empty line.  Raises ValueError for a line without a colon."""
    text = line.strip()
    if not text or text.startswith(b"#"):
        return None
    user, colon, stored = text.partition(b":")
    if not colon:
        raise ValueError("has no colon between user and hash")
    return user, stored


def _scheme(stored: bytes) -> str:
    return next((name for start, name in _SCHEMES if re.match(start, stored)), "of an unknown form or plain text")


def _cost(stored: bytes) -> int:
    return int(stored[4:6])


class PasswordFile:
    """Users of one file, which is read again as soon as it changes.

    `clock` counts seconds, `wall` returns seconds since the epoch.  `reports`: this process logs what all workers
    find in the file.  Of one event loop.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        reports: bool = True,
    ) -> None:
        """Read the file.

        Raises StartupError if the file cannot be read or parsed.  A directory in its place counts as a file
        that cannot be read at the moment, as in CNCF Distribution: no user can log in until there is a file.
        """
        self._path = path
        self._file = ReloadedFile(str(path), parse, Entries({}, 0, ()), limit_bytes=SIZE_LIMIT_BYTES, wall=wall)
        self._file_log = FileLog(reports=reports)
        self._keyed_hash = hashlib.blake2b(key=secrets.token_bytes(32), digest_size=32)
        self._verified: TTLCache[bytes, bool] = TTLCache(_CACHED_PAIRS, _LIFETIME_S, clock=clock)  # by keyed hash
        self._checks: SingleFlight[bytes, bool] = SingleFlight("password check")
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="bcrypt")
        self._overloaded = False
        if path.is_dir():
            return
        try:
            self._file.load()
        except (OSError, ValueError) as error:
            raise StartupError(f"cannot use the password file {path}: {reason_of(error)}") from error

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return a warning for each entry that never matches a password."""
        return tuple(f"{self._path}: {text}" for text in self._file.value.warnings)

    def is_verified(self, user: bytes, password: bytes) -> bool:
        """Return whether the pair was verified in the last minutes and the hash is unchanged; never runs bcrypt.

        Raises Unavailable if the file cannot be read.
        """
        stored = self._current().hashes.get(user)
        if stored is None:
            return False
        return self._verified.get(self._keyed(stored, user, password[:PASSWORD_LIMIT_BYTES])) is not None

    async def verify(self, user: bytes, password: bytes) -> bool:
        """Return whether the file has this user with this password.

        Raises Unavailable if the file cannot be read, or if too many passwords wait to be checked.
        """
        passwords = self._current()
        if b"\0" in password or passwords.cost == 0:
            return False
        password = password[:PASSWORD_LIMIT_BYTES]
        stored = passwords.hashes.get(user, _UNKNOWN)
        key = self._keyed(stored, user, password)
        if self._verified.get(key):
            return True
        if key not in self._checks:
            self._check_load()
        return await self._checks.run(key, lambda: self._check(key, stored, password, passwords.cost))

    def hash_of(self, user: bytes) -> bytes | None:
        """Return the hash of a user's password, None for an unknown user.

        Raises Unavailable if the file cannot be read.
        """
        return self._current().hashes.get(user)

    async def refresh(self) -> None:
        """Read the file again if it has changed."""
        with suppress(Unavailable):
            self._current()

    async def close(self) -> None:
        """Cancel waiting checks; a running one ends with its thread."""
        await self._checks.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # The cache of verified pairs

    def _keyed(self, stored: bytes, user: bytes, password: bytes) -> bytes:
        # Unambiguous: a hash has 60 characters, and no user of the file has a colon.
        keyed = self._keyed_hash.copy()  # saves a quarter of the time of a new one
        keyed.update(stored + user + b":" + password)
        return keyed.digest()

    # Bcrypt

    def _check_load(self) -> None:
        """Raise Unavailable if too many passwords wait to be checked."""
        if len(self._checks) >= _WAITING_LIMIT:
            if not self._overloaded:
                _log.error("too many passwords wait to be checked; further ones are refused", limit=_WAITING_LIMIT)
            self._overloaded = True
            raise Unavailable("too many passwords wait to be checked")
        self._overloaded = False

    async def _check(self, key: bytes, stored: bytes, password: bytes, highest: int) -> bool:
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(self._threads, _matches, password, stored, highest)
        if right:
            self._verified.put(key, True)
        return right

    # The file

    def _current(self) -> Entries:
        """Return the entries of the file, those of its last valid version if it is malformed.  Raises Unavailable.

        On the event loop: stat(2) takes a microsecond, and reading a thousand users two milliseconds.
        """
        file = self._file
        if file.is_changed():
            self._reload()
        if isinstance(file.problem, OSError):
            raise Unavailable("passwords cannot be checked") from file.problem
        return file.value

    def _reload(self) -> None:
        before = self._file.problem
        outcome = self._file.reload()
        if outcome is Reload.NOTHING:
            return
        problem = self._file.problem
        path = str(self._path)
        if isinstance(problem, OSError):
            log = _log if problem.errno in _PROCESS_ERRORS else self._file_log
            log.error("password file cannot be read; credentials are refused", file=path, cause=reason_of(problem))
            return
        if problem is not None:
            self._file_log.error(
                "password file is broken; its last valid version stays in force", file=path, cause=str(problem)
            )
        elif outcome is Reload.CHANGED:
            self._file_log.info("password file was read again", file=path, users=len(self._file.value.hashes))
            for warning in self.warnings:
                self._file_log.warning(warning)
        if isinstance(before, OSError):
            self._file_log.info("password file can be read again", file=path)


def fits(password: bytes, stored: bytes) -> bool:
    """Return whether a password (at most 72 bytes, without NUL) matches a bcrypt hash of 60 characters."""
    made = bcrypt.hashpw(password, _salt(stored))
    return hmac.compare_digest(made[_SALT_CHARS:], stored[_SALT_CHARS:])


def _matches(password: bytes, stored: bytes, highest: int) -> bool:
    """Run bcrypt, in a thread; it releases the interpreter's lock.  `stored` is `_UNKNOWN` for an unknown user.

    A wrong password takes 2^`highest` rounds for every user: c, then c, c+1, ... up to highest - 1.
    """
    if stored == _UNKNOWN:
        bcrypt.hashpw(password, _dummy(highest))
        return False
    if fits(password, stored):
        return True
    for cost in range(_cost(stored), highest):
        bcrypt.hashpw(password, _dummy(cost))
    return False


def _dummy(cost: int) -> bytes:
    return b"$2b$%02d$" % cost + b"." * 22


def _salt(stored: bytes) -> bytes:
    """Return the first 29 characters, with the last four bits of the salt at 0: bcrypt uses 128 of its 132 bits.

    Old versions of passlib set these bits; CNCF Distribution ignores them, the bcrypt package refuses them.
    """
    last = _ALPHABET[_ALPHABET.index(stored[_SALT_CHARS - 1]) & 0b110000]
    return stored[: _SALT_CHARS - 1] + bytes([last])
