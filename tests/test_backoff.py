"""Delays between attempts."""

from __future__ import annotations

from moorage.backoff import Backoff, equal_jitter


def test_exponential_delays_double_up_to_the_longest() -> None:
    """A delay without a limit would leave a service idle for days after its dependency is back."""
    backoff = Backoff.exponential(60.0, 600.0)
    assert [backoff.delay_s(failures) for failures in range(1, 8)] == [60, 120, 240, 480, 600, 600, 600]
    assert backoff.delay_s(10**9) == 600


def test_the_longest_delay_is_never_exceeded() -> None:
    """A setting for the longest delay that is shorter than the first delay still holds."""
    assert Backoff.exponential(60.0, 10.0).delay_s(1) == 10


def test_jitter_keeps_at_least_half_of_the_delay() -> None:
    """A delay of nearly nothing would repeat the request while the store still fails."""
    delays = [equal_jitter(8.0) for _ in range(100)]
    assert all(4 <= delay <= 8 for delay in delays)
    assert len(set(delays)) > 1
