"""The programs of a store: a start that fails is reported with its log, and no process is left."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.s3 import a_bucket, front
from tests.stores.forwarding import forwarding
from tests.stores.processes import NoStore, Programs, ask, listening_port, program
from werkzeug.serving import make_server

if TYPE_CHECKING:
    from pathlib import Path

SERVER = """
import socket, sys, threading
server = socket.create_server(("127.0.0.1", 0))
print("listening", flush=True)
threading.Event().wait()
"""


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_what_was_started_is_ended_whatever_happens(tmp_path: Path) -> None:
    pids: list[int] = []

    def use() -> None:
        with Programs(tmp_path / "store") as programs:
            for name in ("one", "two"):
                pid = programs.start(name, [sys.executable, "-c", SERVER])
                port = programs.wait("it listens", lambda pid=pid: listening_port(pid), of=name)  # type: ignore[misc]
                assert port > 1024
                pids.append(pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert len(pids) == 2
    assert not any(running(pid) for pid in pids)


@pytest.mark.slow
def test_a_program_that_ends_is_told_with_its_log(tmp_path: Path) -> None:
    with Programs(tmp_path / "store") as programs:
        programs.start("one", [sys.executable, "-c", "import sys; sys.exit('no room for me')"])
        with pytest.raises(NoStore, match=r"one ended with status 1, before it listens.*\nno room for me"):
            programs.wait("it listens", lambda: None, of="one")
        programs.start("two", [sys.executable, "-c", SERVER])
        programs.wait("it says so", lambda: programs.log("two") or None, of="two")
        with pytest.raises(NoStore, match=r"it answers: not within 0 s; the log of two:\nlistening"):
            programs.wait("it answers", lambda: None, of="two", limit_s=0.1)


def test_a_program_that_is_missing_is_told_with_what_installs_it(tmp_path: Path) -> None:
    with pytest.raises(
        NoStore, match=r"no-such-program is not installed: python3 tools/install_test_programs\.py"
    ):
        program("no-such-program")
    with pytest.raises(NoStore, match=r"sh -c .* failed:\nwhy not"):
        ask("sh", "-c", "echo why not; exit 3", folder=tmp_path)


@pytest.mark.slow
def test_a_front_before_another_program_changes_nothing() -> None:
    """As the tests reach radosgw and Swift; here it is moto that is the other program."""
    with a_bucket() as bucket:
        seen: list[tuple[str, str]] = []

        def before(environ: dict[str, Any], start: Any) -> Any:
            seen.append((environ["REQUEST_METHOD"], environ["HTTP_HOST"]))
            return inner(environ, start)

        inner = forwarding(front().endpoint)
        server = make_server("127.0.0.1", 0, before, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            client = replace(bucket, endpoint=f"http://127.0.0.1:{server.server_port}").client
            data = bytes(range(256)) * 3000
            client.put_object(Bucket=bucket.name, Key="a b/c%2F+", Body=data)
            assert client.get_object(Bucket=bucket.name, Key="a b/c%2F+")["Body"].read() == data
            assert client.head_object(Bucket=bucket.name, Key="a b/c%2F+")["ContentLength"] == len(data)
            client.close()
        finally:
            server.shutdown()
            server.server_close()
        assert bucket.keys() == {"a b/c%2F+": len(data)}
        assert [method for method, _ in seen] == ["PUT", "GET", "HEAD"]
        assert {host for _, host in seen} == {f"127.0.0.1:{server.server_port}"}
