"""S3, Amazon's and all others.  Reading order: `store.py`, `requests.py`, `multipart.py`, `conditions.py`,
`connection.py`.
"""
