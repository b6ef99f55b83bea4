"""Shared by the drivers of S3, GCS and Azure: one driver on a dozen primitive calls of a bucket.

Read `interface.py` (the calls) first, then `driver.py`, and `chunk_log.py` for uploads.
"""
