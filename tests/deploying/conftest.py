"""Two registries over one folder, and each of the proxies in front of them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml
from tests.clients.conftest import run  # noqa: F401  a fixture
from tests.deploying.proxies import KINDS, Proxy, adapted, running, shown
from tests.live import SECRET, Live, start_moorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def page_settings(root: Path) -> dict[str, Any]:
    """The file that docs/deploying/index.md gives to every node, over `root`, believing loopback.

    With a secret of its own: the page's is refused.
    """
    places = {
        "/var/lib/registry": str(root),
        "10.0.0.11:5000": "127.0.0.1:0",
        "[10.0.0.1]": "[127.0.0.1]",
        "a-long-random-text-the-same-on-every-node": SECRET,
    }
    settings: dict[str, Any] = yaml.safe_load(adapted(shown("index", "/etc/docker/registry/config.yml"), places))
    return settings


def start_node(folder: Path, number: int, *, http: dict[str, Any] | None = None, port: int = 0) -> Live:
    """Registry `number` of those that share `folder`/data, with a log of its own."""
    settings = page_settings(folder / "data")
    settings.pop("version")
    settings["http"] |= {"workers": 1, **(http or {}), "addr": f"127.0.0.1:{port}"}
    return start_moorage(folder / "data", config=folder / f"node{number}.yml", **settings)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module", params=KINDS)
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA
) -> Iterator[Proxy]:
    """A proxy with two nodes, shared by a module's tests: use a repository of your own."""
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        nodes = [stack.enter_context(start_node(folder, number)) for number in (1, 2)]
        yield stack.enter_context(running(request.param, folder / "proxy", nodes, authority))
