"""The units of deploy/systemd, installed by the commands of docs/installing.md and started by a real systemd.

One container for all tests (`service_manager.py`), with a network of its own, so that ports are those of the page.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from typing import TYPE_CHECKING, Final

import pytest
from tests.clients.layouts import Layout, tar_of
from tests.live import require
from tests.packages.conftest import ROOT, require_same_python
from tests.packages.pages import commands
from tests.packages.service_manager import LIMIT_S, Container

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.root,
    pytest.mark.client,
    pytest.mark.slow,
    pytest.mark.xdist_group("packages"),
    pytest.mark.timeout(600),
]

SOURCE: Final = "/srv/source"
DROP_INS: Final = "/etc/systemd/system/moorage.service.d"
PASSWORD: Final = {"htpasswd -Bc": "htpasswd -Bbc", " alice\n": " alice secret\n"}
"""The page's command asks for the password."""
FASTER: Final = {
    "/opt/moorage/bin/pip install 'moorage[all]'": "uv pip install -q --python /opt/moorage/bin/python moorage"
}

PROBE: Final = """
import ctypes, mmap, os, socket, tempfile
from moorage.registry import hashing

hasher = hashing.new("sha256")
assert isinstance(hasher, hashing.NativeHasher), "OpenSSL by ctypes"
hasher.update([b"abc"])
assert hasher.hexdigest().startswith("ba7816bf"), hasher.hexdigest()
assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda number: number + 1)(4) == 5
assert socket.getaddrinfo("localhost", 5000)
tempfile.TemporaryFile().close()

def refused(work):
    try:
        work()
    except OSError:
        return
    raise AssertionError("the sandbox allows it")

refused(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC))
refused(lambda: open("/etc/moorage/new", "w"))
refused(lambda: open("/proc/meminfo"))
refused(lambda: os.listdir("/root"))
refused(lambda: os.chown("/tmp", os.getuid(), os.getgid()))
refused(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, wheelhouse: Path) -> Iterator[Container]:
    """A machine on which the page has been followed up to the start of the service."""
    for name in ("skopeo", "curl", "openssl", "logrotate", "docker-registry"):
        require(name)
    require_same_python("/usr/bin/python3")
    folder = tmp_path_factory.mktemp("machine")
    files, local, layout = folder / "files", folder / "local", folder / "layout"
    for name in ("etc/docker/registry", "etc/systemd/system", "etc/default", "etc/logrotate.d"):
        (files / name).mkdir(parents=True)
    (local / "bin").mkdir(parents=True)
    shutil.copy(require("uv"), local / "bin")
    shutil.copy("/etc/docker/registry/config.yml", files / "etc/docker/registry")
    shutil.copy("/usr/lib/systemd/system/docker-registry.service", files / "etc/systemd/system")
    built = Layout(layout)
    built.tag("v1", built.image([tar_of({"file": b"content"})]))
    binds = {
        ROOT / "deploy": f"{SOURCE}/deploy",
        wheelhouse: "/srv/wheels",
        layout: "/srv/layout",
        local: "/usr/local",
    }
    with Container(folder, files, binds) as container:
        container.environment |= {"UV_OFFLINE": "1", "UV_FIND_LINKS": "/srv/wheels", "UV_COMPILE_BYTECODE": "1"}
        user = 'u docker-registry - "Docker Registry" /var/lib/docker-registry'
        container.run("systemd-sysusers", "--inline", user)
        container.run(
            "install", "-d", "-o", "docker-registry", "-g", "docker-registry", "/var/lib/docker-registry"
        )
        # uv is quicker; `test_installers.py` has pip.  No extra is needed here.
        follow(container, *commands("The program", FASTER))
        follow(container, *commands("User and directories"))
        follow(container, *commands("Configuration", PASSWORD))
        follow(container, commands("systemd")[0])
        yield container


def follow(machine: Container, *blocks: str) -> str:
    return "".join(machine.run("sh", "-ec", block, directory=SOURCE).stdout for block in blocks)


def push_and_pull(machine: Container, host: str, name: str) -> None:
    copy = ["skopeo", "--insecure-policy", "copy"]
    image = f"docker://{host}/{name}:v1"
    machine.run(*copy, "--dest-creds=alice:secret", "--dest-tls-verify=false", "oci:/srv/layout:v1", image)
    machine.run(*copy, "--src-creds=alice:secret", "--src-tls-verify=false", image, f"oci:/tmp/{name}:v1")


def write(machine: Container, path: str, text: str) -> None:
    machine.run("sh", "-ec", 'mkdir -p "$(dirname "$1")"; printf %s "$2" > "$1"', "sh", path, text)


def status(machine: Container, url: str, *options: str) -> str:
    return machine.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *options, url, check=False).stdout


@contextlib.contextmanager
def changed(machine: Container, drop_in: str = "", variables: str = "") -> Iterator[None]:
    """A drop-in and lines of /etc/default/moorage for the block; the service is stopped before and after."""
    machine.run("systemctl", "stop", "moorage.service")
    before = machine.run("cat", "/etc/default/moorage").stdout
    if drop_in:
        write(machine, f"{DROP_INS}/test.conf", drop_in)
    write(machine, "/etc/default/moorage", before + variables)
    machine.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        machine.run("rm", "-rf", DROP_INS)
        write(machine, "/etc/default/moorage", before)
        machine.run("sh", "-c", "systemctl stop moorage.service moorage.socket; systemctl reset-failed; true")
        machine.run("systemctl", "daemon-reload")


def refused(machine: Container, unit: str = "moorage.service") -> str:
    """Start a unit that must fail: what it logged since then."""
    cursor = machine.cursor()
    assert machine.run("systemctl", "start", unit, check=False).returncode != 0
    assert machine.properties(unit, ["ExecMainStatus"]) == {"ExecMainStatus": "1"}
    machine.run("systemctl", "stop", unit)
    return machine.journal(unit, cursor)


def test_the_page_leads_to_a_registry_that_is_pushed_to(machine: Container) -> None:
    """`enable --now` returns when the workers answer, so the next command may push."""
    push_and_pull(machine, "127.0.0.1:5000", "page")
    assert machine.properties("moorage", ["ActiveState", "SubState"]) == {
        "ActiveState": "active",
        "SubState": "running",
    }
    journal = machine.run("sh", "-ec", commands("systemd")[0].splitlines()[-1]).stdout
    assert "listening on http://127.0.0.1:5000" in journal
    assert "level=warning" not in journal
    assert "level=error" not in journal
    owner = machine.run("stat", "--format=%U:%G %a", "/var/lib/moorage", "/etc/moorage", "/etc/default/moorage")
    assert owner.stdout.splitlines() == ["moorage:moorage 750", "root:moorage 750", "root:root 600"]


def test_the_sandbox_holds_and_leaves_what_moorage_needs(machine: Container) -> None:
    """OpenSSL by ctypes under MemoryDenyWriteExecute=, and what an intruder would want refused."""
    unit = machine.run("cat", "/etc/systemd/system/moorage.service").stdout
    unit = unit.replace("Type=notify", "Type=oneshot").replace("Restart=on-failure", "")
    unit, count = re.subn(r"(?m)^ExecStart=.*$", "ExecStart=/opt/moorage/bin/python /srv/probe.py", unit)
    assert count == 1
    write(machine, "/srv/probe.py", PROBE)
    write(machine, "/etc/systemd/system/probe.service", unit)
    machine.run("systemctl", "daemon-reload")
    done = machine.run("systemctl", "start", "probe", check=False)
    assert done.returncode == 0, machine.journal("probe")
    pid = machine.properties("moorage", ["MainPID"])["MainPID"]
    state = dict(line.split(":\t", 1) for line in machine.run("cat", f"/proc/{pid}/status").stdout.splitlines())
    assert state["NoNewPrivs"] == "1"
    assert state["Seccomp"] == "2"
    assert {int(state[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}


def test_metrics_know_the_process_without_the_rest_of_proc(machine: Container) -> None:
    """ProcSubset=pid hides /proc/stat: the start time came from there, and Prometheus' alerts need it."""
    variables = "REGISTRY_HTTP_DEBUG_ADDR=127.0.0.1:5001\nREGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED=true\n"
    with changed(machine, variables=variables):
        machine.run("systemctl", "start", "moorage")
        page = machine.run("curl", "-sf", "http://127.0.0.1:5001/metrics").stdout
        found = re.search(r"^process_start_time_seconds (\S+)$", page, re.MULTILINE)
        assert found is not None
        assert abs(float(found[1]) - time.time()) < LIMIT_S
        assert "process_resident_memory_bytes" in page
        assert "process_open_fds" in page


