"""containerd by `ctr`: the pull of every Kubernetes node, and the push of nerdctl and BuildKit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest
from tests.clients.daemons import containerd
from tests.clients.layouts import Layout, busybox_tar, tar_of
from tests.live import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clients.conftest import Run
    from tests.wire import Wire

pytestmark = [
    pytest.mark.client, pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("containerd")
]  # fmt: skip


class Ctr(Protocol):
    def __call__(self, *arguments: str, fails: bool = False) -> str: ...


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    with containerd() as path:
        yield path


@pytest.fixture
def ctr(socket: str, run: Run) -> Ctr:
    program = require("ctr")

    def ctr(*arguments: str, fails: bool = False) -> str:
        return run(program, "-a", socket, *arguments, fails=fails)

    return ctr


def test_an_index_is_pulled_whole_and_pushed_elsewhere(
    ctr: Ctr, run: Run, reg: str, wire: Wire, tmp_path: Path
) -> None:
    """Containerd sends each layer in one PUT, and reads the index by its digest: both must survive the trip."""
    layout = Layout(tmp_path / "layout")
    images = [layout.image([tar_of({"arch": a.encode() * 9000})], architecture=a) for a in ("amd64", "arm64")]
    layout.tag("v1", layout.index(images))
    first, second = f"{reg}/ctr/multi:v1", f"{reg}/ctr/second:v1"
    run(
        require("skopeo"), "copy", "--all", "--dest-tls-verify=false", f"oci:{layout.path}:v1", f"docker://{first}"
    )

    ctr("images", "pull", "--plain-http", "--all-platforms", first)
    ctr("images", "tag", first, second)
    ctr("images", "push", "--plain-http", second)
    assert wire.manifest("ctr/second", "v1").body == wire.manifest("ctr/multi", "v1").body
    for image in images:
        assert wire.manifest("ctr/second", image["digest"]).body == layout.read(image["digest"])

    # Layers of its own making, not known here: the whole body in one PUT.
    third = Layout(tmp_path / "third")
    third.tag("v1", third.image([tar_of({"only": b"here" * 100_000})]))
    run(require("skopeo"), "copy", f"oci:{third.path}:v1", f"oci-archive:{tmp_path}/third.tar:v1")
    ctr("images", "import", "--index-name", f"{reg}/ctr/third:v1", f"{tmp_path}/third.tar")
    ctr("images", "push", "--plain-http", f"{reg}/ctr/third:v1")
    assert wire.manifest("ctr/third", "v1").status == 200


def test_a_pulled_image_runs(ctr: Ctr, run: Run, reg: str, tmp_path: Path) -> None:
    """Unpacking checks every layer against its diff id."""
    layout = Layout(tmp_path / "layout")
    layout.tag("v1", layout.image([busybox_tar()], Cmd=["/bin/echo", "hello from containerd"]))
    name = f"{reg}/ctr/hello:v1"
    run(require("skopeo"), "copy", "--dest-tls-verify=false", f"oci:{layout.path}:v1", f"docker://{name}")
    ctr("images", "pull", "--plain-http", name)
    assert "hello from containerd" in ctr("run", "--rm", "--net-host", name, "moorage-hello")
