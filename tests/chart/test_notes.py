"""NOTES: what the installer reads afterwards, with snippets that real clients take."""

from __future__ import annotations

import re
import textwrap
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.chart.cases import CASES
from tests.clients.conftest import registry, run  # noqa: F401  fixtures
from tests.clients.daemons import containerd
from tests.clients.layouts import Layout, tar_of
from tests.live import Live, require

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chart.helm import Helm
    from tests.clients.conftest import Run


def snippet(notes: str, heading: str) -> str:
    """The indented block below a line that begins with `heading`."""
    found = re.search(
        rf"^{re.escape(heading)}[^\n]*\n(?:[^\n ][^\n]*\n)*\n?((?:(?: {{4}}[^\n]*)?\n)+)", notes, re.MULTILINE
    )
    assert found is not None, heading
    return textwrap.dedent(found[1])


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ({}, "http://demo-moorage.registries.svc:5000"),
        (CASES["tls"], "https://demo-moorage.registries.svc:5000"),
        ({"service": {"port": 80}, "namespace": "other"}, "http://demo-moorage.other.svc:80"),
        ({"ingress": {"enabled": True, "hosts": ["cr.example.com"]}}, "http://cr.example.com"),
        (
            {"ingress": {"enabled": True, "hosts": ["cr.example.com"], "tls": [{"secretName": "s"}]}},
            "https://cr.example.com",
        ),
        (CASES["gateway"], "https://registry.example.com"),
        ({"configData": {"http": {"host": "https://cr.example.com:8443/"}}}, "https://cr.example.com:8443"),
    ],
)
def test_every_snippet_has_the_address_of_this_release(helm: Helm, values: dict[str, Any], address: str) -> None:
    """A snippet that must be edited is copied unedited."""
    notes = helm.render(values).notes
    scheme, _, host = address.partition("://")
    assert f" is {address}\n" in notes
    assert f"docker push {host}/NAME:TAG" in notes

    hosts = tomllib.loads(snippet(notes, "containerd,"))
    assert hosts == {"server": address, "host": {address: {"capabilities": ["pull", "resolve"]}}}
    assert f"/etc/containerd/certs.d/{host}/hosts.toml" in notes

    k3s = yaml.safe_load(snippet(notes, "k3s and RKE2,"))
    assert k3s["mirrors"] == {host: {"endpoint": [address]}, "docker.io": {"endpoint": [address]}}

    crio = tomllib.loads(snippet(notes, "CRI-O and Podman,"))
    insecure = scheme == "http"
    assert crio["registry"] == [
        {"location": host, "insecure": insecure},
        {
            "prefix": "docker.io",
            "location": "docker.io",
            "mirror": [{"location": host, "insecure": insecure}],
        },
    ]


@pytest.mark.parametrize("case", ["everything", "local", "secret-contents"])
def test_login_is_shown_where_there_is_authentication(helm: Helm, case: str) -> None:
    notes = helm.render(CASES[case]).notes
    assert "    docker login " in notes
    assert "no authentication" not in notes
    assert "configs" in yaml.safe_load(snippet(notes, "k3s and RKE2,"))


def test_what_is_open_or_lost_is_a_warning(helm: Helm) -> None:
    notes = helm.render({}).notes
    assert "WARNING: no authentication is configured" in notes
    assert "docker login" not in notes
    assert "WARNING: no authentication" in helm.render(CASES["no-authentication"]).notes
    assert "WARNING: no authentication" in helm.render({"configData": {"auth": "none"}}).notes
    assert "images are lost" not in notes
    assert "WARNING: persistence.enabled is false: the images are lost" in helm.render(CASES["emptydir"]).notes
    blocked = {"podDisruptionBudget": {"minAvailable": 1}}
    assert "WARNING: podDisruptionBudget.minAvailable with one pod" in helm.render(blocked).notes


def test_the_way_from_outside_fits_the_kind_of_service(helm: Helm) -> None:
    assert "port-forward service/demo-moorage 5000:5000" in helm.render({}).notes
    assert "nodePort" in helm.render({"service": {"type": "NodePort"}}).notes
    assert "get service demo-moorage" in helm.render({"service": {"type": "LoadBalancer"}}).notes


@pytest.fixture
def mirrored(registry: Live, run: Run, tmp_path: Path) -> str:  # noqa: F811
    """An image of docker.io that was copied into the registry: its name there."""
    layout = Layout(tmp_path / "layout")
    layout.tag("v1", layout.image([tar_of({"who": b"mirror" * 100})]))
    target = f"docker://{registry.host}/library/mirrored:v1"
    run(require("skopeo"), "copy", "--dest-tls-verify=false", f"oci:{layout.path}:v1", target)
    return "docker.io/library/mirrored:v1"


def of(helm: Helm, registry: Live) -> str:  # noqa: F811
    return helm.render({"configData": {"http": {"host": registry.url}}}).notes


@pytest.mark.client
@pytest.mark.slow
def test_registries_conf_leads_skopeo_to_the_mirror(
    helm: Helm, registry: Live, run: Run, mirrored: str, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    """CRI-O, Podman and skopeo read the same file."""
    conf = tmp_path / "registries.conf"
    conf.write_text(snippet(of(helm, registry), "CRI-O and Podman,"))
    skopeo = (require("skopeo"), "--registries-conf", conf)
    for name in (mirrored, f"{registry.host}/library/mirrored:v1"):
        found = run(*skopeo, "inspect", "--raw", f"docker://{name}")
        assert "application/vnd.oci.image.manifest.v1+json" in found


@pytest.mark.client
@pytest.mark.root
@pytest.mark.slow
def test_hosts_toml_leads_containerd_to_the_mirror(
    helm: Helm, registry: Live, run: Run, mirrored: str, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    """For the registry's own name, and for docker.io, as the line above the snippet promises."""
    text = snippet(of(helm, registry), "containerd,")
    hosts = tmp_path / "certs.d"
    for name, content in (
        (registry.host, text),
        ("docker.io", re.sub(r"^server = .*", 'server = "https://registry-1.docker.io"', text)),
    ):
        (hosts / name).mkdir(parents=True)
        (hosts / name / "hosts.toml").write_text(content)
    with containerd() as socket:
        for name in (mirrored, f"{registry.host}/library/mirrored:v1"):
            run(require("ctr"), "-a", socket, "images", "pull", "--hosts-dir", hosts, name)
