"""Depth of the calls between an endpoint and the driver, in functions of the package."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.http.client import NAME, OTHER, Client
from tests.registry.instrumented import InstrumentedDriver

import moorage
from moorage.config.model import Settings
from moorage.http.app import create_app
from moorage.registry import layout
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import blob, image
from moorage.wiring.app import make_registry
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType

    from moorage.storage.driver import Driver

_PACKAGE: Final = str(Path(moorage.__file__).parent)
LAYER = blob(size=100, seed=1)
BUILT = image(LAYER, seed=1)


def _of_this_stack() -> Iterator[CodeType]:
    """The running functions, innermost first, down to the event loop."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        yield frame.f_code
        frame = frame.f_back


def _of_task(task: asyncio.Task[Any]) -> Iterator[CodeType]:
    """The functions in which a task waits, outermost first."""
    waiting: Any = task.get_coro()
    while waiting is not None:
        code = getattr(waiting, "cr_code", None) or getattr(waiting, "ag_code", None)
        if code is None:
            return
        yield code
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)


def _chain(handler: str) -> list[str]:
    """The package's own functions from `handler` to the call of the driver, also where tasks are between them."""
    inner = [code for code in _of_this_stack() if code.co_filename.startswith(_PACKAGE)]
    names = [code.co_name for code in inner]
    if handler in names:
        return names[: names.index(handler) + 1][::-1]
    for task in asyncio.all_tasks():
        outer = [code.co_name for code in _of_task(task) if code.co_filename.startswith(_PACKAGE)]
        if handler in outer:
            return outer[outer.index(handler) :] + names[::-1]
    return []


@dataclass
class Calls:
    """The chain of each call of the driver that a request made, with the call."""

    handler: str = ""
    chains: dict[str, list[str]] = field(default_factory=dict)

    def record(self, call: str) -> None:
        if self.handler and len(chain := _chain(self.handler)) > len(self.chains.get(call, ())):
            self.chains[call] = chain


class Recording(InstrumentedDriver):
    """Records the functions from which the driver is called."""

    def __init__(self, inner: Driver, calls: Calls, *, remote: bool) -> None:
        super().__init__(inner)
        self.remote = remote
        self._calls = calls

    async def before(self, call: str) -> None:
        self._calls.record(call)


def serving(inner: Driver, calls: Calls, *, remote: bool) -> Client:
    settings = Settings()
    registry = make_registry(Recording(inner, calls, remote=remote), settings, b"secret")
    return Client(create_app(registry, http_options(settings)))


@pytest.mark.parametrize("remote", [False, True])
async def test_a_pull_of_a_blob_takes_four_calls(*, remote: bool) -> None:
    """Every further function is one more place to search for the rule that a request followed."""
    inner, calls = MemoryDriver(), Calls()
    await serving(inner, calls, remote=remote).push(BUILT)
    client = serving(inner, calls, remote=remote)
    calls.handler = "get_blob"
    assert (await client.blob(LAYER)).content == LAYER.data
    links = [chain for call, chain in calls.chains.items() if "_layers" in call]
    assert links
    assert max(map(len, calls.chains.values())) <= 4, calls.chains


@pytest.mark.parametrize(("remote", "most"), [(False, 7), (True, 8)])
async def test_a_reference_of_a_manifest_takes_seven_calls(*, remote: bool, most: int) -> None:
    """As above; in a bucket, concurrent reads of one link are coalesced, which is the eighth."""
    inner, calls = MemoryDriver(), Calls()
    await serving(inner, calls, remote=remote).push(BUILT)
    client = serving(inner, calls, remote=remote)
    calls.handler = "put_manifest"
    assert (await client.put("v2", BUILT)).status_code == 201
    links = [chain for call, chain in calls.chains.items() if "_layers" in call]
    blobs = [chain for call, chain in calls.chains.items() if call.startswith("stat") and call.endswith("/data")]
    assert len(links) == len(blobs) == 2
    assert all("gather_all" in chain for chain in (*links, *blobs)), "tasks are followed"
    assert max(map(len, (*links, *blobs))) <= most, calls.chains
    listing = calls.chains.pop(f"children {layout.COLLECTION}")
    assert "put" in listing, "garbage collection is looked up, once in five seconds"
    assert max(map(len, calls.chains.values())) <= 8, "the write of a tag is the longest"


@pytest.mark.parametrize("remote", [False, True])
async def test_a_recent_look_at_garbage_collection_costs_no_call(*, remote: bool) -> None:
    """One listing in five seconds, by requests that rely on stored bytes; a GET of a blob makes none."""
    inner, calls = MemoryDriver(), Calls()
    await serving(inner, calls, remote=remote).push(BUILT)
    client = serving(inner, calls, remote=remote)
    listing = f"children {layout.COLLECTION}"
    head = "HEAD", f"/v2/{NAME}/blobs/{LAYER.digest}"
    calls.handler = "get_blob"
    await client.blob(LAYER)
    assert listing not in calls.chains
    await client.send(*head)
    assert calls.chains.pop(listing)[:2] == ["get_blob", "stat"]
    for handler in ("get_blob", "get_manifest", "put_manifest", "put_upload", "start_upload"):
        calls.handler = handler
        await client.send(*head)
        await client.manifest(BUILT)
        await client.push(BUILT, "v1")
        await client.start_upload(OTHER, f"?mount={LAYER.digest}&from={NAME}")
    assert calls.chains
    assert listing not in calls.chains


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("by_tag", "most"), [(True, 26), (False, 19)])
async def test_a_manifest_in_memory_enters_few_functions(method: str, *, by_tag: bool, most: int) -> None:
    """Clusters send these requests all day; a function more costs about half a percent of one."""
    driver = MemoryDriver()
    registry = make_registry(driver, Settings(), b"secret")
    client = Client(create_app(registry, http_options(Settings())))
    await client.push(BUILT, "v1")
    reference = "v1" if by_tag else BUILT
    await client.manifest(reference, method=method)
    entered: list[str] = []

    def note(frame: FrameType, event: str, arg: object) -> None:
        del arg
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(_PACKAGE) and not path.endswith("types.py"):
            entered.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        answer = await client.manifest(reference, method=method)
    finally:
        sys.setprofile(None)
    assert answer.status_code == 200
    assert len(entered) <= most, entered
