"""A server for the tests of `moorage.server`: real processes, with an application that does odd things.

    python -m tests.server.serving CONFIG     what `serving` runs

Nothing here waits for a fixed time: the application's `/wait` answers when a file appears, and tests poll for what
they expect, within a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import yaml
from tests.live import with_constants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from moorage.http.middleware import Receive, Scope, Send
    from moorage.server.application import Service

LIMIT_S: Final = 60.0
ROOT: Final = Path(__file__).resolve().parents[2]
HELPERS: Final = {"housekeeper", "storage-monitor"}
_POLLS_S: Final = dict.fromkeys(
    ("moorage.server.tls.file_watch.POLL_S", "moorage.server.processes.rolling_restart.POLL_S"), 0.1
)
"""Between two looks at the files of a certificate, where `quick_polls` is the environment."""


class Odd:
    """The application.  Query parameters say what is to happen."""

    def __init__(self, home: Path, number: int) -> None:
        self.home, self.number = home, number
        while (home / "start-later").exists():
            self.note("starting")
            time.sleep(0.01)
        if (home / "do-not-start").exists():
            raise RuntimeError("told not to start")

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def probe(self) -> None:
        pass

    def readings(self) -> tuple[Any, ...]:
        return ()

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = {key: values[0] for key, values in parse_qs(scope["query_string"].decode()).items()}
        action = getattr(self, f"on_{scope['path'].strip('/') or 'hello'}")
        await action(query, scope, receive, send)

    def note(self, text: str) -> None:
        with (self.home / "seen").open("a") as file:
            file.write(f"{text}\n")

    async def on_hello(self, query: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        reported = {
            "pid": os.getpid(),
            "number": self.number,
            "http": scope["http_version"],
            "scheme": scope["scheme"],
            "client": scope["client"],
            "server": scope["server"],
        }
        await reply(scope, send, json.dumps(reported, default=str).encode())

    async def on_wait(self, query: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        """Answers once the file is there."""
        self.note("waiting")
        while not (self.home / query["file"]).exists():  # noqa: ASYNC110  another process
            await asyncio.sleep(0.01)
        await reply(scope, send, b"released")

    async def on_echo(self, query: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body to its end, then report how it arrived."""
        self.note("reading")
        size = 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            if message["type"] != "http.request":
                self.note(f"{message['type']} after {size}")
                return
            if not message.get("more_body", False):
                break
        await reply(scope, send, str(size).encode())

    async def on_refuse(self, query: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        """Answers without reading the body."""
        await reply(scope, send, b"no", status=403)

    async def on_file(self, query: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        with (self.home / query["name"]).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            headers = [(b"content-length", b"%d" % size)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.zerocopysend", "file": file, "offset": 0, "count": size})

    async def on_break(self, query: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken on purpose")


def service(home: Path) -> Service:
    """Return the service of `Odd`."""
    from moorage.server.application import Service
    from moorage.wiring.description import describe
    from moorage.wiring.serving import WorkerApplication

    return Service(
        lambda worker, context: WorkerApplication(Odd(home, worker.number), worker.settings, context),
        describe=describe,
    )


async def reply(scope: Scope, send: Send, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


@dataclass
class Served:
    """A running server.  `port` is 0 on a Unix socket."""

    process: subprocess.Popen[bytes]
    home: Path
    port: int = 0
    tls: bool = False
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def err(self) -> str:
        return (self.home / "err").read_text()

    @property
    def out(self) -> str:
        return (self.home / "out").read_text()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def all_children(self) -> list[int]:
        """The process ids of workers and helper processes, without those that have ended."""
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in pids if _state(int(pid)) not in {"Z", ""}]

    def children(self) -> list[int]:
        """The workers' process ids, without those that have ended."""
        return [pid for pid in self.all_children() if _name(pid) not in HELPERS]

    def helper(self, name: str) -> int:
        """Wait for a helper process and return its id."""
        found: list[int] = []

        def exists() -> bool:
            found[:] = [pid for pid in self.all_children() if _name(pid) == name]
            return bool(found)

        until(exists, f"the {name}", lambda: self.err)
        return found[0]

    def get(self, path: str = "/", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """On a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S)

    def seen(self, text: str, times: int = 1) -> None:
        """Wait until the application has noted something."""
        notes = self.home / "seen"
        until(lambda: notes.exists() and notes.read_text().count(text) >= times, f"a note {text!r}")

    def logged(self, text: str, times: int = 1) -> None:
        """Wait until standard error holds a text."""
        until(lambda: self.err.count(text) >= times, f"{text!r} in the log", lambda: self.err)

    def configure(self, **sections: Any) -> None:
        """Write another configuration, to be read at SIGHUP."""
        (self.home / "config.yml").write_text(yaml.safe_dump(_merge(self.config, sections)))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        return self.process.wait(LIMIT_S)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.ended()


def quick_polls(folder: Path, **more: float) -> dict[str, str]:
    """Return the environment of a server that notices renewed files at once; `more` are of `tls.file_watch`."""
    return with_constants(
        folder, _POLLS_S | {f"moorage.server.tls.file_watch.{name}": value for name, value in more.items()}
    )


@contextlib.contextmanager
def serving(
    home: Path,
    *,
    wait: bool = True,
    env: Mapping[str, str] | None = None,
    module: str = "tests.server.serving",
    command: Sequence[str] = (),
    **sections: Any,
) -> Iterator[Served]:
    """A server over `home`; `sections` are merged into the usual configuration.  `wait`: until it listens.

    `command` is run in place of `module`, with the configuration's path behind it.
    """
    home.mkdir(exist_ok=True)
    config = _merge(
        {
            "version": 0.1,
            "log": {"accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(home / "data")}},
            "http": {"addr": "127.0.0.1:0", "workers": 2, "secret": "s", "draintimeout": "60s"},
        },
        sections,
    )
    (home / "config.yml").write_text(yaml.safe_dump(config))
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("REGISTRY_", "LISTEN_"))}
    with (home / "err").open("ab") as err, (home / "out").open("ab") as out:
        process = subprocess.Popen(
            [*(command or (sys.executable, "-m", module)), str(home / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=ROOT,
            env={**clean, **(env or {})},
            start_new_session=True,
        )
    served = Served(process, home, tls="tls" in config["http"], config=config)
    try:
        if wait:
            _wait_until_listening(served)
        yield served
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(reached: Callable[[], object], what: str, reported: Callable[[], str] = str) -> None:
    """Poll until `reached`; AssertionError after the limit."""
    deadline = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < deadline, f"waited {LIMIT_S:g} s for {what}: {reported()[-3000:]}"
        time.sleep(0.01)


def _wait_until_listening(served: Served) -> None:
    def listening() -> bool:
        assert served.process.poll() is None, served.err
        found = re.search(r"listening on \S*?(?::(\d+))?[\"\s]", served.err)
        if found is None:
            return False
        served.port = int(found.group(1) or 0)
        return True

    until(listening, "the server to listen", lambda: served.err)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _main() -> int:
    from moorage.config.load import load
    from moorage.server import run

    path = Path(sys.argv[1])
    loaded = load(path, os.environ)
    return run(loaded, service(path.parent))


if __name__ == "__main__":
    sys.exit(_main())
