"""Full and read-only disks: a clear refusal, the cause in the log, reads go on, and so does all else afterwards.

Every disk is a small tmpfs of its own, mounted and unmounted by the test.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.live import require_root, start_tested
from tests.wire import Wire, image

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.live import Live
    from tests.wire import Answer

pytestmark = [pytest.mark.fault, pytest.mark.root, pytest.mark.slow]

NAME = "disk/app"
FULL = "the storage is full; try again when the operator has made room"
READ_ONLY = "the storage is read-only"
MIB = 1 << 20


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own at `folder`."""
    require_root()
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def serving(scratch: Path, options: str) -> Iterator[tuple[Live, Path]]:
    """A registry whose volume, but not its log, is on such a disk; and where that is mounted."""
    config = scratch / "config.yml"
    with disk(scratch / "disk", options) as folder, start_tested(folder / "volume", config=config) as live:
        yield live, folder


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def fill_up(path: Path) -> None:
    """Take the last byte of the file system."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC, error  # noqa: PT017  how else to wait for it


def refused(answer: Answer, detail: str = FULL) -> None:
    """A 507 with its cause: the specification's JSON with UNAVAILABLE, and the operator's remedy."""
    assert answer.status == 507, answer
    assert answer.codes == ["UNAVAILABLE"], answer
    assert answer.json()["errors"][0]["detail"] == detail, answer


def failures(live: Live, event: str) -> list[str]:
    """The log's lines about a failure of the storage."""
    return [line for line in live.logs().splitlines() if event in line]


def entries(folder: Path) -> list[str]:
    """Return every file and directory below, except for the records of nodes, which are written at any time."""
    paths = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return sorted(path for path in paths if "_moorage" not in path)