def test_a_reload_and_a_stop_let_an_upload_finish(machine: Container) -> None:
    """KillMode=mixed: the service manager signals the master alone, and `http.draintimeout` holds."""
    machine.run("systemctl", "start", "moorage")
    location = machine.run(
        "curl", "-sfi", "-u", "alice:secret", "-X", "POST", "http://127.0.0.1:5000/v2/drain/blobs/uploads/"
    ).stdout  # fmt: skip
    found = re.search(r"(?im)^location: (\S+)", location)
    assert found is not None
    digest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    url = f"{found[1]}{'&' if '?' in found[1] else '?'}digest={digest}"
    url = url if url.startswith("http") else f"http://127.0.0.1:5000{url}"
    upload = (
        "mkfifo /tmp/body; curl -s -o /dev/null -w '%{http_code}' -u alice:secret -T /tmp/body -X PUT "
        f"'{url}' > /tmp/code & exec 3>/tmp/body; printf f >&3; systemctl reload moorage; "
        "systemctl stop --no-block moorage; "
        # The listening sockets are closed when the stop has begun.
        "while curl -s -o /dev/null http://127.0.0.1:5000/; do sleep 0.05; done; "
        "printf oo >&3; exec 3>&-; wait; cat /tmp/code"
    )
    cursor = machine.cursor()
    try:
        assert machine.run("sh", "-c", upload).stdout == "201"
        machine.run("systemctl", "stop", "moorage")
        journal = machine.journal("moorage", cursor)
        assert re.search(r"msg=stopped .* status=0", journal), journal
        result = machine.properties("moorage", ["Result", "ActiveState"])
        assert result == {"Result": "success", "ActiveState": "inactive"}
    finally:
        machine.run("systemctl", "stop", "moorage")


