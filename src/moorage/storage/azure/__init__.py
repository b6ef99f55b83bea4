"""Azure Blob Storage.  Reading order: `store.py`, `uploads.py`, `requests.py`, `blocks.py`, `connection.py`."""
