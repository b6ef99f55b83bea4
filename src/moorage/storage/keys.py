"""Grammar of keys, checked by every driver before any I/O.

Source: `driver.Key`; CNCF Distribution's rule for paths is the same, with a leading slash.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from moorage.storage.driver import KeyInvalid

__all__ = ["check_key", "is_component", "is_key"]

_COMPONENT: Final = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+"
_NAME: Final = re.compile(_COMPONENT, re.ASCII)
_KEY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)


@lru_cache(maxsize=8192)
def check_key(key: str) -> None:
    """Raises KeyInvalid unless `key` has the form of `driver.Key`.

    Cached, since it costs 2 us, two or three times in each request, and keys recur.
    """
    if _KEY.fullmatch(key) is None:
        raise KeyInvalid(key)


def is_key(text: str) -> bool:
    """Return whether `text` has the form of `driver.Key`; objects with other names are not the registry's."""
    return _KEY.fullmatch(text) is not None


def is_component(name: str) -> bool:
    """Return whether `name` can be a component of a key; `lost+found`, for example, cannot."""
    return _NAME.fullmatch(name) is not None
