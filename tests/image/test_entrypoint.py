"""The image takes the place of registry:2 and registry:3: commands, paths and programs that people rely on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.image.build import BASE, BUILD_LIMIT_S
from tests.live import ROOT

import moorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.image.conftest import Engine, Registry, Start

pytestmark = [
    pytest.mark.docker, pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("image"),
    pytest.mark.timeout(BUILD_LIMIT_S),
]  # fmt: skip

TWO = "/etc/docker/registry/config.yml"
THREE = "/etc/distribution/config.yml"


@pytest.fixture(scope="module")
def plain(start: Start) -> Iterator[Registry]:
    """A container as the guide starts it."""
    with start() as registry:
        yield registry


def configuration(folder: Path, addr: str, name: str = "config.yml") -> Path:
    folder.chmod(0o755)  # pytest's own folders are closed to other users
    path = folder / name
    path.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: /var/lib/registry}}}}\nhttp: {{addr: '{addr}'}}\n"
    )
    return path


def test_it_answers_on_port_5000_of_every_interface(plain: Registry) -> None:
    assert plain.get("http://localhost:5000/v2/") == "{}"
    assert re.search(r"listening on http://(\[::\]|0\.0\.0\.0):5000", plain.logs())


def test_health_checks_of_years_work(plain: Registry) -> None:
    """Debian's slim images have no wget: every Compose file with this line would turn unhealthy."""
    plain.exec("wget", "--spider", "-q", "http://localhost:5000/v2/")
    plain.exec("sh", "-c", "wget -q -O - http://localhost:5000/v2/ || exit 1")
    plain.exec("sh", "-c", "wget --no-verbose --tries=1 --spider http://localhost:5000 || exit 1")
    plain.exec("wget", "--spider", "-q", "http://localhost:5001/v2/", fails=True)


def test_the_image_has_its_own_health_check(plain: Registry) -> None:
    plain.healthy()
    assert plain.engine.inspect(plain.name)["Config"]["Healthcheck"]["Test"] == ["CMD", "moorage", "health"]


def test_names_and_paths_of_the_old_image_are_there(plain: Registry) -> None:
    """Charts call /bin/registry, scripts call /entrypoint.sh, and operators copy the default configuration."""
    for name in ("/bin/registry", "registry", "moorage"):
        assert f"moorage {moorage.__version__}" in plain.exec(name, "--version")
    assert "A container registry server" in plain.exec("/entrypoint.sh", "help")
    assert plain.exec("cat", TWO) == plain.exec("cat", THREE)
    assert "addr: :5000" in plain.exec("cat", TWO)


def test_garbage_is_collected_in_the_running_container(plain: Registry) -> None:
    """`docker exec registry registry garbage-collect -m CONFIG` of a cron job, with nothing stopped."""
    answer = plain.exec("registry", "garbage-collect", "--dry-run", "-m", TWO)
    assert "eligible for deletion" in answer


def test_passwords_are_made_by_the_image(engine: Engine, full: str) -> None:
    """`docker run --entrypoint htpasswd registry:2 -Bbn` was removed from a published tag in 2020."""
    line = engine("run", "--rm", "--network", "none", "--entrypoint", "htpasswd", full, "-Bbn", "alice", "secret")
    assert line.startswith("alice:$2")


def test_the_image_describes_itself(engine: Engine, full: str, slim: str) -> None:
    for name, kind in ((full, "full"), (slim, "slim")):
        config = engine.inspect(name)["Config"]
        assert config["User"] == "1000:1000"
        assert config["ExposedPorts"] == {"5000/tcp": {}}
        assert config["Volumes"] == {"/var/lib/registry": {}}
        assert config["StopSignal"] == "SIGTERM"
        assert {"OTEL_TRACES_EXPORTER=none", f"MOORAGE_IMAGE={kind}"} <= set(config["Env"])
        labels = config["Labels"]
        assert labels["org.opencontainers.image.version"] == moorage.__version__
        assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
        assert labels["org.opencontainers.image.base.name"].endswith(BASE)
    assert f"ARG BASE={BASE}\n" in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("help",), "A container registry server"),
        (("--version",), f"registry moorage {moorage.__version__}"),
        (("--help",), "A container registry server"),
        (("moorage", "version"), moorage.__version__),
        (("sh", "-c", "echo any program"), "any program"),
    ],
)
def test_the_entry_point_takes_commands_flags_and_programs(
    engine: Engine, full: str, arguments: tuple[str, ...], answer: str
) -> None:
    assert answer in engine("run", "--rm", "--network", "none", full, *arguments)


def test_an_unknown_command_is_named(engine: Engine, full: str) -> None:
    answer = engine("run", "--rm", "--network", "none", full, "config", "check", fails=True)
    assert answer.strip() == (
        "config: no such program in this image; a command of Moorage begins with its name (moorage config), "
        'and "moorage help" lists them'
    )
    assert "No such command 'frobnicate'" in engine(
        "run", "--rm", "--network", "none", full, "registry", "frobnicate", fails=True
    )


@pytest.mark.parametrize(
    "command", [("/mnt/mine.yml",), ("serve", "/mnt/mine.yml"), ("registry", "serve", "/mnt/mine.yml")]
)
def test_a_file_may_be_named_in_every_way_of_the_old_image(
    start: Start, tmp_path: Path, command: tuple[str, ...]
) -> None:
    configuration(tmp_path, ":5055", "mine.yml")
    with start(*command, options=("-v", f"{tmp_path}:/mnt:ro")) as registry:
        assert registry.get("http://localhost:5055/v2/") == "{}"


@pytest.mark.parametrize(
    ("mounted", "named"), [(TWO, ()), (THREE, ()), (THREE, (TWO,)), (TWO, ("registry", "serve", THREE))]
)
def test_the_mounted_file_is_used_whichever_path_is_named(
    start: Start, tmp_path: Path, mounted: str, named: tuple[str, ...]
) -> None:
    """registry:3 moved the path, and served its defaults where the old one was mounted."""
    path = configuration(tmp_path, ":5056")
    with start(*named, options=("-v", f"{path}:{mounted}:ro")) as registry:
        assert registry.get("http://localhost:5056/v2/") == "{}"
        assert ("is the image's own file" in registry.logs()) == (bool(named) and named[-1] != mounted)
        registry.healthy()


def test_a_mounted_directory_of_configuration_is_used(start: Start, tmp_path: Path) -> None:
    configuration(tmp_path, ":5057")
    with start(options=("-v", f"{tmp_path}:/etc/distribution:ro")) as registry:
        assert registry.get("http://localhost:5057/v2/") == "{}"


def test_of_two_mounted_files_the_named_one_is_used_with_a_warning(start: Start, tmp_path: Path) -> None:
    two, three = configuration(tmp_path, ":5058", "two.yml"), configuration(tmp_path, ":5059", "three.yml")
    mounts = ("-v", f"{two}:{TWO}:ro", "-v", f"{three}:{THREE}:ro")
    with start("serve", THREE, options=mounts) as registry:
        assert registry.get("http://localhost:5059/v2/") == "{}"
        assert f"{TWO}: not read: {THREE} was named" in registry.logs()
