#!/usr/bin/env python3
"""Build sdist and wheel of a commit, reproducibly.

    python3 dev.py dist                                        dist/, from HEAD
    python tools/build_distributions.py FOLDER [COMMIT]        the same by an interpreter that has hatchling
    python tools/build_distributions.py FOLDER --working-tree  the files that git knows, as they are now

The source is a clean export, so nothing else in the folder gets in, and every file in the result has the date of
the commit (SOURCE_DATE_EPOCH).  The versions of hatchling and its dependencies are those of requirements/dev.txt.
SHA256SUMS is written beside the two files.  FOLDER must be empty or missing.

README.md is the description at PyPI, which shows it without the repository: a link to a file leads to that file
below `Source` of project.urls, and is only its text where there is no such address.

A commit with a tag `vX` must be of version X and have a heading `## X` in CHANGELOG.md.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")


class CannotBuild(Exception):
    """The message names the cause and the remedy."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("commit", nargs="?", default="HEAD")
    source.add_argument("--working-tree", action="store_true")
    given = parser.parse_args(arguments)
    try:
        for path in build(given.folder, given.commit, working_tree=given.working_tree):
            print(f"{digest(path)}  {path}")
    except CannotBuild as error:
        print(f"build_distributions: {error}", file=sys.stderr)
        return 1
    return 0


def build(folder: Path, commit: str, *, working_tree: bool = False) -> list[Path]:
    """Build into `folder` and return the paths of sdist and wheel.  Raises CannotBuild."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CannotBuild(f"{folder} is not an empty directory; remove it or name another one")
    revision = git(
        "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", failure=f"no commit {commit!r}"
    ).strip()
    with tempfile.TemporaryDirectory(prefix="moorage-dist-") as scratch:
        source, built = Path(scratch, "source"), Path(scratch, "built")
        source.mkdir()
        if working_tree:
            copy_working_tree(source)
        else:
            export(revision, source)
            check_release(revision, source)
        rewrite_links(source)
        environment = {**os.environ, "SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct", revision).strip()}
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(built)]
        done = subprocess.run(command, cwd=source, env=environment, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise CannotBuild(f"hatchling failed with status {done.returncode}:\n{done.stdout}{done.stderr}")
        folder.mkdir(parents=True, exist_ok=True)
        paths = [Path(shutil.copyfile(path, folder / path.name)) for path in sorted(built.iterdir())]
    sums = "".join(f"{digest(path)}  {path.name}\n" for path in paths)
    (folder / "SHA256SUMS").write_text(sums)
    return paths


def export(revision: str, target: Path) -> None:
    archive = subprocess.run(
        ["git", "-C", ROOT, "archive", "--format=tar", revision], check=True, stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x", "-C", target], input=archive.stdout, check=True)


def copy_working_tree(target: Path) -> None:
    """Copy the files that git tracks and those that it would add."""
    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        path = ROOT / name
        # A link is one of this machine: git has none in this repository.
        if name and path.is_file() and not path.is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / name)


def version_of(source: Path) -> str:
    found = re.search(r'^__version__ = "(.+)"$', (source / "src/moorage/__init__.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def rewrite_links(source: Path) -> None:
    """Make README.md readable outside of the repository."""
    urls = tomllib.loads((source / "pyproject.toml").read_text())["project"].get("urls", {})
    address = urls.get("Source", "").rstrip("/")
    replacement = rf"[\1]({address}/blob/v{version_of(source)}/\2)" if address else r"\1"
    readme = source / "README.md"
    readme.write_text(RELATIVE_LINK.sub(replacement, readme.read_text()))


def check_release(revision: str, source: Path) -> None:
    """Compare the tags of a commit with its version and its changelog.  Raises CannotBuild."""
    version = version_of(source)
    tags = [tag for tag in git("tag", "--points-at", revision).split() if re.match(r"v\d", tag)]
    for tag in tags:
        if tag != f"v{version}":
            raise CannotBuild(f"the commit has the tag {tag}, but its version is {version}; set __version__ first")
        if not re.search(rf"^## {re.escape(version)}\b", (source / "CHANGELOG.md").read_text(), re.MULTILINE):
            raise CannotBuild(f'CHANGELOG.md has no heading "## {version}"; rename "## Unreleased" first')


def git(*arguments: str, failure: str = "") -> str:
    done = subprocess.run(["git", "-C", ROOT, *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotBuild(failure or f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
