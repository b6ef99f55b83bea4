"""docs/mirror.md, step by step: Docker, containerd and skopeo before a mirror that the page configures.

`docker-registry` stands for the upstream registries, which are out of reach.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import bcrypt
import pytest
import yaml
from tests.clients.daemons import containerd, dockerd
from tests.clients.layouts import Layout, busybox_tar
from tests.guide.machine import until
from tests.live import require, start, start_moorage, start_reference
from tests.operations.pages import adapted, block, blocks, run_block
from tests.proxy.pages import PAGE, captioned, messages
from tests.wire import Wire

from moorage.config.load import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.live import Live
    from tests.proxy.conftest import Skopeo

GROUP: Final = pytest.mark.xdist_group("mirror")
LIVE: Final = [pytest.mark.client, pytest.mark.slow, GROUP]
ENGINE: Final = [*LIVE, pytest.mark.docker, pytest.mark.root]
MOORAGE: Final = str(Path(sys.executable).with_name("moorage"))
CONFIG: Final = "/etc/moorage/config.yml"
HUB: Final = "https://registry-1.docker.io"
NAME: Final = "mirror.example.com"
REGISTRIES: Final = ("docker.io", "ghcr.io", "registry.k8s.io")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A registry that has `library/alpine:3`, which runs."""
    folder = tmp_path_factory.mktemp("hub")
    layout = Layout(folder / "layout")
    layout.tag("3", layout.image([busybox_tar()], Cmd=["/bin/echo", "hello from the hub"]))
    with start_reference(folder / "data") as live:
        target = f"docker://{live.host}/library/alpine:3"
        copy = [require("skopeo"), "copy", "--dest-tls-verify=false", f"oci:{layout.path}:3", target]
        subprocess.run(copy, check=True, capture_output=True, timeout=60)
        yield live


