"""The housekeeper: one process per node that runs background work and serves no requests of the registry.

    master ──fork──► housekeeper ─┬─ upload purging        moorage.wiring.housekeeping
      │                           ├─ first storage probe   moorage.wiring.housekeeping
      │                           ├─ certificates by ACME  acme_job.py
      └── restarts it             └─ mails of log.hooks    mail_job.py

Read `jobs.py` (the interface of a job, and its restarts) first, then `process.py` (the process) and
`supervisor.py` (the side of the master).  Work that is to run once per cluster holds a lease in the store
(`registry/lease.py`).
"""
