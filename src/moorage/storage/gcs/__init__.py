"""Google Cloud Storage.  Read `objects.py` first: `storage/object_store/driver.py` builds on it."""
