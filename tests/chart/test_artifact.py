"""The chart as an OCI artifact: pushed by Helm into a live registry, listed, and pulled back."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

import bcrypt
import pytest
from tests.chart.helm import CHART, Refused
from tests.live import start_moorage
from tests.wire import Wire

from moorage import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chart.helm import Helm

pytestmark = [pytest.mark.client, pytest.mark.slow]


def test_helm_pushes_the_chart_and_pulls_it_back(helm: Helm, tmp_path: Path) -> None:
    """What is pulled is what was pushed, byte for byte, and renders the same."""
    archive = helm.package(tmp_path)
    assert archive.name == f"moorage-{__version__}.tgz"
    with start_moorage(tmp_path / "data") as live:
        helm.push(archive, f"oci://{live.host}/charts")
        assert helm.tags(f"{live.host}/charts/moorage") == [__version__]

        manifest = json.loads(Wire(live.host).manifest("charts/moorage", __version__).body)
        assert manifest["config"]["mediaType"] == "application/vnd.cncf.helm.config.v1+json"
        layers = [layer["mediaType"] for layer in manifest["layers"]]
        assert layers == ["application/vnd.cncf.helm.chart.content.v1.tar+gzip"]

        back = tmp_path / "back"
        back.mkdir()
        helm.pull(f"oci://{live.host}/charts/moorage", __version__, back)
    pulled = back / archive.name
    assert pulled.read_bytes() == archive.read_bytes()
    assert helm.render({}, chart=pulled) == helm.render({})


def test_helm_logs_in_to_push(helm: Helm, tmp_path: Path) -> None:
    """Helm's client asks for a challenge first, as Docker's does."""
    archive = helm.package(tmp_path)
    users = tmp_path / "users"
    users.write_bytes(b"ann:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n")
    auth = {"htpasswd": {"realm": "charts", "path": str(users)}}
    with start_moorage(tmp_path / "data", auth=auth) as live:
        with pytest.raises(Refused, match="basic credential not found"):
            helm.push(archive, f"oci://{live.host}/charts")
        helm.login_and_push(
            archive, f"oci://{live.host}/charts", host=live.host, user="ann", password="secret",
            credentials=tmp_path / "credentials.json",
        )  # fmt: skip
        assert (
            live.root / "docker/registry/v2/repositories/charts/moorage/_manifests/tags" / __version__
        ).is_dir()


def test_the_archive_holds_what_the_chart_needs(helm: Helm, tmp_path: Path) -> None:
    with tarfile.open(helm.package(tmp_path)) as archive:
        packed = {name.removeprefix("moorage/") for name in archive.getnames()}
    tree = {str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()}
    assert packed == tree
