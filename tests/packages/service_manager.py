"""systemd as process 1 of a container made of namespaces, to start the units of deploy/systemd for real.

    tests ──nsenter──► systemctl ──► systemd (PID 1 of its namespace) ──► the unit, with its whole sandbox

The container has the host's /usr, and its own /etc, /opt, /var, network, processes, users and control groups (a
cgroup2 hierarchy without controllers, which can be mounted beside version 1).  The journal is systemd-journald's.
Root and the Debian package systemd are needed; nothing of the host is changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.live import require, require_root

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Container"]

LIMIT_S: Final = 120.0
_STOCK: Final = Path("/usr/lib/systemd/system")
_STOCK_UNITS: Final = (
    "basic.target", "exit.target", "final.target", "local-fs.target", "multi-user.target",
    "network-online.target", "network.target", "paths.target", "shutdown.target", "slices.target",
    "sockets.target", "sysinit.target", "systemd-exit.service", "systemd-journald-dev-log.socket",
    "systemd-journald.service", "systemd-journald.socket", "timers.target", "umount.target",
)  # fmt: skip
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
_PASSWD: Final = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUP: Final = "root:x:0:\nadm:x:4:\nnogroup:x:65534:\nsystemd-journal:x:101:\n"

_BOOT: Final = """
set -eu
root=$1 files=$2
shift 2
mount -t tmpfs -o mode=0755 tmpfs "$root"
cd "$root"
mkdir usr etc var var/lib var/log var/tmp run tmp proc sys dev opt root home srv stock
chmod 1777 tmp var/tmp; chmod 0700 root; ln -s ../run var/run
mount --bind /usr usr; mount -o remount,bind,ro usr
for link in bin lib lib32 lib64 libx32 sbin; do
    [ ! -L "/$link" ] || ln -s "$(readlink "/$link")" "$link"
done
cp -a "$files/." .
for name in alternatives hosts ld.so.cache ld.so.conf ld.so.conf.d login.defs nsswitch.conf pam.d security ssl; do
    [ ! -e "/etc/$name" ] || cp -a "/etc/$name" etc/
done
while [ $# -gt 0 ]; do mkdir -p ".$2"; mount --bind "$1" ".$2"; shift 2; done
mount -t proc proc proc
# Settings of the kernel are the host's.
mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=0755 tmpfs dev
for device in null zero full random urandom tty; do
    : > "dev/$device"; mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts; mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts; ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs run
mkdir old; pivot_root . old; cd /; umount -l old; rmdir old
exec env -i PATH=$PATH container=moorage-tests SYSTEMD_UNIT_PATH=/etc/systemd/system:/stock \
    SYSTEMD_GENERATOR_PATH=/nonexistent \
    /usr/lib/systemd/systemd --system --unit=basic.target --show-status=no
"""


class Container:
    """A running systemd; leaving the context ends it with everything that it started.

    `files` is copied to `/` of the container before the start, and `binds` maps directories of the host to theirs.
    """

    def __init__(self, folder: Path, files: Path, binds: dict[Path, str]) -> None:
        require_root()
        for name in ("systemctl", "unshare", "nsenter", "setpriv"):
            require(name)
        self._root, self._log = folder / "root", folder / "systemd.log"
        self._cgroups = folder / "cgroup"
        self._files, self._binds = files, binds
        self.environment: dict[str, str] = {}
        """Variables for `run`."""
        self._outer: subprocess.Popen[bytes] | None = None
        self._first = 0

    def __enter__(self) -> Self:
        self._root.mkdir()
        stock = self._files / "stock"
        stock.mkdir()
        for name in _STOCK_UNITS:
            shutil.copy(_STOCK / name, stock)
        (wants := stock / "sysinit.target.wants").mkdir()
        for name in ("systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald.service"):
            (wants / name).symlink_to(f"../{name}")
        for name, text in (("passwd", _PASSWD), ("group", _GROUP), ("machine-id", f"{uuid.uuid4().hex}\n")):
            path = self._files / "etc" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        self._cgroups.mkdir()
        subprocess.run(["mount", "-t", "cgroup2", "none", self._cgroups], check=True)
        try:
            self._cgroup = self._cgroups / f"moorage-tests-{os.getpid()}"
            self._cgroup.mkdir()
            self._boot()
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def _boot(self) -> None:
        # Without this process, however it ends, the container ends as well.
        namespaces = "unshare --mount --propagation private --cgroup --pid --uts --ipc --net --fork --kill-child"
        enter = f'echo $$ > "$1/cgroup.procs"; shift; exec setpriv --pdeathsig KILL {namespaces} sh -c "$@"'
        binds = [part for source, target in self._binds.items() for part in (str(source), target)]
        with self._log.open("wb") as log:
            self._outer = subprocess.Popen(
                ["sh", "-c", enter, "sh", self._cgroup, _BOOT, "sh", self._root, self._files, *binds],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": _PATH},
            )

    def _wait(self) -> None:
        assert self._outer is not None
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        deadline = time.monotonic() + LIMIT_S
        while True:
            ended = self._outer.poll()
            assert ended is None, f"ended with status {ended}:\n{self._log.read_text()}"
            assert time.monotonic() < deadline, f"not up in {LIMIT_S} s:\n{self._log.read_text()}"
            with contextlib.suppress(OSError):
                if (found := children.read_text().split()) and self._is_systemd(int(found[0])):
                    self._first = int(found[0])
                    if self.run("systemctl", "is-active", "basic.target", check=False).stdout.strip() == "active":
                        return
            time.sleep(0.02)

    @staticmethod
    def _is_systemd(pid: int) -> bool:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "systemd"

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if self._outer is not None:
            # With its process 1 the whole container ends.
            if self._first:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._first, signal.SIGKILL)
            else:
                self._outer.kill()
            self._outer.wait(LIMIT_S)
        for folder in sorted(self._cgroups.glob("moorage-tests-*/**/"), reverse=True):
            if folder.is_relative_to(self._cgroup):
                folder.rmdir()
        subprocess.run(["umount", self._cgroups], check=True)

    def run(self, *command: str, check: bool = True, directory: str = "/") -> subprocess.CompletedProcess[str]:
        """Run a command inside as root, and return what it wrote."""
        inside = ["nsenter", f"--target={self._first}", "--all", f"--wdns={directory}", "--"]
        done = subprocess.run(
            [*inside, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
            env={"PATH": _PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **self.environment},
        )
        assert done.returncode == 0 or not check, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def properties(self, unit: str, names: Sequence[str]) -> dict[str, str]:
        lines = self.run("systemctl", "show", f"--property={','.join(names)}", unit).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def cursor(self) -> str:
        """Return where the journal ends now, for `journal`."""
        lines = self.run("journalctl", "--lines=0", "--show-cursor", "--quiet").stdout
        return lines.rpartition("cursor: ")[2].strip()

    def journal(self, unit: str, cursor: str = "") -> str:
        """Return what a unit and systemd have logged about it, since `cursor`."""
        self.run("journalctl", "--sync")
        since = [f"--after-cursor={cursor}"] if cursor else []
        return self.run("journalctl", "--unit", unit, "--output=cat", "--no-pager", *since, check=False).stdout
