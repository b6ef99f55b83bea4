"""The Docker engine, 20.10: what most pushes to a registry come from.

One engine serves the module; all its tests are one xdist group, so that they share it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Protocol

import pytest
from tests.clients.daemons import dockerd
from tests.clients.layouts import Layout, busybox_tar, tar_of
from tests.live import require

from moorage.testing.builders import DOCKER_CONFIG, DOCKER_MANIFEST
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clients.conftest import Run
    from tests.wire import Wire

pytestmark = [
    pytest.mark.client, pytest.mark.docker, pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("docker")
]  # fmt: skip


class Docker(Protocol):
    def __call__(self, *arguments: str, fails: bool = False) -> str: ...


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with dockerd() as host:
        yield host


@pytest.fixture
def docker(engine: str, run: Run) -> Docker:
    program = require("docker")

    def docker(*arguments: str, fails: bool = False) -> str:
        return run(program, *arguments, fails=fails, env={"DOCKER_HOST": engine})

    return docker


@pytest.fixture
def built(docker: Docker, reg: str, tmp_path: Path) -> str:
    """A local image that runs, named for the registry."""
    (tmp_path / "root.tar").write_bytes(busybox_tar({"hello": b"#!/bin/sh\necho hello from moorage\n"}))
    name = f"{reg}/docker/hello:1"
    docker("import", "--change", 'CMD ["/hello"]', str(tmp_path / "root.tar"), name)
    return name


def pushed_digest(output: str) -> str:
    found = re.search(r"digest: (sha256:[0-9a-f]{64})", output)
    assert found is not None, output
    return found[1]


def test_a_pushed_image_is_pulled_back_and_runs(docker: Docker, built: str, wire: Wire) -> None:
    """The first operation of every new user."""
    digest = pushed_digest(docker("push", built))
    assert wire.manifest("docker/hello", "1").headers["docker-content-digest"] == digest

    docker("rmi", "-f", built)
    pulled = docker("pull", built)
    assert digest in pulled
    assert "hello from moorage" in docker("run", "--rm", "--network", "none", built)

    docker("rmi", "-f", built)
    by_digest = f"{built.removesuffix(':1')}@{digest}"
    docker("pull", by_digest)
    assert "hello from moorage" in docker("run", "--rm", "--network", "none", by_digest)
    docker("rmi", "-f", by_digest)


def test_a_second_push_moves_nothing_and_a_second_tag_only_its_manifest(
    docker: Docker, built: str, wire: Wire
) -> None:
    """Layers that are there already are never sent again, else CI pays for every build."""
    first = pushed_digest(docker("push", built))
    again = docker("push", built)
    assert "Layer already exists" in again
    assert pushed_digest(again) == first

    other = f"{built.removesuffix(':1')}:latest"
    docker("tag", built, other)
    assert pushed_digest(docker("push", other)) == first
    assert {"1", "latest"} <= set(wire.tags("docker/hello"))


def test_a_layer_known_in_another_repository_is_mounted(docker: Docker, built: str, wire: Wire) -> None:
    """The base image's layers are shared by all repositories of a team."""
    docker("push", built)
    other = built.replace("docker/hello", "docker/team/other")
    docker("tag", built, other)
    assert "Mounted from docker/hello" in docker("push", other)
    docker("rmi", "-f", built, other)
    docker("pull", other)
    assert "hello from moorage" in docker("run", "--rm", "--network", "none", other)


def test_a_tag_that_moved_is_pulled_anew(docker: Docker, built: str, reg: str, tmp_path: Path) -> None:
    """`:latest` must be what was pushed last."""
    docker("push", built)
    docker("rmi", "-f", built)
    (tmp_path / "new.tar").write_bytes(busybox_tar({"hello": b"#!/bin/sh\necho the new one\n"}))
    docker("import", "--change", 'CMD ["/hello"]', str(tmp_path / "new.tar"), built)
    moved = pushed_digest(docker("push", built))
    docker("rmi", "-f", built)
    assert moved in docker("pull", built)
    assert "the new one" in docker("run", "--rm", "--network", "none", built)


def test_the_engine_pulls_its_platform_out_of_an_oci_index(
    docker: Docker, reg: str, run: Run, tmp_path: Path
) -> None:
    """What other tools build for several platforms is what Docker hosts run."""
    layout = Layout(tmp_path / "layout")
    ours = layout.image([busybox_tar(), tar_of({"extra": b"x" * 100_000})], Cmd=["/bin/echo", "from an index"])
    index = layout.tag("v1", layout.index([ours, layout.image([tar_of({"a": b"a"})], architecture="s390x")]))
    name = f"{reg}/docker/multi:v1"
    run(require("skopeo"), "copy", "--all", "--dest-tls-verify=false", f"oci:{layout.path}:v1", f"docker://{name}")
    assert index["digest"] in docker("pull", name)
    assert "from an index" in docker("run", "--rm", "--network", "none", name)


def test_a_manifest_list_is_made_and_read(docker: Docker, built: str, wire: Wire) -> None:
    """`docker manifest` is how older pipelines join platforms."""
    docker("push", built)
    name = f"{built.removesuffix(':1')}:list"
    docker("manifest", "create", "--insecure", name, built)
    docker("manifest", "push", "--insecure", name)
    assert '"manifests"' in docker("manifest", "inspect", "--insecure", name)
    docker("pull", name)


@pytest.mark.parametrize("docker_types", [False, True], ids=["oci", "docker"])
def test_layers_that_must_not_be_distributed_are_stored_when_they_are_pushed(
    docker: Docker, reg: str, run: Run, wire: Wire, tmp_path: Path, docker_types: bool
) -> None:
    """The engine runs with `allow-nondistributable-artifacts`.

    Only engines on Windows know such layers, and push them with that setting as any other, so the layer is pushed
    by hand.  Without it nothing can be pulled, since the URL leads nowhere.
    """
    layout = Layout(tmp_path / "layout")
    tars = [busybox_tar({"hello": b"#!/bin/sh\necho hello from windows\n"})]
    document = json.loads(layout.read(layout.image(tars, Cmd=["/hello"])["digest"]))
    [layer] = document["layers"]
    layer["urls"] = ["https://layers.invalid/layer"]
    layer["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    if docker_types:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        document["mediaType"] = DOCKER_MANIFEST
        document["config"]["mediaType"] = DOCKER_CONFIG
    data = json.dumps(document).encode()
    repository = f"docker/windows-{docker_types}".lower()
    wire.push_blob(
        repository, layout.read(document["config"]["digest"]), Digest.parse(document["config"]["digest"])
    )
    assert wire.put_manifest(repository, "v1", data, document["mediaType"]).status == 201
    assert wire.blob(repository, Digest.parse(layer["digest"]), "HEAD").status == 404
    name = f"{reg}/{repository}:v1"
    docker("pull", name, fails=True)

    wire.push_blob(repository, layout.read(layer["digest"]), Digest.parse(layer["digest"]))
    assert str(Digest.of(data)) in docker("pull", name)
    assert "hello from windows" in docker("run", "--rm", "--network", "none", name)
    other = f"{reg}/docker/windows/copy:v1"
    docker("tag", name, other)
    assert pushed_digest(docker("push", other))
    docker("rmi", "-f", name, other)
    docker("pull", other)
    assert "hello from windows" in docker("run", "--rm", "--network", "none", other)
    docker("rmi", "-f", other)


def test_an_unknown_image_is_said_to_be_unknown(docker: Docker, reg: str) -> None:
    """A typing error reads as one, not as a broken registry."""
    assert "not found" in docker("pull", f"{reg}/docker/never:pushed", fails=True)