def test_no_system_call_is_made_that_the_filter_refuses(machine: Container) -> None:
    """With an error code a refused call may go unnoticed; here it kills the process that makes it."""
    variables = "REGISTRY_HTTP_DEBUG_ADDR=localhost:5001\nREGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED=true\n"
    with changed(machine, "[Service]\nSystemCallErrorNumber=kill\n", variables):
        cursor = machine.cursor()
        machine.run("systemctl", "start", "moorage")
        push_and_pull(machine, "localhost:5000", "traced")
        machine.run("systemctl", "reload", "moorage")
        until_logged(machine, "configuration reloaded", cursor)
        push_and_pull(machine, "localhost:5000", "again")
        digest = machine.run(
            "skopeo", "inspect", "--creds=alice:secret", "--tls-verify=false", "--format={{.Digest}}",
            "docker://localhost:5000/again:v1",
        ).stdout.strip()  # fmt: skip
        url = f"http://localhost:5000/v2/again/manifests/{digest}"
        assert status(machine, url, "-u", "alice:secret", "-X", "DELETE") == "202"
        assert "process_open_fds" in machine.run("curl", "-sf", "http://localhost:5001/metrics").stdout
        machine.run("systemctl", "stop", "moorage")
        log = machine.journal("moorage", cursor)
        assert not re.search("SIGSYS|died|killed", log), log
        assert "status=0" in log


