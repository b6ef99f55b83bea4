"""Grammar of keys, checked by every driver before any I/O.

Source: `driver.Key`; CNCF Distribution's rule for paths is the same, with a leading slash.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import KeyInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["check_key", "check_keys", "components", "is_component", "is_key"]

_COMPONENT: Final = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+"
_NAME: Final = re.compile(_COMPONENT, re.ASCII)
_KEY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_PLAIN_KEYS: Final = re.compile(r"[A-Za-z0-9._/\n-]++", re.ASCII)
_PLAIN_NAMES: Final = re.compile(r"[A-Za-z0-9_\n-]++", re.ASCII)
_UNUSUAL: Final = ("//", "/.", "/\n", "\n/", "\n.", "\n\n")


@lru_cache(maxsize=8192)
def check_key(key: str) -> None:
    """Raises KeyInvalid unless `key` has the form of `driver.Key`.

    Cached, since it costs 2 us, two or three times in each request, and keys recur.
    """
    if _KEY.fullmatch(key) is None:
        raise KeyInvalid(key)


def check_keys(keys: Sequence[str]) -> None:
    """Do what `check_key` does, for many keys, at a tenth of the cost."""
    if not keys:
        return
    text = "\n".join(("", *keys, ""))
    if (
        _PLAIN_KEYS.fullmatch(text) is None
        or any(unusual in text for unusual in _UNUSUAL)
        or text.count("\n") != len(keys) + 1
    ):
        for key in keys:
            check_key(key)


def components(names: list[str]) -> list[str]:
    """Return those of `names` that can be components of keys."""
    if names and _PLAIN_NAMES.fullmatch("\n".join(names)) is not None:
        return names if not any("\n" in name for name in names) else list(filter(is_component, names))
    return list(filter(is_component, names))


def is_key(text: str) -> bool:
    """Return whether `text` has the form of `driver.Key`; objects with other names are not the registry's."""
    return _KEY.fullmatch(text) is not None


def is_component(name: str) -> bool:
    """Return whether `name` can be a component of a key; `lost+found`, for example, cannot."""
    return _NAME.fullmatch(name) is not None
