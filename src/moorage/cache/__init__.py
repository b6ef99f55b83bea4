"""What nodes remember together, in Redis: `redis_sizes.py` says what, `guard.py` what happens when it is away.

Above: `caching.py`, which makes it of the settings.  Beside: `moorage.registry.sizes`, the interface.
"""
