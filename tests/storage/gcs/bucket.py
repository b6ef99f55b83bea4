"""One bucket on `gcs/server.py` for each test, and what the tests of the driver share."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.storage.gcs.server import NUMBERS, GcsServer, Request, Stored, server

from moorage.storage.gcs.options import GcsOptions
from moorage.storage.gcs.store import GcsStore
from moorage.storage.object_store.driver import ObjectDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.storage.driver import Key

__all__ = ["Bucket", "a_bucket", "always", "first", "read_all", "requested"]


@dataclass(frozen=True)
class Bucket:
    """One test's bucket."""

    server: GcsServer
    name: str

    @property
    def objects(self) -> dict[str, Stored]:
        return self.server.buckets[self.name]

    def keys(self) -> dict[str, int]:
        """Every object and its size."""
        return {name: len(stored.data) for name, stored in self.objects.items()}

    def options(self, **other: Any) -> GcsOptions:
        usual: dict[str, Any] = {
            "bucket": self.name,
            "endpoint": self.server.endpoint,
            "credentials": self.server.key_file(),
        }
        return GcsOptions(**{**usual, **other})

    def store(self, **other: Any) -> GcsStore:
        """Pauses between attempts take no time."""

        async def sleep(_: float) -> None:
            await asyncio.sleep(0)

        return GcsStore(self.options(**other), sleep=sleep)

    def driver(self, **other: Any) -> ObjectDriver:
        return ObjectDriver.with_chunk_log(self.store(**other))

    def settings(self, **other: Any) -> dict[str, Any]:
        """The section `storage.gcs`."""
        usual = {"bucket": self.name, "endpoint": self.server.endpoint, "credentials": self.server.key_file()}
        return {**usual, **other}


@contextmanager
def a_bucket() -> Iterator[Bucket]:
    """A new bucket, removed with all it holds; what was set at the server is set back."""
    found = server()
    found.reset()
    name = f"moorage-{next(NUMBERS)}"
    found.buckets[name] = {}
    try:
        yield Bucket(found, name)
    finally:
        found.reset()
        del found.buckets[name]


async def read_all(store: GcsStore, key: Key, **part: int) -> bytes:
    async with store.stream(key, **part) as reader:
        return b"".join([piece async for piece in reader])


def requested(bucket: Bucket, what: str) -> list[Request]:
    return [request for request in bucket.server.requests if request.what == what]


def always(what: str, answer: tuple[int, str]) -> Callable[[Request], tuple[int, str] | None]:
    return lambda request: answer if request.what == what else None


def first(what: str, answer: tuple[int, str], times: int = 1) -> Callable[[Request], tuple[int, str] | None]:
    """The first requests of a kind only."""
    left = [times]

    def trouble(request: Request) -> tuple[int, str] | None:
        if request.what != what or not left[0]:
            return None
        left[0] -= 1
        return answer

    return trouble
