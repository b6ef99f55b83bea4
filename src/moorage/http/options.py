"""Options of `http/`, from the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moorage.http.clients import DEFAULT_CLIENTS, Clients

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HttpOptions"]


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """`prefix` begins and ends with a slash.  `headers` are added to every answer of a route.

    `classes_matter`: tokens restrict the classes of pushed images (policy.repository.classes).
    `namespaces`: beginning of repository names by the value of containerd's parameter `ns`, in lower case; "" for
    names of this registry.  Empty: the parameter is ignored.
    `via`: name of this registry in the header `Via`, for a mirror: a request that has it has come through it.
    """

    host: str = ""
    prefix: str = "/"
    relativeurls: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    catalog_max_entries: int = 1000
    tags_max: int = 1000
    readonly: bool = False
    classes_matter: bool = False
    body_timeout_s: float = 120.0
    manifest_limit_bytes: int = 4 << 20
    clients: Clients = DEFAULT_CLIENTS
    namespaces: Mapping[str, str] = field(default_factory=dict)
    via: bytes = b""
