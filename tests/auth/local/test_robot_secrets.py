"""Robots' secrets and when they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from moorage.auth.local.policy import Robot
from moorage.auth.local.robot_secrets import (
    HASH,
    digest_of,
    make_secret,
    matching_digest,
    parse_expiry,
    parse_term,
)

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_a_secret_is_known_by_its_digest_and_nothing_else_is() -> None:
    """The file may be read by more people than may push."""
    secret, other = make_secret(), make_secret()
    assert secret != other
    assert len(secret) > 43
    robot = Robot("ci", (digest_of(other), digest_of(secret)), None)
    assert matching_digest(robot, secret.encode()) == robot.secrets[1]
    assert matching_digest(robot, other.encode()) == robot.secrets[0]
    for wrong in (b"", secret[:-1].encode(), robot.secrets[1].encode(), b"\xff", (secret + " ").encode()):
        assert matching_digest(robot, wrong) is None
    assert secret not in "".join(robot.secrets)
    assert robot.secrets[0] not in repr(robot)


def test_two_digests_of_one_secret_differ() -> None:
    """Else the file would show which robots share a secret."""
    assert digest_of("x") != digest_of("x")
    assert HASH.fullmatch(digest_of("x"))


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("never", None),
        ("2027-01-31", datetime(2027, 2, 1, tzinfo=UTC)),
        ("2027-01-31T12:00:00Z", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31T12:00:00", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31 12:00:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_an_end_is_a_day_or_a_moment(text: str, end: datetime | None) -> None:
    """The day that is written down is the last one that works."""
    assert parse_expiry(text) == end


@pytest.mark.parametrize("text", ["", "soon", "2027-02-30", "31.1.2027", "90d", "Never", "9999-12-31"])
def test_another_end_is_refused(text: str) -> None:
    """An end that was not understood must not become none."""
    with pytest.raises(ValueError, match="expected a day"):
        parse_expiry(text)


def test_an_account_is_over_at_its_end_and_not_before() -> None:
    robot = Robot("ci", (), NOON)
    assert not robot.is_expired(NOON - timedelta(seconds=1))
    assert robot.is_expired(NOON)
    assert not Robot("ci", (), None).is_expired(NOON)


@pytest.mark.parametrize(
    ("term", "text"),
    [("90d", "2027-02-22"), ("2w", "2026-12-08"), ("12h", "2026-11-25T00:00:00Z"), ("never", "never"),
     ("2027-01-31", "2027-01-31")],
)  # fmt: skip
def test_a_term_becomes_what_the_file_says(term: str, text: str) -> None:
    assert parse_term(term, NOON) == text
    parse_expiry(text)


@pytest.mark.parametrize("term", ["", "0d", "-1d", "90", "1y", "999999w", "1.5d"])
def test_another_term_is_refused(term: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_term(term, NOON)
