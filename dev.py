#!/usr/bin/env python3
"""Set up and run everything, with nothing but Python 3.11+ and git.

    python3 dev.py serve [ARGS]   a registry on 127.0.0.1:5000 (arguments go to `moorage serve`)
    python3 dev.py check          format, lint, types, tests, docs: what CI runs
    python3 dev.py test [ARGS]    tests only (arguments go to pytest)
    python3 dev.py lint           format, lint and types only
    python3 dev.py docs           build the documentation site into docs/_build
    python3 dev.py bench [ARGS]   the benchmark beside other registries (docs/benchmarks.md)
    python3 dev.py stores [ARGS]  the tests of S3 against Ceph's radosgw and OpenStack Swift: about half an hour,
                                  as root on Debian; `stores radosgw` or `stores swift` for one of them
    python3 dev.py versions [ARGS]
                                  the release before this one and this one on one store: about three minutes; needs
                                  the repository's history (arguments go to pytest)
    python3 dev.py fuzz [ARGS]    seeded byte streams against the HTTP/1.1 server, compared with h11: a minute, or
                                  `--minutes N --seed N`
    python3 dev.py soak [ARGS]    clients of every kind against registries and the HTTP/1.1 server, which must not
                                  grow: ten minutes, or `--seconds N`, `--requests N`, `--seed N`
    python3 dev.py soak --collect [ARGS]
                                  clients beside garbage collection, whose processes are killed as workers are:
                                  nothing acknowledged may be lost; ten minutes, or `--seconds N`, `--seed N`;
                                  on a directory, or `--store s3` for a bucket of moto
    python3 dev.py moments [ARGS] tests that interfere with a garbage collection, or kill a node in a push, at each
                                  call and not at a sample: ten minutes (arguments go to pytest)
    python3 dev.py model [ARGS]   all interleavings of garbage collection and requests, in a model: half an hour,
                                  or some scenarios by name (docs/testing.md)
    python3 dev.py mutants [PATHS]
                                  change the code of PATHS a little, again and again, and list what no quick test
                                  notices: minutes for a module, a day for src/moorage/{registry,storage,auth}
    python3 dev.py structure [ROOT]
                                  sizes, import cycles and the language of the docstrings of a checkout
    python3 dev.py dist           build sdist and wheel of the commit into dist/, reproducibly (docs/releasing.md)
    python3 dev.py lock           rewrite requirements/*.txt from pyproject.toml

The first call makes the virtual environment .venv from the pinned, hashed requirements.
MOORAGE_VENV names another place for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("MOORAGE_VENV", ROOT / ".venv"))
RUN_PINS = ROOT / "requirements" / "run.txt"
STORES = {"radosgw", "swift"}
DEV_PINS = ROOT / "requirements" / "dev.txt"
MUTATED = {
    "registry": ("tests/registry", "tests/http"),
    "storage": ("tests/storage",),
    "auth": ("tests/auth", "tests/http/test_passwords.py"),
}
MOMENTS = (
    "tests/gc/test_run.py",
    "tests/gc/test_sweep.py",
    "tests/gc/test_long_looks.py",
    "tests/storage/azure/test_steps.py",
    "tests/storage/s3/test_steps.py",
    "tests/storage/gcs/test_crashes.py",
    "tests/faults/test_system_calls.py",
    "tests/faults/test_crash.py",
    "tests/model",
    "tests/cluster/test_cluster.py",
)
"""Tests that take a sample of the moments (tests/moments.py)."""
MUTANTS_PINS = ROOT / "requirements" / "mutants.txt"
CHART_PINS = ROOT / "requirements" / "chart.txt"


def call(*command: str | Path, folder: Path = ROOT) -> None:
    """Run a command in `folder`; end this program with its exit status if it fails."""
    status = subprocess.run([str(part) for part in command], cwd=folder, check=False).returncode
    if status != 0:
        sys.exit(status if status > 0 else 128 - status)


def tool(name: str) -> Path:
    return VENV / "bin" / name


def set_up(pins: Path) -> None:
    """Make .venv hold exactly `pins` and this package, once per change of either file."""
    stamp = hashlib.sha256(pins.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamps = VENV / "moorage-set-up"
    done = stamps.read_text().split() if stamps.exists() else []
    if stamp in done:
        return
    print(f"setting up {VENV} (once, about a minute) ...", file=sys.stderr, flush=True)
    if not tool("python").exists():
        venv.create(VENV, with_pip=True)
    pip = (tool("python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    call(*pip, "--require-hashes", "-r", pins)
    call(*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    stamps.write_text("\n".join([*done, stamp]))


def lint() -> None:
    call(tool("ruff"), "format", "--check", ".")
    call(tool("ruff"), "check", ".")
    call(tool("mypy"))


def docs() -> None:
    call(tool("sphinx-build"), "-q", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


def stores(rest: list[str]) -> None:
    """Replace this process by the job, so that Ctrl-C reaches the process that ends the servers."""
    before = rest[: rest.index("--")] if "--" in rest else rest
    names = [name for name in before if not name.startswith("-")]
    if not set(names) <= STORES:
        sys.exit(__doc__)
    if not {"-h", "--help"} & {*before}:
        call(sys.executable, "tools/install_test_programs.py", "--stores", *names)
    set_up(DEV_PINS)
    os.chdir(ROOT)
    # By its whole name: an interpreter finds its environment by what it is called.
    os.execv(tool("python"), [str(tool("python")), "-m", "tests.stores", *rest])


def mutants(paths: list[str]) -> None:
    """Run mutmut on the modules or folders `paths`, in a copy: the tree may be edited meanwhile.

    Each choice of paths has a copy of its own: mutmut takes a file that an earlier run left alone for one without
    mutants.  What an earlier run of the same choice has tested, and has not changed since, is not tested again.
    """
    package = ROOT / "src" / "moorage"
    chosen = [Path(path).resolve() for path in paths] or [package / part for part in MUTATED]
    tests: dict[str, None] = {}
    for path in chosen:
        part = path.relative_to(package).parts[:1] if path.is_relative_to(package) else ()
        if not path.exists() or not {*part} & {*MUTATED}:
            sys.exit(f"{path} is not below src/moorage/ {', '.join(MUTATED)}")
        tests |= dict.fromkeys(MUTATED[part[0]])
    set_up(DEV_PINS)
    set_up(MUTANTS_PINS)
    copy = ROOT / "build" / "mutants" / ",".join(".".join(path.relative_to(package).parts) for path in chosen)
    for name in ("src", "tests", "docs", "tools", "requirements", "bench"):
        shutil.rmtree(copy / name, ignore_errors=True)
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for path in ROOT.glob("*.*"):
        if path.is_file() and not path.name.startswith("."):
            shutil.copy2(path, copy)
    mutated = [str(path.relative_to(ROOT)) + ("/*" if path.is_dir() else "") for path in chosen]
    settings = (ROOT / "pyproject.toml").read_text()
    for key, value in (
        ("only_mutate", mutated),
        ("pytest_add_cli_args_test_selection", [*tests, "-m", "not slow"]),
    ):
        settings, found = re.subn(rf"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", settings)
        assert found == 1, f"pyproject.toml has {found} lines of {key}"
    (copy / "pyproject.toml").write_text(settings)
    names = [".".join(path.relative_to(ROOT / "src").with_suffix("").parts) + ".*" for path in chosen]
    call(tool("mutmut"), "run", "--max-children", "1", *names, folder=copy)
    report = subprocess.run(
        [tool("mutmut"), "results"], cwd=copy, check=True, capture_output=True, text=True
    ).stdout
    left = [line.strip() for line in report.splitlines() if line.strip() and "not checked" not in line]
    print("\n".join(left))
    print(f"{len(left)} not noticed (docs/mutants.md); in {copy} `{tool('mutmut')} show NAME` prints one")


def lock() -> None:
    """Pins with hashes and without any index's address (uv writes none in this format)."""
    uv = ("uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes",
          "--no-annotate", "--no-header", "--no-emit-package", "moorage")  # fmt: skip
    for pins, extras in ((RUN_PINS, ("--extra", "all", "--group", "build")), (DEV_PINS, ("--extra", "dev"))):
        call(*uv, *extras, "-o", pins, "pyproject.toml")
    call(*uv, "--group", "chart", "-o", CHART_PINS)
    # What the container image holds, with the versions that the tests run with; its Python is 3.13.
    image = (*uv[:6], "3.13", *uv[7:], "-c", RUN_PINS)
    for name, chosen in (
        ("image", ("--extra", "all", "pyproject.toml")),
        ("image-slim", ("--extra", "s3", "pyproject.toml")),
        ("image-build", ("--group", "build")),
        ("image-sbom", ("--group", "sbom")),
    ):
        call(*image, *chosen, "-o", RUN_PINS.with_name(f"{name}.txt"))
    # What both name has one version.
    call(*uv, "--group", "mutants", "-c", DEV_PINS, "-o", MUTANTS_PINS)
    call(*uv, "--group", "installers", "-c", DEV_PINS, "-o", ROOT / "requirements" / "installers.txt")


