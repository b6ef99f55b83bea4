"""TLS of the listener: validated files, sealed in memory, as SSL contexts that are replaced in place.

Read `validation.py` first, then `memfd.py`, `contexts.py` and `provider.py`.
"""
