"""The pods run under the restricted Pod Security Standard, and a little beyond it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.chart.cases import CASES
from tests.chart.pod_security import violations

if TYPE_CHECKING:
    from tests.chart.helm import Helm


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_allowed_by_the_restricted_level(helm: Helm, case: str) -> None:
    """A namespace that enforces the level refuses other pods, and Helm reports success all the same."""
    pod = helm.render(CASES[case]).pod
    assert violations(pod) == []


@pytest.mark.parametrize("case", CASES)
def test_beyond_the_standard(helm: Helm, case: str) -> None:
    rendered = helm.render(CASES[case])
    pod, context = rendered.pod, rendered.container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["runAsUser"] == context["runAsGroup"] == 1000
    assert pod["securityContext"]["fsGroup"] == 1000
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    mounts = {mount["mountPath"]: mount for mount in rendered.container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert "emptyDir" in volumes[mounts["/tmp"]["name"]]
    for path, mount in mounts.items():
        volume = volumes[mount["name"]]
        if {"secret", "projected", "configMap"} & set(volume):
            assert mount["readOnly"] is True, path
        for kind in ("secret", "projected"):
            # For the group of the pod, which owns the files: not for others.
            assert kind not in volume or volume[kind]["defaultMode"] == 0o440


def test_users_can_be_chosen_by_the_platform(helm: Helm) -> None:
    """On OpenShift a security context constraint sets user and group: a fixed one would be refused."""
    values = {
        **CASES["tls"],
        "securityContext": {"enabled": False},
        "containerSecurityContext": {"runAsUser": None, "runAsGroup": None},
    }
    rendered = helm.render(values)
    assert violations(rendered.pod) == []
    assert "securityContext" not in rendered.pod
    assert not {"runAsUser", "runAsGroup"} & rendered.container["securityContext"].keys()
    # No group of the pod owns the files.
    volumes = {volume["name"]: volume for volume in rendered.pod["volumes"]}
    assert volumes["tls-cert"]["secret"]["defaultMode"] == 0o444


def test_contexts_can_be_left_to_the_platform(helm: Helm) -> None:
    rendered = helm.render({"securityContext": {"enabled": False}, "containerSecurityContext": {"enabled": False}})
    assert "securityContext" not in rendered.pod
    assert "securityContext" not in rendered.container


def test_containers_of_the_values_keep_their_own_context(helm: Helm) -> None:
    """One that must be root is asked for by name, and the cluster's policy decides."""
    root = {"name": "chown", "image": "i", "securityContext": {"runAsUser": 0, "runAsNonRoot": False}}
    pod = helm.render({"initContainers": [root, {"name": "other", "image": "i"}]}).pod
    assert pod["initContainers"][0] == root
    assert len(violations({**pod, "initContainers": [root]})) > 0
    assert violations({**pod, "initContainers": pod["initContainers"][1:]}) == []


CHANGES: Final[list[tuple[list[str | int], Any]]] = [
    (["hostNetwork"], True),
    (["hostPID"], True),
    (["hostIPC"], True),
    (["volumes", 0], {"name": "host", "hostPath": {"path": "/"}}),
    (["securityContext", "sysctls"], [{"name": "kernel.msgmax", "value": "1"}]),
    (["securityContext", "runAsUser"], 0),
    (["securityContext", "runAsNonRoot"], False),
    (["securityContext", "seccompProfile", "type"], "Unconfined"),
    (["securityContext", "seLinuxOptions"], {"type": "spc_t"}),
    (["securityContext", "windowsOptions"], {"hostProcess": True}),
    (["containers", 0, "securityContext", "privileged"], True),
    (["containers", 0, "securityContext", "allowPrivilegeEscalation"], None),
    (["containers", 0, "securityContext", "capabilities", "drop"], ["NET_RAW"]),
    (["containers", 0, "securityContext", "capabilities", "add"], ["SYS_ADMIN"]),
    (["containers", 0, "securityContext", "runAsUser"], 0),
    (["containers", 0, "securityContext", "procMount"], "Unmasked"),
    (["containers", 0, "securityContext", "appArmorProfile"], {"type": "Unconfined"}),
    (["containers", 1, "securityContext"], {}),
    (["initContainers", 0, "securityContext", "capabilities"], None),
    (["containers", 0, "ports", 0, "hostPort"], 5000),
    (["containers", 0, "livenessProbe", "httpGet", "host"], "example.com"),
    (["containers", 0, "lifecycle", "preStop"], {"httpGet": {"host": "example.com", "port": 80}}),
]


@pytest.mark.parametrize(
    ("path", "value"), CHANGES, ids=lambda part: ".".join(map(str, part)) if isinstance(part, list) else ""
)
def test_the_check_notices_what_the_standard_forbids(helm: Helm, path: list[str | int], value: Any) -> None:
    """The tests above would prove nothing if it did not."""
    pod = copy.deepcopy(helm.render(CASES["everything"]).pod)
    assert violations(pod) == []
    place: Any = pod
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    assert violations(pod) != []
