"""The spelling of a key, checked by every driver before any I/O.

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
    """Raises KeyInvalid unless `key` is spelt as `driver.Key` says.

    Remembered, since it costs 2 us, two or three times in each request, and the same keys come again.
    """
    if _KEY.fullmatch(key) is None:
        raise KeyInvalid(key)


def is_key(text: str) -> bool:
    """Whether `text` is spelt as `driver.Key` says.  What a bucket holds under another name is not ours."""
    return _KEY.fullmatch(text) is not None


def is_component(name: str) -> bool:
    """Whether `name` can stand between two slashes.  What cannot is no part of the store: `lost+found`."""
    return _NAME.fullmatch(name) is not None
