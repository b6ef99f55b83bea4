"""Copies a registry from one store to another of any kind, while both may be serving.

    links of a repository ──► blobs ──► layer links ──► manifests (children first) ──► tags
                              blobs.py                  repositories.py

**At the destination everything visible is complete at every moment.**  A link is written after its bytes, which
are hashed during the transfer; the link of a manifest after the links of everything that the manifest names; a tag
after its manifest.  So the destination may serve while it is filled, the copy may be killed, and the next run
continues: what the destination has is not copied twice.

Nothing is locked and no state is kept.  A push to the source during the copy may be missed, and the next run
copies it; what is deleted there during the copy is left out and is no failure.  Nothing at the destination is
deleted, and the changes of clients there since the first run are kept (`repositories.py` has the rule).

Below: `registry/walk.py`, `registry/`, `storage/`.  Above: `cli/storage_copy.py`.
"""
