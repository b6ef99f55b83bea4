"""One machine with an engine and the image, shared by the tests of the guide.

Each test begins without containers, volumes and files of the one before, also if that failed.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest
from tests.clients.layouts import busybox_tar
from tests.guide import pages
from tests.guide.machine import HUB, NAME, Machine
from tests.guide.pages import Steps
from tests.image.build import image
from tests.server import certs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CLEAN: Final = """
docker swarm leave --force > /dev/null 2>&1 || :
docker ps -a --format '{{.Names}}' | grep -v '^hub$' | xargs -r docker rm -f -v > /dev/null
docker volume ls -q | xargs -r docker volume rm > /dev/null
docker image remove ubuntu:24.04 localhost:5000/my-ubuntu registry.example.com/my-ubuntu > /dev/null 2>&1 || :
rm -rf /mnt/registry /etc/docker/certs.d /etc/docker/daemon.json ~/.docker/config.json
"""


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with Docker, the image `moorage`, and a stand-in for Docker Hub that has `ubuntu:24.04`."""
    with prepared() as machine:
        hub(machine, tmp_path_factory.mktemp("hub"))
        yield machine


@pytest.fixture(scope="session")
def other() -> Iterator[Machine]:
    """A machine with a newer engine and the image."""
    with prepared("26") as machine:
        assert "26." in machine.run("docker version --format '{{.Server.Version}}'")
        yield machine


@contextmanager
def prepared(version: str = "") -> Iterator[Machine]:
    with Machine(version) as machine:
        machine.run("engine start")
        machine.run(f"docker tag {image(machine.docker_host)} moorage")
        yield machine


def hub(machine: Machine, folder: Path) -> None:
    """Start the mirror that the engine asks instead of Docker Hub, and push an image that runs to it."""
    (folder / "root.tar").write_bytes(busybox_tar({"hello": b"#!/bin/sh\necho hello from ubuntu\n"}))
    (folder / "hub").mkdir()
    (folder / "hub").chmod(0o777)
    machine.run(
        f"docker run -d --name hub --network host --restart always -v {folder}/hub:/var/lib/registry"
        f" -e REGISTRY_HTTP_ADDR={HUB} moorage"
    )
    machine.waits(f"curl -fsS http://{HUB}/v2/", "the mirror of Docker Hub")
    name = f"{HUB}/library/ubuntu:24.04"
    machine.run(
        f"docker import --change 'CMD [\"/hello\"]' {folder}/root.tar {name}\n"
        f"docker push {name}\ndocker image remove {name}"
    )


@pytest.fixture
def machine(engine: Machine) -> Machine:
    engine.run(_CLEAN)
    engine.waits(f"curl -fsS http://{HUB}/v2/", "the mirror of Docker Hub")
    for path in engine.home.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return engine


@pytest.fixture
def steps(request: pytest.FixtureRequest, machine: Machine) -> Iterator[Steps]:
    """The blocks of the section that the test is about; all of its commands must have been run in the end."""
    steps = Steps(machine, pages.blocks(*request.param))
    before = request.session.testsfailed
    yield steps
    if request.session.testsfailed == before:
        assert steps.done == len(steps.commands), f"not run:\n{steps.commands[steps.done :]}"


@pytest.fixture(scope="session")
def authority() -> certs.Holder:
    return certs.root()


@pytest.fixture
def certificates(machine: Machine, authority: certs.Holder) -> certs.Holder:
    """What an authority hands out, in the machine's home: certificate and key, its intermediate, and its own.

    The key is root's alone, as openssl makes it.
    """
    intermediate = authority.issue("intermediate", authority=True)
    holder = intermediate.issue(NAME, hosts=(NAME,))
    (machine.home / "domain.crt").write_bytes(holder.pem)
    (machine.home / "domain.key").write_bytes(holder.key_pem())
    (machine.home / "domain.key").chmod(0o600)
    (machine.home / "intermediate-certificates.pem").write_bytes(intermediate.pem)
    (machine.home / "ca.crt").write_bytes(authority.pem)
    return holder
