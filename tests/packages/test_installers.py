"""pip, pipx, uv and twine with the wheel, and the command that each of them needs where an extra is missing.

Everything comes from the wheels of `conftest.py`: no index is asked.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from tests.live import require, start
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.client, pytest.mark.slow, pytest.mark.xdist_group("packages"), pytest.mark.timeout(600)]

EXTRAS: Final[dict[str, dict[str, Any]]] = {
    "s3": {"storage": {"s3": {"region": "r", "bucket": "b"}}},
    "gcs": {"storage": {"gcs": {"bucket": "b"}}},
    "azure": {"storage": {"azure": {"accountname": "account", "accountkey": "YQ==", "container": "images"}}},
    "redis": {
        "storage": {"filesystem": {"rootdirectory": "DATA"}, "cache": {"blobdescriptor": "redis"}},
        "redis": {"addrs": ["127.0.0.1:1"]},
    },
    "mirror": {
        "storage": {"filesystem": {"rootdirectory": "DATA"}},
        "proxy": {"remoteurl": "https://registry.example.com", "ttl": "0s"},
    },
    "letsencrypt": {
        "storage": {"filesystem": {"rootdirectory": "DATA"}},
        "http": {
            "tls": {"letsencrypt": {"cachefile": "CACHE", "email": "a@example.com", "hosts": ["r.example.com"]}},
        },
    },
    "tracing": {"storage": {"filesystem": {"rootdirectory": "DATA"}}},
}
"""A configuration that needs each extra."""


@dataclass(frozen=True)
class Tools:
    """Installers with homes, caches and index settings of their own."""

    folder: Path
    wheelhouse: Path

    def environment(self) -> dict[str, str]:
        home, links = self.folder / "home", str(self.wheelhouse)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PIPX_"))}
        return kept | {
            "HOME": str(home),
            "PATH": os.pathsep.join([str(home / ".local" / "bin"), str(self.folder / "bin"), os.environ["PATH"]]),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": links,
            "PIP_NO_COMPILE": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "UV_OFFLINE": "1",
            "UV_FIND_LINKS": links,
            "UV_PYTHON": sys.executable,
            "UV_PYTHON_DOWNLOADS": "never",
            "PIPX_DEFAULT_PYTHON": sys.executable,
            "COLUMNS": "500",
        }

    def run(self, *command: str | Path, fails: bool = False, **more: str) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            cwd=self.folder,
            env=self.environment() | more,
        )
        assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory, wheelhouse: Path) -> Tools:
    folder = tmp_path_factory.mktemp("installers")
    (folder / "home").mkdir()
    (folder / "bin").mkdir()
    for name in ("uv", "uvx", "pipx"):
        (folder / "bin" / name).symlink_to(require(name))
    return Tools(folder, wheelhouse)


@pytest.fixture(scope="module")
def bare(tools: Tools, wheel: Path) -> Path:
    """The programs of an environment that pip has filled from the wheel, without any extra."""
    environment = tools.folder / "bare"
    tools.run(sys.executable, "-m", "venv", environment)
    tools.run(environment / "bin" / "pip", "install", "--quiet", wheel)
    return environment / "bin"


def config(folder: Path, extra: str) -> Path:
    """A file that needs the extra; everything that the server would write is below `folder`."""
    settings = {"version": 0.1, **EXTRAS[extra]}
    settings["http"] = {"addr": "127.0.0.1:0", **settings.get("http", {})}
    text = yaml.safe_dump(settings)
    path = folder / "config.yml"
    path.write_text(text.replace("DATA", str(folder / "data")).replace("CACHE", str(folder / "cache")))
    return path


def variables(extra: str) -> dict[str, str]:
    return {"OTEL_TRACES_EXPORTER": "otlp"} if extra == "tracing" else {}


def missing(tools: Tools, command: list[str | Path], folder: Path, extra: str) -> str:
    """Start without the extra: the command that the refusal names."""
    before = sorted(folder.iterdir())
    output = tools.run(*command, "serve", config(folder, extra), fails=True, **variables(extra))
    assert f"moorage[{extra}]" in output
    assert output.count("install it with: ") == 1
    assert "Traceback" not in output
    assert sorted(folder.iterdir()) == [*before, folder / "config.yml"], "nothing was written"
    found = re.search(r"install it with: (.*?)\"?(?: instance\.id=.*)?$", output, re.MULTILINE)
    assert found is not None, output
    return found[1].replace('\\"', '"')


def serve_defaults(command: list[str], tools: Tools, folder: Path, name: str) -> None:
    """`serve --defaults` beside an installation, and a push and a pull."""
    settings = {"unused": "by --defaults"}
    wrapper = folder / "serve"
    wrapper.write_text(f"#!/bin/sh\nexec {shlex.join(command)} serve --defaults\n")
    wrapper.chmod(0o755)
    (folder / "data").mkdir()
    environment = tools.environment() | {
        "REGISTRY_HTTP_ADDR": "127.0.0.1:0",
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(folder / "data"),
    }
    with start([str(wrapper)], folder / "data", settings, environment=environment) as live:
        wire = Wire(live.host)
        wire.push_image(name, "v1", [b"layer"])
        assert wire.tags(name) == ["v1"]
        assert live.stop() == 0


def test_pip_installs_the_wheel_and_it_serves(tools: Tools, bare: Path, tmp_path: Path) -> None:
    """From the wheel, not from this tree: what the wheel lacks is missing here."""
    assert tools.run(bare / "moorage", "version") == tools.run(bare / "registry", "version")
    where = tools.run(bare / "python", "-c", "import moorage; print(moorage.__file__)")
    assert where.startswith(str(bare.parent))
    assert "No broken requirements found" in tools.run(bare / "pip", "check")
    serve_defaults([str(bare / "moorage")], tools, tmp_path, "pip")


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    tools: Tools, bare: Path, tmp_path: Path, extra: str
) -> None:
    """One sentence, status 1, nothing written; `config check` prints the same."""
    command = missing(tools, [bare / "moorage"], tmp_path, extra)
    python, *rest = shlex.split(command)
    assert python == str(bare / "python")
    assert rest[:3] == ["-m", "pip", "install"]
    checked = tools.run(
        bare / "moorage", "config", "check", tmp_path / "config.yml", fails=True, **variables(extra)
    )
    assert f"moorage[{extra}]" in checked
    # It would do it: every library that it names is one of the extra's, and pip finds it.
    assert "Would install" in tools.run(*shlex.split(command), "--dry-run")


def test_the_command_mends_an_environment_of_pip(tools: Tools, bare: Path, tmp_path: Path) -> None:
    command = missing(tools, [bare / "moorage"], tmp_path, "redis")
    tools.run("sh", "-c", command)
    assert tools.run(bare / "moorage", "config", "check", tmp_path / "config.yml").endswith("no errors\n")


def test_pipx_installs_it_and_injects_a_missing_extra(tools: Tools, wheel: Path, tmp_path: Path) -> None:
    tools.run("pipx", "install", "--force", wheel)
    command = missing(tools, ["moorage"], tmp_path, "redis")
    assert command.startswith("pipx inject moorage 'redis>=")
    tools.run("sh", "-c", command)
    tools.run("moorage", "config", "check", tmp_path / "config.yml")
    serve_defaults([str(tools.folder / "home/.local/bin/moorage")], tools, tmp_path, "pipx")
    tools.run("pipx", "uninstall", "moorage")


def test_pipx_installs_every_extra(tools: Tools, wheel: Path, tmp_path: Path) -> None:
    """`pipx install 'moorage[all]'`: no configuration lacks a library afterwards."""
    tools.run("pipx", "install", "--force", f"{wheel}[all]")
    for extra in EXTRAS:
        output = subprocess.run(
            ["moorage", "config", "check", str(config(tmp_path, extra))],
            capture_output=True, text=True, check=False, env=tools.environment() | variables(extra),
        )  # fmt: skip
        assert "needs the extra" not in output.stdout + output.stderr, extra
    tools.run("pipx", "uninstall", "moorage")


def test_uvx_serves_from_the_wheel(tools: Tools, wheel: Path, tmp_path: Path) -> None:
    """`uvx moorage serve --defaults`, with the wheel's path in the place of the name."""
    serve_defaults([require("uvx"), "--from", str(wheel), "moorage"], tools, tmp_path, "uvx")


