"""What the chart renders: accepted by Kubernetes, equal each time, with a configuration that Moorage accepts."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from tests.chart.cases import CASES
from tests.chart.container import laid_out
from tests.chart.helm import CHART

from moorage import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chart.helm import Helm
    from tests.cli.conftest import Run

OLDEST: Final = "1.27"
NEWEST: Final = "1.37"
EXPECTED: Final = (
    "are sent in clear text",  # where TLS ends before the pod
    "no authentication",  # NOTES warn as well
    "debug listener",  # a network policy decides
)


@pytest.mark.parametrize("case", CASES)
def test_the_schemas_of_kubernetes_accept_every_object(helm: Helm, case: str) -> None:
    """Strictly: an unknown key is what the API server would drop in silence."""
    objects = helm.render(CASES[case]).objects
    assert helm.validate(objects, OLDEST) == []
    assert helm.validate(objects, NEWEST) == []


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ["spec", "template", "spec", "containers", 0]),
        ("Service", ["spec"]),
        ("HTTPRoute", ["spec", "rules", 0]),
        ("ServiceMonitor", ["spec", "endpoints", 0]),
        ("PrometheusRule", ["spec", "groups", 0, "rules", 0]),
    ],
)
def test_the_schemas_notice_an_unknown_key(helm: Helm, kind: str, path: list[Any]) -> None:
    """The check above would prove nothing if they did not."""
    found: Any = helm.render(CASES["everything"]).one(kind)
    top = found
    for part in path:
        found = found[part]
    found["unknown"] = 1
    assert len(helm.validate([top], NEWEST)) == 1


@pytest.mark.parametrize("case", CASES)
def test_lint_finds_nothing(helm: Helm, case: str) -> None:
    assert helm.lint(CASES[case]) == []


@pytest.mark.parametrize("case", CASES)
def test_each_rendering_is_the_same(helm: Helm, case: str) -> None:
    """A random secret would restart every pod at each `helm upgrade`, and keep GitOps tools busy for ever."""
    first, second = helm.render(CASES[case]), helm.render(CASES[case])
    assert first == second


def test_templates_use_no_random_function_and_no_cluster() -> None:
    for path in (CHART / "templates").iterdir():
        used = " ".join(re.findall(r"\{\{(.*?)\}\}", path.read_text(), re.DOTALL))
        assert re.search(r"\b(rand\w+|uuidv4|gen\w*(Key|Cert|CA)\w*|now|lookup)\b", used) is None, path


@pytest.mark.parametrize("case", CASES)
def test_config_check_accepts_the_configuration(helm: Helm, case: str, tmp_path: Path, run: Run) -> None:
    """`moorage config check` reports an unknown key, a file that no volume brings and a key that no Secret has."""
    container = laid_out(helm.render(CASES[case]), tmp_path)
    result = run("config", "check", container.config, **container.environment)
    assert result.returncode == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if "warning" in line.lower()]
    assert [line for line in warnings if not any(known in line for known in EXPECTED)] == []


@pytest.mark.parametrize("case", CASES)
def test_no_secret_is_in_a_configmap(helm: Helm, case: str) -> None:
    """The right to read ConfigMaps does not include Secrets."""
    rendered = helm.render(CASES[case])
    contents = [str(value) for value in CASES[case].get("secrets", {}).values()]
    for one in rendered.objects:
        if one["kind"] == "Secret":
            continue
        assert not any(content.strip() in yaml.safe_dump(one) for content in contents)
    config = rendered.config
    assert "secret" not in config["http"]
    assert not {"accesskey", "secretkey", "accountkey"} & set().union(
        *(value for value in config["storage"].values() if isinstance(value, dict))
    )
    assert "password" not in config.get("redis", {})


def test_contents_of_secrets_are_in_a_secret(helm: Helm) -> None:
    rendered = helm.render(CASES["secret-contents"])
    data = rendered.one("Secret")["data"]
    given = CASES["secret-contents"]["secrets"]
    assert {key: base64.b64decode(value).decode() for key, value in data.items()} == given
    assert rendered.secret_settings == {"REGISTRY_HTTP_SECRET": ("demo-moorage-secret", "haSharedSecret")}


def test_pods_are_replaced_when_configuration_or_secret_change(helm: Helm) -> None:
    """A ConfigMap that changes restarts nothing by itself."""
    values = CASES["secret-contents"]

    def sums(changed: dict[str, Any]) -> dict[str, str]:
        annotations: dict[str, str] = helm.render(changed).one("Deployment")["spec"]["template"]["metadata"][
            "annotations"
        ]
        return annotations

    base = sums(values)
    other_config = sums({**values, "configData": {"log": {"level": "debug"}}})
    other_secret = sums({**values, "secrets": {**values["secrets"], "haSharedSecret": "x" * 32}})
    assert base["checksum/config"] != other_config["checksum/config"]
    assert base["checksum/secret"] == other_config["checksum/secret"]
    assert base["checksum/secret"] != other_secret["checksum/secret"]


def test_the_chart_has_the_version_of_moorage() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == __version__
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"


@pytest.mark.parametrize("case", ["everything", "defaults"])
def test_selectors_find_the_pods_and_nothing_changes_them(helm: Helm, case: str) -> None:
    """A selector cannot be changed on a Deployment that exists: neither by versions nor by values."""
    rendered = helm.render(CASES[case])
    selector = {"app": "moorage", "release": "demo"}
    deployment = rendered.one("Deployment")["spec"]
    assert deployment["selector"]["matchLabels"] == selector
    assert selector.items() <= deployment["template"]["metadata"]["labels"].items()
    assert rendered.one("Service")["spec"]["selector"] == selector
    assert __version__ not in deployment["template"]["metadata"]["labels"].values()
    if case == "everything":
        for kind, path in (
            ("PodDisruptionBudget", ["spec", "selector", "matchLabels"]),
            ("NetworkPolicy", ["spec", "podSelector", "matchLabels"]),
            ("ServiceMonitor", ["spec", "selector", "matchLabels"]),
        ):
            found: Any = rendered.one(kind)
            for part in path:
                found = found[part]
            assert found == selector
        assert selector.items() <= rendered.one("Service")["metadata"]["labels"].items()
        spread = rendered.pod["topologySpreadConstraints"][0]
        assert spread["labelSelector"]["matchLabels"] == selector
