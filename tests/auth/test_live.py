"""Password files with real workers: created once, logged once, and every edit takes effect in each of them."""

from __future__ import annotations

import base64
import http.client
import re
from typing import TYPE_CHECKING, Any, Final

import bcrypt
import pytest
from tests.live import Live, NotStarted, start_moorage

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

WORKERS: Final = 3


def start(folder: Path, **sections: Any) -> Live:
    auth = {"htpasswd": {"realm": "r", "path": str(folder / "auth" / "htpasswd")}}
    return start_moorage(folder / "data", **{"auth": auth, "http": {"workers": WORKERS}, **sections})


def put(folder: Path, *lines: bytes) -> None:
    path = folder / "auth" / "htpasswd"
    path.parent.mkdir(exist_ok=True)
    new = path.with_name("new")
    new.write_bytes(b"".join(line + b"\n" for line in lines))
    new.replace(path)


def entry(password: bytes) -> bytes:
    return b"alice:" + bcrypt.hashpw(password, bcrypt.gensalt(4))


def statuses(live: Live, user: str, password: str, times: int = 24) -> set[int]:
    """Of as many connections, which the kernel spreads over the workers."""
    header = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    found = set()
    for _ in range(times):
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
        connection.request("GET", "/v2/", headers={"authorization": header})
        found.add(connection.getresponse().status)
        connection.close()
    return found


def test_a_missing_file_is_created_and_logged_once(tmp_path: Path) -> None:
    """Several passwords in the log, of which one works, would be worse than none."""
    with start(tmp_path) as live:
        passwords = re.findall(r"user docker and password (\S+),", live.logs())
        assert len(passwords) == 1
        assert statuses(live, "docker", passwords[0]) == {200}
    with start(tmp_path) as again:
        assert statuses(again, "docker", passwords[0]) == {200}
        assert len(re.findall("user docker and password", again.logs())) == 1, "the log of the first start"


def test_an_edit_holds_in_every_worker_at_once(tmp_path: Path) -> None:
    put(tmp_path, entry(b"one"))
    with start(tmp_path) as live:
        assert statuses(live, "alice", "one") == {200}
        put(tmp_path, entry(b"two"))
        assert statuses(live, "alice", "one", 6) == {401}
        assert statuses(live, "alice", "two") == {200}


def test_an_entry_that_never_matches_is_logged_by_one_worker(tmp_path: Path) -> None:
    put(tmp_path, entry(b"one"), b"old:$apr1$a$b")
    with start(tmp_path) as live:
        assert statuses(live, "alice", "one") == {200}
        assert live.logs().count("the password of 'old' is MD5 (apr1)") == 1


def test_a_file_that_cannot_be_used_keeps_the_registry_from_starting(tmp_path: Path) -> None:
    """In the reference the first customer would find out."""
    put(tmp_path, b"alice")
    with pytest.raises(NotStarted) as ended:
        start(tmp_path)
    assert "ended with status 1" in str(ended.value)
    assert "cannot use the password file" in str(ended.value)
    assert "line 1 has no colon" in str(ended.value)


def test_guessers_are_slowed_down_by_their_address(tmp_path: Path) -> None:
    put(tmp_path, entry(b"one"))
    with start(tmp_path, guessing={"failures": 3}, http={"workers": 1}) as live:
        assert statuses(live, "alice", "one") == {200}
        for number in range(3):
            assert statuses(live, "alice", f"guess{number}", 1) == {401}
        # Each wrong one is waited for twice as long as the last: soon even a slow machine is too fast.
        assert 429 in statuses(live, "alice", "guess", 6)
        assert statuses(live, "alice", "one") == {200}
        live.logged('msg="too many wrong credentials; the next ones have to wait"')


def test_silly_is_shouted_about(tmp_path: Path) -> None:
    """It may be left over in a copied file."""
    with start(tmp_path, auth={"silly": {"realm": "r", "service": "s"}}) as live:
        assert live.logs().count("grants EVERYTHING to EVERY request") == 1
        assert statuses(live, "any", "body") == {200}
