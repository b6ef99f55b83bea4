"""Values that the chart is rendered with, and the contents of the Secrets that they name."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["CASES", "EVERYTHING"]

HTTP: Final = {"existingSecret": "registry-http"}
S3: Final = {"bucket": "images", "region": "eu-central-1"}

EVERYTHING: Final[dict[str, Any]] = {
    "replicaCount": 3,
    "image": {"repository": "registry.example.com/moorage", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "pull"}],
    "deployment": {"annotations": {"a": "b"}, "labels": {"team": "platform"}},
    "podAnnotations": {"c": "d"},
    "podLabels": {"azure.workload.identity/use": "true"},
    "serviceAccount": {"create": True, "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"}},
    "service": {
        "type": "LoadBalancer",
        "port": 443,
        "nodePort": 30443,
        "loadBalancerSourceRanges": ["10.0.0.0/8"],
        "externalTrafficPolicy": "Local",
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
        "ipFamilyPolicy": "PreferDualStack",
        "ipFamilies": ["IPv6", "IPv4"],
        "annotations": {"e": "f"},
        "labels": {"g": "h"},
    },
    "ingress": {
        "enabled": True,
        "hosts": ["registry.example.com", "cr.example.com"],
        "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": 3600},
        "tls": [{"secretName": "registry-tls", "hosts": ["registry.example.com", "cr.example.com"]}],
    },
    "httpRoute": {
        "enabled": True,
        "parentRefs": [{"name": "gateway", "namespace": "gateways", "sectionName": "https"}],
        "hostnames": ["registry.example.com"],
        "filters": [
            {
                "type": "ResponseHeaderModifier",
                "responseHeaderModifier": {"set": [{"name": "x-registry", "value": "moorage"}]},
            }
        ],
    },
    "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
    "persistence": {"accessMode": "ReadWriteMany", "storageClass": "nfs", "size": "2Ti", "deleteEnabled": True},
    "garbageCollect": {"enabled": True, "deleteUntagged": True, "interval": "12h", "grace": "48h", "wait": "20m"},
    "http": HTTP,
    "auth": {"htpasswd": {"existingSecret": "registry-users", "existingSecretKey": "users"}},
    "redis": {
        "addrs": ["redis-0:26379", "redis-1:26379"],
        "mastername": "registry",
        "db": 3,
        "existingSecret": "redis",
        "usernameKey": "user",
        "sentinelPasswordKey": "sentinel",
    },
    "metrics": {
        "enabled": True,
        "serviceMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "scrapeTimeout": "10s",
            "relabelings": [{"targetLabel": "cluster", "replacement": "one"}],
            "metricRelabelings": [{"action": "labeldrop", "regex": "instance"}],
        },
        "prometheusRule": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "rules": [{"alert": "Own", "expr": "vector(1)"}],
        },
        "dashboard": {"enabled": True, "namespace": "monitoring", "annotations": {"grafana_folder": "Registry"}},
    },
    "configData": {"http": {"trustedproxies": ["10.0.0.0/8"], "draintimeout": "1m30s"}},
    "priorityClassName": "system-cluster-critical",
    "runtimeClassName": "gvisor",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "registry", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]
            }
        }
    },
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
        }
    ],
    "podDisruptionBudget": {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
    "networkPolicy": {
        "enabled": True,
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}],
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "redis"}}}]}],
    },
    "extraEnv": [{"name": "OTEL_TRACES_EXPORTER", "value": "none"}],
    "extraEnvVars": [{"name": "REGISTRY_LOG_LEVEL", "value": "debug"}],
    "extraEnvFrom": [{"configMapRef": {"name": "more"}}],
    "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    "extraContainers": [{"name": "sidecar", "image": "sidecar:1"}],
    "initContainers": [{"name": "first", "image": "first:1", "command": ["true"]}],
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}, "data": {"A": "b"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-templated\n",
    ],
}
"""Nearly every value at once."""

CASES: Final[dict[str, dict[str, Any]]] = {
    "defaults": {},
    "everything": EVERYTHING,
    "emptydir": {"persistence": {"enabled": False}},
    "existing-claim": {"persistence": {"existingClaim": "registry-data", "storageClass": "-"}},
    "no-class": {"persistence": {"storageClass": "-", "resourcePolicy": "delete"}},
    "shared-volume": {"replicaCount": 2, "persistence": {"accessMode": "ReadWriteMany"}, "http": HTTP},
    "s3": {"storage": "s3", "s3": {**S3, "existingSecret": "registry-s3"}, "http": HTTP, "replicaCount": 2},
    "s3-role": {
        "storage": "s3",
        "s3": S3,
        "http": HTTP,
        "serviceAccount": {"create": True, "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"}},
    },
    "s3-other": {
        "storage": "s3",
        "s3": {
            "bucket": "images",
            "regionEndpoint": "http://ceph:8000",
            "rootdirectory": "/registry",
            "forcepathstyle": True,
            "secure": False,
            "existingSecret": "ceph",
            "accessKeyKey": "AWS_ACCESS_KEY_ID",
            "secretKeyKey": "AWS_SECRET_ACCESS_KEY",
            "sessionTokenKey": "AWS_SESSION_TOKEN",
        },
        "http": HTTP,
        "configData": {"storage": {"s3": {"chunksize": 16777216, "storageclass": "STANDARD_IA"}}},
    },
    "gcs": {
        "storage": "gcs",
        "gcs": {"bucket": "images", "rootdirectory": "registry", "existingSecret": "registry-gcs"},
        "http": HTTP,
    },
    "gcs-workload-identity": {"storage": "gcs", "gcs": {"bucket": "images"}, "http": HTTP},
    "azure": {
        "storage": "azure",
        "azure": {"accountname": "images", "container": "registry", "existingSecret": "registry-azure"},
        "http": HTTP,
    },
    "azure-all-in-secret": {
        "storage": "azure",
        "azure": {"existingSecret": "registry-azure", "accountNameKey": "name", "containerKey": "container"},
        "http": HTTP,
    },
    "azure-identity": {
        "storage": "azure",
        "azure": {"accountname": "images", "container": "registry"},
        "configData": {"storage": {"azure": {"credentials": {"type": "default_credentials"}}}},
        "http": HTTP,
        "podLabels": {"azure.workload.identity/use": "true"},
    },
    "local": {"auth": {"local": {"existingSecret": "registry-policy", "usersKey": "users"}}, "http": HTTP},
    "tls": {"tls": {"existingSecret": "registry-tls"}},
    "client-certificates": {
        "tls": {"existingSecret": "registry-tls", "clientCAsKey": "ca.crt"},
        "metrics": {"enabled": True},
    },
    "redis-tls": {
        "redis": {
            "addrs": ["redis:6380"],
            "existingSecret": "redis",
            "tls": {
                "enabled": True,
                "existingSecret": "redis-tls",
                "certificateKey": "tls.crt",
                "privateKeyKey": "tls.key",
            },
        }
    },
    "autoscaling": {
        "storage": "s3",
        "s3": S3,
        "http": HTTP,
        "autoscaling": {
            "enabled": True,
            "minReplicas": 2,
            "maxReplicas": 10,
            "targetMemoryUtilizationPercentage": 80,
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
        },
        "resources": {"requests": {"cpu": 1, "memory": "1Gi"}},
    },
    "pod-monitor": {
        "metrics": {
            "enabled": True,
            "podMonitor": {"enabled": True},
            "prometheusRule": {"enabled": True},
            "dashboard": {"enabled": True},
        },
        "networkPolicy": {"enabled": True},
    },
    "gateway": {
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "gateway"}],
            "hostnames": ["registry.example.com"],
        }
    },
    "other-port": {
        "configData": {"http": {"addr": "[::]:8080", "debug": {"addr": ":9090"}}},
        "metrics": {"enabled": True},
    },
    "secret-contents": {
        "secrets": {
            "haSharedSecret": "cc22b16fa9ddf77ae7a4e7e3c9d9a7f1",
            "htpasswd": "u:$2y$05$" + "a" * 53 + "\n",
        }
    },
    "own-tmp": {
        "extraVolumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        "extraVolumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    },
    "nulls": {
        **dict.fromkeys(
            (
                "resources",
                "affinity",
                "extraEnv",
                "extraVolumes",
                "updateStrategy",
                "podLabels",
                "podDisruptionBudget",
            )
        ),
        "ingress": {"tls": None},
        "configData": {
            "http": {"debug": None, "headers": None},
            "storage": {"s3": None, "cache": None},
            "health": None,
        },
    },
    "no-authentication": {"configData": {"auth": {"none": None}}},
}
