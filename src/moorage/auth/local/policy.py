"""Access policy: rules that grant permissions to identities.

    Identity ──► its subjects (user:ann, group:dev, ...) ──► the rules that name one of them ──► PolicyGrants

Rules only grant; no rule denies.  So their order does not matter, the permissions of an identity are the sum of
the rules that name it, and a new rule affects only identities that it names.  What no rule grants is refused.

Pure: no files, no clock, no tokens.  Used by `authority.py` and `cli/auth.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from moorage.auth.access import CATALOG, Need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from moorage.auth.local.patterns import RepositoryPattern
    from moorage.patterns import Glob

__all__ = [
    "ACTIONS",
    "ANONYMOUS",
    "ROBOT_PREFIX",
    "AccessPolicy",
    "AccessRule",
    "ClaimCondition",
    "Identity",
    "Issuer",
    "PolicyGrants",
    "Robot",
]

ACTIONS: Final = ("pull", "push", "delete")
ROBOT_PREFIX: Final = "robot+"
"""Prefix of a robot's user name; `$` and other characters would need quoting in shells."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated identity; `foreign`: of another issuer, whose `claims` are those that rules use."""

    kind: Literal["anonymous", "user", "robot", "foreign"]
    name: str = ""
    issuer: str = ""
    claims: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def display_name(self) -> str:
        """Return the name for logs, events and tokens; "" if anonymous."""
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
    """A claim, one of whose values must match one of the patterns."""

    claim: str
    patterns: tuple[Glob, ...]

    def holds(self, claims: Mapping[str, Sequence[str]]) -> bool:
        """Return whether the claims fulfil the condition."""
        return any(pattern.matches(value) for value in claims.get(self.claim, ()) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One entry of the policy file; `where` is its position there.

    It applies to subjects in `who` ("user:ann", "group:dev", "robot:ci", "authenticated", "anonymous", or
    "issuer:ci"), if all `conditions` hold for the claims.
    """

    where: str
    who: frozenset[str]
    repositories: tuple[RepositoryPattern, ...] = ()
    allow: frozenset[str] = frozenset()
    catalog: bool = False
    conditions: tuple[ClaimCondition, ...] = ()

    @property
    def summary(self) -> str:
        """Return the rule as one line of text."""
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
    """Account of a program: digests of its secrets, and its expiry (None: never)."""

    name: str
    secrets: tuple[str, ...] = field(repr=False)
    expires: datetime | None

    def is_expired(self, now: datetime) -> bool:
        """Return whether the account has expired."""
        return self.expires is not None and now >= self.expires


@dataclass(frozen=True, slots=True)
class Issuer:
    """Another issuer whose tokens are accepted: `url` and `audience` must be their `iss` and `aud`.

    `keys` is a file or the URL of a JWK Set, "" for the one in the issuer's discovery document; `ca` is a file
    with the certificate authorities for that URL.  `session_s`: lifetime of a login in seconds.
    """

    name: str
    url: str
    audience: tuple[str, ...]
    keys: str = ""
    ca: str = ""
    session_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class _ResolvedRule:
    """A rule for one identity, with its placeholders filled in."""

    rule: AccessRule
    globs: tuple[Glob, ...]
    everything: bool

    def allows(self, need: Need) -> bool:
        """Return whether the rule grants a permission."""
        if need.type == CATALOG.type:
            return need == CATALOG and self.rule.catalog
        return (
            need.type == "repository"
            and need.action in self.rule.allow
            and any(glob.matches(need.name) for glob in self.globs)
        )


@dataclass(frozen=True, slots=True)
class PolicyGrants:
    """Permissions of one identity; see `access.Grants`."""

    rules: tuple[_ResolvedRule, ...] = ()
    _decided: dict[Need, bool] = field(default_factory=dict, compare=False, repr=False)

    @property
    def reads_everything(self) -> bool:
        return any(each.everything and "pull" in each.rule.allow for each in self.rules)

    def allows(self, need: Need) -> bool:
        known = self._decided.get(need)
        if known is None:
            if len(self._decided) >= _CACHED:
                self._decided.clear()
            known = self._decided[need] = any(each.allows(need) for each in self.rules)
        return known

    def rules_granting(self, need: Need) -> list[AccessRule]:
        """Return the rules that grant a permission."""
        return [each.rule for each in self.rules if each.allows(need)]


_CACHED: Final = 1024


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Content of a policy file."""

    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    robots: Mapping[str, Robot] = field(default_factory=dict)
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    rules: tuple[AccessRule, ...] = ()
    _grants: dict[Identity, PolicyGrants] = field(default_factory=dict, compare=False, repr=False)

    def grants_of(self, identity: Identity) -> PolicyGrants:
        """Return the permissions of an identity."""
        found = self._grants.get(identity)
        if found is None:
            if len(self._grants) >= _CACHED:
                self._grants.clear()
            found = self._grants[identity] = self._decide(identity)
        return found

    def has_rule_for(self, identity: Identity) -> bool:
        """Return whether a rule of its issuer applies to an identity of another issuer; others cannot log in.

        Anyone can get a token of a public CI system; without a rule for its claims it proves nothing.
        """
        return any(_applies(rule, identity, self._subjects(identity)) for rule in self.rules if rule.conditions)

    def claims_of(self, issuer: str) -> frozenset[str]:
        """Return the names of the claims that rules for tokens of this issuer use."""
        rules = [rule for rule in self.rules if f"issuer:{issuer}" in rule.who]
        claims = {condition.claim for rule in rules for condition in rule.conditions}
        return frozenset(claims.union(*(pattern.placeholders for rule in rules for pattern in rule.repositories)))

    def rules_for(self, identity: Identity) -> list[AccessRule]:
        """Return the rules that apply to this identity."""
        subjects = self._subjects(identity)
        return [rule for rule in self.rules if _applies(rule, identity, subjects)]

    def _subjects(self, identity: Identity) -> frozenset[str]:
        """Return the subjects by which rules name an identity.

        All identities have the permissions of "anonymous".  "authenticated" are users: a robot or a CI job has
        exactly the permissions that are granted to it by name.
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
        resolved: list[_ResolvedRule] = []
        for rule in self.rules_for(identity):
            globs = [pattern.glob(lambda name: _fill(identity, name)) for pattern in rule.repositories]
            everything = any(pattern.is_everything for pattern in rule.repositories)
            resolved.append(_ResolvedRule(rule, tuple(glob for glob in globs if glob is not None), everything))
        return PolicyGrants(tuple(resolved))


def _applies(rule: AccessRule, identity: Identity, subjects: frozenset[str]) -> bool:
    if not rule.who & subjects:
        return False
    claims = dict(identity.claims)
    return all(condition.holds(claims) for condition in rule.conditions)


def _fill(identity: Identity, placeholder: str) -> str | None:
    """Return the value of a placeholder: the user's name, or a claim that has exactly one value."""
    if identity.kind == "user" and placeholder == "user":
        return identity.name
    if identity.kind == "foreign":
        values = dict(identity.claims).get(placeholder, ())
        return values[0] if len(values) == 1 else None
    return None
