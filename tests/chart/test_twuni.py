"""The values of twuni/docker-registry.helm 3.0.0 mean here what they mean there (see `twuni.py`)."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from tests.chart.container import all_secrets
from tests.chart.twuni import CASES, facts

from moorage.config.load import load

if TYPE_CHECKING:
    from tests.chart.helm import Helm

RECORD: Final = Path(__file__).with_name("twuni.json")
NAME: Final = "demo"
RECORDED: Final[dict[str, Any]] = json.loads(RECORD.read_text()) if RECORD.exists() else {}

ADOPTED: Final = {"nameOverride": "docker-registry"}
"""With this name a release of twuni's chart is upgraded in place: objects, selectors and claim stay."""

OTHERWISE: Final = {
    "http.draintimeout",  # running pushes may end
    "http.idletimeout",  # longer than proxies keep idle connections
    "http.debug.addr",  # a listener only with metrics.enabled
}
"""Settings that differ on purpose."""


def twunis_chart() -> Path:
    if "MOORAGE_TWUNI_CHART" not in os.environ:
        pytest.skip("MOORAGE_TWUNI_CHART names no copy of twuni/docker-registry.helm")
    return Path(os.environ["MOORAGE_TWUNI_CHART"])


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def pair(helm: Helm, case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts of twuni's chart, as recorded, and of ours."""
    theirs = copy.deepcopy(RECORDED[case])
    if "haSharedSecret" not in CASES[case].get("secrets", {}):
        # twuni's chart makes a random one, another with each rendering.
        del theirs["references"]["REGISTRY_HTTP_SECRET"]
    return theirs, facts(helm.render({**ADOPTED, **CASES[case]}, name=NAME))


def test_the_record_is_that_of_the_chart(helm: Helm) -> None:
    """With a copy of the chart; `MOORAGE_RECORD=1` writes the record."""
    chart = twunis_chart()
    found = {
        case: json.loads(json.dumps(facts(helm.render(values, name=NAME, chart=chart))))
        for case, values in CASES.items()
    }
    if os.environ.get("MOORAGE_RECORD") == "1":
        lines = [f"{json.dumps(case)}: {json.dumps(one, sort_keys=True)}" for case, one in found.items()]
        RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    assert json.loads(RECORD.read_text()) == found


def test_the_file_of_values_of_the_chart_is_accepted(helm: Helm) -> None:
    """People copy the whole file; only the image must be another one."""
    values = yaml.safe_load((twunis_chart() / "values.yaml").read_text())
    assert "image.repository" in helm.refusal(values)
    values["image"] = {"repository": "moorage", "tag": "0.1.0"}
    rendered = helm.render(values, name=NAME)
    assert "image.repository" not in rendered.notes


SAME: Final = (
    "name", "namespace", "selector", "annotations", "pod annotations", "account", "init containers", "resources",
    "ports", "scheme", "command", "PersistentVolumeClaim", "PodDisruptionBudget", "HorizontalPodAutoscaler",
    "ServiceAccount", "references", "pod", "service", "Ingress", "ServiceMonitor",
)  # fmt: skip


def test_objects_are_the_same(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    theirs, ours = pair
    differences = {key: (theirs[key], ours[key]) for key in SAME if not _includes(ours[key], theirs[key])}
    assert not differences


def _includes(ours: Any, theirs: Any) -> bool:
    """Ours has every fact of theirs, and labels, annotations and fields beside them."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return all(_includes(ours.get(key), value) for key, value in theirs.items() if key not in _NOT_COMPARED)
    return bool(ours == theirs)


_NOT_COMPARED: Final = {"chart", "app.kubernetes.io/component"}
"""The chart's own name and version in labels; the component of the rules' label."""


def test_the_rest_is_the_same_or_stricter(pair: tuple[dict[str, Any], dict[str, Any]], case: str) -> None:
    theirs, ours = pair
    assert ours["pod labels"].items() >= theirs["pod labels"].items()
    if theirs["HorizontalPodAutoscaler"] is None:
        assert ours["replicas"] == theirs["replicas"]
    if theirs["strategy"] is not None:
        assert ours["strategy"] == theirs["strategy"]
    for key in ("pod security", "container security"):
        given = CASES[case].get("securityContext" if key == "pod security" else "containerSecurityContext", {})
        assert ours[key].items() >= {name: value for name, value in given.items() if name != "enabled"}.items()
        assert ours[key].keys() >= theirs[key].keys() - {"sysctls", "supplementalGroups", "seLinuxOptions"}
    added = {"/tmp": "emptyDir", "/etc/moorage/secrets": "projected"}
    assert theirs["mounts"].items() <= ours["mounts"].items() <= (theirs["mounts"] | added).items()


def test_settings_are_the_same(pair: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    """Configuration, variables and Secrets together, as Moorage reads both."""
    theirs, ours = (_settings(one, tmp_path / name) for one, name in zip(pair, ("theirs", "ours"), strict=True))
    differences = {key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)}
    assert differences <= OTHERWISE, {key: (theirs.get(key), ours.get(key)) for key in differences - OTHERWISE}


def _settings(found: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return settings by their paths."""
    contents = {
        **all_secrets(),
        "own": {
            "haSharedSecret": b"0123456789abcdef0123456789abcdef",
            "htpasswd": all_secrets()["registry-users"]["users"],
            "s3AccessKey": b"AK",
            "s3SecretKey": b"SK",
            "azureAccountName": b"images",
            "azureAccountKey": b"aGVsbG8=",
            "azureContainer": b"registry",
        },
    }
    for path, content in found["mounts"].items():
        place = folder / path.lstrip("/")
        place.mkdir(parents=True)
        if match := re.fullmatch(r"secret (\S+)(?: (\S+))?", content):
            for key in (match[2] or "tls.crt,tls.key").split(","):
                (place / key).write_bytes(contents.get(match[1], {}).get(key, b""))
    variables = {name: value for name, value in found["variables"].items() if not name.endswith("_FILE")}
    for name, reference in found["references"].items():
        secret, _, key = reference.partition("/")
        variables[name] = contents[secret][key].decode()
    config = folder / "config.yml"
    moved = re.sub(
        r"(?<=[\s:])(/auth|/etc/ssl/docker|/var/lib/registry)\b", rf"{folder}\1", yaml.safe_dump(found["config"])
    )
    config.write_text(moved)
    variables = {
        name: re.sub(r"^(/auth|/etc/ssl|/var/lib)", rf"{folder}\1", value) for name, value in variables.items()
    }
    flat = _flat(load(config, variables).settings.model_dump())
    return {
        key: value.replace(str(folder), "") if isinstance(value, str) else value for key, value in flat.items()
    }


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, one in value.items() for k, v in _flat(one, f"{path}.{key}".strip(".")).items()}
    return {path: value}


def test_a_claim_of_twunis_chart_is_adopted(helm: Helm) -> None:
    """An upgrade in place must find the volume with the images."""
    rules = {
        # twuni's: the release's name, and the chart's unless it is in there already; 63 characters at most.
        "docker-registry": "docker-registry",
        "my-docker-registry": "my-docker-registry",
        "registry": "registry-docker-registry",
        "r" * 60: "r" * 60 + "-do",
        "r" * 62: "r" * 62,
    }
    for release, claim in rules.items():
        rendered = helm.render({**ADOPTED, "persistence": {"enabled": True}}, name=release)
        assert rendered.one("PersistentVolumeClaim")["metadata"]["name"] == claim
        data = next(volume for volume in rendered.pod["volumes"] if volume["name"] == "data")
        assert data["persistentVolumeClaim"]["claimName"] == claim
        assert rendered.one("Deployment")["spec"]["selector"]["matchLabels"] == {
            "app": "docker-registry",
            "release": release,
        }
