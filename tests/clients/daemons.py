"""Container engines that live for a few tests: dockerd and containerd, each with folders and socket of its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.live import require, require_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["containerd", "dockerd"]

_START_LIMIT_S = 90.0


@contextmanager
def dockerd(*, prefix: Sequence[str] = (), options: Sequence[str] = ()) -> Iterator[str]:
    """A Docker engine without networks of its own; the value for DOCKER_HOST.  `prefix` runs its command."""
    require_root()
    for name in ("dockerd", "docker", "containerd", "runc", "iptables"):
        require(name)
    with _scratch() as folder:
        for driver in (
            "overlay2",
            "vfs",
        ):  # overlay2 is 6 to 9 times faster, but not to be had on every file system
            command = [
                *prefix, require("dockerd"), "--data-root", f"{folder}/{driver}", "--exec-root", f"{folder}/exec",
                "-H", f"unix://{folder}/d.sock", "--pidfile", f"{folder}/pid", "--iptables=false", "--bridge=none",
                f"--storage-driver={driver}", "--allow-nondistributable-artifacts=127.0.0.0/8",
                *options,
            ]  # fmt: skip
            with _daemon(command, folder / f"{driver}.log") as process:
                if _wait(process, folder / "d.sock", _pings):
                    yield f"unix://{folder}/d.sock"
                    return
        pytest.fail(f"dockerd does not start:\n{(folder / 'vfs.log').read_text()[-3000:]}")


@contextmanager
def containerd() -> Iterator[str]:
    """A containerd without its Kubernetes part; the socket for `ctr -a`."""
    require_root()
    with _scratch() as folder:
        (folder / "config.toml").write_text(
            f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\n  address = "{folder}/c.sock"\n'
        )
        command = [require("containerd"), "-c", f"{folder}/config.toml"]
        with _daemon(command, folder / "log") as process:
            if not _wait(process, folder / "c.sock", _connects):
                pytest.fail(f"containerd does not start:\n{(folder / 'log').read_text()[-3000:]}")
            yield f"{folder}/c.sock"


@contextmanager
def _scratch() -> Iterator[Path]:
    """A short path, because a socket's may have 107 characters; nothing stays mounted below it."""
    folder = Path(tempfile.mkdtemp(prefix="moorage-"))
    try:
        yield folder
    finally:
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            point = line.split()[1]
            if point.startswith(f"{folder}/"):
                subprocess.run(["umount", "-l", point], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _daemon(command: Sequence[str], log_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    path = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"PATH": path, "HOME": str(log_path.parent)},
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], path: Path, ready: Callable[[Path], bool]) -> bool:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and ready(path):
            return True
        time.sleep(0.05)
    return False


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


def _pings(path: Path) -> bool:
    connection = http.client.HTTPConnection("docker", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
