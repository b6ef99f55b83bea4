"""`middleware.storage`: where clients are sent for the bytes of a blob, changed after the driver has spoken.

One file per name: `redirect.py`, `rewrite.py`, `cloudfront.py`.  `rule.py` is what each of them is.  They are
applied in the order of the list, so the last one has the last word, as in CNCF Distribution, where it is the
outermost.

Nothing but downloads passes through here, and nothing at all when `storage.redirect.disable` is set.
"""
