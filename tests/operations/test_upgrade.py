"""docs/upgrading.md: nodes are replaced one by one while images are pushed and pulled, and no request fails."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trustme
import yaml
from tests.clients.layouts import Layout, tar_of
from tests.deploying.conftest import page_settings
from tests.deploying.proxies import Proxy, running
from tests.fsck.test_damage import checked
from tests.live import SECRET, Live, require, start_moorage
from tests.operations.load import NAME, Load, SlowUpload, loaded
from tests.operations.pages import block, run_block
from tests.ports import free_port
from tests.s3 import a_bucket
from tests.server.serving import until
from tests.wire import Wire

from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.storage.driver import Driver

pytestmark = [pytest.mark.slow, pytest.mark.proxy, pytest.mark.timeout(240)]

PAGE = "docs/upgrading.md"


@dataclass
class Site:
    """Two nodes behind a proxy.  `start` makes another instance of node 0 or 1, at the same address."""

    proxy: Proxy
    nodes: list[Live]
    start: Callable[[int], Live]
    open_driver: Callable[[], Driver]


@contextmanager
def site(balancer: str, store: str, folder: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        settings = page_settings(folder / "data")
        settings.pop("version")
        if store == "s3":
            bucket = stack.enter_context(a_bucket())
            settings["storage"] = {"filesystem": None, "s3": bucket.settings(), "redirect": {"disable": True}}
        ports, started = [free_port(), free_port()], iter(range(100))

        def start(number: int) -> Live:
            http = {**settings["http"], "addr": f"127.0.0.1:{ports[number]}", "workers": 1}
            config = folder / f"instance{next(started)}.yml"
            return stack.enter_context(start_moorage(folder / "data", config=config, **{**settings, "http": http}))

        nodes = [start(0), start(1)]
        proxy = stack.enter_context(running(balancer, folder / "proxy", nodes, trustme.CA()))

        def open_driver() -> Driver:
            return bucket.driver() if store == "s3" else FilesystemDriver(folder / "data")

        yield Site(proxy, nodes, start, open_driver)


def places(site: Site, number: int, text: str) -> dict[str, str]:
    """The page's places that are in `text`, as they are in the test; the page shows the first node only."""
    folder, name = site.proxy.folder, ("one", "two")[number]
    known = {
        "/run/haproxy/admin.sock": f"{folder}/run/admin.sock",
        "registries/one": f"registries/{name}",
        '$2 == "one"': f'$2 == "{name}"',
        "10.0.0.11:5000": site.nodes[number].host,
        "/etc/nginx/conf.d/registry.conf": f"{folder}/site.conf",
        "nginx -s reload": f"{require('nginx')} -c {folder}/nginx.conf -e {folder}/error.log -s reload",
    }
    return {theirs: ours for theirs, ours in known.items() if theirs in text}


def run_step(site: Site, number: int, beginning: str) -> None:
    """Run the block of the page that begins so, for that node."""
    found = block(PAGE, beginning)
    run_block(found, places(site, number, found.text), folder=site.proxy.folder)


DRAIN = {"haproxy": 'echo "set server registries/one state drain"', "nginx": "sed -i 's/server 10.0.0.11:5000 /"}
READY = {
    "haproxy": 'echo "set server registries/one state ready"',
    "nginx": "sed -i 's/server 10.0.0.11:5000 down",
}


def idle(node: Live) -> bool:
    """Whether the node has no connection: the kernel's table has the established ones."""
    port = f":{node.port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return not any(line.split()[1].endswith(port) and line.split()[3] == "01" for line in lines)


@pytest.mark.parametrize(
    ("balancer", "store"), [("haproxy", "filesystem"), ("haproxy", "s3"), ("nginx", "filesystem")]
)
def test_both_nodes_are_replaced_while_no_request_fails(balancer: str, store: str, tmp_path: Path) -> None:
    """Builds run at any hour: a failed push costs an engineer's morning."""
    with site(balancer, store, tmp_path) as found:
        with loaded(found.proxy.client) as load:
            load.further()
            for number in (0, 1):
                uploads = [SlowUpload(load, 2 * number + each) for each in range(2)]
                run_step(found, number, DRAIN[balancer])
                load.further()
                for upload in uploads:
                    upload.release()
                replace(found, number, balancer)
                load.further()
        assert load.failures == []
        # A reload of nginx closes idle connections of clients; HAProxy is not restarted.
        assert load.reopened == 0 or balancer == "nginx"
        for tag, manifest in load.pushed.items():
            for node in found.nodes:
                assert Wire(node.host).manifest(NAME, tag).body == manifest
        asyncio.run(clean(found.open_driver()))


