"""Proxies as the pages of docs/deploying configure them, with two registries behind them.

What a page shows is what runs: `shown` takes the block out of the page, `adapted` puts the addresses, names and
files of the test in the place of the page's (each of which must be there), and the functions below start nginx,
HAProxy or Apache with it, on a port of the kernel's choice and with all their files in a folder.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import httpx
import pytest
from tests import reverse_proxies
from tests.live import Live, program, require

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping, Sequence

    import trustme
__all__ = ["KINDS", "NAME", "Node", "Proxy", "adapted", "running", "shown"]

PAGES: Final = Path(__file__).resolve().parents[2] / "docs" / "deploying"
NAME: Final = "registry.example.com"
KINDS: Final = (
    "nginx",
    "haproxy",
    "apache",
    pytest.param(
        "traefik",
        marks=pytest.mark.skipif(
            program("traefik") is None,
            reason="traefik is in no package of Debian's: tested where it is on the PATH",
        ),
    ),
)

_LARGE_BYTES: Final = 128 << 10


class Node(Protocol):
    """A registry behind the proxy; `host` is what the proxy calls it."""

    @property
    def host(self) -> str: ...
    @property
    def root(self) -> Path: ...
    def logs(self) -> str: ...


@dataclass
class Proxy:
    """A running proxy.  `outer` is what clients call the registry, `host:port`."""

    kind: str
    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    authority: trustme.CA
    nodes: Sequence[Node]
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        self.context = ssl.create_default_context()
        self.authority.configure_trust(self.context)

    @property
    def outer(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.outer}"

    def live(self, index: int) -> Live:
        """A node of which the test wants more than what a proxy knows."""
        node = self.nodes[index]
        assert isinstance(node, Live)
        return node

    def client(self, *, http2: bool = False, address: str = "127.0.0.1") -> httpx.Client:
        """Speaks HTTP/2 or HTTP/1.1 from `address`, which may be any of this machine's 127.0.0.0/8."""
        transport = httpx.HTTPTransport(
            verify=self.context, http1=not http2, http2=http2, local_address=address, trust_env=False
        )
        return httpx.Client(transport=transport, base_url=self.url, timeout=60)

    def files_written(self) -> list[str]:
        """Files that the proxy has filled with more than a buffer: those it holds open, and those below `tmp`."""
        found = [path for path in (self.folder / "tmp").rglob("*") if path.is_file()]
        for pid in _with_children(self.process.pid):
            with contextlib.suppress(OSError):
                found += list(Path(f"/proc/{pid}/fd").iterdir())
        return [name for path in found if (name := _large(path))]

    def logs(self) -> str:
        return reverse_proxies.logs(self.folder)


def shown(page: str, caption: str) -> str:
    """The block with that caption on a page of docs/deploying."""
    text = (PAGES / f"{page}.md").read_text()
    found = re.findall(rf"```{{code-block}} \w+\n:caption: {re.escape(caption)}\n\n(.*?)```", text, re.DOTALL)
    assert len(found) == 1, f"docs/deploying/{page}.md has {len(found)} blocks {caption}"
    return str(found[0])


def adapted(text: str, places: Mapping[str, str]) -> str:
    """With the test's names; one that the page does not have would be a test of something else."""
    for theirs, ours in places.items():
        assert theirs in text, f"{theirs} is not in the page's block"
        text = text.replace(theirs, ours)
    return text


