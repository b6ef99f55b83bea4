"""Real clients and `auth.htpasswd`: users who log in pull and push; the others get the client's own message.

The file has users by Debian's `htpasswd` and by `moorage htpasswd`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tests.clients.daemons import dockerd
from tests.clients.layouts import Layout, busybox_tar, tar_of
from tests.live import require, start_tested

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.conftest import Run
    from tests.live import Live

pytestmark = [pytest.mark.client, pytest.mark.slow, pytest.mark.xdist_group("docker")]

PLAIN: Final = ("--src-tls-verify=false", "--dest-tls-verify=false")
USERS: Final = {"theirs": "the first password", "ours": "größe:2"}
WRONG: Final = "not it"


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One entry by each program."""
    path = tmp_path_factory.mktemp("passwords") / "htpasswd"
    ours = [str(Path(sys.executable).with_name("moorage")), "htpasswd"]
    for command, user, flags in (([require("htpasswd")], "theirs", "-Bbc"), (ours, "ours", "-Bb")):
        subprocess.run([*command, flags, path, user, USERS[user]], check=True, capture_output=True, timeout=60)
    return path


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, users: Path) -> Iterator[Live]:
    """In place of the registry without authentication."""
    root = tmp_path_factory.mktemp("clients") / "data"
    with start_tested(root, auth={"htpasswd": {"realm": "a test", "path": str(users)}}) as live:
        yield live


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "layout")
    layout.tag("v1", layout.image([tar_of({f"{n}": bytes([n]) * 5000}) for n in range(10)]))
    return layout


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with dockerd() as host:
        yield host


@pytest.mark.parametrize("user", USERS)
def test_skopeo_copies_with_credentials_and_not_without(
    run: Run, reg: str, layout: Layout, tmp_path: Path, user: str
) -> None:
    skopeo, image = require("skopeo"), f"docker://{reg}/{user}/image:v1"
    creds = f"{user}:{USERS[user]}"
    run(skopeo, "copy", *PLAIN, "--dest-creds", creds, f"oci:{layout.path}:v1", image)
    run(skopeo, "copy", *PLAIN, "--src-creds", creds, image, f"oci:{tmp_path / 'back'}:v1")
    raw = run(skopeo, "inspect", "--raw", "--tls-verify=false", "--creds", creds, image)
    assert len(json.loads(raw)["layers"]) == 10
    for wrong in (("--creds", f"{user}:{WRONG}"), ("--no-creds",)):
        refused = run(skopeo, "inspect", "--raw", "--tls-verify=false", *wrong, image, fails=True)
        assert re.search("unauthorized|authentication required|invalid username/password", refused), refused


def test_curl_is_let_in_with_u(run: Run, reg: str) -> None:
    """The first thing an operator tries; the header is what docs of other registries show."""
    curl = require("curl")
    for user, password in USERS.items():
        assert run(curl, "-sf", "-u", f"{user}:{password}", f"http://{reg}/v2/_catalog").startswith("{")
    refused = run(curl, "-si", "-u", f"ours:{WRONG}", f"http://{reg}/v2/")
    assert refused.startswith("HTTP/1.1 401")
    assert 'basic realm="a test"' in refused.lower()
    assert "docker-distribution-api-version: registry/2.0" in refused.lower()
    assert run(curl, "-sI", f"http://{reg}/v2/").startswith("HTTP/1.1 401")


def test_podman_logs_in_and_out(run: Run, reg: str) -> None:
    podman = require("podman")
    login = (podman, "login", "--tls-verify=false", "-u", "ours", "--password-stdin", reg)
    assert "invalid username/password" in run(*login, stdin=WRONG, fails=True)
    assert "Login Succeeded" in run(*login, stdin=USERS["ours"])
    run(podman, "logout", reg)


@pytest.mark.docker
@pytest.mark.root
@pytest.mark.parametrize("user", USERS)
def test_docker_logs_in_pushes_and_pulls(
    run: Run, reg: str, engine: str, tmp_path: Path, registry: Live, reference_in_place: bool, user: str
) -> None:
    """Its pushes send the password with every request."""
    docker, env = require("docker"), {"DOCKER_HOST": engine}
    (tmp_path / "root.tar").write_bytes(busybox_tar({"hello": b"#!/bin/sh\necho hello\n"}))
    image = f"{reg}/docker/{user}:1"
    run(docker, "import", "--change", 'CMD ["/hello"]', tmp_path / "root.tar", image, env=env)
    assert "no basic auth credentials" in run(docker, "push", image, env=env, fails=True)

    login = (docker, "login", "-u", user, "--password-stdin", reg)
    refused = run(*login, stdin=WRONG, env=env, fails=True)
    assert "401 Unauthorized" in refused or "unauthorized" in refused, refused
    assert "Login Succeeded" in run(*login, stdin=USERS[user], env=env)
    assert re.search(r"digest: sha256:[0-9a-f]{64}", run(docker, "push", image, env=env))
    run(docker, "rmi", "-f", image, env=env)
    run(docker, "pull", image, env=env)
    run(docker, "logout", reg, env=env)
    run(docker, "rmi", "-f", image, env=env)
    assert "no basic auth credentials" in run(docker, "pull", image, env=env, fails=True)
    if not reference_in_place:
        registry.logged("wrong user or password")
    assert USERS[user] not in registry.logs()
    assert WRONG not in registry.logs()
