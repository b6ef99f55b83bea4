#!/usr/bin/env python3
"""Install the programs that the tests of real clients use; Debian 12 or later, as root.

    python3 tools/install_test_programs.py            everything that is missing
    python3 tools/install_test_programs.py --list     what is there and what is not; installs nothing
    python3 tools/install_test_programs.py --stores [radosgw] [swift]
        Debian's packages alone, and those of the S3 servers that `python3 dev.py stores` starts
    python3 tools/install_test_programs.py --registries
        CNCF Distribution 2.8.3 and 3.1.1 with the drivers azure and gcs, built by Go: minutes, not part of CI

Debian's own packages come by apt-get.  oras, cosign, crane, and newer versions of Docker and Compose, are not in
Debian 12: they are taken out of the packages of newer suites, which run unpacked because Go programs bring their
libraries along, into `.tools/` below the repository; nothing newer is installed into the system.  crane's suite,
sid, changes every day: when it cannot be had the tests of crane are skipped.  The mirror's address is that of the
machine's own sources.
pipx, uv and twine come from requirements/installers.txt into an environment of their own, `.tools/installers`.
What the container image's tests build from, a root file system and wheels, is kept in `.tools/image`.
azurite, Microsoft's emulator of Azure Blob Storage, comes by npm into `.tools/azurite`; Node.js is Debian's unless
the machine has one.  Helm as a library and the schemas of Kubernetes, for the tests of the chart, come by pip into
`.tools/chart`, an environment of their own, pinned and hashed in requirements/chart.txt (230 MB; x86-64 only).

Standard library only: it runs before anything is set up.  Quick when there is nothing to do.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import image_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
BINARIES = TOOLS / "bin"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

PACKAGES = (
    "python3-venv", "docker-registry", "skopeo", "docker.io", "podman", "buildah", "containerd", "runc", "crun",
    "docker-compose",
    "iptables", "busybox-static", "strace", "wrk", "nghttp2-client", "curl", "openssl", "e2fsprogs", "util-linux",
    "apache2-utils", "prometheus", "nginx", "haproxy", "apache2-bin", "pebble",
    "redis-server", "redis-sentinel", "systemd", "logrotate", "rsync", "socat", "mmdebstrap",
)  # fmt: skip

# What `python3 dev.py stores` needs besides.  Swift's servers run from its modules: without their own packages no
# user, no service and nothing in /etc comes along.
STORES = {
    "radosgw": ("radosgw", "ceph-mon", "ceph-osd", "ceph-common"),
    "swift": ("python3-swift",),
}

# Program, package, suite, and whether the tests may do without it.
UNPACKED = (
    ("oras", "oras", "trixie", False),
    ("cosign", "cosign", "trixie", False),
    ("docker-compose-2", "docker-compose", "trixie", False),
    ("docker-26", "docker-cli", "trixie", False),
    ("dockerd-26", "docker.io", "trixie", False),
    ("crane", "crane", "sid", True),
)
# Where a package has its program, if not in /usr/bin under the same name.
PLACES = {
    "docker-compose-2": "usr/libexec/docker/cli-plugins/docker-compose",
    "docker-26": "usr/bin/docker",
    "dockerd-26": "usr/sbin/dockerd",
}


# The last one that runs on Node.js 20 and older.
AZURITE = "azurite@3.35.0"
NODE = (("node", "nodejs"), ("npm", "npm"))

INSTALLERS = ROOT / "requirements" / "installers.txt"
INSTALLER_PROGRAMS = ("pipx", "uv", "uvx", "twine")
CHART = TOOLS / "chart"
CHART_PINS = ROOT / "requirements" / "chart.txt"

# The package, the folder of its go.mod (none: its own), and the build tags.  Content is pinned by the checksums in
# go.sum, or by Go's checksum database.
GO = ("/usr/local/go/bin/go", "go")
REGISTRIES = {
    "registry-2": ("github.com/docker/distribution/cmd/registry", "tools/registry-2", "include_gcs"),
    "registry-3": ("github.com/distribution/distribution/v3/cmd/registry@v3.1.1", "", ""),
}


class CannotInstall(Exception):
    """A program cannot be installed here; the message has the reason and the remedy."""


def main(arguments: list[str]) -> int:
    if arguments == ["--list"]:
        show()
        return 0
    if arguments == ["--registries"]:
        try:
            build_registries()
        except CannotInstall as error:
            print(f"install_test_programs: {error}", file=sys.stderr)
            return 1
        show()
        return 0
    stores = arguments[1:] or list(STORES)
    if arguments and (arguments[0] != "--stores" or not set(stores) <= set(STORES)):
        sys.exit(__doc__)
    try:
        if arguments:
            install_packages((*PACKAGES, *(package for store in stores for package in STORES[store])))
            return 0
        install_packages((*PACKAGES, *(package for program, package in NODE if shutil.which(program) is None)))
        for suite in dict.fromkeys(suite for _, _, suite, _ in UNPACKED):
            unpack_suite(suite)
        install_azurite()
        install_installers()
        install_chart()
        make_image_parts()
    except CannotInstall as error:
        print(f"install_test_programs: {error}", file=sys.stderr)
        return 1
    show()
    return 0


def show() -> None:
    for package in PACKAGES:
        print(f"{'installed' if is_installed(package) else 'MISSING':10} {package}")
    for program, _, suite, optional in UNPACKED:
        state = "unpacked" if runs(program) else "missing" if optional else "MISSING"
        print(f"{state:10} {program} ({suite}){' optional' if optional else ''}")
    for store, packages in STORES.items():
        for package in packages:
            state = "installed" if is_installed(package) else "missing"
            print(f"{state:10} {package} optional (dev.py stores {store})")
    for program in REGISTRIES:
        state = "built" if (BINARIES / program).exists() else "missing"
        print(f"{state:10} {program} optional (--registries)")
    state = "installed" if installers_are_current() else "MISSING"
    print(f"{state:10} {', '.join(INSTALLER_PROGRAMS)} ({INSTALLERS.name})")
    print(f"{'installed' if has_chart() else 'MISSING':10} {CHART.name} (pip, requirements/{CHART_PINS.name})")
    for path in (image_parts.base(), image_parts.wheels()):
        print(
            f"{'made' if path.exists() else 'MISSING':10} {path.relative_to(ROOT)} (the container image's tests)"
        )
    print(f"{'installed' if azurite_version() == AZURITE else 'MISSING':10} {AZURITE} (npm)")


def is_installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    status = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}", package], capture_output=True, text=True, check=False
    )
    return status.returncode == 0 and status.stdout.startswith("ii")


def install_packages(wanted: Sequence[str]) -> None:
    missing = [package for package in wanted if not is_installed(package)]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise CannotInstall(f"this is not Debian; missing are {' '.join(missing)}")
    if os.geteuid() != 0:
        raise CannotInstall(f"only root can install {' '.join(missing)}")
    print(f"installing {' '.join(missing)} ...", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt("update", environment=environment)
    # Services are left alone: every test starts what it needs and ends it.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        apt("install", "-y", "--no-install-recommends", *missing, environment=environment)
    finally:
        if ours:
            policy.unlink()


def apt(*arguments: str, environment: dict[str, str] | None = None, cwd: Path | None = None) -> None:
    command = ["apt-get", "-qq", "-o", "Acquire::Retries=3", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=cwd, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise CannotInstall(f"{' '.join(command[:2] + list(arguments[-1:]))} failed:\n{done.stdout[-2000:]}")


def runs(program: str) -> bool:
    path = BINARIES / program
    return path.exists() and _answers(path)


def _answers(path: Path) -> bool:
    try:
        # `docker version` asks an engine.
        asked = "--version" if path.name.startswith("docker") else "version"
        return subprocess.run([path, asked], capture_output=True, check=False, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def unpack_suite(suite: str) -> None:
    """Fetch what is missing from one suite, with its own lists, and link the programs into `.tools/bin`."""
    wanted = [(program, package, optional) for program, package, of, optional in UNPACKED if of == suite]
    wanted = [item for item in wanted if not runs(item[0])]
    if not wanted:
        return
    optional = all(item[2] for item in wanted)
    try:
        with tempfile.TemporaryDirectory(prefix="moorage-apt-") as scratch:
            _fetch(suite, [package for _, package, _ in wanted], Path(scratch))
            for program, _, _ in wanted:
                if not _answers(BINARIES / program):
                    raise CannotInstall(f"{program} of {suite} does not run here")
    except CannotInstall as error:
        if not optional:
            raise
        print(f"install_test_programs: doing without {wanted[0][0]}: {error}", file=sys.stderr)


def _fetch(suite: str, packages: list[str], scratch: Path) -> None:
    for folder in ("lists/partial", "archives/partial", "deb"):
        (scratch / folder).mkdir(parents=True)
    signed = f"[signed-by={KEYRING}] " if Path(KEYRING).exists() else ""
    (scratch / "suite.list").write_text(f"deb {signed}{mirror()} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": f"{scratch}/suite.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": f"{scratch}/lists",
        "Dir::Cache::archives": f"{scratch}/archives",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    apt(*flags, "update")
    apt(*flags, "download", *packages, cwd=scratch / "deb")
    BINARIES.mkdir(parents=True, exist_ok=True)
    for deb in (scratch / "deb").glob("*.deb"):
        tree = scratch / "tree"
        subprocess.run(["dpkg-deb", "-x", deb, tree], check=True)
    for program, *_ in (item for item in UNPACKED if item[1] in packages):
        place = PLACES.get(program, f"usr/bin/{program}")
        source = scratch / "tree" / place
        if not source.exists():
            raise CannotInstall(f"the package of {program} in {suite} holds no /{place}")
        shutil.copy2(source, BINARIES / f".{program}.new")
        (BINARIES / f".{program}.new").replace(BINARIES / program)


def installers_are_current() -> bool:
    stamp = TOOLS / "installers" / "requirements.txt"
    return stamp.exists() and stamp.read_bytes() == INSTALLERS.read_bytes()


def install_installers() -> None:
    """Make `.tools/installers` hold exactly what is pinned, and link its programs."""
    if installers_are_current():
        return
    folder = TOOLS / "installers"
    venv.create(folder, with_pip=True, clear=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--require-hashes", "-r", INSTALLERS],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise CannotInstall(f"pip install of {INSTALLERS.name} failed:\n{done.stdout[-2000:]}")
    BINARIES.mkdir(parents=True, exist_ok=True)
    for program in INSTALLER_PROGRAMS:
        (BINARIES / program).unlink(missing_ok=True)
        (BINARIES / program).symlink_to(f"../installers/bin/{program}")
    shutil.copyfile(INSTALLERS, folder / "requirements.txt")


def azurite_version() -> str:
    try:
        said = json.loads((TOOLS / "azurite/node_modules/azurite/package.json").read_text())
    except (OSError, ValueError):
        return ""
    return f"azurite@{said.get('version')}"


def install_azurite() -> None:
    """Beside `.tools/azurite` first, so that a half-installed one is never taken for it."""
    if azurite_version() == AZURITE:
        return
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".azurite-", dir=TOOLS) as scratch:
        command = [
            "npm",
            "install",
            "--prefix",
            scratch,
            "--no-audit",
            "--no-fund",
            "--omit=dev",
            "--ignore-scripts",
        ]
        done = subprocess.run(
            [*command, AZURITE],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=scratch,
        )
        if done.returncode != 0:
            raise CannotInstall(f"npm install {AZURITE} failed:\n{done.stdout[-2000:]}")
        shutil.rmtree(TOOLS / "azurite", ignore_errors=True)
        Path(scratch, "node_modules").rename(_made(TOOLS / "azurite") / "node_modules")


def _chart_stamp() -> str:
    return f"{hashlib.sha256(CHART_PINS.read_bytes()).hexdigest()} {sys.version_info[:2]}"


def has_chart() -> bool:
    stamp = CHART / "installed"
    return stamp.exists() and stamp.read_text() == _chart_stamp()


def install_chart() -> None:
    """The stamp is written last, so that a half-installed environment is made anew."""
    if has_chart():
        return
    if platform.machine() != "x86_64":
        print("install_test_programs: doing without the chart's: Helm's library is for x86-64", file=sys.stderr)
        return
    shutil.rmtree(CHART, ignore_errors=True)
    venv.create(CHART, with_pip=True)
    command = [CHART / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", CHART_PINS]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise CannotInstall(f"pip install -r {CHART_PINS} failed:\n{done.stdout[-2000:]}")
    # Three names of one library, which a wheel holds three times.
    for library in (CHART / "lib").glob("python*/site-packages/helm_python/lib/libhelm_c.so?*"):
        library.unlink()
        library.symlink_to("libhelm_c.so")
    (CHART / "installed").write_text(_chart_stamp())


def make_image_parts() -> None:
    """The root file system and the wheels from which the tests build the container image."""
    try:
        image_parts.make(mirror())
    except image_parts.CannotMake as error:
        raise CannotInstall(str(error)) from error


def build_registries() -> None:
    """Go fetches the modules by its own proxy; GOPROXY and GOFLAGS are honoured."""
    go = next((found for name in GO if (found := shutil.which(name)) is not None), None)
    if go is None:
        raise CannotInstall(
            "Go 1.25 or later is needed to build CNCF Distribution; see https://go.dev/doc/install"
        )
    BINARIES.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "CGO_ENABLED": "0"}
    for program, (package, folder, tags) in REGISTRIES.items():
        if (BINARIES / program).exists():
            continue
        print(f"building {program} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=".go-", dir=TOOLS) as scratch:
            if folder:
                command = [go, "build", "-tags", tags, "-o", f"{scratch}/registry", package]
            else:
                command = [go, "install", package]
            done = subprocess.run(
                command,
                cwd=ROOT / folder if folder else scratch,
                env={**environment, "GOBIN": scratch},
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode != 0:
                raise CannotInstall(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
            Path(scratch, "registry").replace(BINARIES / program)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def mirror() -> str:
    """The address this machine fetches Debian itself from: the entry of its own suite, component main."""
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    sources = Path("/etc/apt")
    for path in sorted(sources.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"^(\w[\w-]*):[ \t]*(.*)$", stanza, re.MULTILINE))
            if codename in fields.get("Suites", "").split() and "main" in fields.get("Components", "").split():
                return str(fields["URIs"].split()[0])
    for path in [sources / "sources.list", *sorted(sources.glob("sources.list.d/*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else ():
            found = re.match(rf"deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+{codename}\s.*\bmain\b", line)
            if found:
                return found[1]
    raise CannotInstall("found no Debian mirror in /etc/apt/sources.list and sources.list.d")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
