"""Every system call of every request fails once, with every errno: a refusal, one line in the log, nothing lost.

    MOORAGE_ERRNOS=1 python3 dev.py test tests/faults/test_errors.py    all errnos: half an hour on two busy cores

Without the variable each call fails with EIO.  What holds after each failure:

* the answer is the one of the table in docs/operations.md, "Storage errors", or, where the failing call does not
  matter for it, the usual one; never a 500;
* a refusal is one line in the log, which names the absolute path and the errno; no traceback;
* no descriptor is open and no temporary file is there; a refused POST leaves no upload and no directory;
* what had been acknowledged is still there, and the same request succeeds as soon as the disk works again.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import pytest
from structlog.testing import capture_logs
from tests.faults.calls import Calls

from moorage.config.model import Settings
from moorage.config.sections.storage import Delete, Storage
from moorage.http.app import create_app
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.testing import builders
from moorage.types import Digest
from moorage.wiring.app import make_registry
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from starlette.types import Message

    from moorage.registry.stored import StoredRegistry
    from moorage.testing.builders import Built

pytestmark = [pytest.mark.fault, pytest.mark.slow]

NAME: Final = "library/app"
SETTINGS: Final = Settings(storage=Storage(delete=Delete(enabled=True)))
SECRET: Final = b"shared by all workers"

FULL: Final = "the storage is full; try again when the operator has made room"
FAILED: Final = "the storage failed; try again later"
DENIED: Final = "the registry has no permission to use its storage; the operator has to grant it"
FILES: Final = "the registry has too many open files; try again later"

TABLE: Final = {
    errno.ENOSPC: (507, FULL),
    errno.EDQUOT: (507, FULL),
    errno.EFBIG: (507, FULL),
    errno.EMLINK: (507, FULL),
    errno.EROFS: (507, "the storage is read-only"),
    errno.EACCES: (503, DENIED),
    errno.EPERM: (503, DENIED),
    errno.EMFILE: (503, FILES),
    errno.ENFILE: (503, FILES),
    errno.EIO: (503, FAILED),
    errno.EBADF: (503, FAILED),
    errno.EBUSY: (503, FAILED),
    errno.EINTR: (503, FAILED),
    errno.EINVAL: (503, FAILED),
    errno.EISDIR: (503, FAILED),
    errno.ELOOP: (503, FAILED),
    errno.ENAMETOOLONG: (503, FAILED),
    errno.ENOLCK: (503, FAILED),
    errno.ENOMEM: (503, FAILED),
    errno.ENOTDIR: (503, FAILED),
    errno.ENXIO: (503, FAILED),
    errno.ESTALE: (503, FAILED),
    errno.ETIMEDOUT: (503, FAILED),
    errno.EXDEV: (503, FAILED),
}
ABSENT: Final = {errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR}
"""For a read, these mean that there is no such object, with all that follows from that."""

CHOSEN: Final = tuple(TABLE) if os.environ.get("MOORAGE_ERRNOS") else (errno.EIO,)

OLD: Final = builders.image(seed=1)
NEW: Final = builders.image(seed=2)
LARGE: Final = builders.blob(size=200_000, seed=3)
SMALL: Final = builders.blob(size=1000, seed=4)
BIG: Final = builders.blob(size=(1 << 20) + 300_000, seed=5)
HALF: Final = 1 << 20


@dataclass
class Answer:
    """`whole` is false where the connection would have been cut."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False


@dataclass
class World:
    """A registry on a copy of a prepared store."""

    root: Path
    registry: StoredRegistry
    places: dict[str, str]

    def __post_init__(self) -> None:
        self.app = create_app(self.registry, http_options(SETTINGS))

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        """One request; the body comes in pieces, as it does from a network."""
        path, _, query = target.removeprefix("http://registry.test").partition("?")
        given = {"host": "registry.test", "content-length": str(len(body)), **headers}
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path,
            "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "client": ("127.0.0.1", 1),
            "server": ("registry.test", 80),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()],
        }  # fmt: skip
        pieces = [body[start : start + (1 << 18)] for start in range(0, len(body), 1 << 18)] or [b""]
        answer = Answer()

        async def receive() -> Message:
            if not pieces:  # the client waits for its answer
                await asyncio.Event().wait()
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {key.decode(): value.decode() for key, value in message["headers"]}
            else:
                answer.body += message.get("body", b"")
                answer.whole = not message.get("more_body")

        await self.app(scope, receive, send)
        return answer

    async def close(self) -> None:
        await self.registry.close()


async def open_world(root: Path, places: dict[str, str]) -> World:
    return World(root, make_registry(FilesystemDriver(root), SETTINGS, SECRET), places)


def upload(target: str, blob: Built | Digest) -> str:
    digest = blob if isinstance(blob, Digest) else blob.digest
    return f"{target}{'&' if '?' in target else '?'}digest={digest}"


START: Final = f"/v2/{NAME}/blobs/uploads/"
ELSEWHERE: Final = "/v2/a/new/repository/blobs/uploads/"
PUT: Final = {"content_type": builders.image().media_type}

