"""Builds the authority of `auth.token`; `wiring/authentication.py` imports it only if tokens are configured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moorage.auth.token.authority import TokenAuthority, TokenRules
from moorage.auth.token.files import KeyFiles
from moorage.auth.token.trusted_keys import ALGORITHMS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TokenOptions", "make"]


@dataclass(frozen=True, slots=True)
class TokenOptions:
    """The section `auth.token`; a path of "" is none, no `algorithms` are all, `redirect_path` None is off."""

    realm: str
    service: str
    issuer: str
    rootcertbundle: str = ""
    jwks: str = ""
    redirect_path: str | None = None
    algorithms: tuple[str, ...] = ()


def make(options: TokenOptions, clock: Callable[[], float] = time.time, *, reports: bool = True) -> TokenAuthority:
    """Return the authority.  Raises StartupError if the files hold no usable key.  `reports`: see `KeyFiles`."""
    files = _files(options, reports=reports)
    path = options.redirect_path
    rules = TokenRules(
        realm=options.realm,
        service=options.service,
        issuer=options.issuer,
        algorithms=_algorithms(options),
        redirect_path=path if path is None or path.startswith("/") else f"/{path}",
    )
    return TokenAuthority(rules, files, clock)


def _files(options: TokenOptions, *, reports: bool) -> KeyFiles:
    bundle, jwks = (Path(text) if text else None for text in (options.rootcertbundle, options.jwks))
    files = KeyFiles(bundle, jwks, _algorithms(options), reports=reports)
    files.load()
    return files


def _algorithms(options: TokenOptions) -> frozenset[str]:
    return frozenset(options.algorithms) & ALGORITHMS if options.algorithms else ALGORITHMS
