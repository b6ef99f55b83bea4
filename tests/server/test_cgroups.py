"""Limits of control groups: trees as version 1, version 2 and both make them, and a group of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.live import everything_required

from moorage.server.cgroups import Limits, limits, usable_processors

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
NO_LIMIT = "9223372036854771712\n"
"""What version 1 shows with pages of 4 KiB."""


def tree(root: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Limits:
    """The limits of a process with these lines in /proc, and these files."""
    proc = root / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    (proc / "mountinfo").write_text(mountinfo)
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return limits(str(proc), str(root))


V1 = """\
24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
31 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 {group} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 {group} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 {group} /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
V2 = "30 23 0:26 {group} /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n"
CPU, MEMORY, UNIFIED = "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/memory", "sys/fs/cgroup"


@pytest.mark.parametrize("line", ["30 23 - cgroup2 x y", "30 23 0:26 / /sys - cgroup", " - cgroup2"])
def test_lines_of_another_form_are_no_limit(tmp_path: Path, line: str) -> None:
    assert tree(tmp_path, "0::/\n", f"{line}\n", {}) == Limits()


def test_a_container_of_version_1_without_a_namespace(tmp_path: Path) -> None:
    """Docker before cgroup namespaces: the host's path, and a mount that begins with the container's group."""
    cgroup = "12:cpu,cpuacct:/docker/4f2a\n7:memory:/docker/4f2a\n1:name=systemd:/docker/4f2a\n0::/\n"
    files = {
        f"{CPU}/cpu.cfs_quota_us": "150000\n",
        f"{CPU}/cpu.cfs_period_us": "100000\n",
        f"{MEMORY}/memory.limit_in_bytes": f"{512 * MIB}\n",
    }
    assert tree(tmp_path, cgroup, V1.format(group="/docker/4f2a"), files) == Limits(1.5, 512 * MIB)


def test_a_service_of_version_1_on_the_host(tmp_path: Path) -> None:
    """The limits of the slice above bind as well: the least of all."""
    cgroup = "4:cpuacct,cpu:/system.slice/moorage.service\n7:memory:/system.slice/moorage.service\n"
    service, slice_ = "system.slice/moorage.service", "system.slice"
    files = {
        f"{CPU}/cpu.cfs_quota_us": "-1\n",
        f"{CPU}/cpu.cfs_period_us": "100000\n",
        f"{CPU}/{slice_}/cpu.cfs_quota_us": "200000\n",
        f"{CPU}/{slice_}/cpu.cfs_period_us": "100000\n",
        f"{CPU}/{service}/cpu.cfs_quota_us": "300000\n",
        f"{CPU}/{service}/cpu.cfs_period_us": "100000\n",
        f"{MEMORY}/memory.limit_in_bytes": NO_LIMIT,
        f"{MEMORY}/{slice_}/memory.limit_in_bytes": f"{2048 * MIB}\n",
        f"{MEMORY}/{service}/memory.limit_in_bytes": f"{1024 * MIB}\n",
    }
    assert tree(tmp_path, cgroup, V1.format(group="/"), files) == Limits(2.0, 1024 * MIB)


def test_version_1_without_limits(tmp_path: Path) -> None:
    """-1, and the largest number of pages."""
    files = {
        f"{CPU}/cpu.cfs_quota_us": "-1\n",
        f"{CPU}/cpu.cfs_period_us": "100000\n",
        f"{MEMORY}/memory.limit_in_bytes": NO_LIMIT,
    }
    assert tree(tmp_path, "12:cpu,cpuacct:/\n7:memory:/\n", V1.format(group="/"), files) == Limits()


def test_a_container_of_version_2(tmp_path: Path) -> None:
    """Its namespace makes its own group the root."""
    files = {
        f"{UNIFIED}/cpu.max": "50000 100000\n",
        f"{UNIFIED}/memory.max": f"{256 * MIB}\n",
        f"{UNIFIED}/memory.high": "max\n",
    }
    assert tree(tmp_path, "0::/\n", V2.format(group="/"), files) == Limits(0.5, 256 * MIB)


def test_groups_above_bind_in_version_2(tmp_path: Path) -> None:
    """Kubernetes limits the pod and the container; systemd's MemoryHigh= slows down before the limit."""
    group = "kubepods.slice/pod1.slice/c1.scope"
    files = {
        f"{UNIFIED}/kubepods.slice/cpu.max": "max 100000\n",
        f"{UNIFIED}/kubepods.slice/memory.max": "max\n",
        f"{UNIFIED}/kubepods.slice/pod1.slice/cpu.max": "250000 100000\n",
        f"{UNIFIED}/kubepods.slice/pod1.slice/memory.high": f"{300 * MIB}\n",
        f"{UNIFIED}/{group}/cpu.max": "max 100000\n",
        f"{UNIFIED}/{group}/memory.max": f"{400 * MIB}\n",
    }
    assert tree(tmp_path, f"0::/{group}\n", V2.format(group="/"), files) == Limits(2.5, 300 * MIB)


def test_version_2_without_limits(tmp_path: Path) -> None:
    files = {f"{UNIFIED}/cpu.max": "max 100000\n", f"{UNIFIED}/memory.max": "max\n"}
    assert tree(tmp_path, "0::/\n", V2.format(group="/"), files) == Limits()


def test_controllers_of_both_versions(tmp_path: Path) -> None:
    """Systemd's hybrid: version 2 is mounted beside, and has the controllers that version 1 has not."""
    mounts = V1.format(group="/").replace("cpu,cpuacct", "cpu")
    mounts += "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    files = {
        "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "100000\n",
        "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "50000\n",
        "sys/fs/cgroup/unified/a/memory.max": f"{64 * MIB}\n",
        f"{MEMORY}/a/memory.limit_in_bytes": NO_LIMIT,
    }
    assert tree(tmp_path, "1:cpu:/a\n4:memory:/a\n0::/a\n", mounts, files) == Limits(2.0, 64 * MIB)


