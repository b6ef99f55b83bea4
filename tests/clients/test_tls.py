"""TLS with real clients: an authority of one's own, clients' certificates, and a renewal under load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.clients import secure
from tests.clients.daemons import containerd, dockerd
from tests.clients.layouts import Layout, tar_of
from tests.clients.secure import NAME, Place
from tests.live import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clients.conftest import Run
    from tests.live import Live
    from tests.server.certs import Holder

pytestmark = [pytest.mark.client, pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("tls")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secure")


@pytest.fixture(scope="module")
def place(folder: Path) -> Place:
    return Place(folder / "etc")


@pytest.fixture(scope="module")
def private(folder: Path, place: Place, ca: Holder) -> Iterator[Live]:
    """A registry whose certificate a private authority has signed, by way of an intermediate."""
    tls = ca.issue("intermediate", authority=True).issue(NAME).write(folder, "private")
    with secure.start(folder / "private", tls) as live:
        yield live


@pytest.fixture(scope="module")
def mutual(folder: Path, place: Place, ca: Holder, client_ca: Holder) -> Iterator[Live]:
    """One that wants certificates of its clients."""
    (folder / "clients.crt").write_bytes(client_ca.pem)
    tls = {**ca.issue(NAME).write(folder, "mutual"), "clientcas": [str(folder / "clients.crt")]}
    with secure.start(folder / "mutual", tls) as live:
        yield live


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "layout")
    layout.tag("v1", layout.image([tar_of({"file": b"a" * 50_000}), tar_of({"other": b"b" * 500_000})]))
    return layout


def reached(live: Live) -> str:
    return f"{NAME}:{live.port}"


# Docker


@pytest.fixture(scope="module")
def engine(place: Place) -> Iterator[str]:
    with dockerd(prefix=place.prefix) as host:
        yield host


@pytest.fixture
def image(engine: str, run: Run, tmp_path: Path) -> Iterator[str]:
    """An image in the engine, without a name of a registry."""
    docker = require("docker")
    (tmp_path / "root.tar").write_bytes(tar_of({"hello": b"hello"}))
    run(docker, "import", str(tmp_path / "root.tar"), "tls/image:1", env={"DOCKER_HOST": engine})
    yield "tls/image:1"
    run(docker, "rmi", "-f", "tls/image:1", env={"DOCKER_HOST": engine})


def test_docker_trusts_a_private_authority_once_it_is_told(
    engine: str, image: str, place: Place, private: Live, ca: Holder, run: Run
) -> None:
    """And refuses it until then: what would be accepted unchecked would prove nothing."""
    docker, env = require("docker"), {"DOCKER_HOST": engine}
    name = f"{reached(private)}/docker/image:1"
    run(docker, "tag", image, name, env=env)
    refused = run(docker, "push", name, env=env, fails=True)
    assert "certificate signed by unknown authority" in refused

    place.trust(reached(private), ca_crt=ca.pem)
    run(docker, "push", name, env=env)
    run(docker, "rmi", name, env=env)
    run(docker, "pull", name, env=env)


def test_docker_shows_its_certificate(
    engine: str, image: str, place: Place, mutual: Live, ca: Holder, alice: Holder, run: Run
) -> None:
    docker, env = require("docker"), {"DOCKER_HOST": engine}
    name = f"{reached(mutual)}/docker/image:1"
    run(docker, "tag", image, name, env=env)
    place.trust(reached(mutual), ca_crt=ca.pem)
    assert "certificate required" in run(docker, "push", name, env=env, fails=True)

    place.trust(reached(mutual), ca_crt=ca.pem, client_cert=alice.chain, client_key=alice.key_pem())
    run(docker, "push", name, env=env)
    run(docker, "rmi", name, env=env)
    run(docker, "pull", name, env=env)


# skopeo, podman, buildah, CRI-O


def test_skopeo_takes_a_folder_of_certificates(
    place: Place, private: Live, ca: Holder, layout: Layout, run: Run, tmp_path: Path
) -> None:
    copy = (*place.prefix, require("skopeo"), "copy")
    there = f"docker://{reached(private)}/sk/image:v1"
    assert "unknown authority" in run(
        *copy, f"--dest-cert-dir={tmp_path}", f"oci:{layout.path}:v1", there, fails=True
    )
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "ca.crt").write_bytes(ca.pem)
    run(*copy, f"--dest-cert-dir={trusted}", f"oci:{layout.path}:v1", there)
    run(*copy, f"--src-cert-dir={trusted}", there, f"oci:{tmp_path / 'back'}:v1")


def test_skopeo_shows_its_certificate(
    place: Place, mutual: Live, ca: Holder, alice: Holder, layout: Layout, run: Run, tmp_path: Path
) -> None:
    copy = (*place.prefix, require("skopeo"), "copy")
    there = f"docker://{reached(mutual)}/sk/image:v1"
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "ca.crt").write_bytes(ca.pem)
    assert "certificate required" in run(
        *copy, f"--dest-cert-dir={trusted}", f"oci:{layout.path}:v1", there, fails=True
    )
    (trusted / "alice.cert").write_bytes(alice.chain)
    (trusted / "alice.key").write_bytes(alice.key_pem())
    run(*copy, f"--dest-cert-dir={trusted}", f"oci:{layout.path}:v1", there)
    run(*copy, f"--src-cert-dir={trusted}", there, f"oci:{tmp_path / 'back'}:v1")


def test_pushes_go_on_during_a_renewal(
    folder: Path, place: Place, private: Live, ca: Holder, layout: Layout, run: Run, tmp_path: Path
) -> None:
    """A build server does not know when certbot runs."""
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "ca.crt").write_bytes(ca.pem)
    before = private.logs().count("certificate renewed")
    ca.issue(NAME).write(folder, "private")
    pushed = 0
    while private.logs().count("certificate renewed") == before or pushed < 3:
        pushed += 1
        assert pushed < 200, private.logs()
        run(
            *place.prefix, require("skopeo"), "copy", f"--dest-cert-dir={trusted}", f"oci:{layout.path}:v1",
            f"docker://{reached(private)}/renewal/image:{pushed}",
        )  # fmt: skip
    assert "level=error" not in private.logs()


# containerd, and with it Kubernetes


def test_containerd_is_configured_by_hosts_toml(
    folder: Path, place: Place, mutual: Live, ca: Holder, alice: Holder, layout: Layout, run: Run, tmp_path: Path
) -> None:
    paths = alice.write(tmp_path, "alice")
    (tmp_path / "ca.crt").write_bytes(ca.pem)
    hosts = tmp_path / "hosts" / reached(mutual)
    hosts.mkdir(parents=True)
    (hosts / "hosts.toml").write_text(
        f'server = "https://{reached(mutual)}"\n'
        f'[host."https://{reached(mutual)}"]\n'
        '  capabilities = ["pull", "resolve", "push"]\n'
        f'  ca = "{tmp_path / "ca.crt"}"\n'
        f'  client = [["{paths["certificate"]}", "{paths["key"]}"]]\n'
    )
    archive = tmp_path / "image.tar"
    run(require("skopeo"), "copy", f"oci:{layout.path}:v1", f"oci-archive:{archive}:v1")
    name = f"{reached(mutual)}/ctr/image:v1"
    with containerd() as socket:
        ctr = (*place.prefix, require("ctr"), "-a", socket, "images")
        run(*ctr, "import", "--index-name", name, str(archive))
        run(*ctr, "push", "--hosts-dir", str(tmp_path / "hosts"), name)
        run(*ctr, "rm", name)
        run(*ctr, "pull", "--hosts-dir", str(tmp_path / "hosts"), name)


def test_curl_shows_its_certificate(
    place: Place, mutual: Live, ca: Holder, alice: Holder, run: Run, tmp_path: Path
) -> None:
    paths = alice.write(tmp_path, "alice")
    (tmp_path / "ca.crt").write_bytes(ca.pem)
    curl = (*place.prefix, "curl", "-sS", "--fail", "--cacert", str(tmp_path / "ca.crt"))
    url = f"https://{reached(mutual)}/v2/"
    run(*curl, url, fails=True)
    for version in ("--http1.1", "--http2"):
        run(*curl, version, "--cert", paths["certificate"], "--key", paths["key"], url)
