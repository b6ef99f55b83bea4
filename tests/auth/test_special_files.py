"""A named pipe, a socket or a device in the place of a file that `auth` reads is refused.

Reading one would block a worker until there is a writer, or fill its memory.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.auth.local.helpers import policy_file
from tests.auth.signing import Signer, pem
from tests.special_files import SPECIAL, make_special

from moorage.auth.local.build import problems_of
from moorage.auth.local.jwks import FileKeys, KeysUnavailable
from moorage.auth.local.policy_file import read
from moorage.auth.local.policy_source import PolicySource
from moorage.auth.password_file import PasswordFile
from moorage.auth.token.files import KeyFiles
from moorage.auth.token.trusted_keys import ALGORITHMS
from moorage.errors import Unavailable
from moorage.startup import StartupError

if TYPE_CHECKING:
    from pathlib import Path

POLICY = "access: [{who: ann, repositories: a, allow: pull}]\n"
ISSUER = """issuers:
  - name: ci
    issuer: https://ci.test
    audience: registry.test
    jwks: keys.json
    rules: [{claims: {project: a}, repositories: a, allow: pull}]
"""

pytestmark = pytest.mark.parametrize("kind", SPECIAL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_password_file_at_start(path: Path, kind: str) -> None:
    """The registry would never finish starting."""
    make_special(kind, path)
    with pytest.raises(StartupError) as caught:
        PasswordFile(path)
    assert str(caught.value) == f"cannot use the password file {path}: {SPECIAL[kind]}"


async def test_password_file_while_running(path: Path, kind: str) -> None:
    """The event loop would stop for all clients."""
    path.write_bytes(b"")  # noqa: ASYNC240  nothing else runs
    file = PasswordFile(path)
    make_special(kind, path)
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(Unavailable):
                await file.verify(b"alice", b"secret")
    assert [(line["file"], line["cause"]) for line in logs] == [(str(path), SPECIAL[kind])]
    await file.close()


def test_users_of_a_policy(path: Path, tmp_path: Path, kind: str) -> None:
    """`moorage config check` would hang."""
    make_special(kind, path)
    (problem,) = problems_of(str(policy_file(tmp_path, POLICY)), str(path))
    assert str(path) in str(problem)
    assert SPECIAL[kind] in str(problem)


@pytest.mark.parametrize("setting", ["rootcertbundle", "jwks"])
def test_key_files_at_start(path: Path, kind: str, setting: str) -> None:
    make_special(kind, path)
    bundle, jwks = (path, None) if setting == "rootcertbundle" else (None, path)
    files = KeyFiles(bundle, jwks, ALGORITHMS)
    with pytest.raises(StartupError) as caught:
        files.load()
    assert str(caught.value) == f"auth.token.{setting} {path}: {SPECIAL[kind]}"


def test_key_files_while_running(path: Path, kind: str) -> None:
    """Threads would wait until no request with a token is answered."""
    path.write_bytes(pem(Signer.of("P-256").certificate))
    files = KeyFiles(path, None, ALGORITHMS)
    files.load()
    make_special(kind, path)
    with capture_logs() as logs:
        assert not files.reload()
        assert not files.reload()
    assert [line["error"] for line in logs] == [SPECIAL[kind]]
    assert str(path) in logs[0]["file"]
    assert files.keys.by_id


def test_policy_at_start(path: Path, kind: str) -> None:
    make_special(kind, path)
    with pytest.raises(StartupError) as caught:
        PolicySource(str(path))
    assert str(path) in str(caught.value)
    assert SPECIAL[kind] in str(caught.value)


async def test_policy_while_running(tmp_path: Path, kind: str) -> None:
    """The old policy would be in force for ever, without a word in the log."""
    path = policy_file(tmp_path, POLICY)
    source = PolicySource(str(path))
    make_special(kind, path)
    with capture_logs() as logs:
        await source.refresh()
        await source.refresh()
    (line,) = logs
    assert str(path) in line["cause"]
    assert SPECIAL[kind] in line["cause"]
    assert (await source.current()).rules


def test_keys_of_an_issuer_in_a_policy(tmp_path: Path, kind: str) -> None:
    """`moorage config check` would hang."""
    make_special(kind, tmp_path / "keys.json")
    (problem,) = read(str(policy_file(tmp_path, ISSUER))).problems
    assert str(tmp_path / "keys.json") in str(problem)
    assert SPECIAL[kind] in str(problem)


async def test_keys_of_an_issuer_while_running(path: Path, kind: str) -> None:
    now = 0.0
    path.write_text(json.dumps({"keys": [{**Signer.of("P-256").jwk, "kid": "one"}]}))  # noqa: ASYNC240  as above
    source = FileKeys(str(path), lambda: now)
    await source.keys("one")
    make_special(kind, path)
    with capture_logs() as logs:
        for _ in range(2):
            now += 1
            assert "one" in (await source.keys("one")).by_id
    assert [(line["file"], line["cause"]) for line in logs] == [(str(path), SPECIAL[kind])]
    with pytest.raises(KeysUnavailable), capture_logs():
        await FileKeys(str(path), lambda: now).keys("one")
