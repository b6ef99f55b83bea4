"""`moorage config check --deep`: binds the addresses, writes to the store, connects to Redis.

    settings ──► probes ──► one after the other, each in a thread and within a time limit ──► a result line each

More than `serve` does at its start: the store is listed, which needs credentials and a bucket, and a block is
written to a data directory.  Nothing is left behind.

Above: `config.py`.  Below: `moorage.server.listeners`, `moorage.wiring.storage`, `moorage.wiring.cache`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.redaction import in_text
from moorage.server.listeners import bind, check_socket
from moorage.startup import StartupError
from moorage.storage.filesystem.data_directory import check_writable
from moorage.wiring.description import store_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.config.model import Settings

__all__ = ["LIMIT_S", "Probe", "Result", "probes", "run"]

LIMIT_S: Final = 10.0
"""For each probe."""


class _Failed(Exception):
    """The message is the reason."""


@dataclass(frozen=True, slots=True)
class Probe:
    """`work` blocks, returns the result, and raises `_Failed` or any other exception."""

    key: str
    work: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Result:
    """`text` is the result, or the reason of the failure."""

    key: str
    ok: bool
    text: str


def probes(settings: Settings) -> Iterator[Probe]:
    """Yield a probe for each address and each service that `settings` name."""
    http = settings.http
    if http.addr:
        yield Probe("http.addr", lambda: _bind(http.net, http.addr))
    if http.debug.addr:
        yield Probe("http.debug.addr", lambda: _bind("tcp", http.debug.addr))
    acme = http.tls.letsencrypt
    if acme.cachefile and acme.http01:
        yield Probe("http.tls.letsencrypt.http01", lambda: _bind("tcp", acme.http01))
    yield Probe(f"storage.{settings.storage.driver}", lambda: _store(settings))
    if settings.storage.cache.blobdescriptor == "redis":
        yield Probe("redis", lambda: _redis(settings))


def run(probe: Probe, limit_s: float = LIMIT_S) -> Result:
    """Run one probe; one that takes longer is abandoned in its thread, which ends with the process."""
    results: list[Result] = []

    def work() -> None:
        try:
            results.append(Result(probe.key, ok=True, text=probe.work()))
        except Exception as error:  # noqa: BLE001  any exception of a library is the result
            text = str(error) or type(error).__name__
            results.append(Result(probe.key, ok=False, text=in_text(" ".join(text.split()))))

    thread = threading.Thread(target=work, name=f"probe of {probe.key}", daemon=True)
    thread.start()
    thread.join(limit_s)
    return results[0] if results else Result(probe.key, ok=False, text=f"no answer within {limit_s:g}s")


def _bind(net: str, addr: str) -> str:
    """Bind an address and release it."""
    try:
        if net == "unix":
            check_socket(addr)
        else:
            sockets = bind("tcp", addr, 1)
            sockets.close()
    except StartupError as error:
        raise _Failed(str(error)) from error
    return f"{addr} can be bound"


def _store(settings: Settings) -> str:
    """Query the store; write to a data directory unless it is only read."""
    from moorage.wiring.storage import opened_driver

    async def query() -> None:
        async with opened_driver(settings) as driver:
            await driver.probe()

    asyncio.run(query())
    where = ", ".join(f"{name} {value}" for name, value in store_fields(settings).items() if value)
    if settings.storage.filesystem is None:
        return f"{where}: answers"
    if settings.storage.maintenance.readonly.enabled:
        return f"{where}: can be read"
    return f"{where}: {_write(Path(settings.storage.filesystem.rootdirectory))}"


def _write(root: Path) -> str:
    """Write a block where pushes write, or where the directory will be created."""
    root = root.absolute()
    existing = root
    while not os.path.lexists(existing):
        existing = existing.parent
    try:
        if existing == root:
            check_writable(str(root))
        else:
            with tempfile.TemporaryFile(dir=existing):
                pass
    except OSError as error:
        raise _Failed(f"cannot write to {existing}: {error.strerror}; pushes would be refused") from error
    return "can be written" if existing == root else f"does not exist yet, and can be created in {existing}"


def _redis(settings: Settings) -> str:
    from moorage.wiring.cache import ping

    asyncio.run(ping(settings))
    addresses = settings.redis.addrs if settings.redis is not None else ()
    return f"{', '.join(addresses)}: answers"
