"""Files of other programs are imported, and theirs read ours: skopeo, oras, the Docker engine, containerd."""

from __future__ import annotations

import json
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from tests.clients.daemons import containerd, dockerd
from tests.clients.layouts import Layout, busybox_tar, tar_of
from tests.live import Live, require, start_moorage
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Run

pytestmark = [pytest.mark.client, pytest.mark.slow]

LAYERS = [tar_of({"a": b"one" * 1000}), tar_of({"b": b"two" * 5000})]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with start_moorage(tmp_path_factory.mktemp("site") / "data") as live:
        yield live


@pytest.fixture
def wire(live: Live) -> Wire:
    return Wire(live.host)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two platforms and one, as `oci:` of skopeo."""
    made = Layout(tmp_path_factory.mktemp("layout") / "layout")
    made.tag("both", made.index([made.image(LAYERS[:1], architecture=name) for name in ("amd64", "arm64")]))
    made.tag("one", made.image(LAYERS))
    return made.path


def command(*arguments: str | Path, fails: bool = False) -> str:
    done = subprocess.run(
        [str(argument) for argument in arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def skopeo(*arguments: str | Path) -> str:
    return command(
        require("skopeo"), "--insecure-policy", *arguments,
    )  # fmt: skip


def test_skopeo_reads_a_bundle_and_its_volumes(run: Run, live: Live, layout: Path, tmp_path: Path) -> None:
    """All platforms, with the digests of the registry."""
    skopeo("copy", "-q", "--all", "--dest-tls-verify=false", f"oci:{layout}:both", f"docker://{live.host}/s/app:1")
    skopeo("copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:one", f"docker://{live.host}/s/one:1")
    made = run(
        "export",
        "--registry",
        live.url,
        "-q",
        "-o",
        tmp_path / "b.tar",
        "--volume-size",
        "64K",
        "s/app:1",
        "s/one:1",
    )
    assert made.returncode == 0, made.stderr
    with (tmp_path / "joined.tar").open("wb") as joined:
        for path in sorted(tmp_path.glob("b.tar.*")):
            joined.write(path.read_bytes())
    raw = skopeo("inspect", "--raw", f"oci-archive:{tmp_path}/joined.tar:s/app:1")
    expected = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{live.host}/s/app:1")
    assert raw == expected
    skopeo(
        "copy", "-q", "--all", "--preserve-digests", "--dest-tls-verify=false",
        f"oci-archive:{tmp_path}/joined.tar:s/app:1", f"docker://{live.host}/s/again:1",
    )  # fmt: skip
    again = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{live.host}/s/again:1")
    assert again == expected


def test_oras_reads_a_bundle(run: Run, live: Live, layout: Path, tmp_path: Path) -> None:
    """By digest: a tag of oras has no slash."""
    oras = require("oras")
    skopeo("copy", "-q", "--all", "--dest-tls-verify=false", f"oci:{layout}:both", f"docker://{live.host}/o/app:1")
    (tmp_path / "sbom.json").write_text("{}")
    command(
        oras, "attach", "--plain-http", f"{live.host}/o/app:1", "--artifact-type", "application/vnd.sbom+json",
        "--disable-path-validation", f"{tmp_path}/sbom.json:application/json",
    )  # fmt: skip
    made = run("export", "--registry", live.url, "-q", "-o", tmp_path / "b.tar", "o/app:1")
    assert made.returncode == 0, made.stderr
    digest = made.stdout.split()[1]
    found = command(
        oras, "discover", "--oci-layout", f"{tmp_path}/b.tar@{digest}", "--format", "json", "--plain-http"
    )
    assert "application/vnd.sbom+json" in found
    command(
        oras, "cp", "-r", "--from-oci-layout", f"{tmp_path}/b.tar@{digest}", "--to-plain-http",
        f"{live.host}/o/copied:1",
    )  # fmt: skip
    assert Wire(live.host).manifest("o/copied", "1").headers["docker-content-digest"] == digest


@pytest.mark.parametrize("kind", ["oci-archive", "oci"])
def test_what_skopeo_writes_is_imported(
    run: Run, live: Live, wire: Wire, layout: Path, tmp_path: Path, kind: str
) -> None:
    """With and without a repository in its name."""
    expected = json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]
    for reference, arguments, name in (
        ("team/app:3", (), "team/app"),
        ("3", ("--as", "team/only-a-tag"), "team/only-a-tag"),
    ):
        path = tmp_path / f"{kind}-{name.rpartition('/')[2]}"
        skopeo("copy", "-q", "--all", f"oci:{layout}:both", f"{kind}:{path}:{reference}")
        done = run("import", path, "--registry", live.url, "-q", "--repository-prefix", kind, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"imported {kind}/{name}:3 {expected}\n")
        assert wire.manifest(f"{kind}/{name}", "3").headers["docker-content-digest"] == expected


def test_docker_archives_give_the_same_digests_each_time(
    run: Run, live: Live, wire: Wire, layout: Path, tmp_path: Path
) -> None:
    """They have no manifests; layers are compressed so that the second import copies nothing."""
    skopeo("copy", "-q", f"oci:{layout}:one", f"docker-archive:{tmp_path}/d.tar:example.com/d/one:1")
    for name in ("first", "second"):
        done = run("import", tmp_path / "d.tar", "--registry", live.url, "-q", "--as", f"d/{name}:1")
        assert done.returncode == 0, done.stderr
    manifests = [wire.manifest(f"d/{name}", "1") for name in ("first", "second")]
    assert manifests[0].body == manifests[1].body
    document = json.loads(manifests[0].body)
    assert [layer["mediaType"] for layer in document["layers"]] == [
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    ] * 2
    skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{live.host}/d/first:1", f"oci:{tmp_path}/back:1")
    done = run("import", tmp_path / "d.tar", "--registry", live.url, "-q", "--strip-host")
    assert "imported d/one:1" in done.stdout
    again = run("import", tmp_path / "d.tar", "--registry", live.url, "-q", "--strip-host")
    assert "d/one:1 is up to date" in again.stdout
    assert "0 blobs (0 B)" in again.stdout


def test_damaged_docker_archives_are_refused(run: Run, live: Live, layout: Path, tmp_path: Path) -> None:
    """Layers are compared with the digests in the config, before anything is sent."""
    skopeo("copy", "-q", f"oci:{layout}:one", f"docker-archive:{tmp_path}/d.tar:x/one:1")
    data = bytearray((tmp_path / "d.tar").read_bytes())
    data[data.index(b"onetwo") if b"onetwo" in data else data.index(b"oneoneone")] ^= 1
    (tmp_path / "bad.tar").write_bytes(data)
    done = run("import", tmp_path / "bad.tar", "--registry", live.url, "-q")
    assert done.returncode == 1
    assert "is damaged: the layer" in done.stderr
    with tarfile.open(tmp_path / "d.tar") as archive:
        kept = [each for each in archive if not each.name.endswith(".tar")]
        with tarfile.open(tmp_path / "lost.tar", "w") as lost:
            for each in kept:
                lost.addfile(each, archive.extractfile(each) if each.isfile() else None)
    done = run("import", tmp_path / "lost.tar", "--registry", live.url, "-q")
    assert done.returncode == 1
    assert "which manifest.json names" in done.stderr


@pytest.mark.docker
@pytest.mark.root
def test_what_the_docker_engine_saves_is_imported_and_runs(
    run: Run, live: Live, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also two images that share layers, and an image without a name; the engine pulls what was imported."""
    del tmp_path_factory
    (tmp_path / "root.tar").write_bytes(busybox_tar())
    docker = require("docker")
    with dockerd() as host:
        engine = (docker, "-H", host)
        command(*engine, "import", "--change", 'CMD ["/bin/echo", "hello"]', tmp_path / "root.tar", "e/base:1")
        command(*engine, "tag", "e/base:1", "e/base:same")
        (tmp_path / "Dockerfile").write_text("FROM e/base:1\nCOPY Dockerfile /copied\n")
        command(*engine, "build", "-q", "-t", "e/child:1", tmp_path)
        command(*engine, "save", "-o", tmp_path / "two.tar", "e/base:1", "e/base:same", "e/child:1")
        identifier = command(*engine, "image", "inspect", "-f", "{{.Id}}", "e/base:1").strip()
        command(*engine, "save", "-o", tmp_path / "unnamed.tar", identifier)
        done = run("import", tmp_path / "two.tar", "--registry", live.url, "-q")
        assert done.returncode == 0, done.stderr
        assert [line.split()[1] for line in done.stdout.splitlines()[:3]] == [
            "e/base:1",
            "e/base:same",
            "e/child:1",
        ]
        done = run("import", tmp_path / "unnamed.tar", "--registry", live.url, "-q", "--as", "e/unnamed:1")
        assert done.returncode == 0, done.stderr
        wire = Wire(live.host)
        assert wire.manifest("e/unnamed", "1").body == wire.manifest("e/base", "1").body
        command(*engine, "rmi", "-f", "e/base:1", "e/base:same", "e/child:1")
        assert "hello" in command(*engine, "run", "--rm", "--network", "none", f"{live.host}/e/child:1")
        assert Digest.parse(identifier) == json.loads(wire.manifest("e/base", "1").body)["config"]["digest"]


@pytest.mark.root
def test_containerd_imports_a_bundle_and_its_exports_are_imported(
    run: Run, live: Live, wire: Wire, layout: Path, tmp_path: Path
) -> None:
    skopeo("copy", "-q", "--all", "--dest-tls-verify=false", f"oci:{layout}:both", f"docker://{live.host}/c/app:1")
    made = run("export", "--registry", live.url, "-q", "-o", tmp_path / "b.tar", "c/app:1")
    assert made.returncode == 0, made.stderr
    digest = made.stdout.split()[1]
    with containerd() as socket:
        ctr = (require("ctr"), "-a", socket, "images")
        command(*ctr, "import", "--all-platforms", "--no-unpack", tmp_path / "b.tar")
        listed = command(*ctr, "ls")
        assert "c/app:1" in listed
        assert digest in listed
        command(*ctr, "tag", "c/app:1", "registry.test/c/exported:2")
        command(*ctr, "export", "--all-platforms", tmp_path / "ctr.tar", "registry.test/c/exported:2")
    done = run("import", tmp_path / "ctr.tar", "--registry", live.url, "-q", "--strip-host")
    assert done.returncode == 0, done.stderr
    assert wire.manifest("c/exported", "2").headers["docker-content-digest"] == digest
