"""Google Cloud Storage.  Read `store.py` and `requests.py` first; `object_store/driver.py` is built on them."""
