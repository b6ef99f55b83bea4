"""Access control: the types shared by all methods of authentication, and the one place that decides.

    credentials ──► Authority.admit ──► Principal ──► its Grants ──► does it allow each Need?
       (Basic, Bearer, none)                 │
                                             └──► or Unauthorized, with the challenge for the client

A `Need` is one access record of the token protocol.  What is not granted is refused; a refusal is the same whether
the repository exists or not, because nothing is looked up before.

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
    """One permission that a request needs: `action` on the resource `type`:`name`."""

    type: str
    name: str
    action: str


CATALOG: Final = Need("registry", "catalog", ALL_ACTIONS)


class Grants(Protocol):
    """Permissions of a principal."""

    @property
    def reads_everything(self) -> bool:
        """Return whether every repository may be pulled from, future ones included."""
        ...

    def allows(self, need: Need) -> bool:
        """Return whether a permission is granted."""
        ...


class _Everything:
    reads_everything = True

    def allows(self, need: Need) -> bool:
        del need
        return True


EVERYTHING: Final[Grants] = _Everything()


@dataclass(frozen=True, slots=True)
class ListedGrants:
    """An explicit list of permissions: actions by type and name; the action `*` means all.

    `classes`: classes of content by repository, see `classes_of`.
    """

    actions: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    reads_everything: bool = False
    classes: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of_claim(cls, access: Iterable[Mapping[str, Any]]) -> ListedGrants:
        """Return the grants of an `access` claim, whose JSON types were checked; equal entries add up."""
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
    """An authenticated client.  `name` is for logs and events; "" if anonymous."""

    name: str
    grants: Grants


UNRESTRICTED: Final = Principal("", EVERYTHING)
"""The principal of every request if no authentication is configured."""


@dataclass(frozen=True, slots=True)
class Basic:
    """User name and password as they were sent: any bytes but NUL, usually UTF-8."""

    user: bytes
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    token: str = field(repr=False)


Credentials = Basic | Bearer


@dataclass(slots=True)  # frozen costs a microsecond for each request
class AccessRequest:
    """The permissions that a request needs, and its origin.

    All `needs` must be granted, or all of `alternative` if there are any.  `host` and `scheme` are those that
    the client used, as far as known; `forwarded`: a proxy reported them.  `remote` is the client's address,
    reported by trusted proxies only.  `has_credentials`: there was an Authorization header, even a malformed
    one.
    """

    needs: tuple[Need, ...] = ()
    alternative: tuple[Need, ...] = ()
    host: str = ""
    scheme: str = ""
    remote: str = ""
    has_credentials: bool = False
    forwarded: bool = False


class Authority(Protocol):
    """One method of authentication."""

    async def admit(self, credentials: Credentials | None, request: AccessRequest) -> Principal:
        """Authenticate the client and check that it has the permissions; never blocks the event loop.

        Raises Unauthorized with the challenge, TooManyRequests after too many failed logins, and Unavailable if
        this cannot be decided (the log has the reason).
        """
        ...

    async def refresh(self) -> None:
        """Read files again that have changed, and log the outcome; called every second.  Raises nothing."""
        ...

    async def close(self) -> None:
        """End threads and tasks."""
        ...


def classes_of(grants: Grants, repository: str) -> frozenset[str] | None:
    """Return the classes of content (`image`, `plugin`) that may be pushed, where classes matter; None: all.

    As in the reference: a grant without a class is for images; without a grant for the repository by name, content
    of every class is allowed.
    """
    return grants.classes.get(repository) if isinstance(grants, ListedGrants) else None


def missing(grants: Grants, request: AccessRequest) -> tuple[Need, ...]:
    """Return the needs that are not granted, none if the request is allowed.  The only place that decides."""
    left = [need for need in request.needs if not grants.allows(need)]
    if not left or (request.alternative and all(grants.allows(need) for need in request.alternative)):
        return ()
    return tuple(left)


def scopes(needs: Sequence[Need]) -> list[str]:
    """Return a scope such as `repository:a:pull,push` for each resource, in order of first mention.

    The requested repository comes first: some token servers read only the first scope (a comment in crane).
    """
    actions: dict[tuple[str, str], list[str]] = {}
    for need in needs:
        actions.setdefault((need.type, need.name), []).append(need.action)
    return [f"{kind}:{name}:{','.join(dict.fromkeys(found))}" for (kind, name), found in actions.items()]


def challenge(scheme: str, **parameters: str) -> str:
    """Return the value of WWW-Authenticate, without empty parameters (RFC 9110 section 11.6.1)."""
    shown = ",".join(f'{name}="{_quoted(value)}"' for name, value in parameters.items() if value)
    return f"{scheme} {shown}" if shown else scheme


@lru_cache(maxsize=1024)
def _quoted(text: str) -> str:
    """Return the inside of a quoted-string: quotes are escaped, control characters are left out."""
    printable = re.sub(r"[^\x20-\x7e]", "", text)
    return re.sub(r'(["\\])', r"\\\1", printable)
