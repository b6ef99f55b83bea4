"""Images copied from one registry, file or store to another, and the plans of `moorage sync`.

Reading order: `endpoints.py` (source and target), `images.py` (one image), `blobs.py`, `sync.py` (many images).
"""
