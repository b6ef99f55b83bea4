"""`middleware.storage`: replaces the URL that clients are redirected to for the bytes of a blob.

One file per name: `redirect.py`, `rewrite.py`, `cloudfront.py`; `rule.py` is their interface.  They are applied in
the order of the list, so the last one decides, as in CNCF Distribution, where it is the outermost.

They apply to downloads only, and not at all with `storage.redirect.disable`.
"""
