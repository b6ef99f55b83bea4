"""Parses the policy file: groups, robots, issuers and rules; reports every mistake with its line and key.

    groups:  {NAME: [USER, ...]}
    robots:  {NAME: {secret: HASH or [HASH, ...], expires: DAY, access: [RULE without who, ...]}}
    issuers: [{name, issuer, audience, jwks or jwks_uri, ca, session, rules: [RULE with claims, ...]}]
    access:  [RULE]        RULE: {who, repositories, allow, catalog}

A file with a mistake is not used at all.  Values are read by `policy_yaml.py`; docs/auth/local.md has an annotated
example.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from moorage.auth.local.patterns import RepositoryPattern
from moorage.auth.local.policy import ACTIONS, AccessPolicy, AccessRule, ClaimCondition, Issuer, Robot
from moorage.auth.local.policy_yaml import YamlReader, tree_of
from moorage.auth.local.robot_secrets import HASH, parse_expiry
from moorage.config.problems import Origin, Problem, nearest
from moorage.config.tree import List, describe, is_null
from moorage.patterns import Glob
from moorage.reloading import read_regular, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from moorage.config.tree import Map, Node

__all__ = ["NAME", "SIZE_LIMIT_BYTES", "ParsedPolicy", "parse", "read", "unreadable"]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
"""Names of groups, robots and issuers."""

SIZE_LIMIT_BYTES: Final = 4 << 20

_SPECIAL_SUBJECTS: Final = ("anonymous", "authenticated")
_KINDS: Final = ("user", "group", "robot")
_SESSION_MIN_S: Final = 60.0
"""Clients assume this lifetime for tokens with a shorter one."""
_RULE: Final = ("repositories", "allow", "catalog")


@dataclass(frozen=True, slots=True)
class ParsedPolicy:
    """Result of parsing; `policy` is None if a problem is an error.

    `users`: the user names, with key and position.
    """

    policy: AccessPolicy | None
    problems: tuple[Problem, ...]
    users: Mapping[str, tuple[str, Origin]] = field(default_factory=dict)


def read(path: str) -> ParsedPolicy:
    """Read and parse a file; raises nothing, all mistakes are in `problems`."""
    try:
        data = read_regular(path, SIZE_LIMIT_BYTES)
    except (OSError, ValueError) as error:
        return ParsedPolicy(None, (unreadable(path, error),))
    return parse(data, path)


def unreadable(path: str, error: OSError | ValueError) -> Problem:
    """Return the problem of a file that cannot be read."""
    reason = reason_of(error) if isinstance(error, OSError) else "not a path"
    return Problem(f"cannot be read: {reason}", origin=Origin(path))


def parse(data: bytes, path: str) -> ParsedPolicy:
    """Parse the content of the policy file `path`, which locates its problems; raises nothing."""
    tree, problems = tree_of(data, path)
    file = _PolicyParser(YamlReader(problems), path)
    policy = file.policy(tree) if tree is not None else None
    problems = file.reading.problems
    wrong = any(problem.kind == "error" for problem in problems)
    return ParsedPolicy(None if wrong else policy, tuple(problems), file.users)


class _PolicyParser:
    def __init__(self, reading: YamlReader, path: str) -> None:
        self.reading = reading
        self._path = path
        self.users: dict[str, tuple[str, Origin]] = {}
        self._groups: dict[str, frozenset[str]] = {}
        self._robots: dict[str, Robot] = {}
        self._issuers: dict[str, Issuer] = {}
        self._rules: list[AccessRule] = []

    def policy(self, tree: Map) -> AccessPolicy:
        top = self.reading.mapping(tree, "", ("groups", "robots", "issuers", "access"))
        self._read_groups(top.get("groups"))
        self._read_robots(top.get("robots"))
        self._read_issuers(top.get("issuers"))
        for index, node in enumerate(self.reading.sequence(top.get("access"), "access")):
            key = f"access[{index}]"
            entry = self.reading.mapping(node, key, ("who", *_RULE))
            who = self._who(entry.get("who"), f"{key}.who", node.origin)
            self._rule(entry, key, node.origin, who, _is_user)
        return AccessPolicy(self._groups, self._robots, self._issuers, tuple(self._rules))

    def _check_name(self, name: str, key: str, origin: Origin) -> bool:
        if NAME.fullmatch(name) is not None:
            return True
        self.reading.note(key, "expected a name of A-Z a-z 0-9 . _ - that begins with a letter or digit", origin)
        return False

    def _check_user(self, name: str, key: str, origin: Origin) -> bool:
        if not name or ":" in name or not name.isprintable():
            self.reading.note(key, f"expected a user's name, found {name!r}", origin)
            return False
        self.users.setdefault(name, (key, origin))
        return True

    def _read_groups(self, node: Node | None) -> None:
        for name, members in self.reading.mapping(node, "groups").items():
            key = f"groups.{name}"
            found = self.reading.texts(members, key)
            if self._check_name(name, key, members.origin):
                self._groups[name] = frozenset(
                    text for text, here, at in found if self._check_user(text, here, at)
                )

    def _read_robots(self, node: Node | None) -> None:
        for name, node_ in self.reading.mapping(node, "robots").items():
            key = f"robots.{name}"
            entry = self.reading.mapping(node_, key, ("secret", "expires", "access"))
            if not self._check_name(name, key, node_.origin):
                continue
            found = self.reading.texts(entry.get("secret"), f"{key}.secret")
            secrets = [text for text, here, at in found if self._check_secret(text, here, at)]
            if _is_empty(entry.get("secret")):
                self.reading.note(
                    f"{key}.secret", "required and missing; moorage auth robot makes one", node_.origin
                )
            expires = self._expiry(entry.get("expires"), f"{key}.expires", node_.origin)
            self._robots[name] = Robot(name, tuple(secrets), expires)
            for index, rule in enumerate(self.reading.sequence(entry.get("access"), f"{key}.access")):
                here = f"{key}.access[{index}]"
                fields = self.reading.mapping(rule, here, _RULE)
                self._rule(fields, here, rule.origin, frozenset({f"robot:{name}"}), _no_placeholder)

    def _check_secret(self, text: str, key: str, origin: Origin) -> bool:
        if HASH.fullmatch(text) is not None:
            return True
        self.reading.note(key, "expected sha256:SALT:DIGEST as moorage auth robot prints it", origin)
        return False

    def _expiry(self, node: Node | None, key: str, origin: Origin) -> datetime | None:
        if node is None or is_null(node):
            self.reading.note(key, "required and missing; expected a day such as 2027-01-31, or never", origin)
            return None
        try:
            return parse_expiry(self.reading.text(node, key))
        except ValueError as error:
            self.reading.note(key, f"{error}, found {describe(node)}", node.origin)
            return None

    def _who(self, node: Node | None, key: str, origin: Origin) -> frozenset[str]:
        found = self.reading.texts(node, key)
        if _is_empty(node):
            expected = "required and missing; expected names, group:NAME, robot:NAME, authenticated or anonymous"
            self.reading.note(key, expected, origin)
        return frozenset(word for text, here, at in found if (word := self._subject(text, here, at)))

    def _subject(self, text: str, key: str, origin: Origin) -> str:
        """Return `user:ann` for `ann`; "" for an unknown subject, which is reported."""
        if text in _SPECIAL_SUBJECTS:
            return text
        kind, colon, name = text.partition(":")
        if not colon:
            kind, name = "user", text
        if kind not in _KINDS:
            known = f"{nearest(kind, _KINDS) or 'group'}:{name}"
            self.reading.note(
                key, f"expected user:, group: or robot: before a name, found {text!r}", origin, known
            )
            return ""
        if kind == "user":
            return f"user:{name}" if self._check_user(name, key, origin) else ""
        defined = self._groups if kind == "group" else self._robots
        if name not in defined:
            near = nearest(name, defined)
            message = f"there is no {name!r} in {kind}s"
            self.reading.note(key, message, origin, f"{kind}:{near}" if near else None)
            return ""
        return f"{kind}:{name}"

    def _rule(
        self,
        entry: Mapping[str, Node],
        key: str,
        origin: Origin,
        who: frozenset[str],
        is_placeholder: Callable[[str], bool],
        conditions: tuple[ClaimCondition, ...] = (),
    ) -> None:
        allow = self._actions(entry.get("allow"), f"{key}.allow")
        catalog = self.reading.flag(entry.get("catalog"), f"{key}.catalog")
        patterns: list[RepositoryPattern] = []
        for text, here, at in self.reading.texts(entry.get("repositories"), f"{key}.repositories"):
            try:
                patterns.append(RepositoryPattern.parse(text, is_placeholder))
            except ValueError as error:
                self.reading.note(here, f"{error}, found {text!r}", at)
        has_allow, has_names = not _is_empty(entry.get("allow")), not _is_empty(entry.get("repositories"))
        if has_allow and not has_names:
            self.reading.note(f"{key}.repositories", "required beside allow; ** is every repository", origin)
        if has_names and not has_allow:
            self.reading.note(f"{key}.allow", "required beside repositories; expected pull, push, delete", origin)
        if not has_allow and not has_names and not catalog:
            self.reading.note(key, "grants nothing; expected repositories and allow, or catalog: true", origin)
        if "anonymous" in who and allow - {"pull"}:
            self.reading.warn(key, f"lets anonymous clients {' and '.join(sorted(allow - {'pull'}))}", origin)
        where = f"{origin}: {key}"
        self._rules.append(AccessRule(where, who, tuple(patterns), allow, catalog, conditions))

    def _actions(self, node: Node | None, key: str) -> frozenset[str]:
        found = set[str]()
        for text, here, at in self.reading.texts(node, key):
            if text in ACTIONS:
                found.add(text)
            else:
                message = f"expected pull, push or delete, found {text!r}"
                self.reading.note(here, message, at, nearest(text, ACTIONS))
        return frozenset(found)

    def _read_issuers(self, node: Node | None) -> None:
        known = ("name", "issuer", "audience", "jwks", "jwks_uri", "ca", "session", "rules")
        for index, node_ in enumerate(self.reading.sequence(node, "issuers")):
            key = f"issuers[{index}]"
            entry = self.reading.mapping(node_, key, known)
            name = self._required(entry, "name", key, node_.origin)
            url = self._required(entry, "issuer", key, node_.origin)
            audience = tuple(text for text, _, _ in self.reading.texts(entry.get("audience"), f"{key}.audience"))
            if not audience:
                message = "required and missing; what the tokens' aud must be, such as this registry's address"
                self.reading.note(f"{key}.audience", message, node_.origin)
            if name and self._check_name(name, f"{key}.name", node_.origin) and name in self._issuers:
                self.reading.note(f"{key}.name", f"{name!r} is there already", node_.origin)
            if any(url == other.url for other in self._issuers.values()):
                self.reading.note(f"{key}.issuer", "is there already; put its rules into one entry", node_.origin)
            self._check_url(url, f"{key}.issuer", node_.origin)
            session_s = self.reading.seconds(entry.get("session"), f"{key}.session", 3600.0)
            if session_s < _SESSION_MIN_S:
                self.reading.note(f"{key}.session", "expected at least 1m", entry["session"].origin)
            keys, ca = self._keys(entry, key, node_.origin), self._file(entry, "ca", key)
            self._issuers[name] = Issuer(name, url, audience, keys, ca, session_s)
            self._read_issuer_rules(entry.get("rules"), key, name, node_.origin)

    def _required(self, entry: Mapping[str, Node], name: str, key: str, origin: Origin) -> str:
        text = self.reading.text(entry.get(name), f"{key}.{name}")
        if not text:
            self.reading.note(f"{key}.{name}", "required and missing", origin)
        return text

    def _keys(self, entry: Mapping[str, Node], key: str, origin: Origin) -> str:
        """Return the location of an issuer's keys: a URL, the path of a file, or "" for its discovery document."""
        address = self.reading.text(entry.get("jwks_uri"), f"{key}.jwks_uri")
        file = self._file(entry, "jwks", key)
        if address and file:
            self.reading.note(key, "expected either jwks or jwks_uri", origin)
        self._check_url(address, f"{key}.jwks_uri", origin)
        return address or file

    def _file(self, entry: Mapping[str, Node], name: str, key: str) -> str:
        """Return the path of a file named in the policy, relative to the policy's directory."""
        text = self.reading.text(entry.get(name), f"{key}.{name}")
        if not text:
            return ""
        path = Path(self._path).parent / text
        try:
            read_regular(str(path))
        except (OSError, ValueError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else "not a path"
            self.reading.note(f"{key}.{name}", f"cannot read {str(path)!r}: {reason}", entry[name].origin)
        return str(path)

    def _check_url(self, url: str, key: str, origin: Origin) -> None:
        """Check that a URL is HTTPS: keys fetched over plain HTTP can be replaced on the way."""
        if not url:
            return
        try:
            parts = urlsplit(url)
            good = bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            good, parts = False, urlsplit("")
        if good and parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1", "::1"}:
            return
        if not good or parts.scheme != "https":
            self.reading.note(key, f"expected an https URL, found {url!r}", origin)

    def _read_issuer_rules(self, node: Node | None, key: str, name: str, origin: Origin) -> None:
        rules = self.reading.sequence(node, f"{key}.rules")
        if not rules:
            self.reading.note(
                f"{key}.rules", "required and missing; without a rule no token of this issuer is accepted", origin
            )
        for index, rule in enumerate(rules):
            here = f"{key}.rules[{index}]"
            entry = self.reading.mapping(rule, here, ("claims", *_RULE))
            conditions: list[ClaimCondition] = []
            for claim, values in self.reading.mapping(entry.get("claims"), f"{here}.claims").items():
                globs = self._globs(values, f"{here}.claims.{claim}")
                conditions.append(ClaimCondition(claim, globs))
            if not conditions:
                message = "required and missing; else every token of this issuer would be accepted"
                self.reading.note(f"{here}.claims", message, rule.origin)
            who = frozenset({f"issuer:{name}"})
            self._rule(entry, here, rule.origin, who, _is_claim, tuple(conditions))

    def _globs(self, node: Node, key: str) -> tuple[Glob, ...]:
        found: list[Glob] = []
        for text, here, at in self.reading.texts(node, key):
            try:
                found.append(Glob.parse(text))
            except ValueError as error:
                self.reading.note(here, f"{error}, found {text!r}", at)
        if not found:
            self.reading.note(key, "expected a value, a pattern, or a list of these", node.origin)
        return tuple(found)


def _is_empty(node: Node | None) -> bool:
    return is_null(node) or (isinstance(node, List) and not node.items)


def _is_user(placeholder: str) -> bool:
    return placeholder == "user"


def _is_claim(placeholder: str) -> bool:
    return bool(placeholder)


def _no_placeholder(placeholder: str) -> bool:
    del placeholder
    return False