@pytest.mark.parametrize(
    ("group", "mounted"),
    [("/../other", "/"), ("/docker/other", "/docker/own"), ("/gone", "/")],
)
def test_a_group_outside_of_the_mount_is_that_of_the_mount(tmp_path: Path, group: str, mounted: str) -> None:
    """A process that was moved after its namespace was made, or a group whose directory is not mounted here."""
    files = {f"{UNIFIED}/cpu.max": "100000 100000\n"}
    found = tree(tmp_path, f"0::{group}\n", V2.format(group=mounted), files)
    assert found == Limits(processors=1.0)


def test_spaces_in_the_path_of_a_mount(tmp_path: Path) -> None:
    """They are written as octal escapes."""
    mounts = "30 23 0:26 / /a\\040b rw - cgroup2 cgroup rw\n"
    files = {"a b/my group/memory.max": f"{MIB}\n"}
    assert tree(tmp_path, "0::/my group\n", mounts, files).memory_bytes == MIB


NUMBERS = ["", "x\n", "max\n", "100000\n", "0 0\n", "-1 100000\n", "1e5 100000\n", "1 2 3\n", "\x00", "9" * 40]
QUOTAS = [("0", "100000"), ("100000", "0"), ("-1", "-1"), ("", ""), ("x", "100000"), ("100000", "x")]


@pytest.mark.parametrize("content", NUMBERS)
def test_what_cannot_be_parsed_is_no_limit(tmp_path: Path, content: str) -> None:
    """A kernel with another format must not keep a registry from starting."""
    files = {f"{UNIFIED}/cpu.max": content, f"{UNIFIED}/memory.max": content.replace("100000", "0")}
    assert tree(tmp_path, "0::/\n", V2.format(group="/"), files) == Limits()


@pytest.mark.parametrize(("quota", "period"), QUOTAS)
def test_version_1_that_cannot_be_parsed_is_no_limit(tmp_path: Path, quota: str, period: str) -> None:
    files = {f"{CPU}/cpu.cfs_quota_us": quota, f"{CPU}/cpu.cfs_period_us": period}
    assert tree(tmp_path, "12:cpu,cpuacct:/\n", V1.format(group="/"), files) == Limits()


@pytest.mark.parametrize(
    ("cgroup", "mountinfo"),
    [("", ""), ("garbage", V2.format(group="/")), ("0::/\n", "garbage\n30 23 0:26 / /x rw -\n - \n")],
)
def test_proc_that_cannot_be_parsed_is_no_limit(tmp_path: Path, cgroup: str, mountinfo: str) -> None:
    assert tree(tmp_path, cgroup, mountinfo, {}) == Limits()


def test_without_proc_there_is_no_limit(tmp_path: Path) -> None:
    assert limits(str(tmp_path / "none")) == Limits()


@pytest.mark.parametrize(
    ("quota", "allowed", "usable"),
    [(None, 4, 4), (0.1, 4, 1), (1.0, 4, 1), (1.5, 4, 2), (3.5, 4, 4), (64.0, 4, 4), (2.5, 1, 1)],
)
def test_processors_are_rounded_up_and_at_least_one(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, allowed: int, usable: int
) -> None:
    """Half a core still needs one process; affinity (cpuset, taskset) binds as well."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)))
    assert usable_processors(Limits(quota)) == usable


@pytest.fixture
def groups() -> Iterator[tuple[Path, Path]]:
    """A group of this machine for cpu and one for memory, version 1, with limits."""
    cpu, memory = (Path("/sys/fs/cgroup", name, f"moorage-test-{uuid.uuid4().hex}") for name in ("cpu", "memory"))
    try:
        cpu.mkdir()
        memory.mkdir()
    except OSError as error:
        with contextlib.suppress(OSError):
            cpu.rmdir()
        reason = f"no control groups of version 1 that this user may make: {error}"
        if everything_required() and os.geteuid() == 0 and Path("/sys/fs/cgroup/cpu").exists():
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        (cpu / "cpu.cfs_period_us").write_text("100000")
        (cpu / "cpu.cfs_quota_us").write_text("50000")
        (memory / "memory.limit_in_bytes").write_text(str(384 * MIB))
        yield cpu, memory
    finally:
        cpu.rmdir()
        memory.rmdir()


@pytest.mark.root
def test_a_registry_in_a_real_group_keeps_to_its_limits(groups: tuple[Path, Path], tmp_path: Path) -> None:
    """Half a core and 384 MiB, on a machine with more of both."""
    script = (
        "import os, pathlib, sys\n"
        "config, *groups = sys.argv[1:]\n"
        "for group in groups:\n"
        "    pathlib.Path(group, 'cgroup.procs').write_text(str(os.getpid()))\n"
        "command = [sys.executable, '-c', 'from moorage.cli import main; main()', 'serve', config]\n"
        "os.execv(sys.executable, command)\n"
    )
    config = tmp_path / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/data}}}}\n"
        "http: {addr: '127.0.0.1:0', secret: a-secret-of-this-test}\nlog: {formatter: json}\n"
    )
    command = [sys.executable, "-c", script, str(config), *map(str, groups)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "LISTEN_"))}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=clean) as process:
        assert process.stderr is not None
        lines = (json.loads(line) for line in process.stderr)
        start = next(line for line in lines if line["msg"].startswith("listening on"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (start["workers"], start["cpu_limit"], start["memory_limit"]) == (1, "0.5", "384 MiB")
