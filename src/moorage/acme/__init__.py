"""Certificates by ACME (RFC 8555): ordered, renewed, and stored in a directory.

    renewal.py ── time ────► schedule.py
        ├──────── order ───► authority.py ──► the ACME server      (blocks: a thread)
        └──────── store ───► store.py ──────► http.tls.letsencrypt.cachefile, shared by all nodes

    http01.py                answers challenges on port 80, from the directory
    server/tls/provider.py   answers TLS-ALPN-01 in the workers, from the directory

Invariant: the certificate in the directory is the one that is served.  A renewal writes it there and reports that;
certificates are passed on in no other way.

`authority.py` imports the library `acme` and all its dependencies.  Of this package a process that serves requests
imports `store.py` and `order_spec.py` only.  Above: `server/housekeeper/acme_job.py`.  docs/letsencrypt.md is for
operators, docs/decisions/0005-acme.md has the reasons.
"""
