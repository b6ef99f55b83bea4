"""docs/deploying/compose.md, with version 1 and 2 of Compose."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tests.clients.layouts import tar_of
from tests.deploying.proxies import adapted, shown
from tests.guide.machine import NAME
from tests.guide.pages import MARKS, Steps, blocks, section
from tests.live import ROOT, require

if TYPE_CHECKING:
    from tests.guide.machine import Machine
    from tests.server.certs import Holder

pytestmark = MARKS

FILE: Final = ROOT / "deploy" / "compose" / "docker-compose.yml"


@pytest.fixture
def beside(machine: Machine, certificates: Holder) -> Machine:
    """A machine with both versions of Compose (2 is a plugin), whose engine knows the authority."""
    require("docker-compose")
    for block in blocks("docker", "TLS"):
        if "certs.d" in block.text:
            machine.run(block.text)
    plugins = machine.home / ".docker" / "cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-compose").symlink_to(require("docker-compose-2"))
    return machine


@pytest.mark.parametrize("compose", ["docker compose", "docker-compose"])
@section("compose", "One registry with TLS and passwords")
def test_one_registry_with_tls_and_passwords(steps: Steps, beside: Machine, compose: str) -> None:
    """The file of the page, up and down, with both versions of Compose."""
    changes = {"docker compose": compose}
    shutil.copy(FILE, beside.home)
    steps.run()
    steps.run(changes)
    url = f"--cacert ca.crt https://{NAME}/v2/"
    beside.waits(f"curl -fsS --user testuser:testpassword {url}", "an answer of the registry")
    assert "Login Succeeded" in steps.run()
    steps.run()
    beside.waits(f"curl -fsS --user anna:another-password {url}_catalog", "the second user")
    log = beside.run(f"{compose} logs registry")
    assert "secret=set" in log
    assert "authentication=htpasswd" in log
    steps.run(changes)
    assert beside.run("docker ps -q --filter name=registry") == ""
    assert "_data" in beside.run("docker volume ls -q")
    # Up again, with what was pushed.
    beside.run(f"{compose} up -d")
    beside.waits(f"curl -fsS --user testuser:testpassword {url}my-ubuntu/manifests/latest", "the image")
    beside.run(f"{compose} down --volumes")
    assert "_data" not in beside.run("docker volume ls -q")


@section("compose", "Two registries behind nginx")
def test_two_registries_behind_nginx(steps: Steps, beside: Machine, certificates: Holder, tmp_path: Path) -> None:
    """The site's configuration of the proxy and the registries' own are those of the other pages."""
    home = beside.home
    steps.write("docker-compose.yml")
    servers = {"10.0.0.11:5000": "registry1:5000", "10.0.0.12:5000": "registry2:5000"}
    (home / "registry.conf").write_text(adapted(shown("nginx", "/etc/nginx/conf.d/registry.conf"), servers))
    places = {"10.0.0.11:5000": ":5000", "[10.0.0.1]": "[private]"}
    (home / "config.yml").write_text(adapted(shown("index", "/etc/docker/registry/config.yml"), places))
    (home / "tls").mkdir()
    (home / "tls" / "fullchain.pem").write_bytes(certificates.chain)
    (home / "tls" / "privkey.pem").write_bytes(certificates.key_pem())
    (tmp_path / "nginx.tar").write_bytes(nginx_tar())
    change = '--change \'CMD ["/usr/sbin/nginx", "-g", "daemon off;"]\''
    beside.run(f"docker import {change} {tmp_path}/nginx.tar nginx")

    steps.run()
    url = f"--cacert ca.crt https://{NAME}/v2/"
    beside.waits(f"curl -fsS {url}", "an answer of the proxy")
    for block in blocks("docker", "TLS")[-1:]:
        beside.run(block.text)
    steps.run()
    beside.waits(f"curl -fsS {url}my-ubuntu/manifests/latest", "the image after the replacement")
    for name in ("registry1", "registry2"):
        beside.waits(f"docker compose logs {name} | grep secret=set", f"{name} with the secret of .env")
    beside.run("docker compose down --volumes")


def nginx_tar() -> bytes:
    """Debian's nginx, with what it needs, as a root file system."""
    program = require("nginx")
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    libraries = {Path(name) for name in re.findall(r"(/\S+) \(0x", listed)}
    files = {str(path)[1:]: path.read_bytes() for path in libraries}
    main = (
        "user root;\npid /run/nginx.pid;\nerror_log /dev/stderr;\nevents {}\n"
        "http { access_log off; include /etc/nginx/conf.d/*.conf; }\n"
    )
    empty = dict.fromkeys(("run/none", "tmp/none", "var/lib/nginx/none", "var/log/nginx/none"), b"")
    passwd = {"etc/passwd": b"root:x:0:0::/:/bin/sh\n", "etc/group": b"root:x:0:\n"}
    return tar_of(
        {"usr/sbin/nginx": Path(program).read_bytes(), "etc/nginx/nginx.conf": main.encode()}
        | files | passwd | empty
    )  # fmt: skip
