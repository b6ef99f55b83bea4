"""Legal holds: which tags and digests an entry of the settings names."""

from __future__ import annotations

from moorage.registry.holds import NO_HOLDS, Hold, LegalHolds
from moorage.types import Digest, RepoName, Tag

APP = RepoName("team/app")
OTHER = RepoName("other/app")
ONE = Digest.of(b"one")
TWO = Digest.of(b"two")


def test_a_hold_of_tags_holds_those_tags_only() -> None:
    """A pattern that held more would block other teams, one that held less would lose evidence."""
    holds = LegalHolds([Hold.parse(["team/*"], "case 7", tags=["v1.*"])])
    assert holds.holds(APP, Tag("v1.2")) == "case 7"
    assert holds.holds(APP, Tag("v2")) is None
    assert holds.holds(APP, ONE) is None
    assert holds.holds(OTHER, Tag("v1.2")) is None
    assert holds.holds_repository(APP) is None


def test_a_hold_of_digests_holds_them_in_its_repositories() -> None:
    """A digest is held where the entry says, since the same bytes may be deleted elsewhere."""
    holds = LegalHolds([Hold.parse(["team/**"], "r", digests=[str(ONE)])])
    assert holds.holds(APP, ONE) == "r"
    assert holds.holds(APP, TWO) is None
    assert holds.holds(OTHER, ONE) is None
    assert holds.digests(APP) == {ONE}
    assert holds.digests(OTHER) == frozenset()


def test_a_hold_without_tags_and_digests_holds_the_whole_repository() -> None:
    """All content of a product can be held without a list."""
    holds = LegalHolds([Hold.parse(["other/app"], "first", tags=["x"]), Hold.parse(["**"], "all")])
    assert holds.holds(APP, Tag("any")) == holds.holds(APP, TWO) == holds.holds_repository(APP) == "all"
    assert holds.holds(OTHER, Tag("x")) == "first"
    assert holds.holds(OTHER, Tag("y")) == "all"


def test_without_holds_nothing_is_held() -> None:
    """The usual case."""
    assert not NO_HOLDS
    assert NO_HOLDS.holds(APP, ONE) is None
    assert NO_HOLDS.of(APP) == ()
