"""Who may do what: the words that every way of proving who you are speaks, and the one place that decides.

    credentials ──► Authority.admit ──► Principal ──► its Grants ──► does it allow each Need?
       (Basic, Bearer, none)                 │
                                             └──► or Unauthorized, with the challenge for the client

A `Need` is one access record of the token protocol.  Everything is refused that is not granted; a refusal is the
same for a repository that exists and one that does not, because nothing is looked up before.

Above: `http/auth.py`.  Source: docs/reference/auth.md, section 1; distribution's token specification, "scope".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "ALL_ACTIONS",
    "CATALOG",
    "EVERYTHING",
    "NOTHING",
    "UNRESTRICTED",
    "AccessRequest",
    "Authority",
    "Basic",
    "Bearer",
    "Credentials",
    "Grants",
    "ListedGrants",
    "Need",
    "Principal",
    "challenge",
    "classes_of",
    "missing",
    "scopes",
]

ALL_ACTIONS: Final = "*"


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a request needs: `action` on `name`, which is a repository or `registry:catalog`."""

    type: str
    name: str
    action: str


CATALOG: Final = Need("registry", "catalog", ALL_ACTIONS)


class Grants(Protocol):
    """What somebody was allowed."""

    @property
    def reads_everything(self) -> bool:
        """Whether every repository may be pulled from, those to come included."""
        ...

    def allows(self, need: Need) -> bool: ...


class _Everything:
    reads_everything = True

    def allows(self, need: Need) -> bool:
        del need
        return True


EVERYTHING: Final[Grants] = _Everything()


@dataclass(frozen=True, slots=True)
class ListedGrants:
    """Exactly what was listed: actions by type and name; the action `*` stands for all of them.

    `classes` of content by repository: see `classes_of`.
    """

    actions: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    reads_everything: bool = False
    classes: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of_claim(cls, access: Iterable[Mapping[str, Any]]) -> ListedGrants:
        """From the `access` claim of a token, already checked for its JSON types; equal entries add up."""
        actions: dict[tuple[str, str], frozenset[str]] = {}
        classes: dict[str, frozenset[str]] = {}
        for entry in access:
            kind, name = entry["type"], entry["name"]
            actions[kind, name] = actions.get((kind, name), frozenset()) | frozenset(entry["actions"])
            if kind == "repository":
                classes[name] = classes.get(name, frozenset()) | {entry.get("class") or "image"}
        return cls(actions, classes=classes)

    def allows(self, need: Need) -> bool:
        actions = self.actions.get((need.type, need.name))
        return actions is not None and (need.action in actions or ALL_ACTIONS in actions)


NOTHING: Final[Grants] = ListedGrants()


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody, proven.  `name` is "" for the anonymous; it goes to logs and events."""

    name: str
    grants: Grants


UNRESTRICTED: Final = Principal("", EVERYTHING)
"""Who everybody is where no authentication is configured."""


@dataclass(frozen=True, slots=True)
class Basic:
    """As they were sent: names and passwords may be UTF-8 or anything else, without NUL."""

    user: bytes
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    token: str = field(repr=False)


Credentials = Basic | Bearer


@dataclass(slots=True)  # frozen costs a microsecond for each request
class AccessRequest:
    """What a request asks for, and the little of its surroundings that authentication looks at.

    `needs` must all be granted, or else all of `instead` where there are any.  `host` and `scheme` are those the
    client used, as far as they are known, and `forwarded` that a proxy said so; `remote` is its address, from
    trusted proxies only.  `given`: there was an Authorization header, whatever its form.
    """

    needs: tuple[Need, ...] = ()
    instead: tuple[Need, ...] = ()
    host: str = ""
    scheme: str = ""
    remote: str = ""
    given: bool = False
    forwarded: bool = False


class Authority(Protocol):
    """One way of proving who you are."""

    async def admit(self, credentials: Credentials | None, asked: AccessRequest) -> Principal:
        """Who asks, proven and allowed all of `asked.needs`; never blocks the event loop.

        Raises Unauthorized with the challenge, TooManyRequests where guessing is slowed down, and Unavailable
        where it cannot be decided (the log says why).
        """
        ...

    async def refresh(self) -> None:
        """Read files again that have changed, and log what was found; called every second.  Raises nothing."""
        ...

    async def close(self) -> None:
        """Free threads and tasks."""
        ...


def classes_of(grants: Grants, repository: str) -> frozenset[str] | None:
    """Return the classes of content (`image`, `plugin`) that may be pushed, where classes matter; None: all.

    As in the reference: a grant without a class is for images; without a grant for the repository by name, content
    of every class is allowed.
    """
    return grants.classes.get(repository) if isinstance(grants, ListedGrants) else None


def missing(grants: Grants, asked: AccessRequest) -> tuple[Need, ...]:
    """The needs that are not granted; none: go ahead.  The one decision, asked by whoever serves anything."""
    left = tuple([need for need in asked.needs if not grants.allows(need)])
    if left and asked.instead and all(grants.allows(need) for need in asked.instead):
        return ()
    return left


def scopes(needs: Sequence[Need]) -> list[str]:
    """`repository:a:pull,push` for each resource, in order of first mention.

    The repository asked for comes first: some token servers read only that (a comment in crane).
    """
    actions: dict[tuple[str, str], list[str]] = {}
    for need in needs:
        actions.setdefault((need.type, need.name), []).append(need.action)
    return [f"{kind}:{name}:{','.join(dict.fromkeys(found))}" for (kind, name), found in actions.items()]


def challenge(scheme: str, **parameters: str) -> str:
    """The value of WWW-Authenticate; empty parameters are left out (RFC 9110 section 11.6.1)."""
    shown = ",".join(f'{name}="{_quoted(value)}"' for name, value in parameters.items() if value)
    return f"{scheme} {shown}" if shown else scheme


@lru_cache(maxsize=1024)
def _quoted(text: str) -> str:
    """As a quoted-string: what would end it is escaped, what would end the header is left out."""
    printable = re.sub(r"[^\x20-\x7e]", "", text)
    return re.sub(r'(["\\])', r"\\\1", printable)
