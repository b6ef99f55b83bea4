"""A registry on a Unix socket, behind a proxy on the same machine."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import yaml
from tests.deploying.conftest import page_settings
from tests.deploying.proxies import running
from tests.server.serving import until

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme

pytestmark = [pytest.mark.slow, pytest.mark.proxy]

CLIENT: Final = "127.0.0.78"

SPELT: Final = {
    "nginx": "unix:{}",
    "haproxy": "unix@{}",
    "apache": "unix:{}|http://node",
}
"""The lines of docs/deploying/index.md, "By a Unix socket"; Apache's has the scheme of the page's line in it."""


@dataclass
class OnSocket:
    """A registry, as `running` wants to know it."""

    host: str
    root: Path
    log_path: Path

    def logs(self) -> str:
        return self.log_path.read_text()


@contextmanager
def served(folder: Path, kind: str) -> Iterator[OnSocket]:
    """Moorage on a socket that every user may write to; a short path, as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="moorage-") as short:
        Path(short).chmod(0o755)
        path = Path(short) / "registry.sock"
        settings = page_settings(folder / "data")
        settings["http"] |= {"net": "unix", "addr": str(path), "trustedproxies": ["unix"], "workers": 2}
        (folder / "config.yml").write_text(yaml.safe_dump(settings))
        command = [str(Path(sys.executable).with_name("moorage")), "serve", str(folder / "config.yml")]
        with (folder / "node.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, umask=0
            )
        node = OnSocket(SPELT[kind].format(path), folder / "data", folder / "node.log")
        try:
            until(lambda: path.exists() or process.poll() is not None, "the socket", node.logs)
            yield node
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.parametrize("kind", SPELT)
def test_a_registry_on_a_socket_knows_its_clients(kind: str, tmp_path: Path, authority: trustme.CA) -> None:
    """A Unix socket has no client address; that of the proxy's header is used because the proxy is `unix`."""
    layer = b"x" * 300_000
    changes = {"http://10.0.0.11:5000": "10.0.0.11:5000", "http://10.0.0.12:5000": "10.0.0.12:5000"}
    with (
        served(tmp_path, kind) as node,
        running(kind, tmp_path / "proxy", [node, node], authority, changes if kind == "apache" else {}) as proxy,
        proxy.client(address=CLIENT) as client,
    ):
        begun = client.post("/v2/socket/blobs/uploads/", headers={"x-forwarded-for": "6.6.6.6"})
        location = begun.headers["location"]
        assert location.startswith(f"{proxy.url}/")
        done = client.put(f"{location}&digest={Digest.of(layer)}", content=layer)
        assert done.status_code == 201, done.text
        assert client.get(done.headers["location"]).content == layer
        # A line is written after its answer.
        until(lambda: node.logs().count("/v2/socket/") >= 3, "three lines in the access log", node.logs)
        seen = [line for line in node.logs().splitlines() if "/v2/socket/" in line]
    assert len(seen) == 3
    assert all(line.startswith(f"{CLIENT} - - ") for line in seen), seen
