"""Facts of a rendered chart that twuni/docker-registry.helm and ours must agree on.

`twuni.json` holds the facts of that chart, version 3.0.0 (commit ab431e8), for the values in `CASES`: names,
ports, references to Secrets, settings; none of its text.  With a copy of the chart the record is checked:

    MOORAGE_TWUNI_CHART=/path/to/docker-registry.helm python3 dev.py test tests/chart/test_twuni.py

and `MOORAGE_RECORD=1` writes it anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.chart.helm import Rendered

__all__ = ["CASES", "facts"]

SHARED: Final = {"secrets": {"haSharedSecret": "0123456789abcdef0123456789abcdef"}}
BUCKET: Final = {"region": "eu-central-1", "bucket": "images"}

CASES: Final[dict[str, dict[str, Any]]] = {
    "volume": {"persistence": {"enabled": True, "size": "50Gi", "storageClass": "fast"}},
    "no class": {"persistence": {"enabled": True, "storageClass": "-"}},
    "claim": {"persistence": {"enabled": True, "existingClaim": "images", "deleteEnabled": True}},
    "no volume": {"persistence": {"enabled": False}},
    "names": {"fullnameOverride": "cr", "namespace": "registries", "persistence": {"enabled": True}},
    "passwords": {
        "secrets": {"haSharedSecret": "0123456789abcdef0123456789abcdef", "htpasswd": "own"},
        "persistence": {"enabled": True},
    },
    "tls": {"tlsSecretName": "registry-tls", "persistence": {"enabled": True}, **SHARED},
    "s3": {
        "storage": "s3",
        "replicaCount": 2,
        "s3": {
            **BUCKET,
            "regionEndpoint": "https://s3.example.com",
            "rootdirectory": "/registry",
            "encrypt": True,
            "secure": True,
            "forcepathstyle": True,
            "skipverify": True,
        },
        "secrets": {**SHARED["secrets"], "s3": {"accessKey": "AK", "secretKey": "SK"}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}},
    },
    "s3 with a Secret": {
        "storage": "s3",
        "s3": BUCKET,
        "secrets": {**SHARED["secrets"], "s3": {"secretRef": "registry-s3", "accessKey": "", "secretKey": ""}},
    },
    "s3 with a role": {
        "storage": "s3",
        "s3": BUCKET,
        "secrets": {**SHARED["secrets"], "s3": {}},
        "serviceAccount": {"create": True, "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"}},
    },
    "azure": {
        "storage": "azure",
        "secrets": {
            **SHARED["secrets"],
            "azure": {"accountName": "images", "accountKey": "aGVsbG8=", "container": "registry"},
        },
    },
    "balancer": {
        "service": {
            "type": "LoadBalancer",
            "port": 80,
            "loadBalancerIP": "192.0.2.1",
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
            "annotations": {"a": "b"},
            "labels": {"c": "d"},
        },
        "persistence": {"enabled": True},
    },
    "port of the nodes": {
        "service": {"type": "NodePort", "nodePort": 30500},
        "persistence": {"enabled": True},
    },
    "ingress": {
        "ingress": {
            "enabled": True,
            "className": "traefik",
            "path": "/",
            "hosts": ["registry.example.com", "cr.example.com"],
            "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"},
            "labels": {"e": "f"},
            "tls": [{"secretName": "registry-tls", "hosts": ["registry.example.com"]}],
        },
        "persistence": {"enabled": True},
    },
    "metrics": {
        "metrics": {"enabled": True, "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
        "configData": {"http": {"debug": {"addr": ":5001", "prometheus": {"enabled": True, "path": "/metrics"}}}},
        "persistence": {"enabled": True},
    },
    "autoscaling": {
        "storage": "s3",
        "s3": BUCKET,
        "secrets": {**SHARED["secrets"], "s3": {}},
        "autoscaling": {
            "enabled": True,
            "minReplicas": 2,
            "maxReplicas": 5,
            "targetCPUUtilizationPercentage": 70,
            "targetMemoryUtilizationPercentage": 80,
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
        },
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "podDisruptionBudget": {"maxUnavailable": 1},
    },
    "pods": {
        "persistence": {"enabled": True},
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "deployment": {"annotations": {"e": "f"}},
        "imagePullSecrets": [{"name": "pull"}],
        "serviceAccount": {"create": True, "name": "puller"},
        "priorityClassName": "important",
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "registry", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "extraVolumes": [{"name": "keys", "secret": {"secretName": "keys"}}],
        "extraVolumeMounts": [{"name": "keys", "mountPath": "/keys", "readOnly": True}],
        "extraEnvVars": [{"name": "REGISTRY_LOG_LEVEL", "value": "warn"}],
        "initContainers": [{"name": "first", "image": "busybox", "command": ["true"]}],
        "resources": {"limits": {"memory": "1Gi"}},
    },
    "configuration": {
        "configPath": "/etc/docker/registry",
        "configData": {
            "log": {"level": "warn", "fields": {"service": "cr"}},
            "storage": {"delete": {"enabled": True}, "maintenance": {"readonly": {"enabled": True}}},
            "http": {"headers": {"X-Content-Type-Options": ["nosniff"], "X-Own": ["1"]}},
            "health": {"storagedriver": {"interval": "30s"}},
        },
        "persistence": {"enabled": True},
        "securityContext": {"runAsUser": 1001, "fsGroup": 1001},
        "containerSecurityContext": {"runAsUser": 1001, "runAsGroup": 1001},
    },
}


def facts(rendered: Rendered) -> dict[str, Any]:
    """Return what both charts must agree on."""
    deployment, pod, container = rendered.one("Deployment"), rendered.pod, rendered.container
    name = deployment["metadata"]["name"]
    ports = {port.get("name", ""): port["containerPort"] for port in container["ports"]}
    found: dict[str, Any] = {
        "name": name,
        "namespace": deployment["metadata"]["namespace"],
        "selector": deployment["spec"]["selector"]["matchLabels"],
        "replicas": deployment["spec"].get("replicas"),
        "strategy": deployment["spec"].get("strategy"),
        "annotations": deployment["metadata"].get("annotations"),
        "pod labels": deployment["spec"]["template"]["metadata"]["labels"],
        "pod annotations": {
            key: value
            for key, value in deployment["spec"]["template"]["metadata"]["annotations"].items()
            if not key.startswith("checksum/")
        },
        "pod": {
            key: pod.get(key)
            for key in ("imagePullSecrets", "priorityClassName", "nodeSelector", "tolerations", "affinity")
        },
        "account": pod.get("serviceAccountName", "default"),
        "pod security": pod["securityContext"],
        "container security": container["securityContext"],
        "init containers": [one["name"] for one in pod.get("initContainers", [])],
        "resources": container.get("resources") or {},
        "command": [*container.get("command", []), *container.get("args", [])][-2:],
        "ports": sorted(ports.values()),
        "scheme": container["livenessProbe"]["httpGet"].get("scheme", "HTTP"),
        "config": rendered.config,
        "variables": rendered.env,
        "references": _references(rendered, f"{name}-secret"),
        "mounts": _mounts(rendered, f"{name}-secret"),
        "service": _service(rendered, ports),
    }
    for kind, part in (
        ("PersistentVolumeClaim", _claim),
        ("Ingress", _ingress),
        ("PodDisruptionBudget", _spec),
        ("HorizontalPodAutoscaler", _spec),
        ("ServiceAccount", _account),
        ("ServiceMonitor", _monitor),
    ):
        found[kind] = part(rendered.one(kind)) if kind in rendered.kinds() else None
    return found


def _references(rendered: Rendered, own: str) -> dict[str, str]:
    """Variables whose values are in Secrets, as SECRET/KEY; `own` is the chart's."""
    found = dict(rendered.secret_settings)
    for one in rendered.container.get("env", []):
        if reference := one.get("valueFrom", {}).get("secretKeyRef"):
            found[one["name"]] = (reference["name"], reference["key"])
    return {variable: f"{'own' if secret == own else secret}/{key}" for variable, (secret, key) in found.items()}


