"""Looking a whole store over, and mending what can be mended without losing anything.

    inventory.py    one listing of every object: sizes of blobs, what is no part of a registry, torn histories
    repository.py   each repository: links, manifests with what they name, referrers, tags
    store.py        the two together, blobs' bytes if asked, and what crashes left behind
    repairs.py      every change that `--repair` makes
    findings.py     each kind of damage: what clients see of it, what repair does

The rule not to miss: **a check may run beside a serving registry.**  What looks wrong is looked at once more
before it is told, since it may have been pushed or deleted meanwhile; the order in which everything is written
(data, link, tag) makes what is really there look right the second time.  Repairs are conditional writes wherever
they can be, and what has to be removed is put back if a push turns out to have needed it (`repairs.py`).  No
repair deletes a blob's bytes, and none takes away anything that a client could get before.

Below: `registry/`, `storage/`.  Above: `cli/check.py`.
"""
