"""Cache that nodes share, in Redis: sizes of blobs, which are immutable; never links, tags or rights.

Every call goes through a circuit breaker, so a dead or slow Redis never delays or fails a client request.

Read first: `redis_sizes.py` (keys and invalidation), `circuit_breaker.py`, `redis_client.py` (server, sentinels,
cluster).  Made by `wiring/cache.py`; the interface is `registry/sizes.py`.
"""
