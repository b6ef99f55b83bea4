"""Imported by a Python that has this folder on PYTHONPATH: its registry waits longer for Redis than any should.

What is remembered in Redis is seen by what only Redis can say.  A busy machine may need longer than the fifth of a
second that a request waits, and then the truth is told, which is right, and not what such a test is about.
"""

from __future__ import annotations

from moorage.cache.redis_sizes import RedisSizes

_named = RedisSizes.__init__.__kwdefaults__
assert _named is not None
assert "patience_s" in _named
_named["patience_s"] = 2.0
