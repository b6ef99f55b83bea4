"""docs/deploying/docker.md, step by step, with a Docker engine."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Final

from tests.clients.layouts import Layout, busybox_tar
from tests.guide.machine import NAME
from tests.guide.pages import MARKS, blocks, explained, section
from tests.live import require
from tests.wire import OCI_MANIFEST

if TYPE_CHECKING:
    from pathlib import Path

    from tests.guide.machine import Machine
    from tests.guide.pages import Steps
    from tests.server.certs import Holder

pytestmark = MARKS

RUN: Final = "Run a registry"


def answers(machine: Machine, url: str = "http://localhost:5000/v2/", *options: str) -> None:
    machine.waits(f"curl -fsS {' '.join(options)} {url}", f"an answer of {url}")


def begun(machine: Machine) -> None:
    """A registry as the first section starts it, with the image of the second one."""
    machine.run(blocks("docker", RUN)[0].text)
    answers(machine)
    machine.run(blocks("docker", "Copy an image into it")[0].text)


def runs(machine: Machine, image: str) -> None:
    assert machine.run(f"docker run --rm --network none {image}") == "hello from ubuntu\n"


@section("docker", "Run a registry")
def test_one_command_starts_a_registry(steps: Steps, machine: Machine) -> None:
    steps.run()
    answers(machine)
    assert "listening on http://" in steps.run()
    policy = machine.run("docker inspect --format '{{.HostConfig.RestartPolicy.Name}}' registry")
    assert policy == "always\n"


@section("docker", "Copy an image into it")
def test_an_image_goes_there_and_back(steps: Steps, machine: Machine) -> None:
    machine.run(blocks("docker", RUN)[0].text)
    answers(machine)
    assert "digest: sha256:" in steps.run()
    steps.run()
    runs(machine, "localhost:5000/my-ubuntu")
    assert json.loads(machine.run("curl -fsS http://localhost:5000/v2/_catalog")) == {
        "repositories": ["my-ubuntu"]
    }


@section("docker", "Stop and remove it")
def test_a_stopped_registry_keeps_its_volume_until_it_is_removed(steps: Steps, machine: Machine) -> None:
    begun(machine)
    steps.run()
    status = machine.run("docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' registry")
    assert status == "exited 0\n"
    machine.run("docker container start registry")
    answers(machine, "http://localhost:5000/v2/my-ubuntu/manifests/latest")
    machine.run("docker container stop registry")
    assert machine.run("docker volume ls -q").count("\n") == 1
    steps.run()
    assert machine.run("docker volume ls -q") == ""


@section("docker", "Another port")
def test_the_port_can_be_changed_outside_and_inside(steps: Steps, machine: Machine) -> None:
    steps.run()
    answers(machine, "http://localhost:5001/v2/")
    steps.run()
    answers(machine, "http://localhost:5001/v2/")
    assert "listening on http://0.0.0.0:5001" in machine.run("docker logs registry-test")


@section("docker", "Keep the data")
def test_the_data_is_kept_in_a_volume_or_a_directory(steps: Steps, machine: Machine) -> None:
    """A new volume and an empty directory: both begin without a file, and the images outlive the container."""
    for _ in steps.commands[:]:
        steps.run()
        answers(machine)
        machine.run(blocks("docker", "Copy an image into it")[0].text)
        machine.run("docker container rm -f -v registry")
    assert "registry-data" in machine.run("docker volume ls -q")
    assert (machine.folder / "mnt" / "registry" / "docker" / "registry" / "v2").is_dir()


@section("docker", "Restart, and replace the container")
def test_nothing_is_lost_by_restarts_and_a_new_container(steps: Steps, machine: Machine) -> None:
    machine.run(blocks("docker", "Keep the data")[-1].text)
    answers(machine)
    machine.run(blocks("docker", "Copy an image into it")[0].text)
    url = "http://localhost:5000/v2/my-ubuntu/manifests/latest"
    for _ in steps.commands[:]:
        steps.run()
        answers(machine, url)
    machine.run("docker image remove localhost:5000/my-ubuntu ubuntu:24.04")
    machine.run("docker pull localhost:5000/my-ubuntu")
    runs(machine, "localhost:5000/my-ubuntu")


@section("docker", "TLS")
def test_a_certificate_with_its_intermediate_is_served(
    steps: Steps, machine: Machine, certificates: Holder
) -> None:
    """Clients refuse the registry until they know the authority, and without the intermediate certificate."""
    steps.run()
    alone = machine.home / "certs" / "domain.crt"
    assert alone.read_bytes() == certificates.pem
    steps.run()
    assert alone.read_bytes().count(b"BEGIN CERTIFICATE") == 2
    steps.run()
    answers(machine, f"https://{NAME}/v2/", "--cacert ca.crt")
    refused = machine.run(f"docker pull {NAME}/my-ubuntu", fails=True)
    assert explained("certificate signed by unknown authority") in refused
    steps.run()
    assert "digest: sha256:" in steps.run()
    runs(machine, f"{NAME}/my-ubuntu")
    # The leaf alone is a renewal that clients refuse.
    machine.run("cp domain.crt certs/domain.crt")
    machine.waits("docker logs registry 2>&1 | grep 'certificate renewed'", "the renewed certificate")
    refused = machine.run(f"docker pull {NAME}/my-ubuntu", fails=True)
    assert explained("certificate signed by unknown authority") in refused


@section("docker", "Passwords")
def test_a_push_needs_a_login(steps: Steps, machine: Machine, certificates: Holder) -> None:
    tls = blocks("docker", "TLS")
    machine.run(tls[0].text)
    machine.run(tls[1].text)
    machine.run(tls[3].text)
    steps.run()
    assert (machine.home / "auth" / "htpasswd").read_text().startswith("testuser:$2y$05$")
    steps.run()
    answers(machine, f"https://{NAME}/v2/", "--cacert ca.crt --user testuser:testpassword")
    machine.run(f"docker pull ubuntu:24.04; docker tag ubuntu:24.04 {NAME}/my-ubuntu")
    assert explained("no basic auth credentials") in machine.run(f"docker push {NAME}/my-ubuntu", fails=True)
    assert explained("no basic auth credentials") in machine.run(f"docker pull {NAME}/my-ubuntu", fails=True)
    login = f"echo wrong | docker login --username testuser --password-stdin {NAME}"
    assert explained("401 Unauthorized") in machine.run(login, fails=True)
    done = steps.run()
    assert "Login Succeeded" in done
    assert "digest: sha256:" in done
    assert explained("no basic auth credentials") in machine.run(f"docker push {NAME}/my-ubuntu", fails=True)


@section("docker", "Back up, and restore on another host")
def test_an_archive_is_restored_on_another_engine(steps: Steps, machine: Machine, other: Machine) -> None:
    """The volume goes from one version of Docker to another; the registry serves while the archive is made."""
    begun(machine)
    steps.run()
    shutil.copy(machine.home / "registry.tar.gz", other.home)
    steps.machine = other
    steps.run()
    answers(other)
    other.run("docker pull localhost:5000/my-ubuntu")
    runs(other, "localhost:5000/my-ubuntu")


@section("docker", "Layers that must not be distributed")
def test_a_foreign_layer_is_optional_and_the_setting_is_taken(
    steps: Steps, machine: Machine, tmp_path: Path
) -> None:
    """Tools leave the layer out, as Docker on Windows does without the setting; with the layer it is pulled."""
    layout = Layout(tmp_path / "layout")
    tars = [busybox_tar({"hello": b"#!/bin/sh\necho hello from ubuntu\n"})]
    plain = layout.tag("plain", layout.image(tars, Cmd=["/hello"]))
    document = json.loads(layout.read(plain["digest"]))
    document["layers"][0] |= {
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "urls": ["https://example.com/layer"],
    }
    layout.tag("foreign", layout.add(json.dumps(document).encode(), OCI_MANIFEST))
    machine.run(blocks("docker", "Run a registry")[0].text)
    answers(machine)

    def copied(tag: str) -> None:
        target = f"docker://localhost:5000/windows:{tag}"
        machine.command(require("skopeo"), "copy", "--dest-tls-verify=false", f"oci:{layout.path}:{tag}", target)

    copied("foreign")
    layer = f"http://localhost:5000/v2/windows/blobs/{document['layers'][0]['digest']}"
    assert "404" in machine.run(f"curl -fsSI {layer}", fails=True)
    copied("plain")
    steps.write("/etc/docker/daemon.json")
    steps.run()
    answers(machine, layer)
    machine.run("docker pull localhost:5000/windows:foreign")
    runs(machine, "localhost:5000/windows:foreign")
    assert "digest: sha256:" in machine.run("docker push localhost:5000/windows:foreign")
    machine.run(
        "docker rmi -f localhost:5000/windows:foreign; rm /etc/docker/daemon.json; systemctl restart docker"
    )


_TLS: Final = (
    "-e REGISTRY_HTTP_ADDR=0.0.0.0:443 -e REGISTRY_HTTP_TLS_CERTIFICATE=/certs/domain.crt"
    " -e REGISTRY_HTTP_TLS_KEY=/certs/domain.key"
)


def test_a_start_that_fails_tells_why(machine: Machine, certificates: Holder) -> None:
    """Each message is as in the page's table."""
    (machine.home / "certs").mkdir()

    def refused(*options: str) -> str:
        return machine.run(f"docker run --rm {' '.join(options)} moorage", fails=True)

    mounted = '-v "$(pwd)"/certs:/certs'
    missing = explained("cannot read '/certs/domain.crt': No such file or directory")
    assert missing in refused(_TLS, mounted)
    machine.run("cat domain.crt intermediate-certificates.pem > certs/domain.crt; cp -p domain.key certs")
    assert explained("cannot read '/certs/domain.key': Permission denied") in refused(_TLS, mounted)
    machine.run("chown 1000 certs/domain.key")
    machine.run(f"docker run -d --name registry -p 443:443 {mounted} {_TLS} moorage")
    answers(machine, f"https://{NAME}/v2/", "--cacert ca.crt")

    owned = explained("belongs to 0:0 with mode 0755, and this container runs as 1000:1000")
    assert explained("port is already allocated") in refused("-p 443:5000")
    assert explained("ports below 1024 need root") in refused("--network host -e REGISTRY_HTTP_ADDR=:444")
    directory = explained("Are you trying to mount a directory onto a file")
    assert directory in refused('-v "$(pwd)"/config.yml:/etc/docker/registry/config.yml')
    machine.run("docker run -d --name registry-test -v /mnt/registry:/var/lib/registry -p 5000:5000 moorage")
    machine.waits(f"docker logs registry-test 2>&1 | grep '{owned}'", "the reason in the log")
    machine.run("docker rm -f registry-test")


def test_a_registry_without_tls_is_refused_under_its_name(machine: Machine) -> None:
    machine.run("docker run -d --name registry -p 443:5000 moorage")
    answers(machine, f"http://{NAME}:443/v2/")
    refused = machine.run(f"docker pull {NAME}/my-ubuntu", fails=True)
    assert explained("server gave HTTP response to HTTPS client") in refused
