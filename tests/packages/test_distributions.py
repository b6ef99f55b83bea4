"""sdist and wheel: the same bytes anywhere, the right content, metadata that PyPI takes."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import BytesParser
from typing import TYPE_CHECKING, Final

import pytest
from packaging.metadata import Metadata
from tests.live import require
from tests.packages.conftest import ROOT
from trove_classifiers import classifiers

from moorage import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("packages")]

BUILD: Final = ROOT / "tools" / "build_distributions.py"
OUTSIDE: Final = {".ci/run"}
"""Tracked files that no packager needs."""
ADDED: Final = {"PKG-INFO"}


def tracked() -> set[str]:
    """The files of the working tree that git knows or would add."""
    command: list[str | Path] = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in names if name and (ROOT / name).is_file() and not (ROOT / name).is_symlink()}


def in_sdist(distributions: Path) -> Iterator[tuple[str, tarfile.TarInfo]]:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        for member in archive:
            folder, _, name = member.name.partition("/")
            assert folder == f"moorage-{__version__}"
            yield name, member


def metadata(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"moorage-{__version__}.dist-info/METADATA")


def fields(wheel: Path) -> Message:
    return BytesParser().parsebytes(metadata(wheel))


def test_sdist_holds_what_a_packager_needs_and_nothing_else(distributions: Path) -> None:
    """Tests, documentation, units and chart, but nothing of the machine that built it."""
    found = dict(in_sdist(distributions))
    assert set(found) - ADDED == tracked() - OUTSIDE
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "deploy/systemd/moorage.service"} <= set(
        found
    )
    assert {member.uname or member.gname for member in found.values()} == {""}
    modes = {name: member.mode & 0o777 for name, member in found.items()}
    assert {name for name, mode in modes.items() if mode == 0o755} >= {"dev.py", "tools/install_test_programs.py"}
    assert set(modes.values()) == {0o644, 0o755}


def test_wheel_holds_the_package_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith(f"moorage-{__version__}.dist-info/")}
        info = set(archive.namelist()) - names
    assert names == {name.removeprefix("src/") for name in tracked() if name.startswith("src/moorage/")}
    assert {name.split("/", 1)[1] for name in info} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip
    assert wheel.name == f"moorage-{__version__}-py3-none-any.whl"


def test_another_build_has_the_same_bytes(distributions: Path, tmp_path: Path) -> None:
    """In another folder, with another umask, time zone, language, hash seed, and file times: nothing shows."""
    environment = {
        **os.environ,
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
        "TMPDIR": str(tmp_path),
    }
    command: list[str | Path] = [sys.executable, BUILD, tmp_path / "elsewhere" / "dist", "--working-tree"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, umask=0o077)
    assert done.returncode == 0, done.stderr
    again = {path.name: path.read_bytes() for path in (tmp_path / "elsewhere" / "dist").iterdir()}
    assert again == {path.name: path.read_bytes() for path in distributions.iterdir()}


def test_the_sums_are_those_of_the_files(distributions: Path) -> None:
    """`sha256sum --check SHA256SUMS`, as docs/releasing.md has it."""
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=distributions, check=True)
    named = [line.split()[1] for line in (distributions / "SHA256SUMS").read_text().splitlines()]
    assert sorted(named) == sorted(path.name for path in distributions.iterdir() if path.name != "SHA256SUMS")


def test_a_wheel_built_from_the_sdist_is_the_same(distributions: Path, wheel: Path, tmp_path: Path) -> None:
    """Debian, Nix and `pip install --no-binary` build from there, where is no git."""
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    date = zipfile.ZipFile(wheel).infolist()[0].date_time
    assert date[0] >= 2026, "the date of the commit"
    epoch = subprocess.run(
        ["git", "-C", ROOT, "log", "-1", "--format=%ct"], capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "built"],
        cwd=tmp_path / f"moorage-{__version__}",
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch},
        check=True,
        capture_output=True,
    )
    assert (
        hashlib.sha256((tmp_path / "built" / wheel.name).read_bytes()).digest()
        == hashlib.sha256(wheel.read_bytes()).digest()
    )


def test_the_metadata_is_valid(wheel: Path) -> None:
    """By the library with which PyPI checks an upload; a classifier that PyPI does not know is refused there."""
    parsed = Metadata.from_email(metadata(wheel), validate=True)
    assert parsed.version.public == __version__
    assert set(parsed.classifiers or ()) <= set(classifiers)
    assert parsed.license_expression == "Apache-2.0"
    assert "Private :: Do Not Upload" not in (parsed.classifiers or ())
    python = [name.rpartition(" ")[2] for name in parsed.classifiers or () if "Python :: 3." in name]
    assert python[0] == str(parsed.requires_python).removeprefix(">=")


def test_the_description_has_no_link_that_leads_nowhere(wheel: Path) -> None:
    """PyPI shows README.md by itself: a link to a file of the repository is dead there."""
    message = fields(wheel)
    assert message["Description-Content-Type"] == "text/markdown"
    targets = re.findall(r"\]\(([^)\s]+)\)", str(message.get_payload()))
    assert [target for target in targets if "://" not in target and not target.startswith("#")] == []


def test_links_of_the_description_lead_to_the_repository_once_it_has_an_address(tmp_path: Path) -> None:
    """`Source` of project.urls, at the tag of the version."""
    require("git")
    repository = release(tmp_path, "1.0.0", "## 1.0.0\n")
    (repository / "pyproject.toml").write_text('[project.urls]\nSource = "https://example.com/moorage"\n')
    (repository / "README.md").write_text("[a](docs/a.md) [b](https://example.com/b) [c](#c)\n")
    rewrite = "import build_distributions as b, pathlib; b.rewrite_links(pathlib.Path('..'))"
    subprocess.run([sys.executable, "-c", rewrite], cwd=repository / "tools", check=True)
    assert (repository / "README.md").read_text() == (
        "[a](https://example.com/moorage/blob/v1.0.0/docs/a.md) [b](https://example.com/b) [c](#c)\n"
    )


def test_every_extra_is_of_a_feature_or_for_developers(wheel: Path) -> None:
    """`all` is what the page of installation promises, so it lacks no extra."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    features = set(extras) - {"all", "dev", "testing"}
    found = re.fullmatch(r"moorage\[(.*)\]", extras["all"][0])
    assert found is not None
    assert set(found[1].split(",")) == features
    assert set(fields(wheel).get_all("Provides-Extra") or ()) == set(extras)
    page = (ROOT / "docs" / "installing.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \| ", page, re.MULTILINE)) == features


