"""Real servers for tests: Moorage, and the reference it takes the place of, each a process of its own.

Both are started with a written `config.yml` on a port of the kernel's choice (`addr: 127.0.0.1:0`), which is
read back from the process's own listening socket, so two test runs never meet.  A server is ready when it
answers `/v2/`, and is always ended by its process group, workers included.

`require` decides what a missing program means: on a laptop the test is skipped with the reason; in CI
(`CI=true`, or `MOORAGE_REQUIRE_ALL=1`) it fails, so that a green run is a run of everything.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["SECRET", "Live", "NotStarted", "everything_required", "program", "require", "require_root"]
__all__ += ["start", "start_moorage", "start_reference", "start_tested", "with_customized"]

SECRET: Final = "a secret shared by both registries"
"""`http.secret` of every server started here, so that uploads continue across restarts and registries."""

ROOT: Final = Path(__file__).resolve().parent.parent
_OURS: Final = ROOT / ".tools" / "bin"
_NODE: Final = ROOT / ".tools" / "azurite" / "node_modules" / ".bin"
_START_LIMIT_S: Final = 60.0
_STOP_LIMIT_S: Final = 60.0
_LOG_LIMIT_S: Final = 60.0


class NotStarted(Exception):
    """The server ended or stayed silent; the message holds its log."""


def everything_required() -> bool:
    return os.environ.get("CI") == "true" or os.environ.get("MOORAGE_REQUIRE_ALL") == "1"


def program(name: str) -> str | None:
    """Where a test program is: `.tools/bin` (see tools/install_test_programs.py), then Debian's, then PATH."""
    for folder in (_OURS, _NODE, Path("/usr/bin"), Path("/usr/sbin")):
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    return shutil.which(name)


def require(name: str, *, optional: bool = False, how: str = "") -> str:
    """The path of a program this test cannot do without; `optional` ones may be missing in CI as well.

    `how`: what the script that installs the programs must be given for this one.
    """
    path = program(name)
    if path is not None:
        return path
    reason = f"{name} is not installed (python3 {f'tools/install_test_programs.py {how}'.strip()})"
    if everything_required() and not optional:
        pytest.fail(reason)
    pytest.skip(reason)


def with_customized(folder: Path) -> dict[str, str]:
    """The environment of a Python that imports the module sitecustomize in `folder` first."""
    found = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{found}" if found else str(folder)}


def with_constants(folder: Path, constants: Mapping[str, float]) -> dict[str, str]:
    """Write a sitecustomize to `folder`; the environment of a Python in which constants, by their names, differ.

    For times that are no settings, and that a test would otherwise wait for.  A name is that of the module that
    uses the constant: `{"moorage.server.tls.file_watch.MISMATCH_GRACE_S": 1.0}`.
    """
    lines = []
    for name, value in constants.items():
        module, _, constant = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), constant), int | float), name
        lines += [f"import {module}", f"{name} = {value!r}"]
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    return with_customized(folder)


