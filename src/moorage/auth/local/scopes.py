"""Scopes of a token request: parses them, and returns the granted part.

Source: distribution's token specification, "scope"; docs/reference/auth.md, section 5.1.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from moorage.auth.access import ALL_ACTIONS, CATALOG, Need
from moorage.auth.local.policy import ACTIONS
from moorage.errors import NameInvalid
from moorage.types import parse_repo_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moorage.auth.access import Grants

__all__ = ["TooManyScopes", "granted", "needs_of"]

_SCOPE: Final = re.compile(r"([a-z0-9]+)(?:\([a-z0-9]+\))?:(.+):([a-z*,]+)", re.ASCII)
_RESOURCES_LIMIT: Final = 100
"""Resources in one token: each makes it longer, and it is sent with every request."""


class TooManyScopes(Exception):
    """More resources than one token may have."""


def needs_of(texts: Iterable[str]) -> list[Need]:
    """Return the requested permissions, each once, in order; a text may contain several scopes.

    Malformed scopes and unknown actions are ignored: the client sees from the token what was granted.  `*` on a
    repository means each of its actions by name, so a token never contains a permission that was not checked.
    Raises TooManyScopes.
    """
    needs: dict[Need, None] = {}
    resources = set[tuple[str, str]]()
    for text in texts:
        for scope in text.split():
            match = _SCOPE.fullmatch(scope)
            if match is None:
                continue
            kind, name, actions = match[1], match[2], match[3].split(",")
            found = _known(kind, name, actions)
            needs |= dict.fromkeys(found)
            resources |= {(need.type, need.name) for need in found}
            if len(resources) > _RESOURCES_LIMIT:
                raise TooManyScopes(f"more than {_RESOURCES_LIMIT} repositories in one token")
    return list(needs)


def _known(kind: str, name: str, actions: list[str]) -> list[Need]:
    if (kind, name) == (CATALOG.type, CATALOG.name):
        return [CATALOG] if ALL_ACTIONS in actions else []
    if kind != "repository":
        return []
    try:
        parse_repo_name(name)
    except NameInvalid:
        return []
    requested = ACTIONS if ALL_ACTIONS in actions else [action for action in actions if action in ACTIONS]
    return [Need(kind, name, action) for action in requested]


def granted(needs: Iterable[Need], grants: Grants) -> list[Mapping[str, Any]]:
    """Return the `access` claim: the granted part of the requested permissions."""
    found: dict[tuple[str, str], list[str]] = {}
    for need in needs:
        if grants.allows(need):
            found.setdefault((need.type, need.name), []).append(need.action)
    return [{"type": kind, "name": name, "actions": actions} for (kind, name), actions in found.items()]