def _mounts(rendered: Rendered, own: str) -> dict[str, Any]:
    volumes = {volume["name"]: volume for volume in rendered.pod["volumes"]}
    found = {}
    for mount in rendered.container["volumeMounts"]:
        volume = volumes[mount["name"]]
        content: Any = next(kind for kind in volume if kind != "name")
        if content == "secret":
            secret = volume["secret"]
            keys = ",".join(item["key"] for item in secret.get("items", []))
            content = f"secret {'own' if secret['secretName'] == own else secret['secretName']} {keys}".strip()
        if content == "persistentVolumeClaim":
            content = f"claim {volume['persistentVolumeClaim']['claimName']}"
        found[mount["mountPath"].rstrip("/")] = content
    return found


def _service(rendered: Rendered, ports: dict[str, int]) -> dict[str, Any]:
    service = rendered.one("Service")
    listed = [
        {**port, "targetPort": ports.get(port["targetPort"], port["targetPort"])}
        for port in service["spec"]["ports"]
    ]
    return {
        **service["spec"],
        "ports": listed,
        "name": service["metadata"]["name"],
        "annotations": service["metadata"].get("annotations"),
        "labels": service["metadata"]["labels"],
    }


def _claim(claim: dict[str, Any]) -> dict[str, Any]:
    return {"name": claim["metadata"]["name"], **claim["spec"]}


def _ingress(ingress: dict[str, Any]) -> dict[str, Any]:
    metadata = ingress["metadata"]
    return {**ingress["spec"], "annotations": metadata.get("annotations") or {}, "labels": metadata["labels"]}


def _spec(one: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = one["spec"]
    return spec


def _account(account: dict[str, Any]) -> dict[str, Any]:
    metadata = account["metadata"]
    return {"name": metadata["name"], "annotations": metadata.get("annotations") or {}}


def _monitor(monitor: dict[str, Any]) -> dict[str, Any]:
    endpoint = monitor["spec"]["endpoints"][0]
    return {
        "name": monitor["metadata"]["name"],
        "release": monitor["metadata"]["labels"]["release"],
        "port": endpoint["port"],
        "interval": endpoint["interval"],
    }
