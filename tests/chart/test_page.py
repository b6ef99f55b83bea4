"""docs/deploying/kubernetes.md: its values render, its manifests serve, its tables are complete."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from tests.chart.container import PASSWORD, laid_out
from tests.chart.helm import CHART, ROOT, Rendered
from tests.chart.pod_security import violations
from tests.chart.test_render import NEWEST, OLDEST

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chart.helm import Helm
    from tests.cli.conftest import Run

PAGE: Final = (ROOT / "docs" / "deploying" / "kubernetes.md").read_text()
BLOCKS: Final = re.findall(
    r"^```(?:\{code-block\} )?yaml\n(?::caption: (\S+)\n\n)?(.*?)^```", PAGE, re.DOTALL | re.MULTILINE
)
VALUES: Final = [yaml.safe_load(text) for caption, text in BLOCKS if caption == "values.yaml"]
MANIFESTS: Final = "\n---\n".join(text for caption, text in BLOCKS if caption != "values.yaml")


def manifests() -> Rendered:
    return Rendered.parsed(MANIFESTS)


def test_every_block_is_of_a_kind_that_is_tested_here() -> None:
    assert len(VALUES) == 2
    assert len(BLOCKS) == 4
    assert len(re.findall(r"^```.*yaml$", PAGE, re.MULTILINE)) == len(BLOCKS)


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_the_values_render_and_serve(helm: Helm, number: int, tmp_path: Path, run: Run) -> None:
    rendered = helm.render(VALUES[number])
    assert helm.validate(rendered.objects, OLDEST) == []
    assert helm.validate(rendered.objects, NEWEST) == []
    assert violations(rendered.pod) == []
    container = laid_out(rendered, tmp_path)
    assert run("config", "check", container.config, **container.environment).returncode == 0


def test_the_manifests_are_accepted(helm: Helm, tmp_path: Path, run: Run) -> None:
    found = manifests()
    assert helm.validate(found.objects, OLDEST) == []
    assert helm.validate(found.objects, NEWEST) == []
    assert violations(found.pod) == []
    container = laid_out(found, tmp_path)
    result = run("config", "check", container.config, **container.environment)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.slow
def test_the_manifests_serve(tmp_path: Path) -> None:
    found = manifests()
    with laid_out(found, tmp_path).running() as served:
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert served.probe(found.container[kind]) == 200
        with served.client() as client:
            assert client.get("/v2/").status_code == 401
            assert client.get("/v2/", auth=("ann", PASSWORD)).status_code == 200
    assert "the secret is random" not in served.live.logs()


def test_the_manifests_and_the_chart_render_the_same_pod(helm: Helm) -> None:
    """What the chart learns, the page must learn as well."""
    plain, chart = manifests(), helm.render(VALUES[0])
    for key in (
        "terminationGracePeriodSeconds",
        "enableServiceLinks",
        "automountServiceAccountToken",
        "securityContext",
    ):
        assert plain.pod[key] == chart.pod[key]
    ours = chart.container["securityContext"]
    assert plain.container["securityContext"].items() <= ours.items()
    for key in ("args", "lifecycle"):
        assert plain.container[key] == chart.container[key]
    assert chart.config["http"]["draintimeout"] == plain.config["http"]["draintimeout"]
    paths = {mount["mountPath"] for mount in plain.container["volumeMounts"]}
    assert paths == {mount["mountPath"] for mount in chart.container["volumeMounts"]}


def test_commands_make_the_secrets_that_values_and_manifests_name() -> None:
    command = r"kubectl create secret generic (\S+) --from-(?:literal|file)=([A-Za-z]+)"
    made = dict(re.findall(command, PAGE))
    assert made == {"registry-http": "haSharedSecret", "registry-users": "htpasswd"}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["http"]["existingSecretKey"] == made["registry-http"]
    assert values["auth"]["htpasswd"]["existingSecretKey"] == made["registry-users"]
    secrets = {volume["secret"]["secretName"] for volume in manifests().pod["volumes"] if "secret" in volume}
    assert secrets == made.keys()


def test_every_existing_secret_is_in_the_table() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    for path in _paths(schema["properties"]):
        if path.endswith("existingSecret"):
            assert f"`{path}`" in PAGE, path
        if re.search(r"(Key|KeyKey|sKey)$", path) and not path.startswith(("secrets.", "extra")):
            assert f"`{path}`" in PAGE, path


def _paths(properties: dict[str, Any], above: str = "") -> list[str]:
    found = []
    for name, one in properties.items():
        found += [f"{above}{name}", *_paths(one.get("properties", {}), f"{above}{name}.")]
    return found


TWUNIS: Final = frozenset(
    {
        "replicaCount", "updateStrategy", "podAnnotations", "podLabels", "serviceAccount", "image",
        "imagePullSecrets", "deployment", "service", "ingress", "resources", "persistence", "storage",
        "tlsSecretName", "s3", "swift",
        "secrets.haSharedSecret", "secrets.htpasswd", "secrets.azure", "secrets.s3", "secrets.swift", "proxy",
        "metrics", "configPath", "configData", "containerSecurityContext", "securityContext", "priorityClassName",
        "podDisruptionBudget", "autoscaling", "nodeSelector", "affinity", "tolerations", "extraVolumeMounts",
        "extraVolumes", "extraEnvVars", "initContainers", "garbageCollect", "nameOverride", "fullnameOverride",
        "namespace",
    }
)  # fmt: skip
"""Every value that the file or a template of twuni's chart 3.0.0 names."""


def test_every_value_of_twunis_chart_is_in_the_table_and_in_the_schema() -> None:
    table = PAGE[PAGE.index("| Value of twuni's chart |") :].split("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`([\w.]+)`", row.split("|")[1])}
    assert named == TWUNIS
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(_paths(schema["properties"])) >= TWUNIS


def test_every_value_of_the_file_is_in_the_schema() -> None:
    """And the reverse: the file is where users look for values."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    assert values.keys() <= schema["properties"].keys()
    missing = {
        path
        for path in _paths(schema["properties"])
        if not re.search(rf"\b{path.rpartition('.')[2]}:", text)
        and path.split(".")[0] not in {"global", "proxy", "garbageCollect", "swift", "configData"}
    }
    # Rare, or without effect.
    assert missing == {
        "podDisruptionBudget.unhealthyPodEvictionPolicy",
        "secrets.swift",
    }
