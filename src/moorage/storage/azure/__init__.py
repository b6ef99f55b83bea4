"""Azure Blob Storage.  Read `store.py` and `requests.py` first; `uploads.py` writes blobs that grow."""
