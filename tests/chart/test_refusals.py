"""Every refusal at render time: the value, the reason, the remedy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.chart.helm import CHART

if TYPE_CHECKING:
    from tests.chart.helm import Helm

S3: Final[dict[str, Any]] = {
    "storage": "s3",
    "s3": {"bucket": "b", "region": "r"},
    "http": {"existingSecret": "h"},
}
CLAIM: Final[dict[str, Any]] = {"persistence": {"accessMode": "ReadWriteMany"}}
AZURE: Final[dict[str, Any]] = {"storage": "azure", "http": {"existingSecret": "h"}}
METRICS: Final[dict[str, Any]] = {"metrics": {"enabled": True}}


def data(**config: Any) -> dict[str, Any]:
    return {"configData": config}


def env(name: str) -> dict[str, Any]:
    return {"extraEnvVars": [{"name": name, "value": "x"}]}


def _nested(path: str) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {first: _nested(rest) if rest else "confidential"}


CASES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    # Not available in this version.
    "a proxy of nothing": ({"proxy": {"enabled": True}}, "proxy.remoteurl: is empty"),
    "half an account": (
        {"proxy": {"enabled": True, "remoteurl": "https://registry-1.docker.io", "username": "u"}},
        "proxy: has one of username and password",
    ),
    "two accounts": (
        {"proxy": {"enabled": True, "remoteurl": "https://r", "secretRef": "s", "username": "u", "password": "p"}},
        "proxy.secretRef: names a Secret with the account",
    ),
    "a proxy that is off": ({"proxy": {"remoteurl": "https://r"}}, "proxy.enabled: is false"),
    "collection by a CronJob": (
        {"garbageCollect": {"enabled": True, "schedule": "0 1 * * *", "resources": {"limits": {"cpu": 1}}}},
        "garbageCollect.schedule, garbageCollect.resources: describe the CronJob of twuni's chart",
    ),
    "swift": (
        {"storage": "swift", "swift": {"authurl": "http://s"}},
        "storage: the driver swift is not available",
    ),
    "oss": ({"storage": "oss"}, "storage: the driver oss is not available"),
    "notifications": (data(notifications={"endpoints": [{"name": "n"}]}), "configData.notifications.endpoints:"),
    # The image and names.
    "the old image": ({"image": {"repository": "registry", "tag": "3.0.0"}}, "image.repository: registry is CNCF"),
    "name of the Service": ({"service": {"name": "cr"}}, "service.name: has no effect"),
    "label of the selector": ({"podLabels": {"app": "x"}}, "podLabels.app: is part of the selector"),
    "account of others": ({"serviceAccount": {"annotations": {"a": "b"}}}, "serviceAccount.annotations: have no"),
    # Pods and volumes.
    "two pods, one volume": (
        {"replicaCount": 2, "http": {"existingSecret": "h"}},
        "replicaCount: several pods cannot share a ReadWriteOnce volume",
    ),
    "two pods, no volume": (
        {"replicaCount": 2, "http": {"existingSecret": "h"}, "persistence": {"enabled": False}},
        "replicaCount: several pods without a common volume",
    ),
    "autoscaling, one volume": (
        {
            "http": {"existingSecret": "h"},
            "autoscaling": {"enabled": True},
            "resources": {"requests": {"cpu": 1}},
        },
        "autoscaling.enabled: several pods cannot share a ReadWriteOnce volume",
    ),
    "rolling update, one volume": (
        {"updateStrategy": {"type": "RollingUpdate"}, "http": {"existingSecret": "h"}},
        "updateStrategy: with RollingUpdate the new pod waits for the volume",
    ),
    "least above most": (
        {**S3, "autoscaling": {"enabled": True, "minReplicas": 5}, "resources": {"requests": {"cpu": 1}}},
        "autoscaling.minReplicas: 5 is more than maxReplicas, 2",
    ),
    "no target": (
        {**S3, "autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": None}},
        "autoscaling: names no target",
    ),
    "a share of nothing": (
        {**S3, "autoscaling": {"enabled": True}},
        "is a share of resources.requests.cpu, which",
    ),
    "a share of no memory": (
        {**S3, "autoscaling": {"enabled": True, "targetMemoryUtilizationPercentage": 60}},
        "is a share of resources.requests.memory, which",
    ),
    "two budgets": (
        {"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}},
        "podDisruptionBudget: has minAvailable and maxUnavailable",
    ),
    # Secrets.
    "pods without a common secret": (
        {**CLAIM, "replicaCount": 2},
        "http.existingSecret: several pods must share http.secret, and the chart invents none",
    ),
    "tokens without a secret": (
        {"auth": {"local": {"existingSecret": "p"}}},
        "http.existingSecret: auth.local derives the keys of its tokens from http.secret",
    ),
    "rolling update without a secret": (CLAIM, "http.existingSecret: during a rolling update two pods serve"),
    "two secrets": (
        {"http": {"existingSecret": "h"}, "secrets": {"haSharedSecret": "x"}},
        "secrets.haSharedSecret: is given beside http.existingSecret",
    ),
    "two password files": (
        {"auth": {"htpasswd": {"existingSecret": "u"}}, "secrets": {"htpasswd": "u:x"}},
        "secrets.htpasswd: is given beside auth.htpasswd.existingSecret",
    ),
    "two ways": (
        {
            "auth": {"local": {"existingSecret": "p"}, "htpasswd": {"existingSecret": "u"}},
            "http": {"existingSecret": "h"},
        },
        "auth: auth.local and auth.htpasswd are two ways of authentication",
    ),
    "two ways, one in configData": (
        {"secrets": {"htpasswd": "u:x"}, **data(auth={"token": {"realm": "r"}})},
        "auth: secrets.htpasswd and configData.auth.token are two ways of authentication",
    ),
    "none and passwords": (
        {"secrets": {"htpasswd": "u:x"}, **data(auth="none")},
        "auth: secrets.htpasswd and configData.auth.none are two ways of authentication",
    ),
    "two certificates": (
        {"tls": {"existingSecret": "a"}, "tlsSecretName": "b"},
        "tlsSecretName: is twuni's name of tls.existingSecret",
    ),
    "authorities without TLS": (
        {"tls": {"clientCAsKey": "ca.crt"}, **METRICS},
        "tls.clientCAsKey: needs tls.exist",
    ),
    "users without a policy": (
        {"auth": {"local": {"usersKey": "u"}}},
        "auth.local.usersKey: needs auth.local.exis",
    ),
    "probes without a certificate": (
        {"tls": {"existingSecret": "t", "clientCAsKey": "ca.crt"}},
        "tls.clientCAsKey: the kubelet has no client certificate for its probes; set metrics.enabled",
    ),
    "certificate without key": (
        {
            "redis": {
                "addrs": ["r:1"],
                "tls": {"enabled": True, "existingSecret": "t", "certificateKey": "tls.crt"},
            }
        },
        "redis.tls.certificateKey: needs redis.tls.privateKeyKey",
    ),
    "no Redis": ({"redis": {"existingSecret": "r"}}, "redis: has settings, but redis.addrs is empty"),
    # Storage.
    "two drivers": (
        data(storage={"s3": {"bucket": "b"}}),
        "configData.storage.s3: is not the driver that `storage` names, filesystem; set storage: s3",
    ),
    "a driver by a variable": (
        env("REGISTRY_STORAGE_S3_BUCKET"),
        "extraEnv: REGISTRY_STORAGE_S3_BUCKET chooses the driver s3, and `storage` names filesystem",
    ),
    "another directory": (
        data(storage={"filesystem": {"rootdirectory": "/data"}}),
        "configData.storage.filesystem.rootdirectory: the volume is mounted at /var/lib/registry",
    ),
    "no bucket": ({**S3, "s3": {"region": "r"}}, "s3.bucket: is required with storage: s3"),
    "no region": ({**S3, "s3": {"bucket": "b"}}, "s3.region: is required with storage: s3, unless"),
    "half a key": (
        {**S3, "secrets": {"s3": {"accessKey": "a"}}},
        "secrets.s3: has one of accessKey and secretKey",
    ),
    "keys twice": (
        {**S3, "secrets": {"s3": {"secretRef": "a", "accessKey": "a", "secretKey": "b"}}},
        "secrets.s3: keys are given twice",
    ),
    "no bucket of Google": ({**AZURE, "storage": "gcs"}, "gcs.bucket: is required with storage: gcs"),
    "no account": ({**AZURE, "azure": {"container": "c"}}, "azure.accountname: is required with storage: azure"),
    "no container": ({**AZURE, "azure": {"accountname": "a"}}, "azure.container: is required with storage: azure"),
    "two keys of Azure": (
        {
            **AZURE,
            "azure": {"accountname": "a", "container": "c", "existingSecret": "s"},
            "secrets": {"azure": {"accountKey": "k"}},
        },
        "secrets.azure: is given beside azure.existingSecret",
    ),
    "settings of another driver": ({"s3": {"bucket": "b"}}, "s3: has settings, and `storage` names filesystem"),
    # config.yml.
    **{
        f"{path} in configData": (
            data(**_nested(path)),
            f"configData.{path}: is a secret, and configData becomes a ConfigMap",
        )
        for path in (
            "http.secret",
            "redis.password",
            "redis.sentinelpassword",
            "storage.s3.accesskey",
            "storage.s3.secretkey",
            "storage.s3.sessiontoken",
            "storage.azure.accountkey",
            "storage.azure.credentials.secret",
            "storage.gcs.credentials",
            "proxy.password",
        )
    },
    "mail password": (
        data(log={"hooks": [{"type": "mail", "options": {"smtp": {"password": "x"}}}]}),
        "configData.log.hooks[0].options.smtp.password: is a secret",
    ),
    "password of a check": (
        data(health={"http": [{"uri": "http://x", "headers": {"Authorization": ["Bearer x"]}}]}),
        "configData.health.http[0].headers.Authorization: is a secret",
    ),
    "drain time": (data(http={"draintimeout": "1.5m"}), "configData.http.draintimeout: 1.5m is not a duration of"),
    "nanoseconds": (data(http={"draintimeout": 60000000000}), "configData.http.draintimeout: "),
    "grace period": (
        {"terminationGracePeriodSeconds": 30},
        "terminationGracePeriodSeconds: 30 ends pods before their pushes; with draintimeout 60s and preStop",
    ),
    **{
        f"{name} as a variable": (env(name), f"extraEnv: {name} changes what the chart derives objects from")
        for name in (
            "REGISTRY_HTTP_ADDR",
            "REGISTRY_HTTP_NET",
            "REGISTRY_HTTP_DRAINTIMEOUT",
            "REGISTRY_HTTP_TLS_CERTIFICATE",
            "REGISTRY_HTTP_TLS_CLIENTCAS",
            "REGISTRY_HTTP_DEBUG_ADDR",
        )
    },
    # Network.
    "a socket": (data(http={"net": "unix", "addr": "/run/r.sock"}), "names no TCP port that the Service could"),
    "a random port": (data(http={"addr": ":0"}), 'configData.http.addr: ":0" names no TCP port'),
    "loopback": (
        data(http={"addr": "127.0.0.1:5000"}),
        "configData.http.addr: 127.0.0.1:5000 is reached by neither",
    ),
    "metrics on loopback": (
        {**METRICS, **data(http={"debug": {"addr": "localhost:5001"}})},
        "configData.http.debug.addr: localhost:5001 is not reached by Prometheus",
    ),
    "one port for two": (
        {**METRICS, **data(http={"debug": {"addr": ":5000"}})},
        "configData.http.debug.addr: the debug listener cannot have the registry's port, 5000",
    ),
    "one port of the Service": (
        {"metrics": {"enabled": True, "port": 5000}},
        "metrics.port: the Service cannot have",
    ),
    "no host": ({"ingress": {"enabled": True}}, "ingress.hosts: is empty"),
    "no gateway": ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs: is empty"),
    "TLS behind a gateway": (
        {"httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}, "tls": {"existingSecret": "t"}},
        "httpRoute: a Gateway speaks plain HTTP to the Service",
    ),
    "address of no balancer": (
        {"service": {"loadBalancerIP": "1.2.3.4"}},
        "service.loadBalancerIP: needs service.t",
    ),
    "port of no node": ({"service": {"nodePort": 30000}}, "service.nodePort: needs service.type: NodePort"),
    # Operations.
    **{
        f"{name} without metrics": (
            {"metrics": {name: {"enabled": True}}},
            f"metrics.{name}.enabled: needs metrics.",
        )
        for name in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboard")
    },
    "counted twice": (
        {"metrics": {"enabled": True, "serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}},
        "metrics.podMonitor.enabled: with metrics.serviceMonitor.enabled every pod would be counted twice",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_values_that_contradict_each_other_are_refused(helm: Helm, case: str) -> None:
    """`helm install` ends before anything is in the cluster."""
    values, expected = CASES[case]
    problems = [line for line in helm.refusal(values).splitlines() if line.startswith("* ")]
    assert any(expected in problem for problem in problems), problems
    assert all(problem.endswith((".", ")")) for problem in problems)


def test_every_refusal_of_the_chart_is_provoked_here(helm: Helm) -> None:
    """A refusal that no test provokes may refuse what is right, or nothing."""
    reported = [line for values, _ in CASES.values() for line in helm.refusal(values).splitlines()]
    messages = [
        line
        for line in (CHART / "templates" / "_validate.tpl").read_text().splitlines()
        if re.match(r"(?!\{\{-|\{\{/|\*/|values\.schema|Checks|  ).*: .*[.)]$", line)
    ]
    assert len(messages) > 50
    for message in messages:
        pattern = ".*".join(re.escape(part) for part in re.split(r"\{\{.*?\}\}", message))
        assert any(re.fullmatch(rf"\* {pattern}", line) for line in reported), message


def test_all_problems_are_reported_at_once(helm: Helm) -> None:
    values = {**CASES["no host"][0], **CASES["a proxy of nothing"][0], **CASES["no gateway"][0]}
    problems = [line for line in helm.refusal(values).splitlines() if line.startswith("* ")]
    assert len(problems) == 3


UNKNOWN: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "top": ({"replicas": 2}, "replicas"),
    "persistence": ({"persistence": {"storageclass": "x"}}, "storageclass"),
    "image": ({"image": {"registry": "x"}}, "registry"),
    "s3": ({"s3": {"regionendpoint": "x"}}, "regionendpoint"),
    "auth": ({"auth": {"htpasswd": {"secretName": "x"}}}, "secretName"),
    "ingress": ({"ingress": {"host": "x"}}, "host"),
    "ingress.tls": ({"ingress": {"tls": [{"secret": "x"}]}}, "secret"),
    "metrics": ({"metrics": {"serviceMonitor": {"selector": {}}}}, "selector"),
    "service": ({"service": {"ports": 1}}, "ports"),
    "secrets": ({"secrets": {"s3": {"key": "x"}}}, "key"),
    "probe": ({"livenessProbe": {"httpGet": {"path": "/"}}}, "httpGet"),
    "updateStrategy": ({"updateStrategy": {"rollingUpdates": {}}}, "rollingUpdates"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_value_is_refused_by_name(helm: Helm, case: str) -> None:
    """A misspelt value would otherwise have no effect, and no message."""
    values, key = UNKNOWN[case]
    message = helm.refusal(values)
    assert "additional properties" in message
    assert f"'{key}'" in message


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"replicaCount": "2"}, "/replicaCount"),
        ({"replicaCount": -1}, "/replicaCount"),
        ({"storage": "s4"}, "/storage"),
        ({"persistence": {"accessMode": "RWX"}}, "/persistence/accessMode"),
        ({"persistence": {"size": "10 GB"}}, "/persistence/size"),
        ({"updateStrategy": {"type": "Rolling"}}, "/updateStrategy/type"),
        ({"service": {"port": 0}}, "/service/port"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"http": {"existingSecret": "My Secret"}}, "/http/existingSecret"),
        ({"configPath": "etc"}, "/configPath"),
        ({"configData": {"http": {"debug": ":5001"}}}, "/configData/http/debug"),
        ({"configData": {"storage": "inmemory"}}, "/configData/storage"),
        ({"service": None}, ""),
        ({"extraEnv": [{"name": "A", "value": 1}]}, "/extraEnv/0/value"),
        ({"extraVolumes": {"name": "a"}}, "/extraVolumes"),
        ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "/podDisruptionBudget/maxUnavailable"),
        ({"metrics": {"serviceMonitor": {"interval": "15"}}}, "/metrics/serviceMonitor/interval"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_place(
    helm: Helm, values: dict[str, Any], place: str
) -> None:
    assert f"at '{place}'" in helm.refusal(values)
