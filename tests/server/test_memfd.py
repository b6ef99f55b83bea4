"""Sealed in-memory files: readable by workers, writable by no process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from moorage.server.tls.memfd import SealedMemory
from moorage.startup import StartupError


def test_the_bytes_are_read_by_their_path_as_often_as_wanted() -> None:
    data = os.urandom(3 << 20)
    sealed = SealedMemory("a test", data)
    assert [Path(sealed.path).read_bytes() == data for _ in range(2)] == [True, True]


def test_a_forked_process_reads_them_too() -> None:
    """That is what they are for."""
    sealed = SealedMemory("a test", b"for the workers")
    ours, theirs = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(theirs, Path(sealed.path).read_bytes())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(ours, 100) == b"for the workers"
    os.close(ours)
    os.close(theirs)


def test_nobody_changes_them() -> None:
    sealed = SealedMemory("a test", b"key")
    with pytest.raises(PermissionError), open(sealed.path, "r+b", buffering=0) as file:  # noqa: PTH123  of /proc
        file.write(b"another")


def test_they_go_with_the_object() -> None:
    """The plan before a renewal is dropped, and its key with it."""
    sealed = SealedMemory("a test", b"key")
    path = Path(sealed.path)
    target = path.readlink()
    del sealed
    assert not path.is_symlink() or path.readlink() != target


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EACCES])
def test_a_system_that_has_no_such_memory_is_told_of(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(name: str, flags: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(
        StartupError, match=r"cannot keep certificates in memory: .*: needs memfd_create and /proc/self/fd"
    ):
        SealedMemory("a test", b"key")


def test_kernels_before_6_3_know_no_seal_against_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.memfd_create

    def older(name: str, flags: int) -> int:
        if flags & 0x8:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(name, flags)

    monkeypatch.setattr(os, "memfd_create", older)
    assert Path(SealedMemory("a test", b"key").path).read_bytes() == b"key"
