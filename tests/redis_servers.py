"""Real Redis servers for tests, each a process in a folder of its own, and what is asked behind our back.

Redis takes no port of the kernel's choice, so a free one is looked for (`ports.py`) and another one tried when
another process was faster.  A server is ready when it answers PING and is always ended by its pid.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from moorage.cache.redis_options import RedisOptions
from tests.live import require
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["RedisServer", "a_cluster", "a_redis", "a_sentinel", "until"]

_START_LIMIT_S: Final = 60.0


async def until(holds: Callable[[], bool], limit_s: float = 60) -> None:
    """Look again and again, while other tasks run, until it is so.  Raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


@dataclass
class RedisServer:
    """`redis-server` or `redis-sentinel` on `port`; `cli` are what `redis-cli` needs to come in."""

    folder: Path
    arguments: Sequence[str] = ()
    cli: Sequence[str] = ()
    program: str = "redis-server"
    tls: bool = False
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def options(self, **other: object) -> RedisOptions:
        """For a client without TLS and password."""
        return RedisOptions(addrs=(("127.0.0.1", self.port),), **other)  # type: ignore[arg-type]

    def start(self, port: int | None = None) -> None:
        """Raises AssertionError with the log if it does not come up."""
        for _ in range(5):
            self.port = free_port() if port is None else port
            if self._try():
                return
        raise AssertionError(f"{self.program} does not start:\n{self._log.read_text()[-2000:]}")

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.program}.log"

    def _try(self) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = ["--port", "0", "--tls-port", str(self.port)] if self.tls else ["--port", str(self.port)]
        usual = ["--bind", "127.0.0.1", "--dir", str(self.folder)]
        if self.program == "redis-server":
            usual += ["--save", "", "--appendonly", "no"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [require(self.program), *self._file(), *ports, *usual, *self.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.ask("PING") == "PONG":
                return True
            time.sleep(0.02)
        self.kill()
        return False

    def _file(self) -> list[str]:
        """A sentinel keeps what it learns in its file; settings of its own come from there as well."""
        path = self.folder / f"{self.program}.conf"
        return [str(path)] if path.exists() else []

    def ask(self, *command: str) -> str:
        """What `redis-cli` prints."""
        done = subprocess.run(
            [require("redis-cli"), "-p", str(self.port), *self.cli, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.stdout.strip()

    def hash(self, key: str) -> dict[str, str]:
        words = self.ask("HGETALL", key).split("\n")
        return dict(zip(words[::2], words[1::2], strict=False))

    def freeze(self) -> None:
        """It keeps its connections and accepts new ones, and sends nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)


@contextmanager
def _running(server: RedisServer) -> Iterator[RedisServer]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def a_redis(folder: Path, *arguments: str, cli: Sequence[str] = (), tls: bool = False) -> Iterator[RedisServer]:
    """One server, empty."""
    with _running(RedisServer(folder, arguments, cli, tls=tls)) as server:
        yield server


@contextmanager
def a_sentinel(folder: Path, master: RedisServer, name: str, *lines: str) -> Iterator[RedisServer]:
    """One sentinel that watches `master` as `name` and fails over by itself alone."""
    folder.mkdir(parents=True, exist_ok=True)
    output = [
        f"sentinel monitor {name} 127.0.0.1 {master.port} 1",
        # A busy machine must not be taken for a dead server.
        f"sentinel down-after-milliseconds {name} 3000",
        f"sentinel failover-timeout {name} 5000",
        *lines,
    ]
    (folder / "redis-sentinel.conf").write_text("\n".join(output) + "\n")
    with _running(RedisServer(folder, program="redis-sentinel")) as server:
        yield server


@contextmanager
def a_cluster(folder: Path) -> Iterator[list[RedisServer]]:
    """Three masters that share the slots."""
    with ExitStack() as stack:
        servers = []
        for number in range(3):
            bus = str(free_port())
            extra = ["--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "5000"]
            servers.append(stack.enter_context(a_redis(folder / str(number), *extra)))
        addresses = [server.address for server in servers]
        subprocess.run(
            [require("redis-cli"), "--cluster", "create", *addresses, "--cluster-yes"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        deadline = time.monotonic() + _START_LIMIT_S
        while any("cluster_state:ok" not in server.ask("CLUSTER", "INFO") for server in servers):
            assert time.monotonic() < deadline, "the cluster does not come up"
            time.sleep(0.05)
        yield servers
