"""The directory `http.tls.letsencrypt.cachefile`: all that outlives the process, shared by every node.

    acme_account+key      the account's private key, PEM
    HOST                  key and certificate for a host: the same content under each name of the certificate
    HOST+token            key and certificate that answer TLS-ALPN-01, while the authority asks
    TOKEN+http-01         the answer to HTTP-01, while the authority asks
    moorage+lock          empty; locked by the node that is talking to the authority

Names and contents are those of CNCF Distribution 3 (Go's `autocert.DirCache`), but for the lock, which it does not
look at.  Its `HOST+rsa`, for clients without elliptic curves, is left alone.

The rule not to miss: a file is whole or not there.  Nodes read while others write, so everything is written beside
and renamed; and a key is private (0600, in a directory 0700) from its first byte.

Every method may raise OSError.  They block.
Source: golang.org/x/crypto/acme/autocert, `DirCache`, `certKey`, `httpTokenCacheKey`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.acme.order_spec import Failed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Store", "prepare"]

_ACCOUNT: Final = "acme_account+key"
_OLD_ACCOUNT: Final = "acme_account.key"
_LOCK: Final = "moorage+lock"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,256}", re.ASCII)
_NO_LOCKS: Final = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
_LEFT_OVER_S: Final = 24 * 3600.0


def prepare(folder: str) -> None:
    """Make the directory, and see that files can be made in it.  Raises OSError."""
    path = Path(folder)
    for parent in reversed(path.parents):  # `parents=True` would leave their mode to the umask
        if not parent.is_dir():
            parent.mkdir(mode=0o755, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


class Store:
    """`folder` is there (`prepare`)."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    # Account and certificates

    def account(self) -> bytes | None:
        """The key; that of an early `autocert` has another name."""
        return self._read(_ACCOUNT) or self._read(_OLD_ACCOUNT)

    def put_account(self, key: bytes) -> None:
        self._write(_ACCOUNT, key)

    def certificate(self, host: str) -> bytes | None:
        return self._read(host)

    def put_certificate(self, hosts: Iterable[str], data: bytes) -> None:
        """The first host's file, the one that is served, is written last: by then the others are there."""
        for host in reversed(tuple(hosts)):
            self._write(host, data)

    # Challenges

    def http_answer(self, token: str) -> bytes | None:
        """What to answer to HTTP-01; `token` is whatever somebody asked for."""
        return self._read(f"{token}+http-01") if _TOKEN.fullmatch(token) else None

    def put_http_answer(self, token: str, text: str) -> None:
        if not _TOKEN.fullmatch(token):
            raise Failed("the authority's token is none that RFC 8555 allows")
        self._write(f"{token}+http-01", text.encode())

    def alpn_file(self, host: str) -> Path:
        """Where the certificate that answers TLS-ALPN-01 lies while it is wanted; `host` is one of ours."""
        return self.folder / f"{host}+token"

    def put_alpn_answer(self, host: str, data: bytes) -> None:
        self._write(f"{host}+token", data)

    def withdraw(self, hosts: Iterable[str], tokens: Iterable[str]) -> None:
        """The authority has asked."""
        for name in [*(f"{host}+token" for host in hosts), *(f"{token}+http-01" for token in tokens)]:
            (self.folder / name).unlink(missing_ok=True)

    def tidy(self, hosts: Iterable[str]) -> None:
        """Remove what nodes have left that were killed; call it with the lock held."""
        self.withdraw(hosts, ())
        for path in [*self.folder.glob("*+http-01"), *self.folder.glob(".moorage-*")]:
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFT_OVER_S:
                    path.unlink()

    # One node at a time

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Whether it is this node's turn to talk to the authority; it is until the context ends, or the process.

        Where the file system knows no locks it always is.
        """
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _lock(descriptor)
        finally:
            os.close(descriptor)

    # Files

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def _write(self, name: str, data: bytes) -> None:
        # mkstemp makes it 0600.
        descriptor, temporary = tempfile.mkstemp(prefix=".moorage-", dir=self.folder)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123  a descriptor
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            Path(temporary).replace(self.folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._sync()

    def _sync(self) -> None:
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _lock(descriptor: int) -> bool:
    """Whether nobody else has it."""
    try:
        # On NFS this one is passed on to the server, as lockf(3) is; between threads only this one counts.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
