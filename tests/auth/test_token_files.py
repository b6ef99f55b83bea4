"""Key files that change while the registry runs, well and badly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import structlog
from tests.auth.signing import Signer, pem

from moorage.auth.token.files import KeyFiles
from moorage.auth.token.trusted_keys import ALGORITHMS
from moorage.startup import StartupError

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = Signer.of("P-256"), Signer.of("P-256", 1)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.pem"
    path.write_bytes(pem(OLD.certificate))
    return path


def loaded(bundle: Path | None, jwks: Path | None = None) -> KeyFiles:
    files = KeyFiles(bundle, jwks, ALGORITHMS)
    files.load()
    return files


def keyset(signer: Signer, kid: str) -> str:
    return json.dumps({"keys": [{**signer.jwk, "kid": kid}]})


def test_new_keys_are_taken_over_and_old_ones_dropped(bundle: Path) -> None:
    """A rotated or withdrawn key would need a restart."""
    files = loaded(bundle)
    assert not files.reload()
    bundle.write_bytes(pem(NEW.certificate))
    with structlog.testing.capture_logs() as logs:
        assert files.reload()
        assert not files.reload()
    assert NEW.thumbprint in files.keys.by_id
    assert OLD.thumbprint not in files.keys.by_id
    assert files.keys.roots == (NEW.certificate,)
    assert [line["event"] for line in logs] == ["keys for tokens read again"]


def test_keys_of_the_other_file_stay(bundle: Path, tmp_path: Path) -> None:
    jwks = tmp_path / "jwks.json"
    jwks.write_text(keyset(OLD, "old"))
    files = loaded(bundle, jwks)
    jwks.write_text(keyset(NEW, "new"))
    assert files.reload()
    assert {"new", OLD.thumbprint} <= files.keys.by_id.keys()
    assert "old" not in files.keys.by_id


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (b"", "no key that could sign"),
        (b"half a certif", "no key that could sign"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
    ],
)
def test_a_broken_file_leaves_the_old_keys_and_is_logged_once(bundle: Path, broken: bytes, why: str) -> None:
    """A file that is just being written would lock out all clients, or flood the log."""
    files = loaded(bundle)
    with structlog.testing.capture_logs() as logs:
        bundle.write_bytes(broken)
        assert not files.reload()
        assert not files.reload()
        (line,) = logs
        assert line["event"] == "the old keys for tokens stay in force"
        assert line["log_level"] == "error"
        assert str(bundle) in line["file"]
        assert why in line["error"]
        assert OLD.thumbprint in files.keys.by_id
        bundle.write_bytes(pem(NEW.certificate))
        assert files.reload()
    assert NEW.thumbprint in files.keys.by_id


def test_a_file_that_is_gone_leaves_the_old_keys_and_is_logged_once(bundle: Path) -> None:
    """Between the unlink and the rename of a careless script."""
    files = loaded(bundle)
    content = bundle.read_bytes()
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            bundle.unlink()
            assert not files.reload()
            assert not files.reload()
            bundle.write_bytes(content)
            assert not files.reload()
    assert [line["error"] for line in logs] == ["No such file or directory"] * 2
    assert OLD.thumbprint in files.keys.by_id


def test_a_broken_key_set_leaves_the_old_keys(tmp_path: Path) -> None:
    jwks = tmp_path / "jwks.json"
    jwks.write_text(keyset(OLD, "old"))
    files = loaded(None, jwks)
    for text in ('{"keys": [', '{"keys": []}', '{"keys": [{"kty": "new"}]}'):
        jwks.write_text(text)
        with structlog.testing.capture_logs() as logs:
            assert not files.reload()
        assert len(logs) == 1
        assert "old" in files.keys.by_id


def test_a_new_file_with_odd_keys_warns(tmp_path: Path) -> None:
    jwks = tmp_path / "jwks.json"
    jwks.write_text(keyset(OLD, "old"))
    files = loaded(None, jwks)
    jwks.write_text(json.dumps({"keys": [{**NEW.jwk, "kid": "new"}, {"kty": "future"}]}))
    with structlog.testing.capture_logs() as logs:
        assert files.reload()
    assert logs[-1]["log_level"] == "warning"
    assert logs[-1]["event"] == f"auth.token.jwks {jwks}: key 1 is left out: its kty is not known"


def test_one_file_may_be_without_keys_if_the_other_has_some(bundle: Path, tmp_path: Path) -> None:
    jwks = tmp_path / "jwks.json"
    jwks.write_text('{"keys": []}')
    assert OLD.thumbprint in loaded(bundle, jwks).keys.by_id


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "auth.token.rootcertbundle {path}: No such file or directory"),
        (b"", "auth.token has no key that could sign a token: auth.token.rootcertbundle {path}: it holds no cert"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
         "auth.token.rootcertbundle {path}: a certificate in it cannot be read"),
    ],
)  # fmt: skip
def test_without_a_key_nothing_starts(tmp_path: Path, content: bytes | None, why: str) -> None:
    """A registry that refuses all clients would start."""
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartupError) as caught:
        loaded(path)
    assert str(caught.value).startswith(why.format(path=path))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="Is a directory"):
        loaded(tmp_path)


def test_a_key_set_that_is_none_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    for text, message in (
        ("<html>", "it is no JSON"),
        ("[]", "no JWK Set"),
        ('{"keys": []}', "json: it holds no key$"),
    ):
        path.write_text(text)
        with pytest.raises(StartupError, match=message):
            loaded(None, path)
    with pytest.raises(StartupError, match="neither rootcertbundle nor jwks"):
        loaded(None)


def test_keys_of_switched_off_algorithms_stop_the_start(bundle: Path) -> None:
    """`signingalgorithms: [RS256]` beside an elliptic key would refuse all clients."""
    files = KeyFiles(bundle, None, frozenset({"RS256"}))
    with pytest.raises(StartupError, match="it signs by ES256, none of which is allowed"):
        files.load()
