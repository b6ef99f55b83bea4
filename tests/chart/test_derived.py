"""What the chart derives: strategy, grace period, probes, ports, routes, monitoring."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.chart.cases import CASES
from tests.chart.helm import CHART, ROOT
from tests.live import require

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chart.helm import Helm

ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
RECREATE = {"type": "Recreate", "rollingUpdate": None}


@pytest.mark.parametrize(
    ("case", "strategy"),
    [
        ("defaults", RECREATE),
        ("emptydir", RECREATE),
        ("existing-claim", RECREATE),
        ("shared-volume", ROLLING),
        ("s3", ROLLING),
        ("gcs", ROLLING),
        ("azure", ROLLING),
    ],
)
def test_the_strategy_follows_the_storage(helm: Helm, case: str, strategy: dict[str, Any]) -> None:
    """A rolling update waits for ever for a volume that the old pod holds; without one, no pod is missed.

    With Recreate the explicit null removes the rollingUpdate of an earlier revision, which the API would refuse.
    """
    deployment = helm.render(CASES[case]).one("Deployment")
    assert deployment["spec"]["strategy"] == strategy


@pytest.mark.parametrize(
    ("given", "strategy"),
    [
        ({"type": "Recreate"}, RECREATE),
        ({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}, RECREATE),
        (
            {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        ),
    ],
)
def test_a_strategy_of_the_values_is_used(helm: Helm, given: dict[str, Any], strategy: dict[str, Any]) -> None:
    values = {"updateStrategy": given, "http": {"existingSecret": "h"}}
    assert helm.render(values).one("Deployment")["spec"]["strategy"] == strategy


@pytest.mark.parametrize(
    ("drain", "pause", "grace"),
    [("60s", 5, 80), ("1m30s", 5, 110), ("1h", 0, 3615), ("0s", 5, 20), ("2h5m10s", 10, 7535), (0, 5, 20)],
)
def test_the_grace_period_covers_drain_and_pause(helm: Helm, drain: str | int, pause: int, grace: int) -> None:
    """Running pushes end before SIGKILL."""
    values = {"configData": {"http": {"draintimeout": drain}}, "preStopSleepSeconds": pause}
    rendered = helm.render(values)
    assert rendered.pod["terminationGracePeriodSeconds"] == grace
    assert ("lifecycle" in rendered.container) == bool(pause)
    assert helm.render({"terminationGracePeriodSeconds": 300}).pod["terminationGracePeriodSeconds"] == 300


@pytest.mark.parametrize(
    ("case", "port", "scheme"),
    [
        ("defaults", "registry", "HTTP"),
        ("tls", "registry", "HTTPS"),
        ("client-certificates", "http-metrics", "HTTP"),
    ],
)
def test_probes_reach_the_registry(helm: Helm, case: str, port: str, scheme: str) -> None:
    """A liveness probe that depends on the storage would restart every pod while a bucket is away."""
    container = helm.render(CASES[case]).container
    ports = {one["name"] for one in container["ports"]}
    for kind, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        request = container[kind]["httpGet"]
        assert request["path"] == path
        assert request["port"] == port
        assert port in ports
        assert request.get("scheme", "HTTP") == scheme
        assert container[kind]["timeoutSeconds"] == 5


def test_ports_follow_the_configuration(helm: Helm) -> None:
    rendered = helm.render(CASES["other-port"])
    assert {one["name"]: one["containerPort"] for one in rendered.container["ports"]} == {
        "registry": 8080,
        "http-metrics": 9090,
    }
    service = {one["name"]: (one["port"], one["targetPort"]) for one in rendered.one("Service")["spec"]["ports"]}
    assert service == {"http-5000": (5000, "registry"), "http-metrics": (5001, "http-metrics")}


@pytest.mark.parametrize(
    ("account", "secret"),
    [({}, None), ({"secretRef": "hub"}, "hub"), ({"username": "u", "password": "p"}, "demo-moorage-secret")],
)
def test_a_pull_through_cache_has_its_account_as_files(
    helm: Helm, account: dict[str, str], secret: str | None
) -> None:
    """The values of twuni's chart; its variables show the password to everybody who can describe the pod."""
    values = {"proxy": {"enabled": True, "remoteurl": "https://registry-1.docker.io", **account}}
    rendered = helm.render(values)
    assert rendered.config["proxy"] == {"remoteurl": "https://registry-1.docker.io"}
    variables = {one["name"]: one["value"] for one in rendered.container.get("env", [])}
    names = {f"REGISTRY_PROXY_{name}_FILE" for name in ("USERNAME", "PASSWORD")}
    assert (names <= variables.keys()) == (secret is not None)
    mounted = {
        (source["secret"]["name"], item["key"])
        for volume in rendered.pod["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        for item in source["secret"]["items"]
    }
    assert mounted == (set() if secret is None else {(secret, "proxyUsername"), (secret, "proxyPassword")})


def test_a_route_has_no_time_limit(helm: Helm) -> None:
    """A layer of many gigabytes is one request."""
    route = helm.render(CASES["gateway"]).one("HTTPRoute")["spec"]
    assert route["rules"][0]["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert route["rules"][0]["backendRefs"] == [{"name": "demo-moorage", "port": 5000}]
    assert route["hostnames"] == ["registry.example.com"]


def test_an_ingress_of_nginx_has_no_limits_unless_the_values_set_them(helm: Helm) -> None:
    """413 is the first thing that a registry behind ingress-nginx answers otherwise."""
    prefix = "nginx.ingress.kubernetes.io/"
    annotations = helm.render(CASES["everything"]).one("Ingress")["metadata"]["annotations"]
    assert annotations[f"{prefix}proxy-body-size"] == "0"
    assert annotations[f"{prefix}proxy-request-buffering"] == "off"
    assert annotations[f"{prefix}proxy-read-timeout"] == "3600"
    assert f"{prefix}backend-protocol" not in annotations
    other = {"ingress": {"enabled": True, "className": "traefik", "hosts": ["a"]}, **CASES["tls"]}
    assert "annotations" not in helm.render(other).one("Ingress")["metadata"]
    nginx = {"ingress": {"enabled": True, "hosts": ["a"]}, **CASES["tls"]}
    assert helm.render(nginx).one("Ingress")["metadata"]["annotations"][f"{prefix}backend-protocol"] == "HTTPS"
    no_class = {"ingress": {"enabled": True, "className": "", "hosts": ["a"]}}
    assert "ingressClassName" not in helm.render(no_class).one("Ingress")["spec"]


def test_the_claim_outlives_the_release(helm: Helm) -> None:
    """`helm uninstall` must not delete every image."""
    claim = helm.render({}).one("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "storageClassName" not in claim["spec"]
    other = helm.render(CASES["no-class"]).one("PersistentVolumeClaim")
    assert "annotations" not in other["metadata"]
    assert other["spec"]["storageClassName"] == ""
    existing = helm.render(CASES["existing-claim"])
    assert "PersistentVolumeClaim" not in existing.kinds()
    volumes = {volume["name"]: volume for volume in existing.pod["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == "registry-data"
    assert "PersistentVolumeClaim" not in helm.render(CASES["s3"]).kinds()


def test_an_autoscaler_decides_how_many_pods_there_are(helm: Helm) -> None:
    """`replicas` beside it would set the number back at each upgrade."""
    rendered = helm.render(CASES["autoscaling"])
    assert "replicas" not in rendered.one("Deployment")["spec"]
    spec = rendered.one("HorizontalPodAutoscaler")["spec"]
    assert spec["scaleTargetRef"]["name"] == rendered.one("Deployment")["metadata"]["name"]
    targets = {one["resource"]["name"]: one["resource"]["target"]["averageUtilization"] for one in spec["metrics"]}
    assert targets == {"cpu": 60, "memory": 80}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 10)


def test_a_network_policy_separates_metrics_from_clients(helm: Helm) -> None:
    """The debug listener asks for no password."""
    spec = helm.render(CASES["pod-monitor"]).one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    clients, metrics = spec["ingress"]
    assert clients == {"ports": [{"protocol": "TCP", "port": "registry"}]}
    assert metrics == {"ports": [{"protocol": "TCP", "port": "http-metrics"}], "from": [{"podSelector": {}}]}
    strict = helm.render(CASES["everything"]).one("NetworkPolicy")["spec"]
    assert strict["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for port in strict["egress"][0]["ports"]} == {53}
    assert all(rule["from"] for rule in strict["ingress"])
    empty = helm.render({"networkPolicy": {"enabled": True, "egress": []}}).one("NetworkPolicy")["spec"]
    assert len(empty["egress"]) == 1


def test_a_service_of_two_address_families(helm: Helm) -> None:
    spec = helm.render(CASES["everything"]).one("Service")["spec"]
    assert spec["ipFamilyPolicy"] == "PreferDualStack"
    assert spec["ipFamilies"] == ["IPv6", "IPv4"]
    assert spec["ports"][0]["nodePort"] == 30443
    # Without a host, the registry listens on every address of both families.
    assert helm.render({}).config["http"]["addr"] == ":5000"


def test_accounts_are_created_or_only_named(helm: Helm) -> None:
    assert "ServiceAccount" not in helm.render({}).kinds()
    assert helm.render({}).pod["serviceAccountName"] == "default"
    assert helm.render({"serviceAccount": {"name": "mine"}}).pod["serviceAccountName"] == "mine"
    rendered = helm.render(CASES["s3-role"])
    account = rendered.one("ServiceAccount")
    assert account["metadata"]["name"] == rendered.pod["serviceAccountName"] == "demo-moorage"
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"}
    assert account["automountServiceAccountToken"] is False


def test_variables_of_the_values_replace_those_of_the_chart(helm: Helm) -> None:
    """A setting by variable and file together would end the start."""
    secret = {"name": "REGISTRY_HTTP_SECRET", "valueFrom": {"secretKeyRef": {"name": "own", "key": "k"}}}
    values = {**CASES["s3"], "extraEnv": [secret]}
    container = helm.render(values).container
    names = [one["name"] for one in container["env"]]
    assert "REGISTRY_HTTP_SECRET_FILE" not in names
    assert secret in container["env"]
    assert "REGISTRY_STORAGE_S3_ACCESSKEY_FILE" in names
    assert helm.render({**CASES["shared-volume"], "http": {}, "extraEnv": [secret]}).kinds()


def test_objects_of_the_values_are_added_and_expanded(helm: Helm) -> None:
    names = {one["metadata"]["name"] for one in helm.render(CASES["everything"]).objects}
    assert {"more", "demo-templated"} <= names


def test_rules_and_dashboard_are_those_of_the_monitoring_page() -> None:
    """The chart carries copies, since a chart holds no files of other folders."""
    for name in ("alerts.yml", "dashboard.json"):
        ours, theirs = CHART / "files" / name, ROOT / "deploy" / "monitoring" / name
        assert ours.read_bytes() == theirs.read_bytes(), f"cp {theirs} {ours}"


def test_rules_ask_for_the_job_of_the_release(helm: Helm, tmp_path: Path) -> None:
    """Rules for a job that no monitor makes would never fire."""
    require("promtool")
    rendered = helm.render(CASES["everything"], name="images")
    spec = rendered.one("PrometheusRule")["spec"]
    text = yaml.safe_dump(spec)
    shipped = yaml.safe_load((CHART / "files" / "alerts.yml").read_text())
    count = sum(len(group["rules"]) for group in shipped["groups"]) + 1
    assert sum(len(group["rules"]) for group in spec["groups"]) == count
    assert 'job="registry"' not in text
    assert 'job="images-moorage", namespace="registries"' in text
    path = tmp_path / "rules.yml"
    path.write_text(text)
    done = subprocess.run(
        [require("promtool"), "check", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"{count} rules found" in done.stdout
    for case, kind, key in (
        ("everything", "ServiceMonitor", "endpoints"),
        ("pod-monitor", "PodMonitor", "podMetricsEndpoints"),
    ):
        endpoint = helm.render(CASES[case], name="images").one(kind)["spec"][key][0]
        assert {"targetLabel": "job", "replacement": "images-moorage"} in endpoint["relabelings"]
        assert (endpoint["port"], endpoint["path"]) == ("http-metrics", "/metrics")


def test_the_dashboard_is_found_by_the_sidecar(helm: Helm) -> None:
    found = helm.render(CASES["everything"]).one("ConfigMap", "-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["namespace"] == "monitoring"
    shipped = (CHART / "files" / "dashboard.json").read_text().strip()
    assert found["data"] == {"demo-moorage.json": shipped}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"deleteUntagged": True, "wait": "1m"}, None),
        ({"enabled": True}, {"enabled": True}),
        (
            {"enabled": True, "deleteUntagged": True, "interval": "12h", "grace": "36h", "wait": "20m"},
            {"enabled": True, "deleteuntagged": True, "interval": "12h", "grace": "36h", "wait": "20m"},
        ),
    ],
)
def test_garbage_collection_is_a_setting_of_the_registry(
    helm: Helm, given: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    """No CronJob, which could not mount a volume of one node; the words of twuni's chart switch it on."""
    rendered = helm.render({"garbageCollect": given})
    config = yaml.safe_load(rendered.one("ConfigMap")["data"]["config.yml"])
    assert config["storage"].get("maintenance", {}).get("garbagecollection") == expected
    assert not any(one["kind"] == "CronJob" for one in rendered.objects)
