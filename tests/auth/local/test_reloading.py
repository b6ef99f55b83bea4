"""The policy in force: an edit counts at once, a mistake never."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest
from structlog.testing import capture_logs
from tests.auth.local.helpers import Clock, may, policy_file

from moorage.auth.local.policy import ANONYMOUS
from moorage.auth.local.policy_source import PolicySource
from moorage.startup import StartupError

if TYPE_CHECKING:
    from pathlib import Path

OPEN: Final = "access: [{who: anonymous, repositories: a, allow: pull}]\n"
SHUT: Final = "access: []\n"


async def pulls(source: PolicySource) -> bool:
    return may((await source.current()).grants_of(ANONYMOUS), "a") == "pull"


async def test_an_edit_is_in_force_with_the_next_request(tmp_path: Path) -> None:
    """Within a second, without a restart or a signal."""
    clock = Clock(0)
    source = PolicySource(str(policy_file(tmp_path, OPEN)), clock)
    assert await pulls(source)
    policy_file(tmp_path, SHUT)
    assert await pulls(source), "it is looked at once a second"
    clock.now += 1
    with capture_logs() as logs:
        assert not await pulls(source)
    assert [entry["event"] for entry in logs] == ["the policy has changed"]


@pytest.mark.parametrize("broken", ["access: [", "acess: []\n", None])
async def test_a_mistake_leaves_the_last_good_policy_in_force_and_is_logged_once(
    tmp_path: Path, broken: str | None
) -> None:
    """An editor that saves half a file would admit all clients, or lock out all users."""
    clock = Clock(0)
    path = policy_file(tmp_path, OPEN)
    source = PolicySource(str(path), clock)
    with capture_logs() as logs:
        if broken is None:
            path.unlink()
        else:
            policy_file(tmp_path, broken)
        for _ in range(3):
            clock.now += 1
            assert await pulls(source)
    (entry,) = logs
    assert entry["log_level"] == "error"
    assert str(path) in entry["cause"]
    policy_file(tmp_path, SHUT)
    clock.now += 1
    assert not await pulls(source)


async def test_a_file_that_is_right_again_is_confirmed_and_may_be_wrong_again(tmp_path: Path) -> None:
    """The operator who saw the error would not know that it is solved, if the rules are the same as before."""
    clock = Clock(0)
    source = PolicySource(str(policy_file(tmp_path, OPEN)), clock)
    with capture_logs() as logs:
        for text in ("access: [", OPEN, "access: [", f"{OPEN}# a comment\n"):
            policy_file(tmp_path, text)
            for _ in range(2):
                clock.now += 1
                assert await pulls(source)
    assert [entry["event"] for entry in logs] == 2 * [
        "the policy cannot be used; the one before stays in force",
        "the policy was read again; its rules are the same",
    ]


async def test_a_second_edit_in_the_same_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    """File systems count in steps of milliseconds to seconds; a script edits faster."""
    clock = Clock(0)
    path = policy_file(tmp_path, OPEN)
    source = PolicySource(str(path), clock)
    status = path.stat()
    path.write_text(SHUT.ljust(len(OPEN) - 1) + "\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    clock.now += 1
    assert not await pulls(source)


def test_a_start_without_a_policy_is_refused_with_all_that_is_wrong(tmp_path: Path) -> None:
    """A registry without a policy would grant or refuse everything."""
    path = policy_file(tmp_path, "acess: []\ngroups: [a]\n")
    with pytest.raises(StartupError) as caught:
        PolicySource(str(path))
    assert "acess" in str(caught.value)
    assert "groups" in str(caught.value)
