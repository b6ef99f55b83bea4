"""`config check --deep`: what only a try shows: addresses, the store, Redis."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.config.helpers import load_text
from tests.redis_servers import a_redis

from moorage.cli import config_check_deep
from moorage.cli.config_check_deep import Probe, Result, probes
from moorage.storage.driver import StorageUnavailable
from moorage.wiring import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.conftest import Run

MEMORY = "version: 0.1\nstorage: inmemory\nhttp: {addr: '127.0.0.1:%d'}\n"
FILES = "version: 0.1\nstorage: {filesystem: {rootdirectory: '%s'}%s}\nhttp: {addr: '127.0.0.1:0'}\n"
S3 = (
    "version: 0.1\nstorage: {s3: {bucket: images, regionendpoint: 'http://127.0.0.1:9'}}\n"
    "http: {addr: '127.0.0.1:0'}\n"
)


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A port that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def results(directory: Path, text: str) -> dict[str, Result]:
    settings = load_text(directory, text).settings
    return {probe.key: config_check_deep.run(probe) for probe in probes(settings)}


def test_each_probe_has_a_line_and_the_exit_status_tells(run: Run, tmp_path: Path, taken: socket.socket) -> None:
    """In a unit's ExecStartPre, or by hand after an incident."""
    file = tmp_path / "config.yml"
    file.write_text(MEMORY % 0)
    result = run("config", "check", "--deep", file)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        "ok: http.addr: 127.0.0.1:0 can be bound\n"
        "ok: storage.inmemory: storage inmemory: answers\n"
        f"{file}: no errors\n"
    )
    port = taken.getsockname()[1]
    file.write_text(MEMORY % port)
    result = run("config", "check", "--deep", file)
    assert result.returncode == 1
    assert result.stdout == "ok: storage.inmemory: storage inmemory: answers\n"
    assert result.stderr == (
        f"error: http.addr: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "another server has it, perhaps this registry itself (ss -ltnp shows which)\n"
        "1 error\n"
    )


def test_nothing_is_tried_while_there_are_errors(run: Run, tmp_path: Path) -> None:
    """A store need not be queried with credentials that are wrong."""
    file = tmp_path / "config.yml"
    for text, count in ((MEMORY % 0 + "log: {level: loud}\n", 1), (FILES % (file, ""), 1)):
        file.write_text(text)
        result = run("config", "check", "--deep", file)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.endswith(f"--deep was skipped; correct the errors first\n{count} error\n")


def test_what_does_not_keep_serve_from_starting_keeps_nothing_from_being_tried(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text(MEMORY % 0 + "auth: none\nzzz: 1\n")
    result = run("config", "check", "--deep", file)
    assert (result.returncode, result.stdout.count("ok: ")) == (1, 2)


def test_every_address_is_taken(tmp_path: Path, taken: socket.socket) -> None:
    """The debug listener and the one for challenges end the start as well."""
    port = taken.getsockname()[1]
    text = (
        f"version: 0.1\nstorage: inmemory\nhttp:\n  addr: ':0'\n  debug: {{addr: '127.0.0.1:{port}'}}\n"
        f"  tls: {{letsencrypt: {{cachefile: {tmp_path}/le, hosts: [r.test], http01: '127.0.0.1:{port}'}}}}\n"
    )
    found = results(tmp_path, text)
    assert {key: result.ok for key, result in found.items()} == {
        "http.addr": True, "http.debug.addr": False, "http.tls.letsencrypt.http01": False,
        "storage.inmemory": True,
    }  # fmt: skip


def test_a_unix_socket_that_a_server_answers_on_is_told(tmp_path: Path) -> None:
    """One without a listener is a leftover, which `serve` replaces and a check does not change."""
    path = tmp_path / "s"
    text = f"version: 0.1\nstorage: inmemory\nhttp: {{net: unix, addr: {path}}}\n"
    assert results(tmp_path, text)["http.addr"].ok
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen()
    found = results(tmp_path, text)["http.addr"]
    assert (found.ok, "another server answers there" in found.text) == (False, True)
    server.close()
    assert results(tmp_path, text)["http.addr"].ok
    assert path.exists()


def test_a_data_directory_is_written_to_and_left_as_it_was(tmp_path: Path) -> None:
    root = tmp_path / "data"
    found = results(tmp_path, FILES % (root, ""))["storage.filesystem"]
    assert found.ok
    assert found.text == f"storage filesystem, path {root}: does not exist yet, and can be created in {tmp_path}"
    assert not root.exists()
    root.mkdir()
    found = results(tmp_path, FILES % (root, ""))["storage.filesystem"]
    assert found.text == f"storage filesystem, path {root}: can be written"
    assert list(root.iterdir()) == []


def test_a_data_directory_that_takes_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full, read-only or of another owner: pulls would work, pushes would not.  Read-only mode writes nothing."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(config_check_deep, "check_writable", refuse)
    for root in (tmp_path, tmp_path / "new" / "data"):
        found = results(tmp_path, FILES % (root, ""))["storage.filesystem"]
        assert not found.ok
        assert found.text == f"cannot write to {tmp_path}: Read-only file system; pushes would be refused"
    text = FILES % (tmp_path, ", maintenance: {readonly: {enabled: true}}")
    assert results(tmp_path, text)["storage.filesystem"].ok


class Store:
    """A driver that is only probed."""

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe = probe
        self.closed = False

    async def probe(self) -> None:
        self._probe()

    async def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("works", [True, False])
def test_a_bucket_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    """Wrong credentials, a missing bucket: reported now, not at the first push."""

    def answer() -> None:
        if not works:
            raise StorageUnavailable("bucket images: 403\nForbidden, see https://u:pass@h/?sig=abc")

    store = Store(answer)
    monkeypatch.setattr(storage, "make_driver", lambda _: store)
    found = results(tmp_path, S3)["storage.s3"]
    assert found.ok == works
    text = "storage s3, bucket images, endpoint http://127.0.0.1:9: answers"
    assert found.text == (text if works else "bucket images: 403 Forbidden, see https://u:-@h/?sig=-")
    assert store.closed


def test_a_store_that_hangs_is_given_up() -> None:
    """A firewall that drops packets must not hang a pipeline."""
    release = threading.Event()
    found = config_check_deep.run(Probe("storage.s3", lambda: str(release.wait())), limit_s=0.02)
    release.set()
    assert found == Result("storage.s3", ok=False, text="no answer within 0.02s")


def test_redis_is_asked(tmp_path: Path) -> None:
    redis = "version: 0.1\nstorage: {inmemory: {}, cache: {blobdescriptor: redis}}\nhttp: {addr: '127.0.0.1:0'}\n"
    with a_redis(tmp_path / "redis") as server:
        text = redis + f"redis: {{addrs: ['127.0.0.1:{server.port}'], maxretries: -1}}\n"
        assert results(tmp_path, text)["redis"] == Result(
            "redis", ok=True, text=f"127.0.0.1:{server.port}: answers"
        )
    found = results(tmp_path, text)["redis"]
    assert not found.ok
    assert f"127.0.0.1:{server.port}" in found.text
