"""When what has died is started again."""

from __future__ import annotations

from moorage.server.processes.restart_backoff import RestartBackoff


def test_the_first_time_is_at_once_and_then_it_takes_longer() -> None:
    """A worker that cannot start must not eat the machine, and one that crashed once must not be missed."""
    retry = RestartBackoff()
    assert [retry.after(100.0) for _ in range(9)] == [0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0]
    assert retry.at == 130.0
    assert (retry.is_due(129.9), retry.is_due(130.0)) == (False, True)


def test_whoever_lived_for_long_is_started_at_once() -> None:
    """A crash once an hour is not a start that fails."""
    retry = RestartBackoff()
    retry.after(0.0)
    retry.after(0.0)
    assert retry.after(100.0, lived_s=30.0) == 2.0
    assert retry.after(200.0, lived_s=30.1) == 0.0


def test_what_is_being_started_is_not_due() -> None:
    retry = RestartBackoff()
    retry.after(0.0)
    retry.cancel()
    assert (retry.at, retry.is_due(1000.0)) == (None, False)
    assert retry.after(0.0) == 1.0


def test_a_new_beginning_is_forgiven() -> None:
    """After a reload nothing is left of what the old configuration did."""
    retry = RestartBackoff()
    retry.after(0.0)
    retry.after(0.0)
    retry.forgive()
    assert retry.after(0.0) == 0.0
