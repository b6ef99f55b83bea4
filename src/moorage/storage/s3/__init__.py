"""S3, Amazon's and all others.  Read `objects.py` first: `storage/object_store/driver.py` builds on it."""