def replace(found: Site, number: int, balancer: str) -> None:
    """Wait until the drained node has no request, and put another instance in its place."""
    old = found.nodes[number]
    if balancer == "haproxy":
        run_step(found, number, "requests() {")
    else:
        until(lambda: idle(old), "the old nginx processes to end", found.proxy.logs)
    assert old.stop() == 0, old.logs()
    found.nodes[number] = new = found.start(number)
    run_step(found, number, "until curl")
    run_step(found, number, READY[balancer])
    if balancer == "haproxy":
        run_step(found, number, "state() {")
    # Probes are not logged.
    until(lambda: "HTTP/1.1" in new.logs(), "requests to the new instance", found.proxy.logs)


async def clean(driver: Driver) -> None:
    """A check of the whole store finds nothing."""
    try:
        report, _ = await checked(driver, digests=True)
    finally:
        await driver.close()
    assert not report.kinds, report.findings


PIECE = b"half a layer " * 20_000


def test_what_clients_see_of_a_restart_of_one_node(tmp_path: Path) -> None:
    """A request under way is answered, a new connection is refused, an upload continues afterwards."""
    http = {"draintimeout": "60s", "workers": 1}
    with start_moorage(tmp_path / "data", http=http) as old:
        wire = Wire(old.host)
        between = wire.patch(wire.start_upload(NAME).headers["location"], PIECE).headers["location"]
        slow = SlowUpload(Load(lambda: httpx.Client(base_url=old.url, timeout=60)), 1)
        old.process.send_signal(signal.SIGTERM)
        old.logged("stopping")
        until(lambda: refused(old.port), "connections to be refused", old.logs)
        slow.release_patch()
        assert old.process.wait(60) == 0
        with start_moorage(tmp_path / "data", http=http, port=old.port):
            slow.release()
            assert slow.load.failures == []
            digest = Digest.of(PIECE * 2)
            answer = wire.patch(between, PIECE, len(PIECE))
            assert answer.status == 202, answer
            assert wire.finish(answer.headers["location"], digest).status == 201


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        # The kernel had accepted it when the listening socket was closed.
        return False
    return False


@pytest.mark.client
def test_skopeo_that_may_retry_outlasts_a_restart(tmp_path: Path) -> None:
    """The page names the option; without it the copy fails."""
    layout = Layout(tmp_path / "layout")
    layout.tag("v1", layout.image([tar_of({"file": b"content"})]))
    port = free_port()
    copy = [require("skopeo"), "copy", "--dest-tls-verify=false", f"oci:{layout.path}:v1"]
    target = f"docker://127.0.0.1:{port}/restart/image:v1"
    failed = subprocess.run([*copy, target], capture_output=True, text=True, timeout=60, check=False)
    assert (failed.returncode, "connection refused" in failed.stderr) == (1, True), failed.stderr
    with subprocess.Popen([*copy, "--retry-times", "3", target], stderr=subprocess.PIPE, text=True) as patient:
        assert patient.stderr is not None
        assert "retrying in" in patient.stderr.readline()
        with start_moorage(tmp_path / "data", port=port):
            rest = patient.stderr.read()
            assert patient.wait(60) == 0, rest


def test_with_a_socket_unit_connections_wait_for_the_new_process(tmp_path: Path) -> None:
    """Systemd holds the socket: no connection is refused during the restart."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        host = f"127.0.0.1:{held.getsockname()[1]}"
        with activated(tmp_path, held, "old") as old:
            manifest = Wire(host).push_image(NAME, "v1", [b"layer"])
            assert old.stop() == 0, old.logs()
        with socket.create_connection(held.getsockname(), timeout=60) as waiting:
            waiting.sendall(
                f"GET /v2/{NAME}/manifests/v1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            )
            with activated(tmp_path, held, "new"), waiting.makefile("rb") as answer:
                content = answer.read()
        assert content.startswith(b"HTTP/1.1 200")
        assert content.endswith(manifest)


@contextmanager
def activated(folder: Path, held: socket.socket, name: str) -> Iterator[Live]:
    """A registry that gets the socket as systemd hands it over: descriptor 3, LISTEN_FDS and LISTEN_PID."""
    settings: dict[str, Any] = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"secret": SECRET, "draintimeout": "10s", "workers": 1},
    }
    (folder / f"{name}.yml").write_text(yaml.safe_dump(settings))
    code = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); "
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
    )
    moorage = str(Path(sys.executable).with_name("moorage"))
    command = [sys.executable, "-c", code, str(held.fileno()), moorage, "serve", str(folder / f"{name}.yml")]
    log_path = folder / f"{name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[held.fileno()],
            start_new_session=True,
        )
    with Live(process, folder / "data", log_path, held.getsockname()[1]) as live:
        live.logged("listening on")
        yield live
