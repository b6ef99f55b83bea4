"""The directory `http.tls.letsencrypt.cachefile`: account, certificates and challenges, shared by all nodes.

    acme_account+key      the account's private key, PEM
    HOST                  key and certificate for a host: the same content under each name of the certificate
    HOST+token            key and certificate that answer TLS-ALPN-01, while a challenge is pending
    TOKEN+http-01         the answer to HTTP-01, while a challenge is pending
    moorage+lock          empty; locked by the node that orders a certificate

Names and contents are those of CNCF Distribution 3 (Go's `autocert.DirCache`), except for the lock, which it
ignores.  Its `HOST+rsa`, for clients without elliptic curves, is not changed.

Invariant: a file is complete or absent.  Nodes read while others write, so files are written under another name
and renamed; and a key is private (0600, in a directory 0700) from its first byte.

Every method blocks and may raise OSError.
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

from moorage.acme.order_spec import OrderFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["CertificateStore", "prepare"]

_ACCOUNT: Final = "acme_account+key"
_OLD_ACCOUNT: Final = "acme_account.key"
_LOCK: Final = "moorage+lock"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,256}", re.ASCII)
_NO_LOCKS: Final = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
_LEFT_OVER_S: Final = 24 * 3600.0


def prepare(folder: str) -> None:
    """Create the directory, and check that files can be created in it.  Raises OSError."""
    path = Path(folder)
    for parent in reversed(path.parents):  # `parents=True` would leave their mode to the umask
        if not parent.is_dir():
            parent.mkdir(mode=0o755, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


class CertificateStore:
    """`folder` exists (`prepare`)."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    # Account and certificates

    def account(self) -> bytes | None:
        """Return the account key; an early `autocert` stored it under another name."""
        return self._read(_ACCOUNT) or self._read(_OLD_ACCOUNT)

    def put_account(self, key: bytes) -> None:
        self._write(_ACCOUNT, key)

    def certificate(self, host: str) -> bytes | None:
        return self._read(host)

    def put_certificate(self, hosts: Iterable[str], data: bytes) -> None:
        """Write the file of each host; that of the first, which is served, last."""
        for host in reversed(tuple(hosts)):
            self._write(host, data)

    # Challenges

    def http_answer(self, token: str) -> bytes | None:
        """Return the answer to HTTP-01; `token` is any text that a client sent."""
        return self._read(f"{token}+http-01") if _TOKEN.fullmatch(token) else None

    def put_http_answer(self, token: str, text: str) -> None:
        if not _TOKEN.fullmatch(token):
            raise OrderFailed("the token of the authority is not one that RFC 8555 allows")
        self._write(f"{token}+http-01", text.encode())

    def alpn_file(self, host: str) -> Path:
        """Return the path of the certificate that answers TLS-ALPN-01; `host` is one of the settings."""
        return self.folder / f"{host}+token"

    def put_alpn_answer(self, host: str, data: bytes) -> None:
        self._write(f"{host}+token", data)

    def withdraw(self, hosts: Iterable[str], tokens: Iterable[str]) -> None:
        """Remove answers."""
        for name in [*(f"{host}+token" for host in hosts), *(f"{token}+http-01" for token in tokens)]:
            (self.folder / name).unlink(missing_ok=True)

    def tidy(self, hosts: Iterable[str]) -> None:
        """Remove the files of nodes that were killed; call it with the lock held."""
        self.withdraw(hosts, ())
        for path in [*self.folder.glob("*+http-01"), *self.folder.glob(".moorage-*")]:
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFT_OVER_S:
                    path.unlink()

    # One node at a time

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Take the lock for ordering until the context, or the process, ends; yield whether this node has it.

        Without locks in the file system every node has it.
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
        # mkstemp creates it with mode 0600.
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
    """Return whether the lock was free."""
    try:
        # On NFS flock is sent to the server, as lockf(3) is; between threads only flock excludes.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
