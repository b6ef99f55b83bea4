"""The directory that is shared by restarts, by nodes, and with CNCF Distribution."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from moorage.acme.order_spec import OrderFailed
from moorage.acme.store import CertificateStore, prepare

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> CertificateStore:
    prepare(str(tmp_path / "le"))
    return CertificateStore(str(tmp_path / "le"))


def names(store: CertificateStore) -> set[str]:
    return {path.name for path in store.folder.iterdir()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_names_are_those_of_autocert(store: CertificateStore) -> None:
    """Either server finds what the other has put there."""
    store.put_account(b"account")
    store.put_certificate(["r.test", "s.test"], b"certificate")
    store.put_http_answer("t0-k_n", "t0-k_n.thumb")
    store.put_alpn_answer("r.test", b"challenge")
    assert names(store) == {"acme_account+key", "r.test", "s.test", "t0-k_n+http-01", "r.test+token"}
    assert store.http_answer("t0-k_n") == b"t0-k_n.thumb"
    store.withdraw(["r.test"], ["t0-k_n"])
    store.withdraw(["r.test"], ["t0-k_n"])
    assert names(store) == {"acme_account+key", "r.test", "s.test"}


def test_keys_are_nobody_elses(store: CertificateStore) -> None:
    """Also while they are being written, with any umask."""
    before = os.umask(0)
    try:
        store.put_account(b"account")
        store.put_certificate(["r.test"], b"certificate")
    finally:
        os.umask(before)
    assert mode(store.folder) == 0o700
    assert {mode(path) for path in store.folder.iterdir()} == {0o600}


def test_a_new_directory_and_those_above_it_are_nobody_elses_to_write(tmp_path: Path) -> None:
    """With umask 0 another user could put a directory of his own in its place."""
    before = os.umask(0)
    try:
        prepare(str(tmp_path / "lib/moorage/le"))
    finally:
        os.umask(before)
    assert mode(tmp_path / "lib") == 0o755
    assert mode(tmp_path / "lib/moorage") == 0o755
    assert mode(tmp_path / "lib/moorage/le") == 0o700


def test_the_file_that_is_served_comes_last(store: CertificateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """All nodes wait for its change; a node that is killed in between tries again."""
    written: list[str] = []
    monkeypatch.setattr(store, "_write", lambda name, data: written.append(name))
    store.put_certificate(("r.test", "s.test", "t.test"), b"")
    assert written == ["t.test", "s.test", "r.test"]


def test_a_failed_write_leaves_the_old_file(store: CertificateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_account(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.put_account(b"new")
    assert store.account() == b"old"
    assert names(store) == {"acme_account+key"}


def test_the_account_of_an_early_autocert_is_found(store: CertificateStore) -> None:
    assert store.account() is None
    (store.folder / "acme_account.key").write_bytes(b"early")
    assert store.account() == b"early"
    store.put_account(b"late")
    assert store.account() == b"late"


@pytest.mark.parametrize("token", ["", "../r.test", "a/b", "a.b", "x" * 300, "é", "a\n", "a+b"])
def test_no_token_leads_to_another_file(store: CertificateStore, token: str) -> None:
    """Any client may request any token, and keys are in the same directory."""
    store.put_certificate(["r.test"], b"secret")
    assert store.http_answer(token) is None
    with pytest.raises(OrderFailed, match="token"):
        store.put_http_answer(token, "x")


def test_only_one_has_its_turn(store: CertificateStore) -> None:
    """Two orders at a time would count twice with the authority."""
    other = CertificateStore(str(store.folder))
    with store.lock() as ours:
        assert ours
        with other.lock() as theirs:
            assert not theirs
    with other.lock() as theirs:
        assert theirs


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_everybody_has_a_turn(
    store: CertificateStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Two orders are better than none."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with store.lock() as ours:
        assert ours
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output error"), store.lock():
        pass


def test_what_the_dead_have_left_is_removed(store: CertificateStore) -> None:
    """It would keep the other nodes waiting for an authority that never comes."""
    store.put_alpn_answer("r.test", b"x")
    store.put_http_answer("old", "x")
    store.put_http_answer("new", "x")
    store.put_certificate(["r.test"], b"x")
    (store.folder / ".moorage-dead").touch()
    yesterday = time.time() - 25 * 3600
    for name in ("old+http-01", ".moorage-dead", "r.test"):
        os.utime(store.folder / name, (yesterday, yesterday))
    store.tidy(["r.test"])
    assert names(store) == {"new+http-01", "r.test"}


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="File exists"):
        prepare(str(tmp_path / "file"))
    prepare(str(tmp_path / "a" / "b"))
    assert mode(tmp_path / "a" / "b") == 0o700
