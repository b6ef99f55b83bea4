"""Exports and imports that end in the middle are continued, and leave nothing torn."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.bundle.sites import Recorder, export, imported, new_registry, pulled

from moorage.bundle.errors import OutputFull, OutputRefused
from moorage.bundle.volumes import VolumeWriter
from moorage.bundle.writer import ContentRefused
from moorage.errors import Unavailable
from moorage.replication.local import LocalSource
from moorage.testing.builders import blob, image
from moorage.testing.registry_fixtures import push
from moorage.types import parse_repo_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.registry.stored import StoredRegistry
    from moorage.types import Digest, RepoName

APP = parse_repo_name("library/app")
LAYERS = [blob(size=200_000, seed=seed) for seed in range(3)]
APP_IMAGE = image(*LAYERS)


def names_in(folder: Path, beginning: str) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{beginning}*"))


class Interrupted(Exception):
    """The connection of a test ended."""


class Breaking(LocalSource):
    """Fails after `budget` bytes of blobs; records which bytes were read."""

    def __init__(self, registry: StoredRegistry, budget: int, error: Exception | None = None) -> None:
        super().__init__(registry)
        self.budget = budget
        self.error = error or Interrupted()
        self.opened: list[tuple[Digest, int]] = []

    @asynccontextmanager
    async def open_blob(
        self, name: RepoName, digest: Digest, *, start: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.opened.append((digest, start))
        async with super().open_blob(name, digest, start=start) as chunks:
            yield self._pieces(chunks)

    async def _pieces(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            for at in range(0, len(chunk), 10_000):
                piece = chunk[at : at + 10_000]
                if len(piece) > self.budget:
                    raise self.error
                self.budget -= len(piece)
                yield piece


@pytest.fixture
async def filled(here: StoredRegistry) -> StoredRegistry:
    await push(here, APP_IMAGE, "1", name=APP)
    return here


@pytest.mark.parametrize("volume_bytes", [None, 70_000])
@pytest.mark.parametrize("budget", [0, 150_000, 200_000, 450_000])
async def test_an_export_continues_in_the_middle_of_a_blob(
    filled: StoredRegistry, tmp_path: Path, budget: int, volume_bytes: int | None
) -> None:
    """Nothing that is there is read from the registry again, and the result is that of one run."""
    await export(filled, tmp_path / "whole.tar", "library/app:1", volume_bytes=volume_bytes)
    with pytest.raises(Interrupted):
        await export(Breaking(filled, budget), tmp_path / "b.tar", "library/app:1", volume_bytes=volume_bytes)
    assert {Path(name).suffix for name in names_in(tmp_path, "b.tar")} == {".partial"}
    rest = Breaking(filled, 10**9)
    result = await export(rest, tmp_path / "b.tar", "library/app:1", volume_bytes=volume_bytes)
    assert result.continued > budget - 10_000
    read = 10**9 - rest.budget
    assert read <= sum(layer.size for layer in APP_IMAGE.blobs) - budget + 10_000
    names = names_in(tmp_path, "whole.tar")
    for name in names:
        assert (tmp_path / name.replace("whole", "b")).read_bytes() == (tmp_path / name).read_bytes()
    assert len(names_in(tmp_path, "b.tar")) == len(names)


async def test_names_are_given_to_all_volumes_or_none(
    filled: StoredRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between two renames leaves an export that continues, and no bundle with a first volume."""
    real = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if target.name == "b.tar.003":
            raise Interrupted
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(Interrupted):
            await export(filled, tmp_path / "b.tar", "library/app:1", volume_bytes=150_000)
    assert names_in(tmp_path, "b.tar.004") + names_in(tmp_path, "b.tar.001") == ["b.tar.004", "b.tar.001.partial"]
    result = await export(filled, tmp_path / "b.tar", "library/app:1", volume_bytes=150_000)
    assert names_in(tmp_path, "b.tar") == [f"b.tar.00{number}" for number in range(1, 6)]
    assert result.continued > 600_000


async def test_a_torn_end_is_written_again(filled: StoredRegistry, tmp_path: Path) -> None:
    """After a power loss the end of the file may be zeros."""
    await export(filled, tmp_path / "whole.tar", "library/app:1")
    data = (tmp_path / "whole.tar").read_bytes()
    partial = tmp_path / "b.tar.partial"
    for cut, zeros in ((100_000, 50_000), (300_000, 200_000), (500, 0), (len(data) - 700, 0), (2000, 3000)):
        partial.write_bytes(data[: cut - zeros] + bytes(zeros) if cut > zeros else bytes(cut))
        if cut <= zeros:  # not even the beginning is whole
            partial.write_bytes(data[:200])
        result = await export(filled, tmp_path / "b.tar", "library/app:1")
        assert result.paths == [tmp_path / "b.tar"]
        assert (tmp_path / "b.tar").read_bytes() == data
        (tmp_path / "b.tar").unlink()


