"""A value in a file is read again at SIGHUP, and a file that is gone leaves the old value in force."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.server.serving import serving

if TYPE_CHECKING:
    from pathlib import Path


def test_a_reload_reads_the_files_again(tmp_path: Path) -> None:
    """A rotated secret: the variable stays, the content of the file is another."""
    secret = tmp_path / "workers"
    secret.write_text("1\n")
    with serving(tmp_path / "home", env={"REGISTRY_HTTP_WORKERS_FILE": str(secret)}) as served:
        served.logged("workers=1")
        secret.write_text("4\n")
        served.signal(signal.SIGHUP)
        served.logged("http.workers has changed: restart the registry to apply it")
        served.logged("reloaded")
        secret.unlink()
        served.signal(signal.SIGHUP)
        served.logged(f"REGISTRY_HTTP_WORKERS_FILE: http.workers: there is no file {secret}")
        assert served.get()[0] == 200
        assert served.stop() == 0
