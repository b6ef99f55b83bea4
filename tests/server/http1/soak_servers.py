"""The servers of a soak: a registry without TLS and one with it on one store, and the bare HTTP/1.1 server.

Each registry has one worker.  Its descriptors and memory are read from /proc; its tasks are counted in the log
that SIGQUIT makes it write.  The bare server reports its own (`measured.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.live import start_moorage
from tests.server import certs
from tests.server.http1.measured import measured
from tests.server.http1.peer import Peer
from tests.server.http1.tls_peer import TlsPeer
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.live import Live
    from tests.server.http1.measured import Measured

__all__ = ["BASE", "Fleet", "Growth", "Reading", "Target", "fleet"]

_LIMIT_S: Final = 60.0
_FILE_BYTES: Final = 3 << 20
_LISTENING: Final = "0A"
BASE: Final = "soak/base"
"""The repository with the image that is pulled."""


class Growth(Exception):
    """A server holds more than it did after the warm-up; the message has details."""


@dataclass(frozen=True)
class Reading:
    """State of a process; `tasks` is None where they are not counted.

    Anonymous memory is judged: the system drops and reads again the pages of files as it likes.
    """

    resident_kib: int
    anonymous_kib: int
    descriptors: int
    threads: int
    tasks: int | None

    def __str__(self) -> str:
        tasks = "" if self.tasks is None else f", {self.tasks} tasks"
        return (
            f"{self.resident_kib / 1024:.1f} MiB resident, {self.anonymous_kib / 1024:.1f} MiB of it anonymous, "
            f"{self.descriptors} descriptors{tasks}, {self.threads} threads"
        )


@dataclass(frozen=True)
class Target:
    """A server as its clients see it: `small` targets are answered 200, `impatient` is a port with short timeouts.

    `file` has `file_bytes`, `large` is for downloads that are broken off.
    """

    name: str
    port: int
    context: ssl.SSLContext | None
    small: tuple[str, ...]
    file: str
    large: str
    file_bytes: int = _FILE_BYTES
    is_registry: bool = False
    impatient: int = 0

    async def connect(self, *, receive_bytes: int = 0) -> Peer:
        if self.context is None:
            return await Peer.connect(self.port, receive_bytes=receive_bytes)
        return await TlsPeer.open(self.port, self.context, receive_bytes=receive_bytes)


class _Process:
    """A process that is watched."""

    def __init__(self, name: str, pid: int) -> None:
        self.name, self.pid = name, pid

    async def reading(self, *, tasks: bool) -> Reading:
        """Read memory, descriptors and threads, and the tasks where that is possible."""
        files = Path(f"/proc/{self.pid}")
        rollup = (files / "smaps_rollup").read_text()
        return Reading(
            int(rollup.partition("Rss:")[2].split()[0]),
            int(rollup.partition("Anonymous:")[2].split()[0]),
            len(os.listdir(files / "fd")),  # noqa: PTH208  names only
            int((files / "status").read_text().partition("Threads:")[2].split()[0]),
            await self.tasks() if tasks else None,
        )

    async def tasks(self) -> int | None:
        return None

    async def connections(self) -> int:
        return 0

    def details(self) -> str:
        """Return the kinds of open descriptors, and details that explain a growth."""
        found: dict[str, int] = {}
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                name = re.sub(r"\d+", "N", str(link.readlink()))
                found[name] = found.get(name, 0) + 1
        return "\n".join(f"{count:6} {name}" for name, count in sorted(found.items()))


class _Worker(_Process):
    """The worker of a registry."""

    def __init__(self, name: str, live: Live) -> None:
        (pid,) = live.workers
        super().__init__(name, pid)
        self.live = live
        self.dump = ""

    async def tasks(self) -> int:
        before = self.live.log_path.stat().st_size
        os.kill(self.pid, signal.SIGQUIT)
        text = ""
        async with asyncio.timeout(_LIMIT_S):
            while True:
                await asyncio.sleep(0.05)
                with self.live.log_path.open("rb") as log:
                    log.seek(before)
                    now = log.read().decode(errors="replace")
                if now == text and re.search(r"^Task ", now, re.MULTILINE):
                    break
                text = now
        self.dump = text
        return len(re.findall(r"^Task ", text, re.MULTILINE))

    async def connections(self) -> int:
        """Count the sockets of clients that the process still holds."""
        return _sockets(self.live.port)

    def details(self) -> str:
        return f"{super().details()}\n{self.dump}"


class _Bare(_Process):
    def __init__(self, name: str, served: Measured) -> None:
        super().__init__(name, served.process.pid)
        self.served = served

    async def tasks(self) -> int:
        return (await self.served.state()).tasks

    async def connections(self) -> int:
        state = await self.served.state()
        return state.connections + state.running


@dataclass(frozen=True)
class Fleet:
    """`targets` for the clients, `processes` to watch, and the `store` of the registries."""

    targets: tuple[Target, ...]
    processes: tuple[_Process, ...]
    store: Path

    async def readings(self, *, tasks: bool = True) -> dict[str, Reading]:
        return {each.name: await each.reading(tasks=tasks) for each in self.processes}

    async def idle(self) -> dict[str, Reading]:
        """Wait until no client is connected and nothing changes any more, and return the readings."""
        async with asyncio.timeout(_LIMIT_S):
            for each in self.processes:
                while await each.connections():  # noqa: ASYNC110  of another process
                    await asyncio.sleep(0.1)
            before = await self.readings()
            while not _same(before, after := await self.readings()):
                await asyncio.sleep(0.2)
                before = after
        return after

    async def returned(self, before: dict[str, Reading]) -> dict[str, Reading]:
        """Wait until descriptors and tasks are no more than `before`; uploads must be gone.  Raises Growth."""
        after = await self.idle()
        deadline = asyncio.get_running_loop().time() + _LIMIT_S
        while grown := [each for each in self.processes if _has_more(after[each.name], before[each.name])]:
            if asyncio.get_running_loop().time() > deadline:
                raise Growth(
                    "\n".join(
                        f"{each.name}: {before[each.name]} before, {after[each.name]} now\n{each.details()}"
                        for each in grown
                    )
                )
            await asyncio.sleep(0.5)
            after = await self.readings()
        if left := [str(each) for each in self.store.rglob("_uploads/*")]:
            raise Growth(f"{len(left)} uploads are left in the store: {left[:5]}")
        return after


def _sockets(port: int) -> int:
    """Count the sockets below a listening port that a process still holds."""
    count = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        local = int(columns[1].partition(":")[2], 16)
        count += local == port and columns[3] != _LISTENING and columns[9] != "0"
    return count


def _same(one: dict[str, Reading], other: dict[str, Reading]) -> bool:
    return all((a.descriptors, a.tasks) == (other[n].descriptors, other[n].tasks) for n, a in one.items())


def _has_more(after: Reading, before: Reading) -> bool:
    return after.descriptors > before.descriptors or (after.tasks or 0) > (before.tasks or 0)


@contextlib.asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    """Start the servers, and stop them at the end of the block."""
    authority = certs.root()
    files = authority.issue("localhost").write(folder, "registry")
    context = ssl.create_default_context(cadata=authority.pem.decode())
    async with contextlib.AsyncExitStack() as stack:
        plain, secure = (
            stack.enter_context(start_moorage(folder / "store", config=folder / f"{name}.yml", http=http))
            for name, http in (("plain", {"workers": 1}), ("secure", {"workers": 1, "tls": files}))
        )
        bare = await stack.enter_async_context(measured(folder))
        small, file = await asyncio.to_thread(_fill, plain)
        yield Fleet(
            (
                _registry("registry", plain, None, small, file),
                _registry("registry with TLS", secure, context, small, file),
                _bare("server", bare, None, "plain", "impatient"),
                _bare("server with TLS", bare, bare.context, "tls", "impatient_tls"),
            ),
            (
                _Worker("worker", plain),
                _Worker("worker with TLS", secure),
                _Process("master", plain.pid),
                _Process("master with TLS", secure.pid),
                _Bare("bare server", bare),
            ),
            folder / "store",
        )


def _registry(name: str, live: Live, context: ssl.SSLContext | None, small: tuple[str, ...], file: str) -> Target:
    return Target(name, live.port, context, small, file, large=file, is_registry=True)


def _bare(name: str, served: Measured, context: ssl.SSLContext | None, port: str, impatient: str) -> Target:
    return Target(
        name,
        served.ports[port],
        context,
        ("/", "/size/100", "/size/20000", "/stream/3", "/file/3000"),
        f"/file/{_FILE_BYTES}",
        large="/stream/100000" if context is None else "/size/60000000",
        impatient=served.ports[impatient],
    )


def _fill(live: Live) -> tuple[tuple[str, ...], str]:
    """Push an image and a large blob; return small targets and the blob's."""
    wire = Wire(live.host)
    layer = bytes(range(256)) * (_FILE_BYTES // 256)
    manifest = wire.push_image(BASE, "latest", [layer])
    small = (
        "/v2/",
        f"/v2/{BASE}/manifests/latest",
        f"/v2/{BASE}/manifests/{Digest.of(manifest)}",
        f"/v2/{BASE}/blobs/{Digest.of(b'{}')}",
        f"/v2/{BASE}/tags/list",
        "/v2/_catalog?n=10",
    )
    return small, f"/v2/{BASE}/blobs/{Digest.of(layer)}"
