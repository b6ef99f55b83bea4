"""Files of `auth` that change between requests: every worker reads them, one reports it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest
from structlog.testing import capture_logs
from tests.auth.signing import Signer
from tests.live import start_moorage
from tests.server.debugging import until

from moorage.auth.file_log import FileLog
from moorage.wiring import app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.live import Live

WORKERS = 3
POLICY = "access: [{who: anonymous, repositories: %s, allow: pull}]\n"


def put(path: Path, text: str) -> None:
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


def reported(live: Live, event: str) -> list[str]:
    """The levels of the lines with that event, once every worker has written its own."""

    def lines() -> list[str]:
        return [line for line in live.logs().splitlines() if event in line]

    until(lambda: len(lines()) >= WORKERS, event, live.logs)
    return sorted(line.split("level=")[1].split(" ")[0] for line in lines())


def entry(user: str) -> str:
    return f"{user}:{bcrypt.hashpw(b'password', bcrypt.gensalt(4)).decode()}\n"


def keyset(number: int, kid: str) -> str:
    return json.dumps({"keys": [{**Signer.of("P-256", number).jwk, "kid": kid}]})


FILES: dict[str, tuple[Callable[[Path], dict[str, Any]], str, str, str, str]] = {
    "policy": (
        lambda path: {"local": {"policy": str(path), "service": "registry"}},
        POLICY % "a",
        POLICY % "b",
        "the policy has changed",
        "the policy cannot be used",
    ),
    "passwords": (
        lambda path: {"htpasswd": {"realm": "r", "path": str(path)}},
        entry("one"),
        entry("two"),
        "password file was read again",
        "password file is broken",
    ),
    "keys": (
        lambda path: {"token": {"realm": "http://t.test/", "service": "s", "issuer": "i", "jwks": str(path)}},
        keyset(0, "one"),
        keyset(1, "two"),
        "keys for tokens read again",
        "the old keys for tokens stay in force",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_an_edit_is_reported_without_a_request_and_once_per_node(tmp_path: Path, kind: str) -> None:
    """An operator who has saved the file reads in the log whether it is in force, before the first user calls."""
    auth, before, after, taken, refused = FILES[kind]
    path = tmp_path / "file"
    path.write_text(before)
    with start_moorage(
        tmp_path / "data", auth=auth(path), http={"workers": WORKERS}, log={"level": "debug"}
    ) as live:
        live.logged("listening on")  # every worker is ready; one that starts later reads the edit at its start
        put(path, after)
        assert reported(live, taken) == ["debug", "debug", "info"]
        put(path, "{broken")
        assert reported(live, refused) == ["debug", "debug", "error"]


async def test_requests_are_served_when_the_check_between_them_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug would be logged once a second, or end the checks silently."""

    class Broken:
        calls = 0

        async def refresh(self) -> None:
            self.calls += 1
            if self.calls == 2:
                raise ZeroDivisionError

    monkeypatch.setattr(app, "_REFRESH_S", 0.0)
    broken: Any = Broken()
    with capture_logs() as logs:
        await asyncio.wait_for(app._refresh(broken), 30)
    assert broken.calls == 2
    assert [line["log_level"] for line in logs] == ["error"]


@pytest.mark.parametrize(("reports", "levels"), [(True, ["info", "warning", "error"]), (False, 3 * ["debug"])])
def test_a_process_that_does_not_report_logs_at_debug_level(reports: bool, levels: list[str]) -> None:
    log = FileLog(reports=reports)
    with capture_logs() as logs:
        log.info("one", file="f")
        log.warning("two", file="f")
        log.error("three", file="f")
    assert [(line["event"], line["log_level"], line["file"]) for line in logs] == [
        ("one", levels[0], "f"),
        ("two", levels[1], "f"),
        ("three", levels[2], "f"),
    ]
