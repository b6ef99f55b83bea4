"""The registry's container as a rendered pod describes it, laid out in a folder and started as a process."""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import bcrypt
import httpx
import yaml
from tests.live import Live
from tests.server import certs
from tests.server.debugging import debug_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.chart.helm import Rendered

__all__ = ["PASSWORD", "Container", "Served", "all_secrets", "authority", "laid_out"]

PASSWORD: Final = "correct horse"
Contents = dict[str, dict[str, bytes]]


@cache
def authority() -> certs.Holder:
    """The authority of all certificates in `all_secrets`."""
    return certs.root()


@cache
def _users() -> bytes:
    return b"ann:" + bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)) + b"\n"


def _pair() -> dict[str, bytes]:
    holder = authority().issue("localhost")
    return {"tls.crt": holder.chain, "tls.key": holder.key_pem(), "ca.crt": authority().pem}


@cache
def all_secrets() -> Contents:
    """Return the Secrets that `cases.py` names, each with the keys that its values name."""
    random = b"0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    policy = {"access": [{"who": "authenticated", "repositories": ["**"], "allow": ["pull", "push"]}]}
    google = {
        "type": "service_account",
        "client_email": "registry@example.iam.gserviceaccount.com",
        "private_key": certs.root(kind="RSA-2048").key_pem().decode(),
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    return {
        "registry-http": {"haSharedSecret": random},
        "registry-users": {"users": _users(), "htpasswd": _users()},
        "registry-policy": {"policy.yml": yaml.safe_dump(policy).encode(), "users": _users()},
        "registry-tls": _pair(),
        "redis-tls": _pair(),
        "redis": {"redis-password": b"p", "user": b"u", "sentinel": b"s"},
        "registry-s3": {"s3AccessKey": b"AK", "s3SecretKey": b"SK"},
        "ceph": {"AWS_ACCESS_KEY_ID": b"AK", "AWS_SECRET_ACCESS_KEY": b"SK", "AWS_SESSION_TOKEN": b"ST"},
        "registry-gcs": {"key.json": json.dumps(google).encode()},
        "registry-azure": {"azureAccountKey": b"aGVsbG8=", "name": b"images", "container": b"registry"},
    }


@dataclass(frozen=True)
class Container:
    """`config` is the file that the container's arguments name, with its paths below `folder`."""

    folder: Path
    config: Path
    environment: dict[str, str]

    @property
    def data(self) -> Path:
        return self.folder / "var/lib/registry"

    def place(self, path: str) -> Path:
        """Where a path of the container is."""
        return self.folder / path.lstrip("/")

    @contextmanager
    def running(self) -> Iterator[Served]:
        """Run the registry as the container does, but on ports of loopback that are free."""
        settings = yaml.safe_load(self.config.read_text())
        settings["http"]["addr"] = "127.0.0.1:0"
        if debug := settings["http"].get("debug"):
            debug["addr"] = "127.0.0.1:0"
        self.config.write_text(yaml.safe_dump(settings))
        log_path = self.folder / "log"
        program = Path(sys.executable).with_name("moorage")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [program, "serve", self.config], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env={**inherited, **self.environment},
            )  # fmt: skip
        with Live(process, self.data, log_path) as live:
            live.logged("listening on http")
            found = re.search(r"listening on (https?)://127\.0\.0\.1:(\d+)", live.logs())
            assert found is not None, live.logs()
            live.port = int(found[2])
            served = Served(live, found[1], authority().pem.decode())
            if debug:
                live.logged("debug listener on http://")
                served.ports["http-metrics"] = debug_port(live.logs())
            yield served


@dataclass
class Served:
    """A running registry; `ports` are those of the container by name."""

    live: Live
    scheme: str
    authority: str
    ports: dict[str, int] = field(default_factory=dict)

    def probe(self, probe: dict[str, Any]) -> int:
        """Ask what a probe of the pod asks, as the kubelet does: without checking the certificate."""
        request = probe["httpGet"]
        scheme = request.get("scheme", "HTTP").lower()
        port = self.ports.get(request["port"], self.live.port)
        with httpx.Client(verify=False) as client:
            return client.get(f"{scheme}://127.0.0.1:{port}{request['path']}").status_code

    @contextmanager
    def client(self, *, user: str = "") -> Iterator[httpx.Client]:
        """A client of the registry that trusts only its authority."""
        context = ssl.create_default_context(cadata=self.authority)
        auth = (user, PASSWORD) if user else None
        with httpx.Client(
            base_url=f"{self.scheme}://localhost:{self.live.port}", verify=context, auth=auth
        ) as client:
            yield client


def laid_out(rendered: Rendered, folder: Path) -> Container:
    """Write what the pod mounts; fails where a mount has no volume, or a Secret lacks a key that is asked for."""
    contents = {**all_secrets(), **_rendered_secrets(rendered)}
    volumes = {volume["name"]: volume for volume in rendered.pod["volumes"]}
    maps = {
        one["metadata"]["name"]: one["data"]
        for one in rendered.objects
        if one["kind"] == "ConfigMap" and "data" in one
    }
    mounts = [mount["mountPath"].rstrip("/") for mount in rendered.container["volumeMounts"]]
    assert len(set(mounts)) == len(mounts)
    for mount in rendered.container["volumeMounts"]:
        volume = volumes[mount["name"]]
        place = folder / mount["mountPath"].lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            for key, text in maps[volume["configMap"]["name"]].items():
                (place / key).write_text(_moved(text, mounts, folder))
        secrets = [volume["secret"]] if "secret" in volume else []
        secrets += [source["secret"] for source in volume.get("projected", {}).get("sources", [])]
        for secret in secrets:
            content = contents[secret.get("secretName") or secret["name"]]
            for key, path in _items(secret, content).items():
                (place / path).write_bytes(content[key])
    environment = {name: _moved(value, mounts, folder) for name, value in rendered.env.items()}
    config = rendered.container["args"][-1]
    return Container(folder, folder / config.lstrip("/"), environment)


def _rendered_secrets(rendered: Rendered) -> Contents:
    return {
        one["metadata"]["name"]: {key: base64.b64decode(value) for key, value in one["data"].items()}
        for one in rendered.objects
        if one["kind"] == "Secret"
    }


def _items(volume: dict[str, Any], content: Mapping[str, bytes]) -> dict[str, str]:
    if "items" not in volume:
        return {key: key for key in content}
    return {item["key"]: item["path"] for item in volume["items"]}


def _moved(text: str, mounts: list[str], folder: Path) -> str:
    """Put `folder` before paths below a mount."""
    any_of = "|".join(re.escape(mount) for mount in sorted(mounts, reverse=True))
    return re.sub(rf"(?<![\w/.-])({any_of})(?![\w.-])", rf"{folder}\1", text)
