"""Imported by a Python with this folder on PYTHONPATH: its registry waits longer for Redis than usual.

Tests notice a hit in Redis by a size that only Redis has.  A busy machine may need longer than the 0.2 s that a
request waits, and then the size comes from the store, which is right, but not what such a test is about.
"""

from __future__ import annotations

from moorage.cache.redis_sizes import RedisSizes

_named = RedisSizes.__init__.__kwdefaults__
assert _named is not None
assert "timeout_s" in _named
_named["timeout_s"] = 2.0
