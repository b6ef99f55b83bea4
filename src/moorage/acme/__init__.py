"""Certificates by ACME (RFC 8555): asked for, renewed, and kept in a directory; one process of its own.

    keeper.py ─── when ──► schedule.py
        ├──────── ask ───► authority.py ──► the ACME server      (blocks: a thread)
        ├──────── keep ──► store.py ──────► http.tls.letsencrypt.cachefile, shared by every node
        │
        ├── http01.py    answers on port 80
        └── front.py     answers on the registry's own sockets (TLS-ALPN-01) while its workers leave them alone

The rule not to miss: what is served is what lies in the directory.  The keeper writes there and says so; it hands
no certificate to anybody.

Imports the library `acme` and all that it needs: nothing of this room is imported in a process that serves.
Above: `server/companion.py`.  docs/letsencrypt.md is for operators, docs/decisions/0005-acme.md has the reasons.
"""
