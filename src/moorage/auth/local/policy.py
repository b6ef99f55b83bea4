"""Who may do what: rules that add up, and the one place that decides by them.

    Identity ──► its subjects (user:ann, group:dev, ...) ──► the rules that name one of them ──► PolicyGrants

Rules only grant.  There is no rule that takes something away: so their order does not matter, what somebody may do
is the sum of the rules that name him, and whoever adds a rule cannot lock out or let in anybody whom it does not
name.  What no rule grants is refused.

Pure: no files, no clock, no tokens.  Above: `authority.py`, `cli/auth.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from moorage.auth.access import CATALOG, Need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from moorage.auth.local.patterns import Glob, RepositoryPattern

__all__ = [
    "ACTIONS",
    "ANONYMOUS",
    "ROBOT_PREFIX",
    "AccessRule",
    "ClaimCondition",
    "Identity",
    "Issuer",
    "Policy",
    "PolicyGrants",
    "Robot",
]

ACTIONS: Final = ("pull", "push", "delete")
ROBOT_PREFIX: Final = "robot+"
"""What the name that a robot logs in with begins with; `$` and the like need quoting in shells."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody was proven to be.  `claims` are those of a foreign token that the policy's rules look at."""

    kind: Literal["anonymous", "user", "robot", "foreign"]
    name: str = ""
    issuer: str = ""
    claims: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def shown(self) -> str:
        """The name in logs, events and tokens; "" for the anonymous."""
        match self.kind:
            case "robot":
                return f"{ROBOT_PREFIX}{self.name}"
            case "foreign":
                return f"{self.issuer}:{self.name}"
            case _:
                return self.name


ANONYMOUS: Final = Identity("anonymous")


