"""Certificates by ACME (RFC 8555): asked for, renewed, and kept in a directory; one process of its own.

    renewal.py ─── when ──► schedule.py
        ├──────── ask ───► authority.py ──► the ACME server      (blocks: a thread)
        ├──────── keep ──► store.py ──────► http.tls.letsencrypt.cachefile, shared by every node
        │
        └── http01.py    answers on port 80

    store.py ◄── server/tls/provider.py   TLS-ALPN-01 is answered by the workers, from the directory

The rule not to miss: what is served is what lies in the directory.  The keeper writes there and says so; it hands
no certificate to anybody.

Imports the library `acme` and all that it needs: of this room only `store.py` and `order_spec.py` are imported
in a process that serves. Above: `server/housekeeper/supervisor.py`.  docs/letsencrypt.md is for operators,
docs/decisions/0005-acme.md has the reasons.
"""