def require_root() -> None:
    if os.geteuid() == 0:
        return
    reason = "only root can do what this test needs (mounts, strace of other processes, a Docker engine)"
    if everything_required():
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Live:
    """A running server.  `host` is `127.0.0.1:PORT`, `root` its storage, `log_path` what it wrote.

    Leaving the context stops it, or kills it when the test has failed already.
    """

    process: subprocess.Popen[bytes]
    root: Path
    log_path: Path
    port: int = 0
    _seen: set[int] = field(default_factory=set)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def workers(self) -> list[int]:
        """The processes that answer requests: those below the first one that hold the listening socket, or it."""
        below = list(_descendants(self.pid))
        self._seen.update(below)
        return [pid for pid in below if self.port in _listening_ports([pid])] or [self.pid]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self.process.returncode is None:
            self.stop()
        else:
            self.kill()

    def logs(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def logged(self, text: str) -> None:
        """Wait until a text is in the log: lines may be written after the answer that they are about."""
        deadline = time.monotonic() + _LOG_LIMIT_S
        while text not in self.logs():
            assert time.monotonic() < deadline, f"not in {_LOG_LIMIT_S:g} s: {text!r}\n{self.logs()[-4000:]}"
            time.sleep(0.02)

    def stop(self, limit_s: float = _STOP_LIMIT_S) -> int:
        """Ask it to end and wait; its exit status.  One that does not end in time is killed, and is an error."""
        self._seen.update(_descendants(self.pid))
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running {limit_s} s after SIGTERM:\n{self.logs()[-4000:]}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to every process of the server at once, as a power switch would end it.

        When this returns none of them runs, so no socket listens any more.
        """
        self._seen.update(_descendants(self.pid))
        killed = [pid for pid in self._seen if _group(pid) == self.pid]
        if killed or self.process.returncode is None:  # else the number may be another process's by now
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        for pid in self._seen:
            # A worker in a group of its own; one that is gone already is what was wanted.
            if _group(pid) not in {None, self.pid} and _parent(pid) in {1, self.pid, *self._seen}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
        self.process.wait(_STOP_LIMIT_S)
        deadline = time.monotonic() + _STOP_LIMIT_S
        while any(_runs(pid) for pid in killed):
            assert time.monotonic() < deadline, f"of {killed} some still run {_STOP_LIMIT_S} s after SIGKILL"
            time.sleep(0.005)


def start_moorage(
    root: Path,
    *,
    config: Path | None = None,
    port: int = 0,
    environment: Mapping[str, str] | None = None,
    **overrides: Any,
) -> Live:
    """Moorage over the storage in `root`; `overrides` are sections of config.yml, merged into the usual ones.

        start_moorage(tmp_path / "data", http={"workers": 3}, storage={"delete": {"enabled": False}})

    A value of None takes a key away; `environment` is added to ours.  Raises NotStarted.
    """
    settings = _merge(_usual(root, port), {"http": {"workers": 2}})
    command = [str(Path(sys.executable).with_name("moorage")), "serve"]
    return start(command, root, _merge(settings, overrides), config=config, environment=environment)


def start_reference(
    root: Path,
    *,
    config: Path | None = None,
    port: int = 0,
    program: str = "",
    environment: Mapping[str, str] | None = None,
    **overrides: Any,
) -> Live:
    """Debian's docker-registry 2.8, or another `program` of the reference, over `root`.  Raises NotStarted."""
    command = [program or require("docker-registry"), "serve"]
    settings = _merge(_usual(root, port), overrides)
    return start(command, root, settings, config=config, environment=environment)


def start_tested(root: Path, **overrides: Any) -> Live:
    """Moorage; the reference when `MOORAGE_TEST_REGISTRY=reference` asks how the same test ends there."""
    begin = start_reference if os.environ.get("MOORAGE_TEST_REGISTRY") == "reference" else start_moorage
    return begin(root, **overrides)


def start(
    command: Sequence[str],
    root: Path,
    settings: Mapping[str, Any],
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Live:
    """Run `command CONFIG` and wait until it answers."""
    path = config or root.with_name(f"{root.name}.yml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(settings)))
    log_path = path.with_suffix(".log")
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [*command, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**_environment(), **(environment or {})},
            cwd=ROOT,
        )
    live = Live(process, root, log_path)
    try:
        _wait_until_ready(live, f"{dict(settings).get('http', {}).get('prefix', '/')}v2/")
    except BaseException:
        live.kill()
        raise
    return live


def _usual(root: Path, port: int) -> dict[str, Any]:
    return {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root)}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": SECRET},
    }


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _environment() -> dict[str, str]:
    """Ours without what would configure a registry or its bucket, or send its traffic through a proxy."""
    unwanted = ("REGISTRY_", "HTTP_PROXY", "HTTPS_PROXY", "OTEL_", "AWS_")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(unwanted)}


def _wait_until_ready(live: Live, path: str) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        if live.process.poll() is not None:
            raise NotStarted(f"ended with status {live.process.returncode}:\n{live.logs()[-4000:]}")
        # One of them may be a debug listener, which has no `/v2/`.
        for port in sorted(_listening_ports([live.pid, *_descendants(live.pid)])):
            if _answers(port, path):
                live.port = port
                return
        time.sleep(0.02)
    raise NotStarted(f"no answer in {_START_LIMIT_S} s:\n{live.logs()[-4000:]}")


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        # 503: a health check of the test's may fail before we have asked.  400: the port serves HTTPS.
        return connection.getresponse().status in {200, 400, 401, 503}
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _descendants(pid: int) -> Iterator[int]:
    """Children and theirs; one that ends meanwhile is left out."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for children in list(Path(f"/proc/{pid}/task").glob("*/children")):
            found.extend(int(child) for child in children.read_text().split())
    for child in found:
        yield child
        yield from _descendants(child)


def _parent(pid: int) -> int | None:
    return _stat_field(pid, 1)


def _group(pid: int) -> int | None:
    return _stat_field(pid, 2)


def _runs(pid: int) -> bool:
    """Zombies, which have closed everything, do not count."""
    return (_stat(pid) or ["X"])[0] not in {"Z", "X"}


def _stat_field(pid: int, index: int) -> int | None:
    """One of the numbers."""
    fields = _stat(pid)
    return int(fields[index]) if fields else None


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat after the program's name, which may hold blanks, see proc(5): state, parent, group, ...

    Nothing if there is no such process.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _listening_ports(pids: Sequence[int]) -> set[int]:
    """Loopback TCP ports that these processes listen on, from the sockets they hold open."""
    held: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    held.add(str(link.readlink()))
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        address, _, port = columns[1].partition(":")
        listening = columns[3] == "0A" and address == socket.inet_aton("127.0.0.1")[::-1].hex().upper()
        if listening and f"socket:[{columns[9]}]" in held:
            ports.add(int(port, 16))
    return ports