def release(folder: Path, version: str, changelog: str) -> Path:
    """A repository with a commit of that version that has the tag v1.0.0."""
    repository = folder / "repository"
    for name, text in (
        ("src/moorage/__init__.py", f'__version__ = "{version}"\n'),
        ("CHANGELOG.md", changelog),
        ("tools/build_distributions.py", BUILD.read_text()),
    ):
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git: list[str | Path] = ["git", "-C", repository, "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "release"], ["tag", "v1.0.0"]):
        subprocess.run([*git, *command], check=True)
    return repository


@pytest.mark.parametrize(
    ("version", "changelog", "sentence"),
    [
        ("0.9.0", "## 1.0.0\n", "the commit has the tag v1.0.0, but its version is 0.9.0; set __version__ first"),
        ("1.0.0", "## Unreleased\n", 'CHANGELOG.md has no heading "## 1.0.0"; rename "## Unreleased" first'),
    ],
)
def test_a_tag_that_does_not_fit_is_refused(tmp_path: Path, version: str, changelog: str, sentence: str) -> None:
    """The mistakes that are published most easily, and cannot be taken back."""
    require("git")
    repository = release(tmp_path, version, changelog)
    done = build(repository, tmp_path / "dist")
    assert (done.returncode, done.stderr) == (1, f"build_distributions: {sentence}\n")
    assert not (tmp_path / "dist").exists()


def test_files_of_an_earlier_build_are_not_mixed_in(tmp_path: Path) -> None:
    require("git")
    repository = release(tmp_path, "1.0.0", "## 1.0.0\n")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "old.whl").write_text("")
    done = build(repository, tmp_path / "dist")
    assert done.returncode == 1
    assert f"{tmp_path / 'dist'} is not an empty directory; remove it or name another one" in done.stderr
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["old.whl"]


def test_a_commit_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "dist", "v0.0.0-none")
    assert (done.returncode, done.stderr) == (1, "build_distributions: no commit 'v0.0.0-none'\n")


def build(repository: Path, target: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [sys.executable, repository / "tools" / "build_distributions.py", target, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)
