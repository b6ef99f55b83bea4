"""The restricted level of the Pod Security Standards, checked on a pod's specification.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/ (Baseline and Restricted).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["violations"]

_VOLUMES: Final = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
_SYSCTLS: Final = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
    }
)
_SELINUX: Final = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
_PROFILES: Final = frozenset({"RuntimeDefault", "Localhost"})


def violations(pod: dict[str, Any]) -> list[str]:
    """Return what the restricted level forbids in a pod's `spec`; empty if it is allowed."""
    return [*_pod(pod), *(found for container in _containers(pod) for found in _container(pod, container))]


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in pod.get(kind) or []]


def _pod(pod: dict[str, Any]) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{key} is true"
    for volume in pod.get("volumes") or []:
        if not (set(volume) - {"name"}) <= _VOLUMES:
            yield f"volume {volume['name']} is of a kind that is not allowed"
    context = pod.get("securityContext") or {}
    for sysctl in context.get("sysctls") or []:
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    yield from _contexts("the pod", context)


def _contexts(where: str, context: dict[str, Any]) -> Iterator[str]:
    """Yield what neither a pod nor a container may set."""
    if context.get("runAsUser") == 0:
        yield f"{where} runs as root"
    if context.get("runAsNonRoot") is False:
        yield f"{where} may run as root"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield f"{where} is a host process"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in _SELINUX or selinux.get("user") or selinux.get("role"):
        yield f"{where} sets SELinux options that are not allowed"
    if (context.get("appArmorProfile") or {}).get("type") == "Unconfined":
        yield f"{where} has no AppArmor profile"
    if (context.get("seccompProfile") or {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield f"{where} has no seccomp profile"


def _container(pod: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    where, context = f"container {container['name']}", container.get("securityContext") or {}
    outer = pod.get("securityContext") or {}
    yield from _contexts(where, context)
    if context.get("privileged"):
        yield f"{where} is privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{where} may escalate privileges"
    if context.get("procMount", "Default") != "Default":
        yield f"{where} mounts /proc unmasked"
    capabilities = context.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield f"{where} does not drop all capabilities"
    if not set(capabilities.get("add") or []) <= {"NET_BIND_SERVICE"}:
        yield f"{where} adds capabilities"
    if not context.get("runAsNonRoot", outer.get("runAsNonRoot")):
        yield f"{where} does not demand another user than root"
    if not (context.get("seccompProfile") or outer.get("seccompProfile")):
        yield f"{where} names no seccomp profile"
    if any(port.get("hostPort") for port in container.get("ports") or []):
        yield f"{where} has a port of the node"
    for key in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(key) or {}
        if any((probe.get(kind) or {}).get("host") for kind in ("httpGet", "tcpSocket")):
            yield f"{where} probes another host"
    for hook in (container.get("lifecycle") or {}).values():
        if any((hook.get(kind) or {}).get("host") for kind in ("httpGet", "tcpSocket")):
            yield f"{where} calls another host"
