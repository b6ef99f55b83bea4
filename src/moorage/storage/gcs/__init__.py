"""Google Cloud Storage.  Reading order: `store.py`, `requests.py`, `compose.py`, `resumable_upload.py`,
`connection.py`.
"""
