"""Bytes under keys: `driver.py` says what a back end must do; every other file is one, or a part of one.

`storage/filesystem/driver.py` and `memory.py` are drivers of their own.  Object stores share
`storage/object_store/driver.py`, which asks of a store only what `storage/object_store/interface.py` says; what
is peculiar to one kind is in `s3/`, `gcs/` or `azure/`.
"""
