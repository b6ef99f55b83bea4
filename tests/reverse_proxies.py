"""nginx, HAProxy and Apache httpd as test programs: commands with all files in one folder, start and stop.

`tests/deploying/proxies.py` runs them with the configurations of the documentation, `tests/server/http1/fronts.py`
with minimal ones.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Final, TypeVar

from tests.live import require
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["apache", "haproxy", "logs", "nginx", "started"]

_START_LIMIT_S: Final = 60.0
_STOP_LIMIT_S: Final = 60.0
_PORT_ATTEMPTS: Final = 5

_Proxy = TypeVar("_Proxy")


def nginx(folder: Path, site: str, *, workers: int = 2) -> list[str]:
    """Return the command of nginx; `site` is the content of the block `http`."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"    {kind}_temp_path {folder}/tmp/{kind};" for kind in kinds)
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(
        f"user {_this_user()};\nworker_processes {workers};\npid {folder}/run/pid;\n"
        f"error_log {folder}/error.log;\nevents {{ worker_connections 512; }}\n"
        f"http {{\n    access_log off;\n{temporary}\n"
        f"    include {folder}/site.conf;\n}}\n"
    )
    command = [require("nginx"), "-p", str(folder), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
    return [*command, "-g", "daemon off;"]


def haproxy(folder: Path, text: str) -> list[str]:
    """Return the command of HAProxy with a whole configuration."""
    (folder / "haproxy.cfg").write_text(text)
    return [require("haproxy"), "-db", "-f", f"{folder}/haproxy.cfg"]


def apache(folder: Path, port: int, modules: Sequence[str], site: str) -> list[str]:
    """Return the command of Apache with `site` behind a base configuration that listens on `port`."""
    # proxy needs to be there before what builds on it.
    ordered = sorted(modules, key=lambda name: (name.startswith(("proxy_", "lbmethod_")), name != "proxy"))
    loads = [f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in ordered]
    user = "User www-data\nGroup www-data\n" if os.geteuid() == 0 else ""
    if os.geteuid() == 0:
        for path in (folder, folder / "tmp", folder / "run"):
            os.chown(path, pwd.getpwnam("www-data").pw_uid, -1)
    (folder / "apache.conf").write_text(
        "\n".join(loads)
        + f"\nServerRoot {folder}\nServerName registry.example.com\nPidFile run/pid\nErrorLog {folder}/error.log\n"
        f"DefaultRuntimeDir {folder}/run\nMutex file:{folder}/run\n{user}Listen 127.0.0.1:{port}\n"
        f"LogLevel warn\n<Directory />\n    Require all denied\n</Directory>\n{site}"
    )
    return ["env", f"TMPDIR={folder}/tmp", require("apache2"), "-f", f"{folder}/apache.conf", "-DFOREGROUND"]


@contextlib.contextmanager
def started(
    folder: Path,
    command: Callable[[int], list[str]],
    proxy: Callable[[subprocess.Popen[bytes], int], _Proxy],
    answers: Callable[[_Proxy], bool],
) -> Iterator[_Proxy]:
    """Run `command(port)` in `folder` until the end of the block; yield `proxy(process, port)` once it answers."""
    for part in ("tmp", "run"):
        (folder / part).mkdir(parents=True)
    for _ in range(_PORT_ATTEMPTS):
        port = free_port()
        arguments = command(port)
        with (folder / "output.log").open("wb") as log:
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            built = proxy(process, port)
            if _comes_up(process, built, answers):
                yield built
                return
        finally:
            _stop(process)
        if "in use" not in logs(folder):
            break
    raise AssertionError(f"{arguments} does not start:\n{logs(folder)[-4000:]}")


def logs(folder: Path) -> str:
    """Return the content of all logs of a proxy."""
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.log")))


def _this_user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _comes_up(process: subprocess.Popen[bytes], proxy: _Proxy, answers: Callable[[_Proxy], bool]) -> bool:
    """Return whether it answers before it ends or the time is over."""
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if answers(proxy):
            return True
        time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM: nginx and Apache end their children, HAProxy itself."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