REQUESTS: Final[dict[str, tuple[int, Callable[[World], Awaitable[Answer]]]]] = {
    "start": (202, lambda it: it.ask("POST", START)),
    "start in a new repository": (202, lambda it: it.ask("POST", ELSEWHERE)),
    "start with sha512": (202, lambda it: it.ask("POST", f"{ELSEWHERE}?digest-algorithm=sha512")),
    "post a small blob": (201, lambda it: it.ask("POST", upload(ELSEWHERE, SMALL), SMALL.data)),
    "post a large blob": (201, lambda it: it.ask("POST", upload(ELSEWHERE, BIG), BIG.data)),
    "mount": (201, lambda it: it.ask("POST", f"{ELSEWHERE}?mount={LARGE.digest}&from={NAME}")),
    "patch": (202, lambda it: it.ask("PATCH", it.places["small"], SMALL.data[500:])),
    "patch a large one": (202, lambda it: it.ask("PATCH", it.places["big"], BIG.data[HALF:])),
    "finish": (201, lambda it: it.ask("PUT", upload(it.places["small"], SMALL), SMALL.data[500:])),
    "finish a large one": (201, lambda it: it.ask("PUT", upload(it.places["big"], BIG), BIG.data[HALF:])),
    "finish with another digest": (400, lambda it: it.ask("PUT", upload(it.places["small"], BIG), b"more")),
    "finish by sha512": (
        201,
        lambda it: it.ask("PUT", upload(it.places["small"], Digest.of(SMALL.data, "sha512")), SMALL.data[500:]),
    ),
    "cancel": (204, lambda it: it.ask("DELETE", it.places["big"])),
    "status": (204, lambda it: it.ask("GET", it.places["big"])),
    "head a blob": (200, lambda it: it.ask("HEAD", f"/v2/{NAME}/blobs/{LARGE.digest}")),
    "get a blob": (200, lambda it: it.ask("GET", f"/v2/{NAME}/blobs/{OLD.blobs[0].digest}")),
    "get a large blob": (200, lambda it: it.ask("GET", f"/v2/{NAME}/blobs/{LARGE.digest}")),
    "get a range": (206, lambda it: it.ask("GET", f"/v2/{NAME}/blobs/{LARGE.digest}", range="bytes=5-99")),
    "delete a blob": (202, lambda it: it.ask("DELETE", f"/v2/{NAME}/blobs/{LARGE.digest}")),
    "get a tag": (200, lambda it: it.ask("GET", f"/v2/{NAME}/manifests/kept")),
    "put a new tag": (201, lambda it: it.ask("PUT", f"/v2/{NAME}/manifests/new", NEW.data, **PUT)),
    "move a tag": (201, lambda it: it.ask("PUT", f"/v2/{NAME}/manifests/moved", NEW.data, **PUT)),
    "move a tag if it is that": (
        201,
        lambda it: it.ask("PUT", f"/v2/{NAME}/manifests/moved", NEW.data, if_match=f'"{OLD.digest}"', **PUT),
    ),
    "put a tag if it is not there": (
        201,
        lambda it: it.ask("PUT", f"/v2/{NAME}/manifests/new", NEW.data, if_none_match="*", **PUT),
    ),
    "delete a tag": (202, lambda it: it.ask("DELETE", f"/v2/{NAME}/manifests/moved")),
    "delete a manifest": (202, lambda it: it.ask("DELETE", f"/v2/{NAME}/manifests/{NEW.digest}")),
    "list tags": (200, lambda it: it.ask("GET", f"/v2/{NAME}/tags/list")),
    "list a page of tags": (200, lambda it: it.ask("GET", f"/v2/{NAME}/tags/list?n=1")),
    "list repositories": (200, lambda it: it.ask("GET", "/v2/_catalog")),
    "list referrers": (200, lambda it: it.ask("GET", f"/v2/{NAME}/referrers/{OLD.digest}")),
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """In memory where there is such a place: thousands of stores are copied."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def template(folder: Path) -> Path:
    return folder / "template/store"


@pytest.fixture
async def places(template: Path) -> dict[str, str]:
    """Return the URLs of the uploads of the prepared store; it holds one image under two tags, and two uploads."""
    notes = template.parent / "places"
    if not notes.exists():
        world = await open_world(template, {})
        for blob in (*OLD.blobs, *NEW.blobs, LARGE):
            assert (await world.ask("POST", upload(START, blob), blob.data)).status == 201
        for tag, manifest in (("kept", OLD), ("moved", OLD), (str(NEW.digest), NEW)):
            target = f"/v2/{NAME}/manifests/{tag}"
            assert (await world.ask("PUT", target, manifest.data, **PUT)).status == 201
        found = []
        for data in (SMALL.data[:500], BIG.data[:HALF]):
            begun = await world.ask("POST", START)
            found.append((await world.ask("PATCH", begun.headers["location"], data)).headers["location"])
        notes.write_text("\n".join(found))
        await world.close()
    return dict(zip(("small", "big"), notes.read_text().split("\n"), strict=True))


@pytest.fixture
def calls(places: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    del places  # made before the calls are watched
    return Calls(monkeypatch, folder / "unused")


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("number", CHOSEN, ids=lambda number: errno.errorcode[number])
async def test_each_failing_call_is_a_refusal(
    request_name: str, number: int, calls: Calls, template: Path, places: dict[str, str], folder: Path
) -> None:
    """A traceback, a leaked descriptor or a lost tag: each was one errno at one call away."""
    usual, make = REQUESTS[request_name]
    reads = usual in {200, 204, 206} and request_name != "cancel"
    for which in count(1):
        root = template if reads else folder / str(which)
        if not reads:
            shutil.rmtree(root, ignore_errors=True)  # of a test that failed
            shutil.copytree(template, root)
        calls.move(root)
        world = await open_world(root, places)
        before = tree(root)
        calls.arm(which, number)
        with capture_logs() as logs:
            answer = await make(world)
        calls.disarm()
        where = f"call {which} ({calls.failed}) of {request_name}: {answer} {logs}"
        if not calls.failed:
            assert (answer.status, answer.whole) == (usual, True), where
            assert which > 1, "nothing was tried"
        else:
            check(answer, usual, number, logs, calls, where)
            assert not calls.open, where
            check_left(request_name, answer, tree(root) - before, where)
            await check_kept(world, request_name, answer, where)
            again = await make(world)
            assert again.status < 500, f"{where}, and then {again}"
            await check_uploads(world, request_name, where)
        await world.close()
        if not reads:
            shutil.rmtree(root)
        if not calls.failed:
            break


def check(answer: Answer, usual: int, number: int, logs: list[Any], calls: Calls, where: str) -> None:
    """The answer and the log, by the table."""
    assert not [entry for entry in logs if "exc_info" in entry], where
    errors = [entry for entry in logs if entry["log_level"] == "error"]
    if number in ABSENT and answer.status < 500:
        return
    if answer.status == usual and answer.whole:
        # A failing close is logged at the end of a download as well, when all bytes have been sent.
        assert len(errors) <= (calls.failed == "close"), where
        return
    assert len(errors) == 1, where
    if errors[0]["kind"] != "UploadMissing":
        if calls.failed == "close" and "(EBADF)" in errors[0]["cause"]:
            number = errno.EBADF  # `shutil.rmtree` closes again what could not be closed
        assert calls.root in errors[0]["cause"], where
        assert f"({errno.errorcode[number]})" in errors[0]["cause"], where
    if answer.status == usual:
        assert not answer.whole, where
        return
    status, text = TABLE[number]
    assert answer.status == status, where
    if answer.body:
        assert b'"code":"UNAVAILABLE"' in answer.body, where
        assert f'"detail":"{text}"'.encode() in answer.body, where
        assert calls.root.encode() not in answer.body, where


def check_left(request_name: str, answer: Answer, left: set[str], where: str) -> None:
    """No temporary file, and of a refused POST no upload."""
    assert not [name for name in left if name.endswith(".tmp")], where
    if request_name.startswith("post") or (request_name == "start with sha512" and answer.status >= 500):
        assert not [name for name in left if "/_uploads/" in name], where
    elif request_name.startswith("start") and answer.status >= 500:
        assert not left, where


async def check_kept(world: World, request_name: str, answer: Answer, where: str) -> None:
    """What no request changed is as it was, what was acknowledged is done."""
    target = f"/v2/{NAME}/manifests"
    assert (await world.ask("GET", f"{target}/kept")).body == OLD.data, where
    moved = await world.ask("GET", f"{target}/moved")
    allowed = {OLD.data}
    if request_name.startswith("move a tag"):
        allowed = {NEW.data} if answer.status == 201 else {OLD.data, NEW.data}
    if request_name.startswith("delete a tag"):
        assert moved.status in ({404} if answer.status == 202 else {200, 404}), where
    else:
        assert moved.body in allowed, where
    for blob in OLD.blobs:
        assert (await world.ask("GET", f"/v2/{NAME}/blobs/{blob.digest}")).body == blob.data, where
    if request_name != "delete a blob":
        assert (await world.ask("GET", f"/v2/{NAME}/blobs/{LARGE.digest}")).body == LARGE.data, where


async def check_uploads(world: World, request_name: str, where: str) -> None:
    """Each prepared upload can be finished from its offset with the right bytes, unless the request ended it."""
    if not request_name.startswith(("patch", "finish", "cancel")):
        return
    for kind, blob, least in (("small", SMALL, 500), ("big", BIG, HALF)):
        at = await world.ask("GET", world.places[kind])
        if at.status == 404:
            assert request_name.startswith(("finish", "cancel")), where
            continue
        stands = int(at.headers["range"].rpartition("-")[2]) + 1
        assert least <= stands <= blob.size, where
        if request_name == "finish with another digest" and stands > least:
            continue  # the bytes are those that were sent, which no digest here names
        done = await world.ask("PUT", upload(at.headers["location"], blob), blob.data[stands:])
        assert done.status == 201, where
        assert (await world.ask("GET", f"/v2/{NAME}/blobs/{blob.digest}")).body == blob.data, where
