"""Moving a registry from one store to another, whatever they are, while both may be serving.

    links of a repository ──► blobs ──► layer links ──► manifests (children first) ──► tags
                              blobs.py                  repositories.py

The rule not to miss: **at the destination, what is visible is whole, at every moment.**  A link is written when
the bytes it names lie there and were hashed on their way; a manifest's link when everything that the manifest
names is linked; a tag when its manifest is.  So the destination may be killed, served from and looked at while it
is filled, and whoever runs the copy again goes on where it stopped: what is there is not copied twice.

Nothing is locked and no state is kept.  What is pushed to the source meanwhile may be missed, and the next run
brings it; what is deleted there meanwhile is left out and is no failure.  Nothing at the destination is ever
deleted, and what clients did there since the first run stands (`repositories.py` says how that is known).

Below: `registry/`, `storage/`.  Above: `cli/copy.py`.
"""
