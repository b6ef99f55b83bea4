"""The unit files by themselves, judged by the programs of systemd.  `test_service.py` starts them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from tests.live import require
from tests.packages.conftest import ROOT

UNITS: Final = ROOT / "deploy" / "systemd"
STOCK: Final = Path("/usr/lib/systemd/system")
MOORAGE: Final = UNITS / "moorage.service"
DEBIAN: Final = UNITS / "docker-registry.service.d" / "moorage.conf"
EXPOSURE_LIMIT: Final = 1.5
OWN: Final = {
    "User", "Group", "StateDirectory", "StateDirectoryMode", "RuntimeDirectory", "CacheDirectory",
    "CacheDirectoryMode", "EnvironmentFile",
}  # fmt: skip
OWN_IN_DEBIAN: Final = {"ReadWritePaths", "EnvironmentFile"}
"""What the two services differ in."""


def directives(path: Path, section: str = "Service") -> list[str]:
    """The lines of a section without comments."""
    found = re.search(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", path.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{path} has no [{section}]"
    return [line for line in found[1].splitlines() if line and not line.startswith("#")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with the units, the drop-ins beside them, and the programs that they name."""
    installed = tmp_path / "etc/systemd/system"
    installed.mkdir(parents=True)
    for name in ("moorage.service", "moorage.socket"):
        shutil.copy(UNITS / name, installed)
    for name in ("opt/moorage/bin/moorage", "bin/kill", "usr/bin/docker-registry", "bin/sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", tmp_path / name)
    stock = tmp_path / "usr/lib/systemd/system"
    stock.mkdir(parents=True)
    require("systemd-analyze")
    for path in STOCK.glob("*.target"):
        shutil.copy(path, stock)
    return tmp_path


def add_drop_in(root: Path, path: Path) -> None:
    shutil.copytree(path.parent, root / "etc/systemd/system" / path.parent.name, ignore=lambda folder, names: {
        name for name in names if name != path.name
    })  # fmt: skip


def add_debian(root: Path) -> None:
    require("docker-registry")
    shutil.copy(STOCK / "docker-registry.service", root / "etc/systemd/system")
    add_drop_in(root, DEBIAN)


def analyze(root: Path, *command: str) -> str:
    done = subprocess.run(
        [require("systemd-analyze"), f"--root={root}", "--no-pager", *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def exposure(root: Path, unit: str) -> float:
    text = analyze(root, "security", "--offline=true", unit)
    found = re.search(rf"Overall exposure level for {re.escape(unit)}: ([\d.]+)", text)
    assert found is not None, text
    return float(found[1])


@pytest.mark.parametrize("unit", ["moorage.service", "moorage.socket", "docker-registry.service"])
def test_systemd_finds_nothing_to_complain_of(root: Path, unit: str) -> None:
    """`verify` names unknown keys and values, and ends with 0 all the same."""
    if unit == "docker-registry.service":
        add_debian(root)
    assert analyze(root, "verify", "--man=no", unit) == ""


def test_what_systemd_complains_of_is_seen(root: Path) -> None:
    """The test before this one would notice a mistake."""
    path = root / "etc/systemd/system/moorage.service"
    path.write_text(path.read_text().replace("ProtectHome=", "ProtectHomes="))
    assert "ProtectHomes" in analyze(root, "verify", "--man=no", "moorage.service")


@pytest.mark.parametrize(
    ("drop_in", "limit"), [("", EXPOSURE_LIMIT), ("access-log.conf", EXPOSURE_LIMIT), ("low-ports.conf", 1.7)]
)
def test_the_exposure_is_low(root: Path, drop_in: str, limit: float) -> None:
    """A capability and the users of the host cost half a point: socket activation goes without."""
    if drop_in:
        add_drop_in(root, UNITS / "moorage.service.d" / drop_in)
    assert exposure(root, "moorage.service") <= limit


def test_the_drop_in_for_debian_hardens_the_packages_unit(root: Path) -> None:
    require("docker-registry")
    shutil.copy(STOCK / "docker-registry.service", root / "etc/systemd/system")
    assert exposure(root, "docker-registry.service") > 9
    add_drop_in(root, DEBIAN)
    assert exposure(root, "docker-registry.service") <= EXPOSURE_LIMIT


def test_both_services_have_the_same_sandbox() -> None:
    """A directive that one of them gets later is not forgotten in the other."""

    def common(path: Path, own: set[str]) -> list[str]:
        lines = [line for line in directives(path) if line.partition("=")[0] not in own]
        return [re.sub(r"/etc/\S+/config.yml", "CONFIG", line) for line in lines if line != "ExecStart="]

    assert common(MOORAGE, OWN) == common(DEBIAN, OWN_IN_DEBIAN)


@pytest.mark.parametrize("kind", ["sysusers", "tmpfiles"])
def test_users_and_directories_are_made(tmp_path: Path, kind: str) -> None:
    """By the programs of systemd, in a file system of their own; a second run changes nothing."""
    program = require(f"systemd-{kind}")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nmoorage:x:900:900::/var/lib/moorage:/bin/false\n"
    )
    (tmp_path / "etc/group").write_text("root:x:0:\nadm:x:4:\nmoorage:x:900:\n")
    if kind == "sysusers":
        for name in ("passwd", "group"):
            path = tmp_path / "etc" / name
            path.write_text(
                "".join(f"{line}\n" for line in path.read_text().splitlines() if "moorage" not in line)
            )
    file = UNITS / f"{kind}.d" / "moorage.conf"
    command = [program, f"--root={tmp_path}", *(["--create"] if kind == "tmpfiles" else []), str(file)]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    if kind == "sysusers":
        (line,) = [
            line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("moorage:")
        ]
        assert line.endswith(":Moorage container registry:/var/lib/moorage:/usr/sbin/nologin")
    else:
        found = {path: (tmp_path / path).stat() for path in ("etc/moorage", "var/lib/moorage", "var/log/moorage")}
        assert {path: (state.st_uid, state.st_gid, state.st_mode & 0o777) for path, state in found.items()} == {
            "etc/moorage": (0, 900, 0o750),
            "var/lib/moorage": (900, 900, 0o750),
            "var/log/moorage": (0, 4, 0o750),
        }
