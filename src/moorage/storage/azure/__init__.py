"""Azure Blob Storage.  Read `legacy_names.py` and `objects.py` first; `uploads.py` writes blobs that grow."""