def test_uvx_takes_a_missing_extra_along(tools: Tools, wheel: Path, tmp_path: Path) -> None:
    command = missing(tools, ["uvx", "--from", wheel, "moorage"], tmp_path, "redis")
    assert re.fullmatch(r"uvx --from 'moorage\[redis\] @ file:///.*\.whl' moorage", command), command
    tools.run("sh", "-c", f"{command} config check {tmp_path}/config.yml")


def test_uv_tool_installs_again_with_the_extras_that_are_there(tools: Tools, wheel: Path, tmp_path: Path) -> None:
    """The extras that are there already would be lost otherwise; `gcs` has all that `mirror` needs."""
    tools.run("uv", "tool", "install", "--force", f"moorage[gcs] @ {wheel.as_uri()}")
    command = missing(tools, ["moorage"], tmp_path, "redis")
    assert re.fullmatch(r"uv tool install 'moorage\[gcs,mirror,redis\] @ file:///.*\.whl'", command), command
    tools.run("sh", "-c", command)
    tools.run("moorage", "config", "check", tmp_path / "config.yml")
    tools.run("uv", "tool", "uninstall", "moorage")


def test_an_environment_of_uv_has_no_pip_and_is_mended_by_uv(tools: Tools, wheel: Path, tmp_path: Path) -> None:
    environment = tools.folder / "by-uv"
    tools.run("uv", "venv", environment)
    tools.run("uv", "pip", "install", "--python", environment / "bin" / "python", wheel)
    command = missing(tools, [environment / "bin" / "moorage"], tmp_path, "redis")
    assert command.startswith("uv pip install --python ")
    tools.run("sh", "-c", command)
    tools.run(environment / "bin" / "moorage", "config", "check", tmp_path / "config.yml")


def test_pypis_checker_takes_both_files(tools: Tools, distributions: Path) -> None:
    """The command of docs/releasing.md: metadata, and a description that renders."""
    files = [path for path in distributions.iterdir() if path.suffix in {".whl", ".gz"}]
    assert tools.run(require("twine"), "check", "--strict", *files).count("PASSED") == 2
