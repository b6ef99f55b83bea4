"""A registry over TLS that only its own name leads to, and a place to run clients where that name is known.

A name that resolves into 127.0.0.0/8 is insecure to Docker: it takes any certificate, and plain HTTP too.  So the
registry listens on `[::1]`, and `NAME` is that address, in an /etc/hosts and an /etc/docker that are mounted for
the client alone: nothing of the machine changes.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from tests.live import SECRET, Live, NotStarted, require, require_root

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NAME", "Place", "start"]

NAME: Final = "registry.test"
_START_LIMIT_S: Final = 60.0
_ROOT: Final = Path(__file__).resolve().parents[2]
_ENTER: Final = 'mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/docker" /etc/docker && exec "$@"'


class Place:
    """A folder that replaces /etc/hosts and /etc/docker for programs that are run with `prefix`."""

    def __init__(self, folder: Path) -> None:
        require_root()
        self.folder = folder
        (folder / "docker" / "certs.d").mkdir(parents=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n::1 {NAME}\n")
        Path("/etc/docker").mkdir(exist_ok=True)
        enter = ["--mount", "--propagation", "private", "sh", "-c", _ENTER]
        self.prefix = (require("unshare"), *enter, str(folder))

    def trust(self, host: str, **files: bytes) -> Path:
        """What clients look for in certs.d, `ca_crt`, `client_cert` and `client_key`; the folder."""
        folder = self.folder / "docker" / "certs.d" / host
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / name.replace("_", ".")).write_bytes(data)
        return folder


def start(root: Path, tls: Mapping[str, Any] | None) -> Live:
    """Moorage on `[::1]` with `http.tls`, None for plain HTTP; its `port` goes with `NAME`.  Raises NotStarted."""
    settings: dict[str, Any] = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root)}, "delete": {"enabled": True}},
        "http": {"addr": "[::1]:0", "workers": 2, "secret": SECRET, "draintimeout": "10s"},
    }
    if tls is not None:
        settings["http"]["tls"] = dict(tls)
    config, log_path = root.with_suffix(".yml"), root.with_suffix(".log")
    config.write_text(yaml.safe_dump(settings))
    program = Path(sys.executable).with_name("moorage")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, cwd=_ROOT,
        )  # fmt: skip
    live = Live(process, root, log_path)
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"listening on https?://\[::1\]:(\d+)", live.logs())
        if found is not None:
            live.port = int(found[1])
            return live
        time.sleep(0.02)
    live.kill()
    raise NotStarted(live.logs()[-4000:])
