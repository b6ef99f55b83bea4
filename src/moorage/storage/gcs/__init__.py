"""Google Cloud Storage.  Read `objects.py` first: `storage/object_driver.py` builds on it."""
