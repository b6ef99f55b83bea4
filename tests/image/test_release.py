"""deploy/image/release.sh: push, SBOM as a referrer, signatures, verification, against a registry of ours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.image.build import BUILD_LIMIT_S
from tests.live import ROOT, Live, require, start_moorage
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.image.conftest import Engine

pytestmark = [
    pytest.mark.docker, pytest.mark.root, pytest.mark.client, pytest.mark.slow, pytest.mark.xdist_group("image"),
    pytest.mark.timeout(BUILD_LIMIT_S),
]  # fmt: skip

SCRIPT = ROOT / "deploy" / "image" / "release.sh"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with start_moorage(tmp_path_factory.mktemp("release") / "data") as live:
        yield live


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    environment = {"COSIGN_PASSWORD": "", "HOME": str(folder), "PATH": os.defpath}
    subprocess.run([require("cosign"), "generate-key-pair"], cwd=folder, env=environment, check=True, timeout=60)
    return folder / "cosign.key"


def release(engine: Engine, home: Path, *arguments: str | Path, fails: bool = False) -> str:
    folders = [str(Path(require(name)).parent) for name in ("oras", "cosign", "docker")]
    environment = {
        "DOCKER_HOST": engine.host,
        "DOCKER_CONFIG": str(home / "docker"),
        "COSIGN_PASSWORD": "",
        "PLAIN_HTTP": "1",
        "HOME": str(home),
        "PATH": os.pathsep.join([*folders, os.defpath]),
    }
    done = subprocess.run(
        ["sh", SCRIPT, *arguments], check=False, env=environment, cwd=home, timeout=300, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert (done.returncode == 0) != fails, done.stdout
    return done.stdout


def test_an_image_is_pushed_described_signed_and_verified(
    engine: Engine, full: str, registry: Live, keys: Path, tmp_path: Path
) -> None:
    """Harbor is asked for exactly this of its own images; here the registry itself holds it."""
    reference = f"{registry.host}/release/moorage:1"
    output = release(engine, tmp_path, full, reference, keys)
    wire = Wire(registry.host)
    digest = wire.manifest("release/moorage", "1").headers["docker-content-digest"]
    assert output.strip().splitlines()[-1] == f"{registry.host}/release/moorage@{digest}"

    referrers = wire.send("GET", f"/v2/release/moorage/referrers/{digest}").json()["manifests"]
    (described,) = [item for item in referrers if item["artifactType"] == "application/vnd.cyclonedx+json"]
    manifest = wire.manifest("release/moorage", described["digest"]).json()
    document = json.loads(wire.blob("release/moorage", manifest["layers"][0]["digest"]).body)
    assert document["metadata"]["component"]["name"] == "moorage"

    # The same tag again would change what clients have pinned.
    assert "a published tag is never changed" in release(engine, tmp_path, full, reference, keys, fails=True)
    assert wire.manifest("release/moorage", "1").headers["docker-content-digest"] == digest


@pytest.mark.parametrize(
    ("reference", "key", "sentence"),
    [
        ("{host}/release/none", "{key}", "has no tag"),
        ("{host}/release/none@sha256:abc", "{key}", "names a digest"),
        ("{host}/release/none:1", "missing.key", "cosign generate-key-pair"),
    ],
)
def test_what_cannot_be_released_is_refused_before_anything_is_pushed(
    engine: Engine, full: str, registry: Live, keys: Path, tmp_path: Path, reference: str, key: str, sentence: str
) -> None:
    arguments = (full, reference.format(host=registry.host), key.format(key=keys))
    assert sentence in release(engine, tmp_path, *arguments, fails=True)
    assert "release/none" not in Wire(registry.host).send("GET", "/v2/_catalog").body.decode()
