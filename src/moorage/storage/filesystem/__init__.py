"""Filesystem driver: objects as files below one directory, laid out as CNCF Distribution's driver does.

Read `driver.py` first, then `durable.py` (the order of write, fsync and rename) and `uploads.py`.
"""
