"""What users of real clients see when a quota is full, and that clients do not try again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from tests.clients.daemons import dockerd
from tests.clients.layouts import Layout, tar_of
from tests.live import Live, require, start_moorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clients.conftest import Run

pytestmark = [pytest.mark.client, pytest.mark.slow]

MESSAGE = "quota exceeded: team-a uses"
RULES = [{"repositories": "team-a", "bytes": "100KiB"}, {"repositories": "team-b", "tags": 1}]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One process: two count what the other one has stored two seconds late, and a client may reach both."""
    root = tmp_path_factory.mktemp("clients") / "data"
    log = {"accesslog": {"disabled": False}}
    with start_moorage(root, quota={"rules": RULES}, log=log, http={"workers": 1}) as live:
        yield live


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """`small` and `large`: 10 KB and 500 KB."""
    layout = Layout(tmp_path / "layout")
    layout.tag("small", layout.image([tar_of({"a": b"a" * 10})]))
    layout.tag("large", layout.image([tar_of({"b": random.Random(1).randbytes(500_000)})]))
    return layout


def test_skopeo(layout: Layout, reg: str, run: Run) -> None:
    """Its library is that of podman, buildah and CRI-O."""
    skopeo = require("skopeo")
    plain = ("copy", "--dest-tls-verify=false")
    run(skopeo, *plain, f"oci:{layout.path}:small", f"docker://{reg}/team-a/app:v1")
    said = run(skopeo, *plain, f"oci:{layout.path}:large", f"docker://{reg}/team-a/app:v2", fails=True)
    assert MESSAGE in said
    assert "of 100 KiB" in said
    assert "denied" in said
    run(skopeo, *plain, f"oci:{layout.path}:small", f"docker://{reg}/team-a/app:v3")


def test_skopeo_and_a_limit_of_tags(layout: Layout, reg: str, run: Run) -> None:
    """The layers are there already; only the manifest is refused."""
    skopeo = require("skopeo")
    plain = ("copy", "--dest-tls-verify=false", f"oci:{layout.path}:small")
    run(skopeo, *plain, f"docker://{reg}/team-b/app:v1")
    run(skopeo, *plain, f"docker://{reg}/team-b/app:v1")
    assert "quota exceeded: team-b has 1 of 1 tags" in run(
        skopeo, *plain, f"docker://{reg}/team-b/app:v2", fails=True
    )


def test_crane(layout: Layout, reg: str, run: Run) -> None:
    """Crane sends each layer by one PATCH of unknown length."""
    crane = require("crane")
    one = layout.path.parent / "large.tar"
    run(require("skopeo"), "copy", f"oci:{layout.path}:large", f"docker-archive:{one}:x:y")
    said = run(crane, "push", "--insecure", one, f"{reg}/team-a/app:v2", fails=True)
    assert MESSAGE in said


@pytest.mark.docker
@pytest.mark.root
@pytest.mark.xdist_group("docker")
def test_docker(reg: str, run: Run, registry: Live, tmp_path: Path) -> None:
    """Docker sends layers in one PATCH of unknown length, and repeats what it does not know to be final."""
    program = require("docker")
    (tmp_path / "root.tar").write_bytes(tar_of({"b": random.Random(2).randbytes(500_000)}))
    with dockerd() as host:

        def docker(*arguments: str, fails: bool = False) -> str:
            return run(program, *arguments, fails=fails, env={"DOCKER_HOST": host})

        name = f"{reg}/team-a/docker:1"
        docker("import", str(tmp_path / "root.tar"), name)
        said = docker("push", name, fails=True)
    assert MESSAGE in said
    assert "denied" in said
    started = registry.logs().count("POST /v2/team-a/docker/blobs/uploads/")
    assert started == 1, "it has tried again"