def until_logged(machine: Container, text: str, cursor: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while text not in machine.journal("moorage", cursor):
        assert time.monotonic() < deadline, f"{text} is not in the journal"
        time.sleep(0.02)


def test_a_socket_unit_opens_a_low_port_and_starts_the_service(machine: Container) -> None:
    """The first connection starts it, and one socket per unit: a second one is refused by name."""
    with changed(machine):
        write(
            machine,
            "/etc/systemd/system/moorage.socket.d/test.conf",
            "[Socket]\nListenStream=\nListenStream=443\n",
        )
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "moorage.socket")
        assert machine.properties("moorage", ["ActiveState"]) == {"ActiveState": "inactive"}
        push_and_pull(machine, "127.0.0.1:443", "activated")
        assert machine.properties("moorage", ["ActiveState"]) == {"ActiveState": "active"}
        assert status(machine, "http://127.0.0.1:5000/") == "000", "http.addr is not opened besides"
        machine.run("systemctl", "stop", "moorage.service", "moorage.socket")
        write(machine, "/etc/systemd/system/moorage.socket.d/test.conf", "[Socket]\nListenStream=443\n")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "moorage.socket")
        log = refused(machine)
        assert "systemd passed 2 sockets; only one can be served: leave one ListenStream= line" in log
        machine.run("systemctl", "stop", "moorage.socket")
        machine.run("rm", "-r", "/etc/systemd/system/moorage.socket.d")


def test_low_ports_need_the_drop_in(machine: Container) -> None:
    """Without it the start is refused with the remedy; with it the same configuration serves."""
    variables = "REGISTRY_HTTP_ADDR=127.0.0.1:443\n"
    with changed(machine, variables=variables):
        log = refused(machine)
        assert "cannot listen on 127.0.0.1:443" in log
        assert "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE" in log
        follow(machine, commands("Ports below 1024")[1])
        push_and_pull(machine, "127.0.0.1:443", "low")
        pid = machine.properties("moorage", ["MainPID"])["MainPID"]
        assert machine.run("sh", "-c", f"grep CapEff /proc/{pid}/status").stdout.split()[1] == f"{1 << 10:016x}"


def test_a_data_directory_outside_is_named_and_can_be_allowed(machine: Container) -> None:
    """ProtectSystem=strict makes it read-only: the log names the missing line of the unit."""
    machine.run("install", "-d", "-o", "moorage", "/srv/registry")
    variables = "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=/srv/registry\n"
    with changed(machine, variables=variables):
        cursor = machine.cursor()
        machine.run("systemctl", "start", "moorage")
        log = machine.journal("moorage", cursor)
        assert "the data directory cannot be written to: pushes are refused, pulls are served" in log
        assert "Read-only file system (EROFS" in log
        assert "name the directory in ReadWritePaths= of the systemd unit" in log
    with changed(machine, "[Service]\nReadWritePaths=/srv/registry\n", variables):
        machine.run("systemctl", "start", "moorage")
        push_and_pull(machine, "127.0.0.1:5000", "elsewhere")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/etc/moorage", "/etc/moorage/config.yml"),
        ("/etc/moorage/htpasswd", "cannot make the password file /etc/moorage/htpasswd: no permission"),
    ],
)
def test_what_is_missing_ends_the_start_with_a_sentence(machine: Container, path: str, sentence: str) -> None:
    """In the journal, where the operator looks; nothing is made in the place of what is missing."""
    with changed(machine):
        machine.run("mv", path, "/srv/away")
        try:
            assert sentence in refused(machine)
            assert machine.run("test", "-e", path, check=False).returncode == 1
        finally:
            machine.run("mv", "/srv/away", path)


def test_a_missing_state_directory_is_made(machine: Container) -> None:
    with changed(machine):
        machine.run("mv", "/var/lib/moorage", "/srv/away")
        machine.run("systemctl", "start", "moorage")
        push_and_pull(machine, "127.0.0.1:5000", "new")
        machine.run("systemctl", "stop", "moorage")
        machine.run("rm", "-r", "/var/lib/moorage")
        machine.run("mv", "/srv/away", "/var/lib/moorage")


