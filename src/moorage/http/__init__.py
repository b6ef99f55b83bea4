"""HTTP: requests become calls of a `Registry`, and its results and errors become responses.

Holds the grammar of paths, queries and headers, and nothing about images or storage.  The endpoints use
`registry/interface.py` only, so any `Registry` can be served.

Read first: `routes.py` (every path that is served, with its access), `app.py` (the dispatcher), `blobs.py` (one
family of endpoints), `errors.py` (the only place that writes error responses), `streaming.py` (bodies).
"""