def main(arguments: list[str]) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  this file is what an older Python would run first
        sys.exit(f"Moorage needs Python 3.11 or later; this is {sys.version.split()[0]}")
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command == "serve":
        set_up(RUN_PINS)
        # A trial run neither reads nor changes the configuration of another registry in /etc.
        named = rest or os.environ.get("REGISTRY_CONFIGURATION_PATH")
        os.execv(tool("moorage"), ["moorage", "serve", *(rest if named else ["--defaults"])])
    if command == "lock":
        lock()
        return
    if command == "stores":
        stores(rest)
    if command == "mutants":
        mutants(rest)
        return
    if command == "versions":
        set_up(DEV_PINS)
        # Without the history the tests fail instead of being skipped: a run is one of everything.
        os.environ["MOORAGE_REQUIRE_ALL"] = "1"
        call(tool("python"), "-m", "pytest", "-m", "previous", "tests/migrate", *rest)
        return
    if command == "soak" and "--collect" in rest:
        set_up(DEV_PINS)
        call(tool("python"), "-m", "tests.gc.soak", *(argument for argument in rest if argument != "--collect"))
        return
    if command in {"fuzz", "soak"}:
        set_up(DEV_PINS)
        call(tool("python"), "-m", f"tests.server.http1.{command}", *rest)
        return
    if command == "moments":
        set_up(DEV_PINS)
        os.environ["MOORAGE_EVERY_MOMENT"] = "1"
        call(tool("python"), "-m", "pytest", *MOMENTS, *rest)
        return
    if command == "model":
        set_up(DEV_PINS)
        call(tool("python"), "-m", "tests.gc.model", *rest)
        return
    if command == "structure":
        call(sys.executable, "tools/structure.py", *rest)
        return
    if command == "dist":
        set_up(DEV_PINS)
        call(tool("python"), "tools/build_distributions.py", "dist", *rest)
        return
    if command not in {"check", "test", "lint", "docs", "bench"}:
        sys.exit(__doc__)
    set_up(DEV_PINS)
    if command in {"check", "lint"}:
        lint()
    if command in {"check", "test"}:
        call(tool("python"), "-m", "pytest", *rest)
    if command in {"check", "docs"}:
        docs()
    if command == "bench":
        call(tool("python"), "-m", "bench", *rest)


if __name__ == "__main__":
    main(sys.argv[1:])