async def test_a_tag_that_moves_meanwhile_does_not_mix_two_images(
    filled: StoredRegistry, there: StoredRegistry, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        await export(Breaking(filled, 250_000), tmp_path / "b.tar", "library/app:1")
    await push(filled, image(seed=9), "1", name=APP)
    await export(filled, tmp_path / "b.tar", "library/app:1")
    await imported(there, tmp_path / "b.tar")
    await pulled(there, "library/app", "1", APP_IMAGE)


async def test_another_request_does_not_continue_it(filled: StoredRegistry, tmp_path: Path) -> None:
    """It would contain what was requested before."""
    with pytest.raises(Interrupted):
        await export(Breaking(filled, 250_000), tmp_path / "b.tar", "library/app:1")
    with pytest.raises(OutputRefused, match="left of an export of other images or with other options"):
        await export(filled, tmp_path / "b.tar", "library/app:1", platforms=("linux/amd64",))
    with pytest.raises(OutputRefused, match="left of an export with another --volume-size"):
        await export(filled, tmp_path / "b.tar", "library/app:1", volume_bytes=100_000)


async def test_two_exports_do_not_write_one_file(filled: StoredRegistry, tmp_path: Path) -> None:
    writer = VolumeWriter(tmp_path / "b.tar", None)
    try:
        with pytest.raises(OutputRefused, match="another export writes"):
            await export(filled, tmp_path / "b.tar", "library/app:1")
    finally:
        writer.close()
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240  nothing else runs


async def test_a_connection_that_fails_for_a_moment_is_continued(filled: StoredRegistry, tmp_path: Path) -> None:
    waits: list[float] = []
    source = Breaking(filled, 250_000, Unavailable("for a moment"))

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        source.budget = 10**9

    await export(source, tmp_path / "b.tar", "library/app:1", sleep=sleep)
    assert len(waits) == 1
    assert any(0 < start < 200_000 for _, start in source.opened)


async def test_a_full_disk_is_an_error_with_what_to_do(
    filled: StoredRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the export continues when there is space again."""
    left = 300_000
    real = os.write

    def limited(descriptor: int, data: memoryview) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(descriptor, data[:left])
        left -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", limited)
        with pytest.raises(OutputFull, match=r"no space left .* run the same command again, it continues"):
            await export(filled, tmp_path / "b.tar", "library/app:1")
    result = await export(filled, tmp_path / "b.tar", "library/app:1")
    assert result.continued > 250_000
    target = new_registry()
    await imported(target, tmp_path / "b.tar")
    await pulled(target, "library/app", "1", APP_IMAGE)


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (errno.EFBIG, r"does not take files of more than .* use --volume-size"),
        (errno.EIO, "cannot be written: Input"),
    ],
)
async def test_other_errors_of_the_disk(
    filled: StoredRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, match: str
) -> None:
    def failing(descriptor: int, data: memoryview) -> int:
        del descriptor, data
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(OutputRefused, match=match):
        await export(filled, tmp_path / "b.tar", "library/app:1")


async def test_a_file_system_without_locks_is_written(
    filled: StoredRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(descriptor: int, operation: int) -> None:
        del descriptor, operation
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refusing)
    await export(filled, tmp_path / "b.tar", "library/app:1")
    assert names_in(tmp_path, "b.tar") == ["b.tar"]


@pytest.mark.parametrize("change", [b"", b"longer", None])
async def test_a_damaged_blob_of_the_source_is_not_written(
    filled: StoredRegistry, tmp_path: Path, change: bytes | None
) -> None:
    """The error names the registry and the digest; the next run, after a repair, continues."""

    class Damaged(Breaking):
        async def _pieces(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            data = b"".join([chunk async for chunk in chunks])
            yield data[:-1] + (bytes([data[-1] ^ 1]) if change is None else change)

    with pytest.raises(ContentRefused, match=r"the store: library/app@sha256:.*nothing of it was written"):
        await export(Damaged(filled, 0), tmp_path / "b.tar", "library/app:1")
    await export(filled, tmp_path / "b.tar", "library/app:1")
    target = new_registry()
    await imported(target, tmp_path / "b.tar")
    await pulled(target, "library/app", "1", APP_IMAGE)


async def test_a_cancelled_export_is_continued(filled: StoredRegistry, tmp_path: Path) -> None:
    """Ctrl-C: no thread writes into a file that is closed."""
    reached = asyncio.Event()

    class Waiting(Breaking):
        async def _pieces(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async for chunk in chunks:
                yield chunk[:100_000]
                if len(chunk) > 100_000:
                    reached.set()
                    await asyncio.Event().wait()

    task = asyncio.create_task(export(Waiting(filled, 0), tmp_path / "b.tar", "library/app:1"))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    progress = Recorder()
    result = await export(filled, tmp_path / "b.tar", "library/app:1", progress=progress)
    assert result.continued > 100_000
    assert progress.phases[0] == "checking what is there"
    assert result.size - 5000 < progress.done <= result.size  # all but headers and padding


async def test_an_interrupted_import_sets_no_tag_and_is_continued(filled: StoredRegistry, tmp_path: Path) -> None:
    """What was stored is found again, and is not sent twice."""
    await export(filled, tmp_path / "b.tar", "library/app:1")
    target = new_registry()
    real = target.manifests.put

    async def failing(*arguments: Any, **options: Any) -> Any:
        raise Interrupted

    target.manifests.put = failing  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        await imported(target, tmp_path / "b.tar")
    assert (await target.repositories.list(limit=10)).names == ()
    target.manifests.put = real  # type: ignore[method-assign]
    result = await imported(target, tmp_path / "b.tar")
    assert (result.counts.blobs, result.counts.present) == (0, 4)
    await pulled(target, "library/app", "1", APP_IMAGE)


async def test_a_manifest_that_was_deleted_meanwhile_is_named(filled: StoredRegistry, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        await export(Breaking(filled, 250_000), tmp_path / "b.tar", "library/app:1")
    empty = new_registry()
    await push(empty, image(seed=4), "1", name=APP)
    with pytest.raises(Exception, match="is missing there; if it was deleted since the export began, remove"):
        await export(empty, tmp_path / "b.tar", "library/app:1")
    await empty.close()
