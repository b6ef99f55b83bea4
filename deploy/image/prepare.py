"""Prepares the files of the container image; runs in the first stages of the Dockerfile, with the base's Python.

    prepare.py standard-library FILES     compiled bytecode of the standard library, to be copied over the base
    prepare.py prune ENVIRONMENT          remove what a running registry never reads
    prepare.py compile ENVIRONMENT        bytecode of every installed module
    prepare.py take-out ENVIRONMENT TREE  move Moorage's own files, with their bytecode, to a tree of their own
    prepare.py settle TREE ...            give every file the time SOURCE_DATE_EPOCH

Bytecode is of the kind "unchecked hash" (PEP 552): Python never compares it with the source, so that a read-only
root file system costs no compilation at each start, and the times of files mean nothing.
"""

from __future__ import annotations

import compileall
import csv
import os
import py_compile
import shutil
import sys
import sysconfig
from pathlib import Path

_NEVER_IMPORTED = {
    "__phello__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test",
    "tkinter", "turtledemo",
}  # fmt: skip

_SERVICES = {"s3", "signin", "sso", "sso-oidc", "sts"}
"""What botocore reads for S3 and for credentials: roles, web identity, SSO, login."""

_SOURCES = {".c", ".cpp", ".h", ".hpp", ".pxd", ".pxi", ".pyx"}
"""Of modules that are compiled already."""


def standard_library(files: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.iterdir()):
        if path.name in _NEVER_IMPORTED or path.name.startswith("config-"):
            continue
        if path.is_dir():
            _compile(path)
        elif path.suffix == ".py":
            py_compile.compile(
                str(path), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )
    for folder in sorted(library.rglob("__pycache__")):
        if folder.relative_to(library).parts[0] not in _NEVER_IMPORTED:
            target = files / folder.relative_to("/")
            shutil.copytree(folder, target, ignore=lambda _, names: [name for name in names if ".opt-" in name])


def prune(environment: Path) -> None:
    site = _site(environment)
    data = site / "botocore" / "data"
    for path in sorted(data.iterdir()) if data.is_dir() else ():
        if path.is_dir() and path.name not in _SERVICES:
            shutil.rmtree(path)
    for path in sorted((environment / "bin").iterdir()):
        if not path.name.startswith("python") and path.name not in {"moorage", "registry"}:
            _remove(path)
    for name in ("include", ".gitignore"):
        _remove(environment / name)
    for path in sorted(site.rglob("*")):
        if path.suffix in _SOURCES:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def compile_environment(environment: Path) -> None:
    _compile(_site(environment))


def _compile(folder: Path) -> None:
    done = compileall.compile_dir(
        str(folder), quiet=1, force=True, maxlevels=50, workers=1,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )  # fmt: skip
    if not done:
        sys.exit(f"prepare.py: not every module of {folder} compiles")


def take_out(environment: Path, target: Path) -> None:
    """`RECORD` lists the files of a distribution; bytecode is made beside them."""
    site = _site(environment)
    _compile(site / "moorage")
    (record,) = site.glob("moorage-*.dist-info/RECORD")
    with record.open(newline="") as file:
        own = {Path(os.path.normpath(site / row[0])) for row in csv.reader(file)}
    own |= {
        compiled
        for path in own
        if path.suffix == ".py"
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc")
    }
    for path in sorted(own):
        moved = target / path.relative_to("/")
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)


def settle(tree: Path) -> None:
    time = int(os.environ["SOURCE_DATE_EPOCH"])
    for folder, folders, names in os.walk(tree, topdown=False):
        for name in (*folders, *names):
            os.utime(Path(folder, name), (time, time), follow_symlinks=False)
    os.utime(tree, (time, time))


def _site(environment: Path) -> Path:
    (site,) = environment.glob("lib/python3*/site-packages")
    return site


def main(arguments: list[str]) -> None:
    match arguments:
        case ["standard-library", files]:
            standard_library(Path(files))
        case ["prune", environment]:
            prune(Path(environment))
        case ["compile", environment]:
            compile_environment(Path(environment))
        case ["take-out", environment, target]:
            take_out(Path(environment), Path(target))
        case ["settle", *trees] if trees:
            for tree in trees:
                settle(Path(tree))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
