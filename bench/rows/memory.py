"""Memory: 32 uploads and 32 downloads of one large blob at once, a quarter of each from slow clients.

Slow clients read or send 64 KiB, then wait; they stay slow until all the fast ones are done, and then finish as
fast as they can.  The number is the highest resident size (VmHWM) of the worker, libraries included.  Blobs have
1 GiB in a full run.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from bench import certificates, load, servers
from bench.client import Client, target_of
from bench.content import Stamped
from bench.rows.base import Bench, Metric, Row

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from multiprocessing.sharedctypes import Synchronized
    from pathlib import Path

    Connect = Callable[..., Client]

__all__ = ["ROWS"]

_EACH: Final = 32
_SLOW: Final = 8
_PIECE: Final = 64 << 10
_SLOW_WAIT_S: Final = 0.02
_SLOW_BUFFER: Final = 32 << 10
_BLOCK: Final = 8 << 20
_NAME: Final = "library/memory"
_MIB: Final = 1 << 20


def _mib(bench: Bench) -> int:
    return bench.pick(64, 256, 1024)


def _measure(bench: Bench, side: str, root: Path, *, secure: bool) -> Mapping[str, float]:
    tls: Mapping[str, str] | None = None
    trusting: ssl.SSLContext | None = None
    if secure:
        tls, trusting = certificates.issue(root)
    with servers.start(side, root / "data", [bench.server_cpu], tls=tls) as server:
        return _loaded(bench, server, partial(Client, server.port, secure=trusting))


def _loaded(bench: Bench, server: servers.Server, connect: Connect) -> Mapping[str, float]:
    size = _mib(bench) * _MIB
    block = memoryview(bytes(Stamped(_BLOCK).fresh().data))
    whole = hashlib.sha256()
    for _ in range(size // _BLOCK):
        whole.update(block)
    digest = f"sha256:{whole.hexdigest()}"
    with connect() as client:
        _upload(client, f"{_NAME}/first", block, size, digest, lambda: False)
    idle = max(server.peak_bytes().values())
    server.forget_peak()
    fast = multiprocessing.Value("i", 2 * (_EACH - _SLOW))
    works = [
        *(_puller(connect, f"{_NAME}/first", size, digest, fast, slow=i < _SLOW) for i in range(_EACH)),
        *(_pusher(connect, f"{_NAME}/{i}", block, size, digest, fast, slow=i < _SLOW) for i in range(_EACH)),
    ]
    began = time.perf_counter()
    load.in_processes(bench.load_cpus, works)
    seconds = time.perf_counter() - began
    peak = max(server.peak_bytes().values())
    return {
        "peak": peak / _MIB,
        "after_one_push": idle / _MIB,
        "blob_mib": size / _MIB,
        "seconds": seconds,
    }


def _puller(
    connect: Connect, name: str, size: int, digest: str, fast: Synchronized[int], *, slow: bool
) -> Callable[[], None]:
    def work() -> None:
        with connect(receive_buffer=_SLOW_BUFFER if slow else None) as client:
            client.send("GET", f"/v2/{name}/blobs/{digest}")
            for _ in client.pieces(name, size, _PIECE if slow else _MIB):
                if slow and fast.value > 0:
                    time.sleep(_SLOW_WAIT_S)
        if not slow:
            _done(fast)

    return work


def _pusher(
    connect: Connect, name: str, block: memoryview, size: int, digest: str, fast: Synchronized[int], *, slow: bool
) -> Callable[[], None]:
    def work() -> None:
        with connect() as client:
            _upload(client, name, block, size, digest, lambda: slow and fast.value > 0)
        if not slow:
            _done(fast)

    return work


def _upload(
    client: Client, name: str, block: memoryview, size: int, digest: str, dawdle: Callable[[], bool]
) -> None:
    place = client.begin(name)
    client.send("PATCH", place, size, "application/octet-stream")
    for _ in range(size // _BLOCK):
        for start in range(0, _BLOCK, _PIECE):
            client.write(block[start : start + _PIECE])
            if dawdle():
                time.sleep(_SLOW_WAIT_S)
    answer = client.answer()
    if answer.status != 202:
        raise load.LoadFailed(f"PATCH: {answer.status}")
    client.finish(target_of(answer), digest)


def _done(fast: Synchronized[int]) -> None:
    with fast.get_lock():
        fast.value -= 1


def _row(name: str, suffix: str, *, secure: bool) -> Row:
    return Row(
        name,
        lambda bench: f"32 uploads and 32 downloads of {_mib(bench)} MiB at once, a quarter of them slow{suffix}",
        (Metric("peak", "MiB resident per worker", "lower", 150, "value"),),
        alone=partial(_measure, secure=secure),
        rounds=1,
    )


ROWS: Final = (_row("memory", "", secure=False), _row("tls-memory", ", over TLS", secure=True))