def stream_until_refused(wire: Wire, location: str, size: int) -> int:
    """One PATCH of `size` bytes; the status, which may come (and close the connection) before all was sent."""
    connection = http.client.HTTPConnection(wire.host, timeout=30)
    try:
        connection.putrequest("PATCH", location)
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        try:
            for _ in range(size // MIB):
                connection.send(bytes(MIB))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the answer is there already, which is what this asks for
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_full_disk_refuses_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    """The commonest failure of all.  A client must learn that it is ours, an operator which disk."""
    with serving(tmp_path, "size=8m") as (live, folder):
        wire = Wire(live.host)
        kept = wire.push_image(NAME, "kept", [b"k" * MIB])
        location = wire.start_upload(NAME).headers["location"]
        for _ in range(10):
            answer = wire.patch(location, bytes(MIB))
            if answer.status != 202:
                break
            location = answer.headers["location"]
        refused(answer)
        live.logged("No space left on device")
        (line,) = failures(live, "the storage is full")
        assert f"append to {folder}/volume/docker/" in line

        fill_up(folder / "filler")
        refused(wire.put_manifest(NAME, "new", image(b"{}", [])))
        refused(wire.put_manifest(NAME, "kept", image(b"{}", [])))
        assert wire.manifest(NAME, "kept").body == kept
        assert wire.manifest(NAME, "new").status == 404
        assert wire.blob(NAME, Digest.of(b"k" * MIB)).body == b"k" * MIB
        assert wire.tags(NAME) == ["kept"]

        (folder / "filler").unlink()
        remount(folder, "size=32m")
        status = wire.send("GET", location)
        assert status.status == 204, status
        stands = int(status.headers["range"].partition("-")[2]) + 1
        data = bytes(10 * MIB)
        done = wire.finish(status.headers["location"], Digest.of(data), data[stands:])
        assert done.status == 201, done
        assert wire.put_manifest(NAME, "new", image(b"{}", [data])).status == 201


@pytest.mark.parametrize("resource", ["bytes", "inodes"])
def test_refused_uploads_take_nothing_from_a_full_disk(resource: str, tmp_path: Path) -> None:
    """A client that tries again for hours must not use up what the operator would need to make room."""
    with serving(tmp_path, "size=8m,nr_inodes=300") as (live, folder):
        wire = Wire(live.host)
        wire.push_image(NAME, "kept", [b"kept"])
        if resource == "bytes":
            fill_up(folder / "filler")
        else:
            fill_inodes(folder)
        before, free = entries(folder), os.statvfs(folder).f_ffree
        for number in range(50):
            name = NAME if number % 2 else f"disk/number-{number}"
            refused(wire.start_upload(name))
            refused(wire.start_upload(name, **{"digest-algorithm": "sha512"}))
            refused(wire.send("POST", f"/v2/{name}/blobs/uploads/?digest={Digest.of(b'small')}", b"small"))
        assert entries(folder) == before
        assert os.statvfs(folder).f_ffree == free
        live.logged("No space left on device")
        assert len(failures(live, "the storage is full")) == 150, "each failure is one line"


def fill_inodes(folder: Path) -> None:
    """Leave one inode: the directory of an upload can be made, and nothing in it."""
    for number in range(os.statvfs(folder).f_ffree - 1):
        (folder / f"filler-{number}").touch()


def test_a_full_disk_that_holds_the_log_as_well_is_told_all_the_same(tmp_path: Path) -> None:
    """One file system for everything is the usual small host; a log line that cannot be written is lost, not
    turned into a puzzling 500.
    """
    with disk(tmp_path / "disk", "size=8m") as folder, start_tested(folder / "volume") as live:
        assert live.log_path.parent == folder
        wire = Wire(live.host)
        kept = wire.push_image(NAME, "kept", [b"kept"])
        fill_up(folder / "filler")
        refused(wire.put_manifest(NAME, "new", image(b"{}", [])))
        refused(wire.start_upload(NAME))
        assert wire.manifest(NAME, "kept").body == kept
        (folder / "filler").unlink()
        assert wire.put_manifest(NAME, "new", kept).status == 201


def test_a_stream_that_fills_the_disk_is_answered(tmp_path: Path) -> None:
    """Docker streams a layer in one PATCH; it must see a 507, not a hung or bare connection.

    Several times: a failure that something remembered kept one connection in ten open, and read no more from it.
    """
    with serving(tmp_path, "size=8m") as (live, _):
        wire = Wire(live.host)
        for _ in range(25):
            location = wire.start_upload(NAME).headers["location"]
            assert stream_until_refused(wire, location, 64 * MIB) == 507
            status = wire.send("GET", location)
            assert status.status == 204, status
            assert wire.send("DELETE", status.headers["location"]).status == 204
        wire.push_image(NAME, "fits", [b"f" * MIB])


def test_a_disk_without_inodes_refuses(tmp_path: Path) -> None:
    """Many small files end a disk long before its bytes do; `df` shows space, so the log must say it."""
    with serving(tmp_path, "size=64m,nr_inodes=120") as (live, folder):
        wire = Wire(live.host)
        kept = wire.push_image(NAME, "kept", [b"kept"])
        answer = wire.start_upload(NAME)
        for number in range(200):
            if answer.status >= 500:
                break
            answer = wire.start_upload(f"{NAME}/number-{number}")
        refused(answer)
        live.logged("No space left on device")
        assert wire.manifest(NAME, "kept").body == kept
        remount(folder, "nr_inodes=2000")
        wire.push_image(NAME, "again", [b"again"])


def test_a_read_only_disk_refuses_writes_and_serves_reads(tmp_path: Path) -> None:
    """ext4 becomes read-only after an error: pulls are served, pushes refused with the cause, nothing restarts."""
    with serving(tmp_path, "size=16m") as (live, folder):
        wire = Wire(live.host)
        kept = wire.push_image(NAME, "kept", [b"kept"])
        location = wire.patch(wire.start_upload(NAME).headers["location"], b"begun").headers["location"]
        remount(folder, "ro")
        refused(wire.start_upload(NAME), READ_ONLY)
        refused(wire.patch(location, b" and more"), READ_ONLY)
        refused(wire.put_manifest(NAME, "new", kept), READ_ONLY)
        refused(wire.delete_manifest(NAME, "kept"), READ_ONLY)
        live.logged("Read-only file system")
        assert len(failures(live, "the storage is read-only")) == 4
        assert wire.manifest(NAME, "kept").body == kept
        assert wire.blob(NAME, Digest.of(b"kept")).body == b"kept"

        remount(folder, "rw")
        status = wire.send("GET", location)
        done = wire.finish(status.headers["location"], Digest.of(b"begun and ended"), b" and ended")
        assert done.status == 201, done
        assert wire.put_manifest(NAME, "new", kept).status == 201


def test_a_file_that_ends_within_a_download_is_logged(tmp_path: Path) -> None:
    """The client gets too few bytes; without a line the operator would never learn that the store is damaged."""
    data = bytes(64 * MIB)  # more than the buffers of both sockets
    with start_tested(tmp_path / "volume", http={"workers": 1}) as live:
        digest = Wire(live.host).push_blob(NAME, data)
        (file,) = live.root.glob("**/blobs/sha256/*/*/data")
        with socket.create_connection(("127.0.0.1", live.port), timeout=60) as client:
            client.sendall(f"GET /v2/{NAME}/blobs/{digest} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            received = len(client.recv(1))
            os.truncate(file, 0)
            while received < len(data) and (piece := client.recv(MIB)):
                received += len(piece)
        assert received < len(data)
        live.logged("the storage failed")
        (line,) = (line for line in live.logs().splitlines() if "the storage failed" in line)
        assert str(file) in line
        assert "bytes early" in line
