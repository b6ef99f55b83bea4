"""A machine for a Docker engine, made of Linux namespaces, on which the documentation's commands run as written.

Processes, network and mounts are the machine's own.  Every port is free and nothing that listens is reachable from
outside, so an engine runs with its defaults (bridge, published ports, iptables) and the registry on port 443.
/etc is an overlay, /run and /mnt are empty, so what a page writes there is gone afterwards.  The file system is
otherwise that of the host; control groups are shared with it, and the engine removes its own when it stops.
Images and volumes are in memory, 1 GB or so.

    with Machine() as machine:
        machine.run("engine start")
        machine.run("docker run -d -p 5000:5000 --name registry moorage")
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

from tests.live import require, require_root

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ADDRESS", "HUB", "NAME", "Machine", "until"]

T = TypeVar("T")

NAME: Final = "registry.example.com"
"""The registry's name on the pages, which the machine's /etc/hosts has."""
ADDRESS: Final = "192.0.2.10"
"""What `NAME` resolves to: not in 127.0.0.0/8, where Docker checks no certificate."""
HUB: Final = "127.0.0.1:4999"
"""The mirror that the engine asks instead of Docker Hub, which is out of reach."""

_LIMIT_S: Final = 60.0
_COMMAND_LIMIT_S: Final = 120.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROGRAMS: Final = (
    "unshare", "nsenter", "ip", "iptables", "curl", "docker-init", "containerd", "runc",
)  # fmt: skip

_SET_UP: Final = f"""
set -eu
mount --bind "$0/run" /run
mkdir /run/lock
if mount -t overlay -o lowerdir=/etc,upperdir="$0/etc",workdir="$0/etc.work" overlay /etc 2> /dev/null
then echo overlay2 > "$0/driver"
else cp -a /etc/. "$0/etc"; mount --bind "$0/etc" /etc; echo vfs > "$0/driver"
fi
mount --bind "$0/mnt" /mnt
mount -t tmpfs -o size=6g tmpfs "$0/data"
rm -rf /etc/docker
mkdir /etc/docker
printf '127.0.0.1 localhost\\n::1 localhost\\n{ADDRESS} {NAME}\\n' > /etc/hosts
ip link set lo up
ip addr add {ADDRESS}/32 dev lo
hostname node1
"""

_ENGINE: Final = """#!/bin/sh
# engine start | stop: returns when the engine answers, or has ended with its containers.
case $1 in
start)
    setsid dockerd --data-root "{folder}/data" --storage-driver "$(cat "{folder}/driver")" \\
        --registry-mirror http://{hub} >> "{folder}/engine.log" 2>&1 &
    until docker version > /dev/null 2>&1
    do kill -0 $! 2> /dev/null || {{ tail -n 30 "{folder}/engine.log"; exit 1; }}; sleep 0.05
    done ;;
stop)
    pid=$(cat /run/docker.pid)
    kill "$pid"
    while kill -0 "$pid" 2> /dev/null; do sleep 0.05; done ;;
esac
"""

_SYSTEMCTL: Final = """#!/bin/sh
# Stands for systemd, which does not run here: the pages restart the engine with it.
[ "$*" = "restart docker" ] || { echo "systemctl $*: not possible on this machine" >&2; exit 1; }
engine stop && engine start
"""


class Machine:
    """A machine that is up within the context; nothing of it runs or is mounted afterwards.

    Debian's engine runs in it, or another `version` that tools/install_test_programs.py has unpacked (`26`).
    """

    def __init__(self, version: str = "") -> None:
        require_root()
        for name in _PROGRAMS:
            require(name)
        self.folder = Path(tempfile.mkdtemp(prefix="moorage-"))
        self.home = self.folder / "home"
        suffix = f"-{version}" if version else ""
        self._programs = {name: require(f"{name}{suffix}") for name in ("docker", "dockerd")}
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._outer: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.run("[ ! -e /run/docker.pid ] || engine stop")
        finally:
            self._end()

    def _boot(self) -> None:
        """Start the first process, which collects dead children, and mount what is the machine's own."""
        for part in ("etc", "etc.work", "mnt", "run", "home", "bin", "data"):
            (self.folder / part).mkdir()
        for name, text in (("engine", _ENGINE.format(folder=self.folder, hub=HUB)), ("systemctl", _SYSTEMCTL)):
            (self.folder / "bin" / name).write_text(text)
            (self.folder / "bin" / name).chmod(0o755)
        for name, place in self._programs.items():
            (self.folder / "bin" / name).symlink_to(place)
        self._outer = subprocess.Popen(
            [
                require("unshare"), "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc",
                require("docker-init"), "--", "sleep", "infinity",
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        self._pid = int(until(lambda: children.read_text().strip(), "the machine's first process"))
        # It executes docker-init once /proc is mounted.
        until(lambda: Path(f"/proc/{self._pid}/comm").read_text() == "docker-init\n", "the machine's /proc")
        self.command("sh", "-c", _SET_UP, str(self.folder))

    def _end(self) -> None:
        """Kill the first process and with it every other one; the kernel then takes back mounts and network."""
        if self._outer is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid or self._outer.pid, signal.SIGKILL)
            for process in (self._outer, *self._spawned):
                process.wait(_LIMIT_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def docker_host(self) -> str:
        """The engine's socket, for a client outside."""
        return f"unix://{self.folder}/run/docker.sock"

    def run(self, script: str, *, fails: bool = False) -> str:
        """Run a shell script as root in the machine's home; its output and errors.

        A failure, or with `fails` a success, ends the test.
        """
        return self.command("sh", "-eu", "-c", script, fails=fails)

    def command(self, *command: str, fails: bool = False) -> str:
        done = self._call(*command)
        if (done.returncode == 0) == fails:
            raise AssertionError(
                f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}\n{self._containers()}"
            )
        return done.stdout

    def spawn(self, *command: str, log: Path) -> None:
        """Start a program that runs until the machine ends."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self._inside(*command),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._spawned.append(process)

    def waits(self, script: str, what: str) -> str:
        """Run the script again and again until it succeeds; its output."""

        def succeeded() -> str | None:
            done = self._call("sh", "-eu", "-c", script)
            return done.stdout or " " if done.returncode == 0 else None

        return until(succeeded, what, self._containers)

    def _call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._inside(*command),
            check=False,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_COMMAND_LIMIT_S,
        )

    def _inside(self, *command: str) -> list[str]:
        enter = ["-t", str(self._pid), "--mount", "--net", "--pid", "--uts", f"--wd={self.home}"]
        return [require("nsenter"), *enter, "--", *command]

    def _environment(self) -> dict[str, str]:
        return {"PATH": f"{self.folder}/bin:{_PATH}", "HOME": str(self.home), "LANG": "C.UTF-8"}

    def _containers(self) -> str:
        """Every container with the end of its log, for the message of a failure."""
        script = 'docker ps -a; for c in $(docker ps -aq); do echo "--- $c"; docker logs --tail 20 $c; done'
        return self._call("sh", "-c", script).stdout


def until(reached: Callable[[], T | None], what: str, state: Callable[[], str] = str) -> T:
    """Call until the result is true, and return it."""
    deadline = time.monotonic() + _LIMIT_S
    while not (found := reached()):
        assert time.monotonic() < deadline, f"not in {_LIMIT_S:g} s: {what}\n{state()}"
        time.sleep(0.05)
    return found
