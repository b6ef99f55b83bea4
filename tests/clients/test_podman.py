"""podman and buildah: build, push, pull and run without a daemon."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from tests.clients.layouts import Layout, busybox_tar, tar_of
from tests.live import require, require_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.conftest import Run
    from tests.wire import Wire

pytestmark = [pytest.mark.client, pytest.mark.root, pytest.mark.slow]


class Command(Protocol):
    def __call__(self, *arguments: str | Path, fails: bool = False) -> str: ...


@pytest.fixture
def stores() -> Iterator[Path]:
    """Container storage with a short path; what the tools left mounted in it is unmounted."""
    require_root()
    folder = Path(tempfile.mkdtemp(prefix="moorage-"))
    yield folder
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        point = line.split()[1]
        if point.startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", point], check=False)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def podman(stores: Path, run: Run, reg: str) -> Command:
    program = require("podman")
    registries = stores / "registries.conf"
    registries.write_text(f'[[registry]]\nlocation = "{reg}"\ninsecure = true\n')
    flags = (
        "--root", stores / "root", "--runroot", stores / "run", "--storage-driver", "overlay",
        "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", require("runc"),
    )  # fmt: skip

    def podman(*arguments: str | Path, fails: bool = False) -> str:
        environment = {"CONTAINERS_REGISTRIES_CONF": str(registries)}
        return run(program, *flags, *arguments, fails=fails, env=environment)

    return podman


@pytest.fixture
def buildah(stores: Path, run: Run) -> Command:
    program = require("buildah")
    flags = ("--root", stores / "b", "--runroot", stores / "br", "--storage-driver", "overlay")

    def buildah(*arguments: str | Path, fails: bool = False) -> str:
        return run(program, *flags, *arguments, fails=fails)

    return buildah


def test_podman_pulls_an_image_and_runs_it(podman: Command, run: Run, reg: str, tmp_path: Path) -> None:
    """The daemonless engine of Red Hat's world, with the same library as CRI-O."""
    layout = Layout(tmp_path / "layout")
    layout.tag("v1", layout.image([busybox_tar()], Cmd=["/bin/echo", "hello from podman"]))
    name = f"{reg}/podman/hello:v1"
    run(require("skopeo"), "copy", "--dest-tls-verify=false", f"oci:{layout.path}:v1", f"docker://{name}")
    podman("pull", name)
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
    assert "hello from podman" in podman("run", "--rm", "--network", "host", *limits, name)
    podman("rmi", name)
    assert "v1" in podman("search", "--list-tags", f"{reg}/podman/hello")


def test_podman_pushes_zstd_layers_and_a_manifest_list(
    podman: Command, run: Run, reg: str, wire: Wire, tmp_path: Path
) -> None:
    """Zstd layers and lists carry media types that a stricter registry refused."""
    layout = Layout(tmp_path / "layout")
    layout.tag("v1", layout.image([tar_of({"data": bytes(range(256)) * 2000})]))
    podman("load", "-i", _as_archive(run, layout, tmp_path))
    (image,) = json.loads(podman("images", "--format", "json"))
    podman("push", "--format", "oci", "--compression-format", "zstd", image["Id"], f"{reg}/podman/zstd:v1")
    manifest = wire.manifest("podman/zstd", "v1").json()
    assert manifest["layers"][0]["mediaType"].endswith("+zstd")

    podman("manifest", "create", "joined")
    podman("manifest", "add", "joined", f"docker://{reg}/podman/zstd:v1")
    podman("manifest", "push", "--all", "joined", f"docker://{reg}/podman/zstd:list")
    assert len(wire.manifest("podman/zstd", "list").json()["manifests"]) == 1
    podman("rmi", "-f", image["Id"])
    podman("pull", f"{reg}/podman/zstd:v1")


def _as_archive(run: Run, layout: Layout, folder: Path) -> Path:
    archive = folder / "image.tar"
    run(require("skopeo"), "copy", f"oci:{layout.path}:v1", f"oci-archive:{archive}:v1")
    return archive


def test_buildah_builds_pushes_and_starts_from_what_it_pushed(
    buildah: Command, reg: str, wire: Wire, tmp_path: Path
) -> None:
    """A pipeline that builds on its own earlier image."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "hello").write_text("built by buildah")
    container = buildah("from", "scratch").strip()
    buildah("copy", container, context, "/")
    buildah("config", "--cmd", "/hello", container)
    buildah("commit", container, "built")
    buildah("push", "--tls-verify=false", "built", f"docker://{reg}/buildah/built:1")
    pushed = wire.manifest("buildah/built", "1")
    assert pushed.status == 200

    buildah("rmi", "-a", "-f")
    again = buildah("from", "--tls-verify=false", f"docker://{reg}/buildah/built:1").strip().splitlines()[-1]
    buildah("copy", again, context, "/second")
    buildah("commit", again, "second")
    buildah("push", "--tls-verify=false", "second", f"docker://{reg}/buildah/built:2")
    layers = wire.manifest("buildah/built", "2").json()["layers"]
    assert layers[0] == pushed.json()["layers"][0]
    assert len(layers) == 2
