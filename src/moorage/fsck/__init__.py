"""Checks a whole store, and repairs what can be repaired without losing anything.

    inventory.py    one listing of every object: sizes of blobs, unknown keys, torn histories
    repository.py   each repository: links, manifests and their content, referrers
    tags.py         the tags of a repository
    store.py        the check as a whole; also the digests of blobs, and leftovers of crashes
    repairs.py      every change that `--repair` makes
    findings.py     each kind of damage, its consequence for clients and its repair

**A check may run beside a serving registry.**  An apparent error is read a second time before it is reported,
since a client may have pushed or deleted the object meanwhile; because data is written before its link and the
link before the tag, an object that is intact is then seen as intact.  Repairs are conditional writes wherever
possible, and what has to be removed is restored if a concurrent push needs it (`repairs.py`).  No repair deletes
the bytes of a blob, or anything that a client could read before.

Below: `registry/walk.py`, `registry/`, `storage/`.  Above: `cli/storage_check.py`.
"""
