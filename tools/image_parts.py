"""Parts of the container image that a build in a test cannot fetch: the base's root file system, and wheels.

    .tools/image/base-HASH.tar             Debian with Python, imported under the name of the Dockerfile's base
    .tools/image/wheels-HASH/              wheels of requirements/image*.txt for this machine, as pip chooses them
    .tools/image/wheels-HASH/arm64.json    names of the wheels that pip chooses on linux/arm64, by requirement

Called by `install_test_programs.py`; the hash is that of what each was made from.  Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["ARM64", "CannotMake", "base", "make", "wheels"]

ROOT = Path(__file__).resolve().parent.parent
PARTS = ROOT / ".tools" / "image"
PYTHON = "3.13"
SUITE = "trixie"
ARM64 = "arm64.json"
INSTALLED = ("image.txt", "image-slim.txt", "image-build.txt", "image-sbom.txt")

# Like the official slim images: no documentation, no translations.
_BOOTSTRAP = (
    "--mode=root", "--variant=minbase", "--include=python3,python3-venv,ca-certificates,busybox-static",
    "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*", "--aptopt=Acquire::Retries 3",
)  # fmt: skip

# glibc 2.41 of the base runs all of these; pip is given each, since its older releases do not count downwards.
_GLIBC = ("5", "12", "17", "24", "27", "28", "31", "34", "35", "39")


class CannotMake(Exception):
    """A part cannot be made here; the message is the program's."""


def base() -> Path:
    """The archive of the base's root file system."""
    return PARTS / f"base-{_hash(PYTHON, SUITE, platform.machine(), *_BOOTSTRAP)}.tar"


def wheels() -> Path:
    """The folder of wheels."""
    texts = [(ROOT / "requirements" / name).read_text() for name in INSTALLED]
    return PARTS / f"wheels-{_hash(PYTHON, platform.machine(), *_GLIBC, *texts)}"


def make(mirror: str) -> None:
    """Make what is missing; `mirror` is the address of a Debian mirror.  Raises `CannotMake`."""
    PARTS.mkdir(parents=True, exist_ok=True)
    if not base().exists():
        print("making the root file system of the image's tests ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=".base-", dir=PARTS) as scratch:
            made = Path(scratch, "base.tar")
            _run("mmdebstrap", *_BOOTSTRAP, SUITE, made, mirror)
            made.replace(base())
    if not wheels().exists():
        print("fetching the wheels of the image's tests ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=".wheels-", dir=PARTS) as scratch:
            _run(sys.executable, "-m", "venv", f"{scratch}/venv")
            made = Path(scratch, "made")
            made.mkdir()
            for name in INSTALLED:
                _pip(scratch, name, platform.machine(), "download", "--dest", made)
            _run_arm64(scratch, made)
            made.replace(wheels())


def _run_arm64(scratch: str, made: Path) -> None:
    """Ask pip for the wheels of linux/arm64 without keeping them; it fails if a requirement has none."""
    report = Path(scratch, "report.json")
    chosen = {}
    for name in INSTALLED[:2]:
        unused = ("--dry-run", "--ignore-installed", "--target", f"{scratch}/unused")
        _pip(scratch, name, "aarch64", "install", *unused, "--report", report)
        installed = json.loads(report.read_text())["install"]
        chosen[name] = {
            f"{item['metadata']['name']}=={item['metadata']['version']}": [
                item["download_info"]["url"].rpartition("/")[2],
                item["download_info"]["archive_info"]["hashes"]["sha256"],
            ]
            for item in installed
        }
    (made / ARM64).write_text(json.dumps(chosen, indent=1, sort_keys=True))


def _pip(scratch: str, requirements: str, machine: str, command: str, *arguments: str | Path) -> None:
    platforms = [part for glibc in _GLIBC for part in ("--platform", f"manylinux_2_{glibc}_{machine}")]
    for name in ("1", "2010", "2014"):  # the older names of 2.5, 2.12 and 2.17
        platforms += ["--platform", f"manylinux{name}_{machine}"]
    _run(
        f"{scratch}/venv/bin/pip", command, "--quiet", "--disable-pip-version-check",
        "--no-deps", "--require-hashes",
        "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms, *arguments,
        "-r", ROOT / "requirements" / requirements,
    )  # fmt: skip


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise CannotMake(f"{Path(command[0]).name} failed:\n{done.stdout[-2000:]}")


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
