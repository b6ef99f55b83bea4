"""What the HTTP room needs to know of the configuration, already parsed and checked."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HttpOptions"]


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """`host`, `prefix`, `relativeurls` and `headers` are the keys of `http`; the rest says its unit.

    `host` is empty or a URL with scheme and host; its path counts only up to its last slash.  `prefix` is
    empty or begins and ends with a slash.  A header may stand in `headers` more than once.
    """

    host: str = ""
    prefix: str = ""
    relativeurls: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    catalog_max_entries: int = 1000
    tags_max: int = 1000
    readonly: bool = False
    body_timeout_s: float = 60.0
    manifest_limit_bytes: int = 4 << 20
