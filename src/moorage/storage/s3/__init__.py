"""S3, and compatible stores.  Read `store.py` and `requests.py` first; `object_store/driver.py` uses them."""