@contextlib.contextmanager
def running(
    kind: str,
    folder: Path,
    nodes: Sequence[Node],
    authority: trustme.CA,
    changes: Mapping[str, str] | None = None,
    *,
    path: str = "/v2/",
) -> Iterator[Proxy]:
    """The proxy of a page in front of two `nodes`; `changes` are those that the page names for a case.

    It is up when it answers `path`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    certificate = authority.issue_cert(NAME, "127.0.0.1", "localhost")
    chain = [blob.bytes() for blob in certificate.cert_chain_pems]
    (folder / "fullchain.pem").write_bytes(b"".join(chain))
    (folder / "privkey.pem").write_bytes(certificate.private_key_pem.bytes())
    (folder / "both.pem").write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
    make = {"nginx": _nginx, "haproxy": _haproxy, "apache": _apache, "traefik": _traefik}[kind]
    with reverse_proxies.started(
        folder,
        lambda port: make(folder, port, nodes, changes or {}),
        lambda process, port: Proxy(kind, process, folder, port, authority, nodes),
        lambda proxy: _answers(proxy, path),
    ) as proxy:
        yield proxy


def _places(folder: Path, nodes: Sequence[Node], changes: Mapping[str, str]) -> dict[str, str]:
    return {**changes, "10.0.0.11:5000": nodes[0].host, "10.0.0.12:5000": nodes[1].host}


def _nginx(folder: Path, port: int, nodes: Sequence[Node], changes: Mapping[str, str]) -> list[str]:
    site = adapted(
        shown("nginx", "/etc/nginx/conf.d/registry.conf"),
        {
            **_places(folder, nodes, changes),
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/etc/ssl/registry": str(folder),
        },
    )
    return reverse_proxies.nginx(folder, site)


def _haproxy(folder: Path, port: int, nodes: Sequence[Node], changes: Mapping[str, str]) -> list[str]:
    text = adapted(
        shown("haproxy", "/etc/haproxy/haproxy.cfg"),
        {
            **_places(folder, nodes, changes),
            "bind :443": f"bind 127.0.0.1:{port}",
            "/run/haproxy/admin.sock": f"{folder}/run/admin.sock",
            "/etc/ssl/registry": str(folder),
        },
    )
    return reverse_proxies.haproxy(folder, text)


_APACHE_BASE: Final = ("mpm_event", "authz_core", "reqtimeout", "env")
"""What Debian has switched on already."""
_APACHE_NEEDS: Final = {"ssl": ("socache_shmcb",), "proxy_balancer": ("slotmem_shm",)}
"""What a2enmod switches on besides."""


def _apache(folder: Path, port: int, nodes: Sequence[Node], changes: Mapping[str, str]) -> list[str]:
    page = (PAGES / "apache.md").read_text()
    requested = re.search(r"^a2enmod (.*)$", page, re.MULTILINE)
    assert requested is not None
    modules = list(_APACHE_BASE)
    for module in requested[1].split():
        modules += [*_APACHE_NEEDS.get(module, ()), module]
    site = adapted(
        shown("apache", "/etc/apache2/sites-available/registry.conf"),
        {
            **_places(folder, nodes, changes),
            "<VirtualHost *:443>": f"<VirtualHost 127.0.0.1:{port}>",
            "/etc/ssl/registry": str(folder),
        },
    )
    timeouts = (
        "<IfModule reqtimeout_module>\n    RequestReadTimeout header=20-40,minrate=500\n"
        "    RequestReadTimeout body=10,minrate=500\n</IfModule>\n"
    )
    return reverse_proxies.apache(folder, port, modules, timeouts + site)


def _traefik(folder: Path, port: int, nodes: Sequence[Node], changes: Mapping[str, str]) -> list[str]:
    fixed = {'":443"': f"127.0.0.1:{port}", "/etc/traefik": str(folder)}
    (folder / "traefik.yml").write_text(adapted(shown("traefik", "/etc/traefik/traefik.yml"), fixed))
    text = adapted(
        shown("traefik", "/etc/traefik/registry.yml"),
        {**_places(folder, nodes, changes), "/etc/ssl/registry": str(folder)},
    ).replace("`registry.example.com`", "`127.0.0.1`")
    (folder / "registry.yml").write_text(text)
    return [require("traefik"), f"--configfile={folder}/traefik.yml"]


def _answers(proxy: Proxy, path: str) -> bool:
    """Return whether it answers for both registries."""
    with contextlib.suppress(httpx.TransportError), proxy.client() as client:
        return all(client.get(path).status_code in {200, 401} for _ in range(4))
    return False


def _with_children(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += _with_children(int(child))
    return found


def _large(path: Path) -> str:
    """The file's name if it is one with content, "" for sockets, pipes, logs, and what is gone."""
    with contextlib.suppress(OSError):
        about = path.stat()
        name = str(path.readlink()) if path.is_symlink() else str(path)
        if stat.S_ISREG(about.st_mode) and about.st_size >= _LARGE_BYTES and not name.endswith(".log"):
            return f"{name} of {about.st_size} bytes"
    return ""
