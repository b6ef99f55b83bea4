"""When to renew, and when to try again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from moorage.acme.order_spec import Timings
from moorage.acme.schedule import RenewalBackoff, renewal

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_third_of_the_life_is_left_for_trouble() -> None:
    """30 of 90 days: an authority may be down for weeks without consequences."""
    end = BEGIN + timedelta(days=90)
    assert renewal(BEGIN, end, 0) == BEGIN + timedelta(days=60)
    assert renewal(BEGIN, end, 1) == BEGIN + timedelta(days=57)
    assert renewal(BEGIN, BEGIN + timedelta(days=6), 0) == BEGIN + timedelta(days=4)


def test_pauses_double_up_to_a_limit() -> None:
    """Let's Encrypt counts failures, and blocks an account with too many of them for an hour."""
    back_off = RenewalBackoff(Timings(first_retry_s=60, last_retry_s=600))
    assert [back_off.failed(0, 0) for _ in range(6)] == [60, 120, 240, 480, 600, 600]
    for _ in range(1000):
        back_off.failed(0, 0)
    assert back_off.failed(0, 0) == 600
    back_off.succeeded()
    assert back_off.failed(0, 0) == 60


def test_the_authority_is_obeyed_and_nodes_do_not_march_in_step() -> None:
    back_off = RenewalBackoff(Timings(first_retry_s=60))
    assert back_off.failed(3600, 0) == 3600
    assert back_off.failed(0, 1) == 150