@pytest.fixture(scope="module")
def machine(hub: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The mirror for one machine, by the page's first command."""
    folder = tmp_path_factory.mktemp("machine")
    places = {HUB: hub.url, "moorage serve": f"exec {MOORAGE} serve"}
    script = adapted(block(PAGE, "export REGISTRY_PROXY_REMOTEURL").text, places)
    environment = {
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(folder / "data"), "REGISTRY_HTTP_ADDR": "127.0.0.1:0"
    }  # fmt: skip
    with start(["sh", "-euc", script], folder / "data", {}, environment=environment) as live:
        yield live


@pytest.fixture(scope="module")
def cluster(hub: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The mirror for a cluster, with the page's file."""
    root = tmp_path_factory.mktemp("cluster") / "data"
    changes = {"/var/lib/moorage": str(root), "addr: :5000": "addr: 127.0.0.1:0", HUB: hub.url}
    changes |= {f"https://{name}": hub.url for name in REGISTRIES[1:]}
    with start([MOORAGE, "serve"], root, yaml.safe_load(adapted(captioned(CONFIG), changes))) as live:
        yield live


def run(*command: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder), **environment}, cwd=folder,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def logins(hub: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A mirror whose only user is `cluster`."""
    folder = tmp_path_factory.mktemp("logins")
    password = bcrypt.hashpw(b"password", bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"cluster:{password}\n")
    auth = {"htpasswd": {"realm": "a test", "path": str(folder / "htpasswd")}}
    upstreams = [{"namespaces": ["docker.io"], "remoteurl": hub.url}]
    with start_moorage(folder / "data", http={"workers": 1}, auth=auth, proxy={"upstreams": upstreams}) as live:
        yield live


class TestOneMachine:
    pytestmark = ENGINE

    def test_docker_pulls_through_the_mirror(self, machine: Live, logins: Live, tmp_path: Path) -> None:
        """The engine cannot reach Docker Hub here, so the image has come from the mirror."""
        config = json.loads(captioned("/etc/docker/daemon.json"))
        assert config.keys() == {"registry-mirrors"}
        text = adapted(captioned("/etc/docker/daemon.json"), {"http://127.0.0.1:5000": machine.url})
        (tmp_path / "daemon.json").write_text(text)
        with dockerd(options=["--config-file", str(tmp_path / "daemon.json")]) as engine:
            where = {"DOCKER_HOST": engine, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
            pulled = run_block(block(PAGE, "docker pull alpine:3"), {}, folder=tmp_path, environment=where)
            digest = Wire(machine.host).manifest("library/alpine", "3").headers["docker-content-digest"]
            assert digest in pulled
            docker = require("docker")
            printed = run(
                docker, "run", "--rm", "--network", "none", "alpine:3", folder=tmp_path, DOCKER_HOST=engine
            )
            assert "hello from the hub" in printed
            # A push says where to push; it is an image of the mirror's own name.
            name = f"{machine.host}/library/alpine:3"
            run(docker, "tag", "alpine:3", name, folder=tmp_path, DOCKER_HOST=engine)
            done = subprocess.run(
                [docker, "push", name], env=where, check=False, capture_output=True, text=True, timeout=120
            )
            assert done.returncode != 0
            assert "push to that registry instead" in done.stdout + done.stderr
            run(docker, "rmi", "-f", name, "alpine:3", folder=tmp_path, DOCKER_HOST=engine)
            self._of_logins(engine, logins, tmp_path)
        listed = run_block(
            block(PAGE, "curl http://127.0.0.1:5000/v2/_catalog"), {"127.0.0.1:5000": machine.host},
            folder=tmp_path,
        )  # fmt: skip
        assert '"library/alpine"' in listed

    @staticmethod
    def _of_logins(engine: str, logins: Live, folder: Path) -> None:
        """The engine reads its file again, and presents the login at Docker Hub to the mirror."""
        (folder / "daemon.json").write_text(json.dumps({"registry-mirrors": [logins.url]}))
        os.kill(int(Path(engine.removeprefix("unix://")).with_name("pid").read_text()), signal.SIGHUP)
        docker = require("docker")

        def reloaded() -> bool:
            shown = run(
                docker, "info", "--format", "{{json .RegistryConfig.Mirrors}}", folder=folder, DOCKER_HOST=engine
            )
            return logins.host in shown

        until(reloaded, "the engine's new mirror")
        for host, pulled in (logins.host, False), ("https://index.docker.io/v1/", True):
            login = {"auths": {host: {"auth": base64.b64encode(b"cluster:password").decode()}}}
            (folder / "config.json").write_text(json.dumps(login))
            done = subprocess.run(
                [docker, "pull", "alpine:3"], check=False, capture_output=True, text=True, timeout=120,
                env={"DOCKER_HOST": engine, "DOCKER_CONFIG": str(folder), "PATH": "/usr/bin:/bin"},
            )  # fmt: skip
            assert (done.returncode == 0) is pulled, done.stdout + done.stderr


class TestCluster:
    pytestmark = LIVE

    @pytest.mark.root
    def test_containerd_pulls_through_the_mirror(self, cluster: Live, logins: Live, tmp_path: Path) -> None:
        path = "/etc/containerd/certs.d/docker.io/hosts.toml"
        found = tomllib.loads(captioned(path))
        assert found["host"] == {f"https://{NAME}": {"capabilities": ["pull", "resolve"]}}
        folder = tmp_path / "certs.d" / "docker.io"
        folder.mkdir(parents=True)
        # Without the server that is out of reach.
        places = {f"https://{NAME}": cluster.url, HUB: "http://127.0.0.1:9"}
        (folder / "hosts.toml").write_text(adapted(captioned(path), places))
        with containerd() as socket:
            places = {"ctr images": f"ctr -a {socket} images", "/etc/containerd/certs.d": str(folder.parent)}
            run_block(block(PAGE, "ctr images pull"), places, folder=tmp_path)
            image = "docker.io/library/alpine:3"
            assert "hello from the hub" in run(
                require("ctr"), "-a", socket, "run", "--rm", "--net-host", image, "hello", folder=tmp_path
            )
            run(require("ctr"), "-a", socket, "images", "rm", "--sync", image, folder=tmp_path)
            # With users: neither without the header nor with a wrong password.
            pull = [require("ctr"), "-a", socket, "images", "pull", "--hosts-dir", str(folder.parent), image]
            known = {f"https://{NAME}": logins.url, HUB: "http://127.0.0.1:9"}
            text = adapted(captioned(path, 1), known)
            for wrong in adapted(captioned(path), known), text.replace("Y2x1c3Rlcjp", "Y2x1c3Rlcjpw"):
                (folder / "hosts.toml").write_text(wrong)
                done = subprocess.run(pull, check=False, capture_output=True, text=True, timeout=120)
                assert done.returncode != 0
            (folder / "hosts.toml").write_text(text)
            run(*pull, folder=tmp_path)
        assert Wire(cluster.host).tags("docker.io/library/alpine") == ["3"]

    def test_the_directory_of_containerd_is_one_of_its_settings(self, tmp_path: Path) -> None:
        """Containerd ignores what it does not know."""
        config = captioned("/etc/containerd/config.toml")
        (tmp_path / "config.toml").write_text(config)
        ours = tomllib.loads(config)
        shown = run(require("containerd"), "-c", str(tmp_path / "config.toml"), "config", "dump", folder=tmp_path)
        merged = tomllib.loads(shown)["plugins"]["io.containerd.grpc.v1.cri"]["registry"]
        assert ours["plugins"]["io.containerd.grpc.v1.cri"]["registry"].items() <= merged.items()
        default = run(require("containerd"), "config", "default", folder=tmp_path)
        known = tomllib.loads(default)["plugins"]["io.containerd.grpc.v1.cri"]["registry"]
        assert "config_path" in known

    def test_clients_of_registries_conf_pull_through_the_mirror(
        self, cluster: Live, skopeo: Skopeo, tmp_path: Path
    ) -> None:
        """CRI-O and podman use the library that reads the file for skopeo."""
        # Without TLS here; the original registries are out of reach.
        places = {f'location = "{NAME}/': f'insecure = true\nlocation = "{cluster.host}/'}
        conf = adapted(captioned("/etc/containers/registries.conf.d/mirror.conf"), places)
        for registry in "docker.io", "ghcr.io":
            image = f"docker://{registry}/library/alpine:3"
            skopeo("copy", image, f"oci:{tmp_path}/{registry}:3", conf=conf)
            assert Wire(cluster.host).tags(f"{registry}/library/alpine") == ["3"]


class TestFiles:
    """What no program here reads has at least the keys that its documentation has."""

    def test_registries_yaml_of_k3s(self) -> None:
        """Source: docs.k3s.io/installation/private-registry."""
        found: dict[str, Any] = yaml.safe_load(captioned("/etc/rancher/k3s/registries.yaml"))
        assert found.keys() == {"mirrors", "configs"}
        assert tuple(found["mirrors"]) == REGISTRIES
        for mirror in found["mirrors"].values():
            assert mirror == {"endpoint": [f"https://{NAME}"]}
        assert found["configs"].keys() == {NAME}
        assert found["configs"][NAME]["auth"].keys() <= {"username", "password", "token"}
        assert found["configs"][NAME]["tls"].keys() <= {
            "ca_file", "cert_file", "key_file", "insecure_skip_verify"
        }  # fmt: skip

    def test_registries_conf(self) -> None:
        """Source: containers-registries.conf(5), "NAMESPACED [[registry]] SETTINGS"."""
        found = tomllib.loads(captioned("/etc/containers/registries.conf.d/mirror.conf"))
        assert found.keys() == {"registry"}
        for registry in found["registry"]:
            assert registry.keys() == {"prefix", "location", "mirror"}
            assert registry["mirror"] == [{"location": f"{NAME}/{registry['prefix']}"}]

    def test_the_cluster_mirrors_what_its_nodes_are_configured_for(self) -> None:
        """A registry that only the nodes know would be pulled past the mirror."""
        upstreams = yaml.safe_load(captioned(CONFIG))["proxy"]["upstreams"]
        assert tuple(upstream["prefix"] for upstream in upstreams) == REGISTRIES

    @pytest.mark.parametrize("number", [0, 1], ids=["cluster", "team"])
    def test_a_whole_file_has_no_mistake(self, number: int, tmp_path: Path) -> None:
        (tmp_path / "config.yml").write_text(captioned(CONFIG, number))
        environment = [{}, {"REGISTRY_PROXY_PASSWORD": "token"}][number]
        assert load(tmp_path / "config.yml", environment).warnings == ()

    def test_the_settings_of_several_registries_have_no_mistake(self, tmp_path: Path) -> None:
        whole = {**yaml.safe_load(captioned(CONFIG)), **yaml.safe_load(block(PAGE, "proxy:").text)}
        (tmp_path / "config.yml").write_text(yaml.safe_dump(whole))
        loaded = load(tmp_path / "config.yml", {})
        assert loaded.warnings == ()
        internal = loaded.settings.proxy.upstreams[-1]
        assert (internal.prefix, internal.checkinterval) == ("internal", 0.0)

    @pytest.mark.slow
    def test_the_password_comes_from_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "hub-token").write_text("token-of-the-team\n")
        (tmp_path / "config.yml").write_text(captioned(CONFIG, 1))
        places = {"moorage serve": f"{MOORAGE} config show", "/etc/moorage": str(tmp_path)}
        text = adapted(block(PAGE, "REGISTRY_PROXY_PASSWORD_FILE").text, places)
        shown = run("sh", "-euc", text, folder=tmp_path)
        assert yaml.safe_load(shown)["proxy"]["username"] == "team-account"
        assert "token-of-the-team" not in shown


def test_every_block_of_the_page_is_used_here() -> None:
    """An example that is not run is wrong sooner or later."""
    source = Path(__file__).read_text()
    for found in blocks(PAGE):
        text = found.text
        beginning = text.splitlines()[0].split("=")[0].split(" /")[0].split(" --")[0]
        captions = re.findall(r":caption: ([^\n]*)\n\n" + re.escape(text[:40]), Path(PAGE).read_text())
        assert any(f'"{each}' in source for each in (beginning, *captions)) or CONFIG in captions, found


def test_every_message_of_the_page_is_provoked() -> None:
    """A message that is printed no more hides the one that is."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_live*.py"))
    for message in messages():
        assert re.search(rf"explained\(['\"]{re.escape(message)}['\"]\)", tests), message
