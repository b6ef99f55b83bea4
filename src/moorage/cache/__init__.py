"""Cache that nodes share, in Redis: sizes of blobs (`redis_sizes.py`) behind `circuit_breaker.py`.

Above: `wiring/cache.py`, which makes it of the settings.  Beside: `moorage.registry.sizes`, the interface.
"""
