"""Azure Blob Storage.  Read `layouts.py` and `objects.py` first; `uploads.py` writes blobs that grow."""
