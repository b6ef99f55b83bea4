"""A store made of several programs: each in one temporary folder, on loopback, ended by its process id.

    with Programs(folder) as programs:
        programs.start("mon", ["ceph-mon", ...])
        programs.wait("the monitor", lambda: ..., of="mon")

However the `with` ends, all of them are ended, last one first: SIGTERM, and SIGKILL for one that does not go.
They lead sessions of their own, so that Ctrl-C reaches only the process that must end them, and the kernel ends
them should that one be killed itself.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Account", "NoStore", "Programs", "ask", "free_port", "listening_port", "program"]

_START_LIMIT_S: Final = 90.0
_STOP_LIMIT_S: Final = 10.0
_ASK_LIMIT_S: Final = 120.0
_LOG_TAIL: Final = 4000
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_LISTENING: Final = "0A"
_LIBC: Final = ctypes.CDLL(None)

T = TypeVar("T")


class NoStore(Exception):
    """A program is missing or the store did not start; the message names it, and has its log."""


@dataclass(frozen=True)
class Account:
    """How to reach a store that runs, and what it is.

    `exact`: racing conditional writes have one winner.  `health` is the store's own report of its state, for
    the diagnosis of failed tests.  `native` is the account's address in the store's own API, "" without one.
    `steps`: of so many requests of a push one is fatal, which is all that a slow store has the time for;
    MOORAGE_STEPS goes before it.
    """

    store: str
    version: str
    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    exact: bool
    health: Callable[[], str] = field(repr=False)
    region: str = "us-east-1"
    steps: int = 4
    native: str = ""

    def environment(self) -> dict[str, str]:
        """What tests/s3.py and bench/store.py read."""
        return {
            "MOORAGE_S3_STORE": self.store,
            "MOORAGE_S3_ENDPOINT": self.endpoint,
            "MOORAGE_S3_ACCESS_KEY": self.access_key,
            "MOORAGE_S3_SECRET_KEY": self.secret_key,
            "MOORAGE_S3_REGION": self.region,
            "MOORAGE_S3_EXACT": "1" if self.exact else "0",
            "MOORAGE_S3_NATIVE": self.native,
            "MOORAGE_STEPS": os.environ.get("MOORAGE_STEPS", str(self.steps)),
        }


@dataclass
class Programs:
    """The programs of one store, and a folder for all that they write."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed([*self._running]):
            process = self._running.pop(name)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_LIMIT_S)
            # The group, too: a program may have children, and one that ignored SIGTERM is killed.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(_STOP_LIMIT_S)

    def start(self, name: str, command: Sequence[str]) -> int:
        """Its process id.  What it writes to its output is `log(name)`."""
        with self._log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  no threads run yet where stores are started
            )
        return self._running[name].pid

    def stop(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait(_STOP_LIMIT_S)

    def wait(self, what: str, found: Callable[[], T | None], *, of: str, limit_s: float = _START_LIMIT_S) -> T:
        """Ask `found` again and again until it finds something.  Raises NoStore with the log of `of`."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if (result := found()) is not None:
                return result
            status = self._running[of].poll()
            if status is not None:
                raise NoStore(f"{of} ended with status {status}, before {what}; its log:\n{self.log(of)}")
            time.sleep(0.05)
        raise NoStore(f"{what}: not within {limit_s:.0f} s; the log of {of}:\n{self.log(of)}")

    def log(self, name: str) -> str:
        """The end of what a program wrote."""
        path = self._log(name)
        return path.read_text(errors="replace")[-_LOG_TAIL:] if path.exists() else ""

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def program(name: str) -> str:
    """Debian's own program of that name, before another one that is installed beside it.  Raises NoStore."""
    found = shutil.which(name, path=f"/usr/bin:/usr/sbin:{os.environ.get('PATH', '')}")
    if found is None:
        raise NoStore(f"{name} is not installed: python3 tools/install_test_programs.py --stores (as root)")
    return found


def ask(*command: str | Path, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """What a program that ends by itself prints.  Raises NoStore."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_ASK_LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise NoStore(f"{' '.join(map(str, command))} did not end in {_ASK_LIMIT_S:.0f} s") from error
    if done.returncode != 0:
        raise NoStore(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def free_port() -> int:
    """For programs that take no port of the kernel's choice: free now, and hardly the next choice of others."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def listening_port(pid: int) -> int | None:
    """The loopback TCP port that a process listens on; None while there is none.  See proc(5)."""
    held: set[str] = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                held.add(str(link.readlink()))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        address, _, port = columns[1].partition(":")
        on_loopback = address == socket.inet_aton("127.0.0.1")[::-1].hex().upper()
        if columns[3] == _LISTENING and on_loopback and f"socket:[{columns[9]}]" in held:
            return int(port, 16)
    return None
