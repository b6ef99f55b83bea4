"""Clients and servers for the page of troubles: commands that fail, and what they and the server print."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from base64 import b64encode
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import bcrypt
from tests.clients.layouts import Layout, tar_of
from tests.clients.secure import NAME, Place
from tests.live import SECRET, Live, require, start, start_moorage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import ExitStack

    from tests.server.certs import Holder

__all__ = ["HOST", "PASSWORD", "USER", "Desk", "Output", "normalized"]

Output = dict[str, str]
"""What was printed, by the client's name; `log` is the server's."""

CONFIG: Final = "/etc/docker/registry/config.yml"
DATA: Final = "/var/lib/registry"
HOST: Final = "registry.example.com:5000"
USER: Final = "alice"
PASSWORD: Final = "wonderland"
_NOISE: Final = random.Random(1).randbytes(2_000_000)
"""What no client can compress below the limit of a proxy."""

_MOORAGE: Final = Path(sys.executable).with_name("moorage")


def normalized(text: str, places: Mapping[str, str]) -> str:
    """Put the page's addresses and names in the place of the test's; `places` has further ones."""
    for ours, theirs in sorted(places.items(), key=lambda place: -len(place[0])):
        text = text.replace(ours, theirs)
    text = re.sub(rf"(?:127\.0\.0\.1|\[::1\]|{re.escape(NAME)}):\d+", HOST, text)
    text = text.replace(NAME, HOST.partition(":")[0])
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@dataclass
class Desk:
    """`engine` is the value for DOCKER_HOST, of an engine whose names and certificates are those of `place`."""

    folder: Path
    engine: str
    containerd: str
    place: Place
    ca: Holder
    stack: ExitStack
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        for name, data in (("small", b"a" * 50_000), ("large", _NOISE)):
            layout = Layout(self.folder / name)
            layout.tag("v1", layout.image([tar_of({"file": b"a" * 5_000}), tar_of({"other": data})]))
            (self.folder / f"{name}.tar").write_bytes(tar_of({"other": data}))
        (self.folder / "home").mkdir()
        (self.folder / "home" / "auth.json").write_text("{}")
        self.ca_file = self.folder / "ca.crt"
        self.ca_file.write_bytes(self.ca.pem)
        users = f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n"
        (self.folder / "htpasswd").write_text(users)

    # Servers

    @property
    def password_file(self) -> dict[str, Any]:
        """`auth` of a registry with one user."""
        return {"htpasswd": {"realm": "registry", "path": str(self.folder / "htpasswd")}}

    def new(self) -> Path:
        """A folder for one server."""
        path = self.folder / f"server{next(self.numbers)}"
        path.mkdir()
        return path

    def serve(self, **sections: Any) -> Live:
        """A registry that runs until the tests of the page have ended."""
        http = {"workers": 1, **sections.pop("http", {})}
        return self.stack.enter_context(start_moorage(self.new() / "data", http=http, **sections))

    def start_fails(self, config: str, *prefix: str) -> str:
        """What `moorage serve` prints when it does not start; status 1 is asserted."""
        path = self.new() / "config.yml"
        path.write_text(config.replace("DATA", str(path.parent / "data")))
        path.parent.chmod(0o755)
        path.chmod(0o644)
        done = subprocess.run(
            [*prefix, str(_MOORAGE), "serve", str(path)], capture_output=True, text=True, timeout=60, check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder)}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 1, done.stdout + done.stderr
        places = {str(path): CONFIG, str(path.parent / "data"): DATA}
        return normalized(done.stdout + done.stderr, places)

    def log(self, live: Live, text: str) -> str:
        """The log of a registry, once it has that text."""
        live.logged(text)
        certificates = {str(path): f"/certs/{path.name}" for path in self.folder.glob("server*/server.*")}
        return normalized(live.logs(), {str(live.root): DATA, **certificates})

    def certificate(self, **options: Any) -> dict[str, str]:
        """A certificate of our authority on disk, as `http.tls` names it; `options` are those of `certs`."""
        return self.ca.issue(NAME, **options).write(self.new(), "server")

    def as_nobody(self) -> tuple[str, ...]:
        """What runs a command as a user without any permission."""
        return (require("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups")

    def serve_as_nobody(self, root: Path) -> Live:
        """A registry of that user, over a directory that it can only read."""
        folder = self.new()
        folder.chmod(0o777)
        settings = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(root)}},
            "http": {"addr": "127.0.0.1:0", "secret": SECRET, "workers": 1},
        }
        command = [*self.as_nobody(), str(_MOORAGE), "serve"]
        return start(command, root, settings, config=folder / "config.yml", environment={"HOME": str(folder)})

    # Clients

    def run(self, *command: str | Path, stdin: str | None = None, fails: bool = True) -> str:
        home = self.folder / "home"
        done = subprocess.run(
            [*self.place.prefix, *map(str, command)], cwd=home, timeout=120, check=False, text=True,
            input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={
                "HOME": str(home), "DOCKER_CONFIG": str(home / "docker"), "DOCKER_HOST": self.engine,
                "REGISTRY_AUTH_FILE": str(home / "auth.json"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            },
        )  # fmt: skip
        assert (done.returncode != 0) == fails, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return normalized(done.stdout, {})

    def skopeo_push(self, host: str, *options: str, size: str = "small", fails: bool = True) -> str:
        trust = options or ("--dest-tls-verify=false",)
        source, target = f"oci:{self.folder / size}:v1", f"docker://{host}/team/app:v1"
        return self.run(require("skopeo"), "copy", *trust, source, target, fails=fails)

    def skopeo_pull(self, host: str, *options: str, name: str = "team/app:v1") -> str:
        target = self.new() / "pulled"
        trust = options or ("--src-tls-verify=false",)
        return self.run(require("skopeo"), "copy", *trust, f"docker://{host}/{name}", f"oci:{target}:v1")

    def podman(self, *command: str | Path, fails: bool = True) -> str:
        folder = self.folder / "podman"
        store = ("--root", folder / "root", "--runroot", folder / "run", "--storage-driver=vfs")
        return self.run(require("podman"), *store, *command, fails=fails)

    def podman_pull(self, host: str, *options: str, name: str = "team/app:v1") -> str:
        return self.podman("pull", *options, f"{host}/{name}")

    def podman_push(self, host: str, *options: str, size: str = "small") -> str:
        self.podman("import", self.folder / f"{size}.tar", f"{host}/team/app:v1", fails=False)
        return self.podman("push", *(options or ("--tls-verify=false",)), f"{host}/team/app:v1")

    def docker(self, *command: str, stdin: str | None = None, fails: bool = True) -> str:
        return self.run(require("docker"), *command, stdin=stdin, fails=fails)

    def remember_login(self, host: str) -> None:
        """Give Docker the right password, as `docker login` leaves it behind."""
        path = self.folder / "home" / "docker" / "config.json"
        path.parent.mkdir(exist_ok=True)
        settings = json.loads(path.read_text()) if path.exists() else {}
        auth = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        settings.setdefault("auths", {})[host] = {"auth": auth}
        new = path.with_name("new")
        new.write_text(json.dumps(settings))
        new.replace(path)

    def docker_push(self, host: str, size: str = "small") -> str:
        """Push an image that the engine has been given."""
        self.docker("import", str(self.folder / f"{size}.tar"), f"{host}/team/app:v1", fails=False)
        return self.docker("push", f"{host}/team/app:v1")

    def docker_pull(self, host: str, name: str = "team/app:v1") -> str:
        return self.docker("pull", f"{host}/{name}")

    def ctr_pull(self, host: str, *options: str, name: str = "team/app:v1") -> str:
        return self.run(require("ctr"), "-a", self.containerd, "images", "pull", *options, f"{host}/{name}")
