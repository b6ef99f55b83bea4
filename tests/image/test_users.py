"""Users, volumes and read-only root file systems: each works, or is refused with the command that helps."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
from tests.image.build import BUILD_LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.image.conftest import Engine, Registry, Start

pytestmark = [
    pytest.mark.docker, pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("image"),
    pytest.mark.timeout(BUILD_LIMIT_S),
]  # fmt: skip

ROOT_DIRECTORY = "/var/lib/registry"
READ_ONLY = ("--read-only", "--tmpfs", "/tmp")


def push(registry: Registry) -> None:
    """Store one blob, by the container's own wget."""
    url = "http://localhost:5000/v2/a/b/blobs/uploads/"
    digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    registry.exec("wget", "-q", "-O", "-", "--post-data=", f"{url}?digest={digest}")
    registry.exec("wget", "-q", "--spider", f"http://localhost:5000/v2/a/b/blobs/{digest}")


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    name = engine("volume", "create").strip()
    yield name
    engine("volume", "rm", name)


@pytest.mark.parametrize(
    ("user", "root"),
    [
        ((), ()),
        ((), ("--read-only",)),
        (("--user", "0:0"), READ_ONLY),
        (("--user", "1234:1234"), READ_ONLY),
        (("--user", "1000680000:0"), READ_ONLY),
        (("--user", "4711"), ()),
    ],
)
def test_a_new_volume_serves_every_user(
    start: Start, volume: str, user: tuple[str, ...], root: tuple[str, ...]
) -> None:
    """Its own, root as before, a fixed one, OpenShift's arbitrary one with group 0, one without any group."""
    with start(options=("-v", f"{volume}:{ROOT_DIRECTORY}", *user, *root)) as registry:
        push(registry)
        registry.healthy()
        assert registry.exec("id", "-u").strip() == (user[1].partition(":")[0] if user else "1000")


def test_without_capabilities_nothing_is_missing(start: Start) -> None:
    """The restricted Pod Security Standard."""
    options = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
    with start(options=options) as registry:
        push(registry)


@pytest.fixture
def of_root(tmp_path: Path) -> Path:
    """What registry:2 has left after years: everything belongs to root."""
    folder = tmp_path / "data"
    (folder / "docker/registry/v2/blobs/sha256/e3").mkdir(parents=True)
    (folder / "docker/registry/v2/repositories").mkdir()
    return folder


def refused(engine: Engine, image: str, *options: str) -> str:
    """The one line that a container leaves which does not start."""
    answer = engine("run", "--rm", "--network=none", *options, image, fails=True)
    lines = answer.strip().splitlines()
    assert len(lines) == 1, answer
    return lines[0]


def test_a_volume_of_root_is_refused_with_both_remedies_and_they_work(
    engine: Engine, start: Start, full: str, of_root: Path
) -> None:
    """Started, it would refuse every push; to change the owner of a terabyte would take hours."""
    mount = ("-v", f"{of_root}:{ROOT_DIRECTORY}")
    before = sorted(of_root.rglob("*"))
    message = refused(engine, full, *mount)
    assert f"{ROOT_DIRECTORY} belongs to 0:0 with mode 0755, and this container runs as 1000:1000" in message
    assert "docker run --user 0:0" in message
    assert sorted(of_root.rglob("*")) == before
    assert {path.stat().st_uid for path in before} == {0}

    with start(options=(*mount, "--user", "0:0")) as registry:
        push(registry)

    command = re.search(r"docker run (--rm .* /var/lib/registry)", message)
    assert command is not None, message
    words = command[1].replace("VOLUME", str(of_root)).replace("IMAGE", full).split()
    engine(*("run", "--network=none", *words))
    with start(options=mount) as registry:
        push(registry)


def test_a_volume_whose_owner_was_changed_in_part_is_refused(engine: Engine, full: str, of_root: Path) -> None:
    """The first push of a layer with that beginning would fail, weeks later."""
    for path in (of_root, *of_root.rglob("*")):
        if path.name != "e3":
            os.chown(path, 1000, 1000)
    assert "sha256/e3 belongs to 0:0" in refused(engine, full, "-v", f"{of_root}:{ROOT_DIRECTORY}")


def test_a_volume_of_root_that_nobody_writes_to_is_served(start: Start, of_root: Path) -> None:
    options = ("-v", f"{of_root}:{ROOT_DIRECTORY}:ro", "-e", "REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED=true")
    with start(options=options) as registry:
        assert registry.get("http://localhost:5000/v2/_catalog").strip() == '{"repositories":[]}'


def test_another_data_directory_that_cannot_be_made_is_refused(engine: Engine, full: str) -> None:
    """As root it would be in the container, and lost with it: the volume is what is missing."""
    name = "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"
    message = refused(engine, full, "-e", f"{name}=/data")
    assert "there is no /data in this container, and 1000:1000 may not create it in /;" in message
    assert "docker run -v VOLUME:/data ..." in message
    assert "/etc/hostname is not a directory" in refused(engine, full, "-e", f"{name}=/etc/hostname")


def test_a_mounted_configuration_that_is_a_directory_is_refused(engine: Engine, full: str, tmp_path: Path) -> None:
    """Docker makes one where the source of a mount does not exist; the defaults would be an open registry."""
    tmp_path.chmod(0o755)
    mount = ("-v", f"{tmp_path / 'config.yml'}:/mnt/config.yml")
    answer = engine("run", "--rm", "--network=none", *mount, full, "/mnt/config.yml", fails=True)
    assert answer.startswith("error: /mnt/config.yml: is an empty directory, which Docker creates where"), answer
    for place in ("/etc/docker/registry", "/etc/distribution"):
        # A file is there already, so that Docker itself refuses.
        mount = ("-v", f"{tmp_path / 'config.yml'}:{place}/config.yml")
        answer = engine("run", "--rm", "--network=none", *mount, full, fails=True)
        assert "Are you trying to mount a directory onto a file" in answer
        message = refused(engine, full, "-v", f"{tmp_path / 'empty'}:{place}")
        assert f"{place}/config.yml: no such file, since a directory without config.yml is mounted" in message


def test_a_configuration_or_key_that_the_user_may_not_read_is_refused(
    engine: Engine, full: str, tmp_path: Path
) -> None:
    """Files of mode 0600 that root wrote worked while the registry was root."""
    tmp_path.chmod(0o755)
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    secret.chmod(0o600)
    place = "/etc/docker/registry/config.yml"
    assert "not readable by this user" in refused(engine, full, "-v", f"{secret}:{place}")
    options = (
        "-v",
        f"{secret}:/certs/key",
        "-e",
        "REGISTRY_HTTP_TLS_KEY=/certs/key",
        "-e",
        "REGISTRY_HTTP_TLS_CERTIFICATE=/certs/key",
    )
    answer = engine("run", "--rm", "--network=none", *options, full, fails=True)
    assert "http.tls.key: cannot read '/certs/key': Permission denied" in answer


def test_nothing_is_written_outside_of_the_volume(start: Start) -> None:
    """As root, too: bytecode is there already, and a container's own layer grows by nothing."""
    for user in ((), ("--user", "0:0")):
        with start(options=user) as registry:
            push(registry)
            registry.exec("moorage", "health")
            assert registry.engine("diff", registry.name) == ""