def test_the_access_log_goes_to_a_file_that_is_rotated(machine: Container) -> None:
    """It copies and empties the file: the lines after that come to its beginning, not behind a hole."""
    with changed(machine):
        follow(machine, commands("Logs")[0])
        assert status(machine, "http://127.0.0.1:5000/v2/first") == "404"
        log = "/var/log/moorage/access.log"
        until_in(machine, log, "/v2/first")
        machine.run("logrotate", "--force", "--state", "/tmp/logrotate.state", "/etc/logrotate.d/moorage")
        assert status(machine, "http://127.0.0.1:5000/v2/second") == "404"
        until_in(machine, log, "/v2/second")
        now, before = (machine.run("cat", path).stdout for path in (log, f"{log}.1"))
        assert "/v2/first" in before
        assert "/v2/first" not in now
        assert "\0" not in now
        assert "/v2/first" not in machine.journal("moorage")


def until_in(machine: Container, path: str, text: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while text not in machine.run("cat", path).stdout:
        assert time.monotonic() < deadline, f"{text} is not in {path}"
        time.sleep(0.02)


DEBIAN: Final = "docker-registry.service"


def test_debians_package_is_replaced_by_a_drop_in(machine: Container) -> None:
    """Its own configuration has a directory as password file: every login is refused, with an error in the log."""
    with changed(machine):
        check = commands("In the place of Debian's docker-registry")[0].splitlines()[0]
        done = machine.run("sh", "-c", check, check=False)
        assert done.returncode == 1
        assert "create a file with `moorage htpasswd -Bc /etc/docker/registry/htpasswd USER`" in done.stderr
        blocks = commands("In the place of Debian's docker-registry", PASSWORD)
        # The package's own service, as it runs before.
        machine.run("systemctl", "start", DEBIAN)
        cursor = machine.cursor()
        follow(machine, "\n".join(blocks[0].splitlines()[1:]))
        pid = machine.properties(DEBIAN, ["MainPID"])["MainPID"]
        assert "moorage serve /etc/docker/registry/config.yml" in machine.run("ps", "-o", "args=", pid).stdout
        assert status(machine, "http://127.0.0.1:5000/v2/") == "401"
        assert status(machine, "http://127.0.0.1:5000/v2/", "-u", "alice:secret") in {"401", "503"}
        assert "/etc/docker/registry" in machine.journal(DEBIAN, cursor)
        follow(machine, blocks[1])
        push_and_pull(machine, "127.0.0.1:5000", "debian")
        # And back: the reference serves what was pushed.
        follow(machine, blocks[2])
        accept = ["-u", "alice:secret", "-H", "Accept: application/vnd.oci.image.manifest.v1+json"]
        until_status(machine, "http://127.0.0.1:5000/v2/debian/manifests/v1", "200", *accept)
        pid = machine.properties(DEBIAN, ["MainPID"])["MainPID"]
        assert "/usr/bin/docker-registry" in machine.run("ps", "-o", "args=", pid).stdout
        follow(machine, "\n".join(blocks[0].splitlines()[1:]))
        machine.run("systemctl", "stop", DEBIAN)
        machine.run("mv", "/var/lib/docker-registry", "/srv/away")
        cursor = machine.cursor()
        machine.run("systemctl", "start", DEBIAN)
        machine.run("systemctl", "stop", DEBIAN)
        log = machine.journal(DEBIAN, cursor)
        assert "the data directory cannot be written to" in log, (
            "a missing directory is named, not status 226/NAMESPACE"
        )
        assert machine.run("test", "-e", "/var/lib/docker-registry", check=False).returncode == 1


def until_status(machine: Container, url: str, code: str, *options: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while (found := status(machine, url, *options)) != code:
        assert time.monotonic() < deadline, f"{url}: {found}"
        time.sleep(0.05)
