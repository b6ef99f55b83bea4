"""A data directory that cannot be written to while the server runs: pulls are served, pushes name the cause.

The cases that need root: mounts, and a server that runs as another user.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.test_disks import disk, fill_up, remount
from tests.live import NotStarted, require, require_root, start, start_moorage, with_constants
from tests.server.debugging import Debugged, until
from tests.wire import Wire, image

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.live import Live

pytestmark = [pytest.mark.fault, pytest.mark.root, pytest.mark.slow]

NAME = "disk/app"
NOBODY = 65534
DEBUG = {"addr": "127.0.0.1:0", "prometheus": {"enabled": True}}
BEGAN = "the data directory cannot be written to"
ENDED = "can be read and written again"
SOON = dict.fromkeys(
    (f"moorage.server.processes.storage_monitor.{name}" for name in ("_READ_EVERY_S", "_AFTER_FAILURE_S")), 0.05
)
"""Between two looks at a directory that is not written to."""
SECTIONS: dict[str, Any] = {
    "http": {"addr": "127.0.0.1:0", "workers": 2, "secret": "shared", "debug": DEBUG},
    "health": {"storagedriver": {"enabled": True, "interval": "50ms"}, "writeprobe": {"interval": "50ms"}},
}


def degraded(live: Live, spoil: Callable[[], None], mend: Callable[[], None], *, status: int, reason: str) -> None:
    """Spoil the directory below a running server, look at everything that is promised, and mend it."""
    server, wire = Debugged(live), Wire(live.host)
    kept = wire.push_image(NAME, "kept", [b"layer"])
    assert server.requested("/readyz") == (200, "ok\n")
    assert server.total("moorage_storage_writable") == 1

    spoil()
    until(lambda: server.requested("/readyz")[1] != "ok\n", "the failure to be noticed", live.logs)
    ready, reported = server.requested("/readyz")
    assert (ready, reported.startswith("degraded: pushes are refused: "), reason in reported) == (
        200,
        True,
        True,
    ), reported
    assert str(live.root) not in reported
    assert server.requested("/livez") == (200, "ok\n")
    ready, reported = server.get("/readyz")
    assert (ready, reason in reported, str(live.root) in reported) == (200, True, True), reported
    assert server.get("/debug/health") == (200, "{}")
    assert server.total("moorage_storage_writable") == 0
    assert server.total("moorage_health_check_failing") == 0
    for _ in range(4):
        assert wire.manifest(NAME, "kept").body == kept
        assert wire.blob(NAME, Digest.of(b"layer")).body == b"layer"
    assert wire.tags(NAME) == ["kept"]
    for answer in (wire.start_upload(NAME), wire.put_manifest(NAME, "new", image(b"{}", []))):
        assert (answer.status, answer.codes) == (status, ["UNAVAILABLE"]), answer
        assert str(live.root).encode() not in answer.body

    mend()
    until(lambda: server.requested("/readyz") == (200, "ok\n"), "the recovery to be noticed", live.logs)
    wire.push_image(NAME, "new", [b"more"])
    assert server.total("moorage_storage_writable") == 1
    live.logged(ENDED)
    assert (live.logs().count(BEGAN), live.logs().count(ENDED)) == (1, 1), live.logs()


def test_a_full_disk(tmp_path: Path) -> None:
    """The commonest: pulls must never stop because a log or another program has filled the disk."""
    config = tmp_path / "config.yml"
    with (
        disk(tmp_path / "disk", "size=8m") as folder,
        start_moorage(folder / "volume", config=config, **SECTIONS) as live,
    ):
        filler, server = folder / "filler", Debugged(live)
        assert server.total("moorage_storage_size_bytes") == 8 << 20
        assert 0 < server.total("moorage_storage_free_bytes") <= 8 << 20

        def fill() -> None:
            fill_up(filler)
            until(lambda: server.total("moorage_storage_free_bytes") == 0, "the gauge to be 0", live.logs)

        degraded(live, fill, filler.unlink, status=507, reason="free or add space")


def test_a_disk_that_becomes_read_only(tmp_path: Path) -> None:
    """ext4 does this to itself after an error."""
    config = tmp_path / "config.yml"
    with (
        disk(tmp_path / "disk", "size=8m") as folder,
        start_moorage(folder / "volume", config=config, **SECTIONS) as live,
    ):
        degraded(
            live,
            lambda: remount(folder, "ro"),
            lambda: remount(folder, "rw"),
            status=507,
            reason="mount it read-write",
        )


def test_read_only_mode_is_no_failure(tmp_path: Path) -> None:
    """A mirror on a read-only mount: nothing is written, so nothing fails."""
    config = tmp_path / "config.yml"
    readonly = {"maintenance": {"readonly": {"enabled": True}}}
    with disk(tmp_path / "disk", "size=8m") as folder:
        (folder / "volume").mkdir()
        remount(folder, "ro")
        with start_moorage(folder / "volume", config=config, storage=readonly, **SECTIONS) as live:
            server = Debugged(live)
            assert server.requested("/readyz") == (200, "ok\n")
            assert ("moorage_storage_writable",) not in server.metrics()
            assert "level=error" not in live.logs()


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that another user may enter, which pytest's own forbid."""
    require_root()
    folder = Path(tempfile.mkdtemp(prefix="moorage-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


def start_as_nobody(root: Path, **sections: Any) -> Live:
    settings = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root)}, "delete": {"enabled": True}},
        **SECTIONS,
        **sections,
    }
    user = [require("setpriv"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return start([*user, str(Path(sys.executable).with_name("moorage")), "serve"], root, settings)


def change_owner(root: Path, user: int) -> None:
    subprocess.run(["chown", "-R", f"{user}:{user}", root], check=True)


def test_a_directory_of_another_user(tmp_path: Path) -> None:
    """A restored backup, or an image with another user: files are readable and nothing can be added."""
    with scratch() as folder:
        root = folder / "data"
        root.mkdir()
        change_owner(root, NOBODY)
        with start_as_nobody(root) as live:
            degraded(
                live,
                lambda: change_owner(root, 0),
                lambda: change_owner(root, NOBODY),
                status=503,
                reason="owner and mode",
            )
            assert f"as user {NOBODY}" in live.logs()


def test_a_directory_of_another_user_at_start_is_told_at_once(tmp_path: Path) -> None:
    """The server starts, since it can serve pulls; the log has the reason before the first push."""
    with scratch() as folder:
        root = folder / "data"
        root.mkdir()
        with start_as_nobody(root) as live:
            live.logged("listening on")
            lines = live.logs().splitlines()
            reported = [number for number, line in enumerate(lines) if BEGAN in line]
            listening = next(number for number, line in enumerate(lines) if 'msg="listening on' in line)
            assert len(reported) == 1
            assert reported[0] < listening
            assert f"as user {NOBODY}" in lines[reported[0]]
            assert Debugged(live).requested("/readyz")[1].startswith("degraded: ")
            change_owner(root, NOBODY)
            live.logged(ENDED)
            Wire(live.host).push_image(NAME, "first", [b"layer"])


def test_a_directory_that_another_user_may_not_enter_ends_the_start(tmp_path: Path) -> None:
    """Nothing could be served."""
    with scratch() as folder:
        root = folder / "data"
        root.mkdir(mode=0o700)
        with pytest.raises(NotStarted, match=r"cannot be used: \S*/data: Permission denied \(EACCES, as user"):
            start_as_nobody(root)


def test_a_directory_that_is_closed_takes_the_registry_out_of_service(tmp_path: Path) -> None:
    """Unreadable is a failure: a load balancer goes elsewhere."""
    with scratch() as folder:
        root = folder / "data"
        root.mkdir()
        change_owner(root, NOBODY)
        with start_as_nobody(root, health={"writeprobe": {"interval": "50ms"}}) as live:
            server, wire = Debugged(live), Wire(live.host)
            kept = wire.push_image(NAME, "kept", [b"layer"])
            change_owner(root, 0)
            root.chmod(0o700)
            until(
                lambda: server.requested("/readyz") == (503, "not ready\n"), "the failure to be noticed", live.logs
            )
            assert wire.manifest(NAME, "kept").status == 503
            assert server.requested("/livez") == (200, "ok\n")
            change_owner(root, NOBODY)
            until(lambda: server.requested("/readyz") == (200, "ok\n"), "the recovery to be noticed", live.logs)
            assert wire.manifest(NAME, "kept").body == kept


def test_a_volume_that_is_unmounted_is_not_replaced_by_its_mount_point(tmp_path: Path) -> None:
    """Pushes would be lost below the mount, and images 404, from the first request on."""
    root = tmp_path / "data"
    root.mkdir()
    config = tmp_path / "config.yml"
    sections = SECTIONS | {"health": {"writeprobe": {"disabled": True}}}
    with disk(tmp_path / "disk", "size=8m") as folder:
        bind = ["mount", "--bind", str(folder), str(root)]
        subprocess.run(bind, check=True)
        try:
            environment = with_constants(tmp_path / "custom", SOON)
            with start_moorage(root, config=config, environment=environment, **sections) as live:
                server, wire = Debugged(live), Wire(live.host)
                kept = wire.push_image(NAME, "kept", [b"layer"])
                subprocess.run(["umount", "-l", root], check=True)
                for _ in range(4):
                    for answer in (
                        wire.manifest(NAME, "kept"),
                        wire.start_upload(NAME),
                        wire.put_manifest(NAME, "new", image(b"{}", [])),
                    ):
                        assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"]), answer
                until(lambda: server.requested("/readyz")[0] == 503, "the loss to be noticed", live.logs)
                assert list(root.iterdir()) == []
                subprocess.run(bind, check=True)
                until(lambda: server.requested("/readyz") == (200, "ok\n"), "the return to be noticed", live.logs)
                assert wire.manifest(NAME, "kept").body == kept
                wire.push_image(NAME, "new", [b"more"])
        finally:
            subprocess.run(["umount", "-l", root], check=False)
