"""Real clients through each proxy: images of several platforms, and a Docker engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.clients.daemons import dockerd
from tests.clients.layouts import Layout, busybox_tar, tar_of
from tests.deploying.test_proxies import lines
from tests.live import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clients.conftest import Run
    from tests.deploying.proxies import Proxy
    from tests.live import Live

pytestmark = [pytest.mark.slow, pytest.mark.proxy, pytest.mark.client]


@pytest.fixture
def registry(proxy: Proxy) -> Live:
    """Whose log is shown when a client fails."""
    return proxy.live(0)


def test_an_image_of_several_platforms_goes_there_and_back(proxy: Proxy, tmp_path: Path, run: Run) -> None:
    skopeo = require("skopeo")
    (tmp_path / "ca").mkdir()
    proxy.authority.cert_pem.write_to_path(str(tmp_path / "ca" / "ca.crt"))
    layout = Layout(tmp_path / "layout")
    images = [
        layout.image([tar_of({"a": a.encode() * 50_000})], architecture=a) for a in ("amd64", "arm64", "arm")
    ]
    layout.tag("v1", layout.index(images))
    there = f"docker://{proxy.outer}/multi/image:v1"
    run(skopeo, "copy", "--all", "--dest-cert-dir", tmp_path / "ca", f"oci:{layout.path}:v1", there)
    run(skopeo, "copy", "--all", "--src-cert-dir", tmp_path / "ca", there, f"oci:{tmp_path / 'back'}:v1")
    sent = {path.name for path in (layout.path / "blobs" / "sha256").iterdir()}
    assert {path.name for path in (tmp_path / "back" / "blobs" / "sha256").iterdir()} == sent
    both = lines(proxy, "/v2/multi/image/", 10)
    assert min(map(len, both)) >= 5, both


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with dockerd() as host:
        yield host


@pytest.mark.docker
@pytest.mark.root
@pytest.mark.xdist_group("docker")
def test_docker_pushes_and_pulls(proxy: Proxy, engine: str, tmp_path: Path, run: Run) -> None:
    """Layers are sent in one chunked PATCH each, without an announced length."""
    docker, environment = require("docker"), {"DOCKER_HOST": engine}
    (tmp_path / "root.tar").write_bytes(busybox_tar({"big": bytes(3_000_000)}))
    name = f"{proxy.outer}/docker/hello:1"
    run(docker, "import", "--change", 'CMD ["/bin/true"]', tmp_path / "root.tar", name, env=environment)
    pushed = run(docker, "push", name, env=environment)
    assert "digest: sha256:" in pushed
    run(docker, "rmi", name, env=environment)
    assert "Downloaded newer image" in run(docker, "pull", name, env=environment)
    both = lines(proxy, "/v2/docker/hello/", 6)
    assert min(map(len, both)) >= 3, both
    assert any('"PATCH /v2/docker/hello/blobs/uploads/' in line for node in both for line in node)
