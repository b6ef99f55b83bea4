"""Registry: repositories with blobs, manifests, tags and uploads, kept in a storage driver.

Three modules own the keys: `blob_store.py` those of bytes, `links.py` those of the links by which a repository
has a blob or a manifest, `tags.py` those of tags.  All others go through them.

Read first: `interface.py` (what a registry promises), `layout.py` (the keys), `blobs.py`, `manifests.py`,
`uploads.py`; then the three owners, and `walk.py` for work on a whole registry.  `stored.py` joins the parts.
"""