@dataclass(frozen=True, slots=True)
class ClaimCondition:
    """A claim, and the patterns one of which one of its values must match."""

    claim: str
    patterns: tuple[Glob, ...]

    def holds(self, claims: Mapping[str, Sequence[str]]) -> bool:
        return any(pattern.matches(value) for value in claims.get(self.claim, ()) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One entry of the file; `where` is its place there.

    It reaches everybody who is one of `who` ("user:ann", "group:dev", "robot:ci", "authenticated", "anonymous", or
    "issuer:ci"), if all `conditions` hold for the claims.
    """

    where: str
    who: frozenset[str]
    repositories: tuple[RepositoryPattern, ...] = ()
    allow: frozenset[str] = frozenset()
    catalog: bool = False
    conditions: tuple[ClaimCondition, ...] = ()

    @property
    def shown(self) -> str:
        """What it says, in a line."""
        parts = [f"who {', '.join(sorted(self.who))}"]
        if self.repositories:
            parts.append(f"repositories {', '.join(pattern.text for pattern in self.repositories)}")
        if self.allow:
            parts.append(f"allow {', '.join(action for action in ACTIONS if action in self.allow)}")
        if self.catalog:
            parts.append("catalog")
        parts += [f"{each.claim} {' or '.join(glob.text for glob in each.patterns)}" for each in self.conditions]
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Robot:
    """A program's account: the digests of its secrets, and when it ends (None: never)."""

    name: str
    secrets: tuple[str, ...] = field(repr=False)
    expires: datetime | None

    def is_over(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires


@dataclass(frozen=True, slots=True)
class Issuer:
    """Somebody else whose tokens are taken: `url` and `audience` as they must stand in them.

    `keys` is a file or the address of a key set, "" for what the issuer's own discovery document names; `ca` a
    file with the authorities for that address.  `session_s`: how long after the exchange a client may go on.
    """

    name: str
    url: str
    audience: tuple[str, ...]
    keys: str = ""
    ca: str = ""
    session_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class _ResolvedRule:
    """A rule for one identity: with its places filled in."""

    rule: AccessRule
    globs: tuple[Glob, ...]
    everything: bool

    def allows(self, need: Need) -> bool:
        if need.type == CATALOG.type:
            return need == CATALOG and self.rule.catalog
        return (
            need.type == "repository"
            and need.action in self.rule.allow
            and any(glob.matches(need.name) for glob in self.globs)
        )


@dataclass(frozen=True, slots=True)
class PolicyGrants:
    """What the rules allow one identity; see `access.Grants`."""

    rules: tuple[_ResolvedRule, ...] = ()
    _known: dict[Need, bool] = field(default_factory=dict, compare=False, repr=False)

    @property
    def reads_everything(self) -> bool:
        return any(each.everything and "pull" in each.rule.allow for each in self.rules)

    def allows(self, need: Need) -> bool:
        known = self._known.get(need)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[need] = any(each.allows(need) for each in self.rules)
        return known

    def because(self, need: Need) -> list[AccessRule]:
        """The rules that grant it."""
        return [each.rule for each in self.rules if each.allows(need)]


_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class Policy:
    """What the file says."""

    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    robots: Mapping[str, Robot] = field(default_factory=dict)
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    rules: tuple[AccessRule, ...] = ()
    _grants: dict[Identity, PolicyGrants] = field(default_factory=dict, compare=False, repr=False)

    def grants_of(self, identity: Identity) -> PolicyGrants:
        """Everything that this identity may do."""
        found = self._grants.get(identity)
        if found is None:
            if len(self._grants) >= _REMEMBERED:
                self._grants.clear()
            found = self._grants[identity] = self._decide(identity)
        return found

    def knows(self, identity: Identity) -> bool:
        """For a foreign identity: whether a rule of its issuer is about it.  Nobody else gets in.

        Anybody can get a token of a public CI system; without a rule for its claims it proves nothing to us.
        """
        return any(_reaches(rule, identity, self._subjects(identity)) for rule in self.rules if rule.conditions)

    def claims_of(self, issuer: str) -> frozenset[str]:
        """The claims that the rules for this issuer's tokens look at."""
        rules = [rule for rule in self.rules if f"issuer:{issuer}" in rule.who]
        looked_at = {condition.claim for rule in rules for condition in rule.conditions}
        return frozenset(looked_at.union(*(pattern.places for rule in rules for pattern in rule.repositories)))

    def rules_for(self, identity: Identity) -> list[AccessRule]:
        """The rules that name this identity, whatever they grant."""
        subjects = self._subjects(identity)
        return [rule for rule in self.rules if _reaches(rule, identity, subjects)]

    def _subjects(self, identity: Identity) -> frozenset[str]:
        """The words by which rules name an identity.

        Whoever logs in keeps what the anonymous have.  "authenticated" are people: a robot or a CI job is to
        have exactly what it was given by name.
        """
        match identity.kind:
            case "user":
                groups = (f"group:{name}" for name, members in self.groups.items() if identity.name in members)
                return frozenset({"anonymous", "authenticated", f"user:{identity.name}", *groups})
            case "robot":
                return frozenset({"anonymous", f"robot:{identity.name}"})
            case "foreign":
                return frozenset({"anonymous", f"issuer:{identity.issuer}"})
            case _:
                return frozenset({"anonymous"})

    def _decide(self, identity: Identity) -> PolicyGrants:
        reaching: list[_ResolvedRule] = []
        for rule in self.rules_for(identity):
            globs = [pattern.glob(lambda place: _fill(identity, place)) for pattern in rule.repositories]
            everything = any(pattern.is_everything for pattern in rule.repositories)
            reaching.append(_ResolvedRule(rule, tuple(glob for glob in globs if glob is not None), everything))
        return PolicyGrants(tuple(reaching))


def _reaches(rule: AccessRule, identity: Identity, subjects: frozenset[str]) -> bool:
    if not rule.who & subjects:
        return False
    claims = dict(identity.claims)
    return all(condition.holds(claims) for condition in rule.conditions)


def _fill(identity: Identity, place: str) -> str | None:
    """What stands for `{place}`: the user's name, or a claim that has exactly one value."""
    if identity.kind == "user" and place == "user":
        return identity.name
    if identity.kind == "foreign":
        values = dict(identity.claims).get(place, ())
        return values[0] if len(values) == 1 else None
    return None
