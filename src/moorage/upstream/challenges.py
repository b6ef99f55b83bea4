"""Challenges of WWW-Authenticate: a scheme and its parameters, several in one header or in several.

    Bearer realm="https://auth.example.com/token",service="registry",scope="repository:app:pull", Basic realm="x"

A comma separates parameters as well as challenges: a word that is followed by a blank and no `=` begins the next
challenge.  What breaks the grammar ends the header; the challenges before it count.

Above: `authorization.py`.
Source: RFC 9110 sections 11.2, 11.6.1 and 5.6.4 (quoted strings).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["AuthChallenge", "parse_challenges"]

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  of the grammar
_SCHEME: Final = re.compile(rf"[\s,]*({_TOKEN})(?=\s|,|$)(?!\s*=)", re.ASCII)
_PARAMETER: Final = re.compile(rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*(?=,|$)', re.ASCII)
_TOKEN68: Final = re.compile(r"\s+[A-Za-z0-9._~+/-]+=*\s*(?=,|$)", re.ASCII)
_ESCAPE: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class AuthChallenge:
    """A challenge: its scheme and the names of its parameters in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> list[AuthChallenge]:
    """Parse the values of all WWW-Authenticate headers of a response."""
    return [challenge for text in headers for challenge in _parse(text)]


def _parse(text: str) -> list[AuthChallenge]:
    found: list[AuthChallenge] = []
    position = 0
    while (scheme := _SCHEME.match(text, position)) is not None:
        position = scheme.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(text, position)) is not None:
            name, quoted, plain = parameter.groups()
            parameters[name.lower()] = plain if quoted is None else _ESCAPE.sub(r"\1", quoted)
            position = parameter.end()
        found.append(AuthChallenge(scheme[1].lower(), parameters))
        if not parameters and (token := _TOKEN68.match(text, position)) is not None:
            position = token.end()
    return found
